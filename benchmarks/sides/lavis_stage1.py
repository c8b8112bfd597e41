"""The original's stage-1 step: `Blip2Qformer` of salesforce-lavis 1.0.2, under autocast where bf16 is asked for.

Replaced from outside: the tokenizer (captions come as tokens), the encoder (features come as they are stored, in fp32
as its ViT's residual stream gives them) and BERT's download (weights come from the inputs). The process group is a
real one of one process, so that its gathers run. `lavis` and `lavis.models` are entered as bare packages: what their
`__init__` files import needs more packages than a Q-Former does.
"""

import importlib
import importlib.util
import json
import sys
import tempfile
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import torch
import torch.distributed as dist
from safetensors.torch import load_file
from torch import Tensor, nn

from benchmarks.side import Side, serve, training_bytes


def _enter_bare() -> None:
    spec = importlib.util.find_spec("lavis")
    assert spec is not None and spec.submodule_search_locations is not None
    root = next(iter(spec.submodule_search_locations))
    for name, place in {"lavis": root, "lavis.models": f"{root}/models"}.items():
        sys.modules[name] = ModuleType(name)
        sys.modules[name].__path__ = [place]
    # the registry asks the package itself for it
    vars(sys.modules["lavis.models"])["BaseModel"] = importlib.import_module("lavis.models.base_model").BaseModel


_enter_bare()
from lavis.models.blip2_models.blip2 import LayerNorm  # noqa: E402
from lavis.models.blip2_models.blip2_qformer import Blip2Qformer  # noqa: E402
from lavis.models.blip2_models.Qformer import BertConfig, BertLMHeadModel  # noqa: E402

PADDED, DROPOUT = 32, 0.1
RATE, BETAS, DECAY = 1e-4, (0.9, 0.999), 0.05


class Tokens:
    """Captions that are tokens already, padded as the original pads them."""

    pad_token_id = 0

    def __init__(self, vocabulary: int) -> None:
        self.bos_token_id, self._vocabulary = vocabulary - 1, vocabulary

    def __len__(self) -> int:
        return self._vocabulary

    def __call__(self, text: list[list[int]], **_: Any) -> Any:
        ids = torch.zeros(len(text), PADDED, dtype=torch.long)
        for row, tokens in zip(ids, text, strict=True):
            row[: len(tokens)] = torch.tensor(tokens)
        made = SimpleNamespace(input_ids=ids, attention_mask=(ids != 0).long())
        made.to = lambda device: made
        return made


class Features(nn.Module):
    """An encoder that gives what it is given."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.num_features = width

    def forward(self, features: Tensor) -> Tensor:
        return features


class LavisStage1(Side):
    """One optimizer step on the next batch."""

    def load(self, folder: Path, options: dict[str, Any]) -> dict[str, Any]:
        about = json.loads((folder / "about.json").read_text(encoding="utf-8"))
        dist.init_process_group("gloo", init_method=f"file://{tempfile.mktemp()}", rank=0, world_size=1)
        self.autocast, self.model = options["dtype"] == "bf16", build(about["sizes"])
        fill(self.model, load_file(folder / "weights.safetensors"), about["names"])
        rows = load_file(folder / "rows.safetensors")
        self.samples = [sample(rows, index) for index in torch.split(torch.arange(len(rows["ids"])), options["batch"])]
        start = self._start(sample(rows, torch.arange(2)))
        self.optimizer, self.done = optimizer_of(self.model), 0
        self.model.train()
        return {"start": start, "trained": sum(p.numel() for p in self.model.parameters() if p.requires_grad)}

    def step(self) -> None:
        samples = self.samples[self.done % len(self.samples)]
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=self.autocast):
            self.losses = self.model(samples)
        self.losses.loss.backward()
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.done += 1

    def outcome(self) -> dict[str, Any]:
        return {"losses": told(self.losses)}

    def state_bytes(self) -> int:
        return training_bytes(self.model, self.optimizer)

    @torch.no_grad()
    def _start(self, two: dict[str, Any]) -> dict[str, float]:
        return told(self.model.eval()(two))


def told(losses: Any) -> dict[str, float]:
    """The three losses as numbers."""
    return {"itc": losses.loss_itc.item(), "itm": losses.loss_itm.item(), "lm": losses.loss_lm.item()}


def sample(rows: dict[str, Tensor], index: Tensor) -> dict[str, Any]:
    """Some rows as the original takes them."""
    text = [ids[mask].tolist() for ids, mask in zip(rows["ids"][index], rows["mask"][index], strict=True)]
    return {"image": rows["patches"][index], "text_input": text}


def build(sizes: dict[str, Any]) -> Any:
    """The original's model at these sizes, with everything that would be fetched replaced."""

    def qformer(queries: int, vision_width: int, cross_attention_freq: int) -> tuple[nn.Module, nn.Parameter]:
        config = BertConfig(
            vocab_size=sizes["vocabulary"],
            hidden_size=sizes["width"],
            num_hidden_layers=sizes["layers"],
            num_attention_heads=sizes["heads"],
            intermediate_size=sizes["feed_forward_width"],
            max_position_embeddings=sizes["positions"],
            layer_norm_eps=sizes["norm_eps"],
            hidden_dropout_prob=DROPOUT,
            attention_probs_dropout_prob=DROPOUT,
        )
        config.encoder_width, config.query_length = vision_width, queries
        config.add_cross_attention, config.cross_attention_freq = True, cross_attention_freq
        return BertLMHeadModel(config=config), nn.Parameter(torch.zeros(1, queries, sizes["width"]))

    width = sizes["vision_width"]
    Blip2Qformer.init_tokenizer = lambda *_: Tokens(sizes["vocabulary"])
    Blip2Qformer.init_vision_encoder = lambda *_: (Features(width), LayerNorm(width))
    Blip2Qformer.init_Qformer = lambda _, *given: qformer(*given)
    return Blip2Qformer(
        num_query_token=sizes["queries"],
        cross_attention_freq=sizes["cross_frequency"],
        embed_dim=sizes["shared_width"],
        max_txt_len=PADDED,
    )


def fill(model: nn.Module, tensors: dict[str, Tensor], names: dict[str, str]) -> None:
    """Put the common weights in; raises where one has no place, or a place got none."""
    state = {theirs: tensors[ours] for ours, theirs in names.items()}
    state["query_tokens"] = state["query_tokens"][None]
    missing, unexpected = model.load_state_dict(state, strict=False)
    filled = {id(parameter) for name, parameter in model.named_parameters(remove_duplicate=False) if name in state}
    empty = [name for name, parameter in model.named_parameters() if id(parameter) not in filled]
    if unexpected or empty:
        raise ValueError(f"no place for {unexpected[:3]}, and nothing for {empty[:3]} (missing: {missing[:5]})")


def optimizer_of(model: nn.Module) -> torch.optim.Optimizer:
    """AdamW as the original's runner groups its parameters."""
    groups: tuple[list[nn.Parameter], list[nn.Parameter]] = ([], [])
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            spared = parameter.ndim < 2 or any(part in name for part in ("bias", "ln", "bn"))
            groups[spared].append(parameter)
    listed = [{"params": groups[False], "weight_decay": DECAY}, {"params": groups[True], "weight_decay": 0.0}]
    return torch.optim.AdamW(listed, lr=RATE, weight_decay=DECAY, betas=BETAS)


if __name__ == "__main__":
    serve(LavisStage1())
