"""Pictures and texts → what the models of transformers' BLIP-2 family take, checked where transformers is silent.

transformers' own processors do the work. What goes wrong there without a word is a sentence here: a prompt without a
picture (the model would read no picture), image tokens written into a text (it would read another's), and a number of
pictures that is not the number of texts. Pictures are read by the rules of `isthmus.images`, as everywhere in isthmus.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from transformers import AutoProcessor, BatchFeature

from isthmus.build.exported import IMAGE_TOKEN
from isthmus.errors import CheckpointError, DataError
from isthmus.images import Images, as_pictures


class Processor:
    """The processor of a folder that transformers or `isthmus convert --to transformers` wrote.

    `queries` is how many image tokens stand for a picture; None for models that read none (image-text retrieval).
    """

    def __init__(self, inner: Any, *, name: str) -> None:
        parts = [part for part in ("image_processor", "tokenizer") if not hasattr(inner, part)]
        if parts:
            raise CheckpointError(f"{name} has no {parts[0]}; give the folder of a BLIP-2 of transformers")
        self.inner = inner
        self.queries: int | None = getattr(inner, "num_query_tokens", None)
        self._image_token = int(inner.tokenizer.convert_tokens_to_ids(IMAGE_TOKEN))

    @classmethod
    def from_pretrained(cls, name: str | Path, *, revision: str | None = None) -> "Processor":
        """Read a processor from a folder or the Hub; raises `CheckpointError` where there is none."""
        try:
            inner = AutoProcessor.from_pretrained(str(name), revision=revision)
        except (OSError, ValueError, KeyError) as problem:
            raise CheckpointError(
                f"no processor could be read from {name}; give the folder of a BLIP-2 of transformers, or a name on "
                "the Hub that can be reached"
            ) from problem
        return cls(inner, name=str(name))

    def __call__(
        self,
        images: Images | None = None,
        text: str | Sequence[str] | None = None,
        *,
        return_tensors: Literal["pt", "np"] = "pt",
        padding: bool = True,
        **options: Any,
    ) -> BatchFeature:
        """Prepare one or several pictures, texts or pairs; `options` are those of transformers' tokenizer.

        Returns what the model takes: `pixel_values` (B 3 S S), `input_ids` and `attention_mask` (B T), for InstructBLIP
        the Q-Former's too. A pair has one picture and one text.
        Raises `DataError` for a prompt without a picture, for image tokens in a text, for as many pictures as not
        texts, and for what is no picture.
        """
        if images is None and text is None:
            raise DataError("there is neither a picture nor a text; give images=, text= or both")
        texts = None if text is None else _as_texts(text)
        pictures = None if images is None else list(as_pictures(images))
        self._check(pictures, texts)
        given = {} if texts is None else {"text": texts, "padding": padding, **options}
        features: BatchFeature = self.inner(images=pictures, return_tensors=return_tensors, **given)
        if self.queries is not None and texts is not None:
            self._check_tokens(features["input_ids"])
        return features

    def batch_decode(self, ids: Any, **options: Any) -> list[str]:
        """Ids → texts, without image tokens and other special tokens."""
        return list(self.inner.batch_decode(ids, **{"skip_special_tokens": True, **options}))

    def _check(self, pictures: Sequence[Any] | None, texts: Sequence[str] | None) -> None:
        """Refuse what transformers would take without a word and a model would misread."""
        if texts is None or self.queries is None:
            return
        if pictures is None:
            raise DataError("a prompt without a picture has no image tokens, so the model would see none; give images=")
        if len(pictures) != len(texts):
            raise DataError(
                f"there are {len(pictures)} pictures and {len(texts)} texts; give one text for each picture"
            )
        for number, text in enumerate(texts):
            if own := text.count(IMAGE_TOKEN):
                raise DataError(
                    f"text {number} has {own} image tokens of its own, beside the {self.queries} that stand for its "
                    f"picture; leave {IMAGE_TOKEN} out"
                )

    def _check_tokens(self, ids: Any) -> None:
        """Whether every row has the image tokens that its model looks for: a cut text may have lost some."""
        counts = (torch.as_tensor(ids) == self._image_token).sum(dim=1)
        wrong = [number for number, count in enumerate(counts.tolist()) if count != self.queries]
        if wrong:
            row = wrong[0]
            raise DataError(
                f"text {row} came out with {int(counts[row])} image tokens where the model needs {self.queries}; give "
                "a larger max_length, or none"
            )


def _as_texts(text: Any) -> list[str]:
    texts = [text] if isinstance(text, str) else list(text)
    for number, one in enumerate(texts):
        if not isinstance(one, str):
            raise DataError(f"text {number} is of type {type(one).__name__}; give a string, or a list of strings")
    return texts
