"""Two lines of Python: load what was trained, then caption, match and embed; encode once, ask many.

    predictor = Predictor.from_pretrained("runs/own")
    predictor.caption("boat.jpg")

A picture costs its encoder once (`encode`); every question after that costs the bridge, and a caption the language
model. What a folder can do depends on its stage (DESIGN 5.12): stage 1 matches, embeds and captions by the Q-Former
itself; stage 2 captions through its language model or, trained so, answers questions. A call that a folder cannot
answer is an `AbsentPartError`.
"""

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any, Literal, Unpack

import torch
from jaxtyping import Float
from torch import Tensor

from isthmus.build.chosen_ranking import ChosenRanking
from isthmus.build.folders import ASK, EMBED, MATCH, Moved, Need, check_need, need_of_caption
from isthmus.build.pretrained import LoadedBridge, Pretrained, Wishes, load_pretrained
from isthmus.data.text import normalise
from isthmus.encoded import Encoded, Matches, Texts, check_batch_size, read_texts, text_embeddings
from isthmus.errors import ConfigError, DataError
from isthmus.images import Images, OneImage, Prepared, as_picture, as_pictures, for_each, is_one, prepared, with_encoded
from isthmus.language.llm import Decoding, DecodingOptions, FrozenLLM
from isthmus.models.bridge import Bridge
from isthmus.models.generate import Questions, answer_by_llm, caption_by_qformer
from isthmus.models.ranking import combine, itc_part
from isthmus.objectives.itc import image_to_text
from isthmus.records import Text
from isthmus.saving import Saving

_log = logging.getLogger(__name__)


