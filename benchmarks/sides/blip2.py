"""What transformers' sides share: BLIP-2's models at the common sizes and with the common weights."""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import Blip2Config, Blip2QFormerConfig, Blip2VisionConfig
from transformers.modeling_outputs import BaseModelOutputWithPooling

_PATCH_NORM = "vision_model.post_layernorm"


class Features(nn.Module):
    """A vision tower that gives what it is given."""

    def forward(self, pixel_values: Tensor, **_: Any) -> BaseModelOutputWithPooling:
        return BaseModelOutputWithPooling(last_hidden_state=pixel_values, pooler_output=pixel_values[:, 0])


def read_about(folder: Path) -> dict[str, Any]:
    """Sizes and names."""
    about: dict[str, Any] = json.loads((folder / "about.json").read_text(encoding="utf-8"))
    return about


def config_of(sizes: dict[str, Any], **more: Any) -> Blip2Config:
    """BLIP-2's config at the common sizes; its vision tower is the smallest there can be, and is replaced."""
    qformer = Blip2QFormerConfig(
        vocab_size=sizes["vocabulary"],
        hidden_size=sizes["width"],
        num_hidden_layers=sizes["layers"],
        num_attention_heads=sizes["heads"],
        intermediate_size=sizes["feed_forward_width"],
        max_position_embeddings=sizes["positions"],
        layer_norm_eps=sizes["norm_eps"],
        cross_attention_frequency=sizes["cross_frequency"],
        encoder_hidden_size=sizes["vision_width"],
        use_qformer_text_input=sizes["text"],
    )
    vision = Blip2VisionConfig(
        hidden_size=sizes["vision_width"], num_hidden_layers=1, num_attention_heads=2, intermediate_size=8
    )
    return Blip2Config(vision_config=vision, qformer_config=qformer, num_query_tokens=sizes["queries"], **more)


def fill(model: nn.Module, folder: Path, names: dict[str, str], more: dict[str, Tensor] | None = None) -> None:
    """Put the common weights in but the patch LayerNorm's; raises where one has no place, or a place got none."""
    drawn = load_file(folder / "weights.safetensors")
    state = {theirs: drawn[ours] for ours, theirs in names.items() if not theirs.startswith(_PATCH_NORM)}
    state["query_tokens"] = state["query_tokens"][None]
    state |= more or {}
    _, unexpected = model.load_state_dict(state, strict=False)
    filled = {id(parameter) for name, parameter in model.named_parameters(remove_duplicate=False) if name in state}
    empty = [name for name, parameter in model.named_parameters() if id(parameter) not in filled]
    if unexpected or empty:
        raise ValueError(f"no place for {unexpected[:3]}, and nothing for {empty[:3]}")


def normalised(folder: Path, sizes: dict[str, Any]) -> dict[str, Tensor]:
    """The rows, features as the vision tower's closing LayerNorm would leave them: the common weights say how."""
    rows, drawn = load_file(folder / "rows.safetensors"), load_file(folder / "weights.safetensors")
    scale, shift = (drawn[f"qformer.memory.norm.{kind}"] for kind in ("weight", "bias"))
    width = (sizes["vision_width"],)
    with torch.no_grad():
        rows["patches"] = F.layer_norm(rows["patches"], width, scale, shift, sizes["patch_norm_eps"])
    return rows
