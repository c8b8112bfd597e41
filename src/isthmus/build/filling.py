"""Parts that a bridge of other libraries lacks, filled in where a run says from what: LM head, temperature, [DEC]."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from isthmus.build.towers import resolve
from isthmus.checkpoints.keymap import TEMPERATURE, WORDS
from isthmus.config.model import InitConfig
from isthmus.errors import CheckpointError, ConfigError
from isthmus.qformer.initialize import draw_random, mlm_head, read_bert
from isthmus.qformer.text import LanguageHead
from isthmus.qformer.tokenizer import QFormerTokenizer
from isthmus.records import BridgeSizes

RANDOM = "random"


@dataclass(frozen=True)
class Filled:
    """Tensors by name that a bridge did not have, what each came from, and the sizes with them."""

    sizes: BridgeSizes
    tensors: dict[str, Tensor]
    origins: list[str]


def fill_absent(
    sizes: BridgeSizes, words: Tensor, init: InitConfig, tokenizer: QFormerTokenizer, *, seed: int
) -> Filled:
    """Fill in what stage 1 trains and a bridge lacks, as `init` says; `words` are its word embeddings.

    Raises `CheckpointError` for a part that is absent and not filled, `ConfigError` for one that is there already.
    """
    tensors: dict[str, Tensor] = {}
    origins: list[str] = []
    _check("lm_head", init.lm_head, init.folder, is_there=sizes.lm_head, example="lm_head=random")
    _check("temperature", init.temperature, init.folder, is_there=sizes.temperature, example="temperature=0.07")
    vocabulary = max(sizes.vocabulary, tokenizer.dec + 1)
    if vocabulary > sizes.vocabulary:  # 30,522 words: [DEC], with which ITG begins, is not among them
        tensors[WORDS] = torch.cat([words, words[tokenizer.cls][None]])
        origins.append(f"{WORDS}: a row for [DEC], from that of [CLS]")
    if init.temperature is not None:
        tensors[TEMPERATURE] = torch.tensor(init.temperature)
        origins.append(f"{TEMPERATURE}: {init.temperature}, from init.temperature")
    if init.lm_head is not None:
        head = _head(init.lm_head, sizes, vocabulary, seed)
        tensors |= head
        origins += [f"{name}: {init.lm_head}, from init.lm_head" for name in head]
    return Filled(_with(sizes, vocabulary), tensors, origins)


def _check(name: str, given: object, folder: str, *, is_there: bool, example: str) -> None:
    part = name.replace("lm_head", "LM head")
    if is_there and given is not None:
        raise ConfigError(f"`init.{name}` fills what a bridge lacks, and {folder} has its {part}; leave the key out")
    if not is_there and given is None:
        raise CheckpointError(f"{folder} has no {part}, which stage 1 trains; say what it starts from: init.{example}")


def _head(source: str, sizes: BridgeSizes, vocabulary: int, seed: int) -> dict[str, Tensor]:
    module: nn.Module = LanguageHead(_with(sizes, vocabulary))
    if source != RANDOM:
        place = resolve(source)
        head = mlm_head(read_bert(place.name, revision=place.revision), vocabulary)
        for name, tensor in module.state_dict().items():
            given = head[f"text.head.{name}"]
            if given.shape != tensor.shape:
                raise CheckpointError(
                    f"{source} has an LM head whose {name} is {tuple(given.shape)}, the Q-Former needs "
                    f"{tuple(tensor.shape)}; give a BERT of its width"
                )
        return {f"qformer.{name}": tensor for name, tensor in head.items()}
    draw_random(module, seed=seed)
    return {f"qformer.text.head.{name}": tensor for name, tensor in module.state_dict().items()}


def _with(sizes: BridgeSizes, vocabulary: int) -> BridgeSizes:
    return replace(sizes, vocabulary=vocabulary, lm_head=True, temperature=True)
