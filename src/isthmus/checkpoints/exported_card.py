"""The card of a folder of transformers that a bridge was written to: what it is, what was lost, how near it is."""

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import yaml

from isthmus.checkpoints.card import towers_section

_TASKS = {1: "zero-shot-image-classification", 2: "image-text-to-text"}


def exported_card(
    provenance: Mapping[str, Any], *, layout: str, lost: Sequence[str], differences: Mapping[str, tuple[float, float]]
) -> str:
    """Write the card; `differences` are, by what was compared, the largest difference and the largest number."""
    stage = provenance["stage"]
    front = {
        "library_name": "transformers",
        "license": provenance.get("licence", "unknown"),
        "pipeline_tag": _TASKS[stage],
        "tags": ["blip-2", "q-former", "isthmus"],
    }
    lines = [
        f"---\n{yaml.safe_dump(front, sort_keys=False)}---",
        f"# {layout}, written by isthmus",
        "",
        f"A bridge of stage {stage}, in the layout of transformers: `{layout}.from_pretrained(FOLDER)` loads it.",
        "",
        *_differences(differences),
        *_lost(lost),
        *_prompt(provenance.get("prompt")),
        *towers_section(provenance),
    ]
    return "\n".join(lines) + "\n"


def _differences(differences: Mapping[str, tuple[float, float]]) -> Iterator[str]:
    if not differences:
        return
    yield "## Against isthmus"
    yield ""
    yield "Both models on the same two made pictures and texts, in fp32. transformers has one eps for all norms of an"
    yield "image tower, so that the LayerNorm on the patches takes the tower's instead of its own."
    yield ""
    yield "| compared | largest difference | largest number |"
    yield "|---|---|---|"
    yield from (f"| {name} | {most:.2e} | {scale:.2e} |" for name, (most, scale) in differences.items())
    yield ""


def _lost(lost: Sequence[str]) -> Iterator[str]:
    if lost:
        yield f"Left behind, for this class has no place for it: {', '.join(f'`{name}`' for name in lost)}."
        yield ""


def _prompt(prompt: Mapping[str, Any] | None) -> Iterator[str]:
    if prompt is None:
        return
    yield f"Trained with the prompt `{json.dumps(prompt)}`. The processor puts the picture first, then the text as the"
    yield "tokenizer gives it, with BOS at its head where the tokenizer adds one."
    if prompt["before"] or prompt["bos"] == "first" or prompt.get("turns"):
        yield "**That is not how this bridge was trained**: BOS or text stood before the picture. Build the ids by hand"
        yield "(BOS and `before`, the image tokens, `after`), or train with `bos: after_soft_prompt`, nothing before."
    if prompt.get("bos_token"):
        yield f"BOS was `{prompt['bos_token']}`: where the tokenizer adds another, put this one in its place by hand."
    if "{question}" in prompt["after"] and prompt["after"] != "{question}":
        yield "The processor gives the Q-Former the whole text; in training it read the bare question."
    yield ""