class Predictor(Saving):
    """A trained bridge between its frozen towers, ready to answer. Make one by `from_pretrained`."""

    def __init__(self, pretrained: Pretrained) -> None:
        self._pretrained = pretrained
        self._warned = False

    @classmethod
    def from_pretrained(
        cls,
        folder: str | Path,
        *more_folders: str | Path,
        device: str | torch.device = "auto",
        dtype: str | torch.dtype = "auto",
        device_map: str | dict[str, Any] | None = None,
        encoder: str | None = None,
        llm: str | None = None,
    ) -> "Predictor":
        """Load a run's folder or a bridge's own, of stage 1, of stage 2 or both, or one that holds `stage1`, `stage2`.

        `dtype` "auto" is the precision trained in where the device has it natively, else fp32 (a log line says
        which). `device_map` places the language model, as in transformers. `encoder` and `llm` are the new addresses
        (`folder:PATH`, `hub:NAME` ...) of towers that moved; they are known by their fingerprints.
        Raises `CheckpointError` for folders that are no bridges, do not fit together or were trained with other
        towers, `TowerError` for a tower that is not there, `ConfigError` for an unknown device or dtype, and for an
        `llm` or `device_map` where no folder has a language model.
        """
        wishes = Wishes(str(device), dtype, device_map, Moved(encoder, llm))
        return cls(load_pretrained([Path(place) for place in (folder, *more_folders)], wishes))

    @property
    def device(self) -> torch.device:
        """Where encoder and bridges compute, and the language model unless a device_map says otherwise."""
        return self._pretrained.compute.device

    @property
    def dtype(self) -> torch.dtype:
        """The precision of towers and computations; bridges keep fp32 weights."""
        return self._pretrained.compute.dtype

    def prepare(self, image: OneImage) -> Prepared:
        """Read one picture into the encoder's form, ahead of a call or in threads; `DataError` for what is none."""
        picture = image if isinstance(image, Prepared) else as_picture(image, "the picture")
        return prepared(picture, self._pretrained.encoder.preprocessing)

    def encode(self, images: Images, *, batch_size: int = 32) -> Encoded:
        """Turn pictures into patches, once: what comes back can stand for them in every other call."""
        if isinstance(images, Encoded):
            return self._own(images)
        return Encoded.join(list(self._batches(images, batch_size)), single=is_one(images))

    def caption(
        self,
        images: Images,
        prompt: Texts | None = None,
        *,
        by: Literal["llm", "qformer"] | None = None,
        batch_size: int = 32,
        **decoding: Unpack[DecodingOptions],
    ) -> str | list[str]:
        """Write a caption of one picture (a string) or of each of several (a list).

        `prompt` stands between the picture and the caption in place of the trained text there: one for all pictures,
        or a list with one for each; "" is none. `by` says who writes, the language model or the Q-Former itself
        (ITG); None is the language model where there is one. `decoding` are the fields of `Decoding`:
        max_new_tokens, min_new_tokens, num_beams, temperature, top_p, repetition_penalty, length_penalty, seed.
        Raises `AbsentPartError` for a writer that is not there, `ConfigError` for prompts or options that do not fit,
        `DataError` for what is no picture.
        """
        how = Decoding(**decoding)
        need = need_of_caption(by, prompt, self._pretrained.bridges)
        loaded = self._loaded(need)
        if not isinstance(prompt, str | None):
            images = for_each(prompt, images, what="prompt")
        written: list[str] = []
        for part in self._batches(images, batch_size):
            with self._computing():
                if need.stage == 2:
                    rows = slice(len(written), len(written) + len(part))
                    prompts = [prompt] * len(part) if isinstance(prompt, str) else prompt and prompt[rows]
                    written += self._by_llm(loaded.bridge, part, how, prompts)
                else:
                    patches = part.patches.to(self.device)
                    written += caption_by_qformer(loaded.bridge, loaded.need_tokenizer(), patches, how)
        return written[0] if is_one(images) else written

    def ask(
        self, images: Images, questions: Texts, *, batch_size: int = 32, **decoding: Unpack[DecodingOptions]
    ) -> str | list[str]:
        """Answer a question about one picture (a string) or about each of several (a list).

        `questions` is one for all pictures, or a list with one for each; a picture that is asked several things stands
        there as often, best as `encode` gave it. The bridge looks at the picture with the question in mind, and the
        language model reads it too. `decoding` is as in `caption`.
        Raises `AbsentPartError` for folders that were not trained with questions, `ConfigError` for questions or
        options that do not fit, `DataError` for what is no picture or an empty question.
        """
        how, loaded = Decoding(**decoding), self._loaded(ASK)
        several = not isinstance(questions, str)
        if several:
            images = for_each(questions, images, what="question")
        listed = [questions] if isinstance(questions, str) else questions
        asked, answers = Questions(list(map(normalise, listed)), self._tokens(loaded, listed)), list[str]()
        for part in self._batches(images, batch_size):
            rows = torch.arange(len(part)) + len(answers) if several else torch.zeros(len(part), dtype=torch.long)
            with self._computing():
                answers += answer_by_llm(
                    loaded.bridge, self._llm, part.memory(loaded.bridge), how, questions=asked.select(rows)
                )
        return answers[0] if is_one(images) else answers

    def match(self, images: Images, texts: Texts, *, itm: bool = True, batch_size: int = 32) -> Matches:
        """Score every picture with every text: ITC's cosine, ITM's probability, and the score to rank by.

        ITM looks at each pair, so it costs I times J; `itm=False` leaves it out. `batch_size` counts pictures, and
        pairs of ITM. Raises `AbsentPartError` without stage 1, `DataError` for what is no picture or an empty text.
        """
        loaded = self._loaded(MATCH)
        tokens, ranking = self._tokens(loaded, texts), ChosenRanking.of(loaded.provenance).ranking
        bridge, cosines, logits = loaded.bridge, [], []
        with self._computing():
            words = text_embeddings(bridge, tokens, batch_size=batch_size)
        for part in self._batches(images, batch_size):
            with self._computing():
                embeddings = part.embeddings(bridge)
                if itm:
                    logits.append(part.pair_logits(bridge, tokens, batch_size=batch_size).cpu())
            cosines.append(image_to_text(embeddings, words).cpu())  # not under autocast: cosines are fp32
        temperature, itc = bridge.need_heads().known_temperature, torch.cat(cosines)
        if not itm:
            return Matches(itc, None, itc_part(itc, temperature=temperature, ranking=ranking))
        pairs = torch.cat(logits)
        score = combine(itc, pairs, temperature=temperature, ranking=ranking)
        return Matches(itc, pairs.softmax(-1)[..., 1], score)

    def embed(
        self, *, images: Images | None = None, texts: Texts | None = None, batch_size: int = 32
    ) -> Float[Tensor, "B Q E"] | Float[Tensor, "B E"]:
        """Embed pictures (B Q E), one row per query, or texts (B E), L2-normalised, fp32 on the host.

        The cosine of a picture and a text is the largest of the picture's rows with the text's.
        Raises `ConfigError` unless exactly one of the two is given, `AbsentPartError` without stage 1.
        """
        loaded = self._loaded(EMBED)
        if images is not None and texts is None:
            parts = []
            for part in self._batches(images, batch_size):
                with self._computing():
                    parts.append(part.embeddings(loaded.bridge).cpu())
            return torch.cat(parts)
        if texts is None or images is not None:
            raise ConfigError("embed takes either images=... or texts=...; call it once for each")
        tokens = self._tokens(loaded, texts)
        with self._computing():
            embeddings = text_embeddings(loaded.bridge, tokens, batch_size=batch_size)
        return embeddings.cpu().clone()  # outside of inference mode, so that it can be changed

    def _batches(self, images: Images, size: int) -> Iterator[Encoded]:
        """Pictures in encoded batches, one at a time: what was encoded already, or read and encoded here."""
        check_batch_size(size)
        images = with_encoded(images, self.encode)
        if isinstance(images, Encoded):
            yield from self._own(images).split(size)
            return
        encoder, pictures = self._pretrained.encoder, as_pictures(images)
        while views := [prepared(picture, encoder.preprocessing).pixels for picture in islice(pictures, size)]:
            with self._computing():
                patches = encoder(torch.stack(views).to(self.device))
            yield Encoded(patches, is_one(images), self._pretrained.encoder_identity)

    def _own(self, images: Encoded) -> Encoded:
        if images.encoder != self._pretrained.encoder_identity:
            raise ConfigError("these pictures were encoded by another image encoder; encode them with this predictor")
        if not len(images):
            raise DataError("there is no picture in what was encoded; take at least one")
        return images

    @contextmanager
    def _computing(self) -> Iterator[None]:
        with torch.inference_mode(), self._pretrained.compute.autocast():
            yield

    def _loaded(self, need: Need) -> LoadedBridge:
        check_need(need, self._pretrained.bridges)
        return self._pretrained.bridges[need.stage]

    @property
    def _llm(self) -> FrozenLLM:
        assert self._pretrained.llm is not None
        return self._pretrained.llm

    def _by_llm(self, bridge: Bridge, part: Encoded, how: Decoding, prompts: Sequence[str] | None) -> list[str]:
        soft_prompt = bridge.project(part.read_by(bridge).states)
        return self._llm.generate(soft_prompt.to(next(self._llm.parameters()).device), how, prompts=prompts)

    def _tokens(self, loaded: LoadedBridge, texts: Texts) -> Text:
        tokenizer = loaded.need_tokenizer()
        tokens, cut = read_texts(texts, tokenizer)
        if cut and not self._warned:
            self._warned = True
            what = "1 text was" if cut == 1 else f"{cut} texts were"
            _log.warning("%s cut to the %d tokens that the bridge reads", what, tokenizer.max_tokens)
        return tokens
