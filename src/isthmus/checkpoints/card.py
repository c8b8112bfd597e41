"""The model card: what a bridge is, was made of and scored, from its provenance; README.md as the Hub reads it."""

import json
from collections.abc import Iterator, Mapping
from typing import Any

import yaml

_ABILITIES = {
    1: "matches pictures with texts (ITC and ITM), embeds both, and writes captions by the Q-Former itself (ITG)",
    2: "writes captions through its frozen language model",
}
_TASKS = {1: "zero-shot-image-classification", 2: "image-to-text"}
_ANSWERS = "answers questions about pictures through its frozen language model"
_ASKS = 'predictor.ask("picture.jpg", "What is this?")'
_USES = {1: 'predictor.match("picture.jpg", ["a red boat", "a blue car"])', 2: 'predictor.caption("picture.jpg")'}
_PAPER = "[BLIP-2](https://arxiv.org/abs/2301.12597)"


def model_card(provenance: Mapping[str, Any]) -> str:
    """Write the card of one bridge.

    Reads `stage`, `towers` (address, fingerprint, `licence` where known), `config` and `precision`, and what is there
    of `licence`, `step`, `sources` (rows by source), `converted` (in place of data and training), `figures`,
    `scored_on` (names of the held-out sets, where the config has none), `ranking`, `prompt`, `versions`, `processes`
    and `device`. What is not known is said to be unknown, or left out.
    """
    made = (_origin,) if "converted" in provenance else (_data, _training)
    sections = (_front, _what, _how, towers_section, *made, _figures)
    lines = [line for section in sections for line in section(provenance)]
    return "\n".join(lines) + "\n"


def _front(provenance: Mapping[str, Any]) -> Iterator[str]:
    """YAML for the Hub; only towers that live there are base models to it."""
    hub = [tower["address"] for tower in provenance["towers"].values() if tower["address"].startswith("hub:")]
    front = {
        "library_name": "isthmus",
        "license": provenance.get("licence", "unknown"),
        "pipeline_tag": _TASKS[provenance["stage"]],
        "tags": ["blip-2", "q-former", "vision-language", f"stage-{provenance['stage']}"],
        **({"base_model": [address.removeprefix("hub:").partition("@")[0] for address in hub]} if hub else {}),
    }
    yield f"---\n{yaml.safe_dump(front, sort_keys=False)}---"


def _instructed(provenance: Mapping[str, Any]) -> bool:
    return bool(provenance["config"].get("bridge", {}).get("instruct"))


def _what(provenance: Mapping[str, Any]) -> Iterator[str]:
    stage, abilities = provenance["stage"], _ANSWERS if _instructed(provenance) else _ABILITIES[provenance["stage"]]
    yield f"# A bridge of stage {stage}, between a frozen image encoder and language"
    yield ""
    trainer = "converted by isthmus" if "converted" in provenance else "trained by isthmus"
    yield f"This folder holds the Q-Former of {_PAPER} and its heads, {trainer}; the frozen models that it"
    yield f"stands between are not in it. It {abilities}."
    yield ""


def _how(provenance: Mapping[str, Any]) -> Iterator[str]:
    yield "```python"
    yield "from isthmus import Predictor"
    yield ""
    yield 'predictor = Predictor.from_pretrained("FOLDER")  # this folder'
    yield _ASKS if _instructed(provenance) else _USES[provenance["stage"]]
    yield "```"
    yield ""


def towers_section(provenance: Mapping[str, Any]) -> Iterator[str]:
    """The frozen models: where they lie, which they are, under which licence."""
    yield "## Frozen models"
    yield ""
    yield "They are found by address and accepted by fingerprint; one that moved is named by `encoder=` or `llm=`."
    yield ""
    yield "| model | address | fingerprint | licence |"
    yield "|---|---|---|---|"
    for name, tower in provenance["towers"].items():
        layer = tower.get("hidden_layer")
        depth = "" if layer is None else f", hidden layer {layer}"
        yield f"| {name} | `{tower['address']}`{depth} | `{tower['fingerprint']}` | {tower.get('licence', 'unknown')} |"
    yield ""
    yield f"Licence of the bridge itself: {provenance.get('licence', 'unknown')}."
    yield ""


def _origin(provenance: Mapping[str, Any]) -> Iterator[str]:
    converted = provenance["converted"]
    yield "## Origin"
    yield ""
    yield f"Converted from `{converted['from']}`, read as {converted['layout']}; it was trained elsewhere."
    if absent := converted["absent"]:
        yield f"Absent, for that layout has no place for it: {', '.join(absent)}. What needs it is refused."
    if prompt := provenance.get("prompt"):
        yield f"Prompt: `{json.dumps(prompt)}`."
    yield ""


def _data(provenance: Mapping[str, Any]) -> Iterator[str]:
    yield "## Data"
    yield ""
    data = provenance["config"]["data"]
    drawn = provenance.get("sources")
    if drawn is None:
        yield f"- training: `{json.dumps(data['train'])}`"
    for one in drawn or []:
        counts = f"{one['rows_drawn']:,} rows drawn, {one['different_rows']:,} of them different"
        yield f"- training: `{one['source']}`, {one['size']:,} rows; {counts}"
    yield f"- held out: {_held_out(provenance)}"
    yield ""


def _held_out(provenance: Mapping[str, Any]) -> str:
    data = provenance["config"]["data"]
    if share := data.get("held_out"):
        return f"{share} of the training pictures"
    if evaluation := data.get("evaluation"):
        return f"`{json.dumps(evaluation)}`"
    return ", ".join(provenance.get("scored_on", [])) or "none"


def _training(provenance: Mapping[str, Any]) -> Iterator[str]:
    train = provenance["config"]["train"]
    yield "## Training"
    yield ""
    rows = f"{train['batch_size']} x {provenance.get('processes', 1)} x {train['accumulation']}"
    yield f"Step {provenance.get('step', 'unknown')} of {train['steps']}, batches of {rows}"
    yield "(rows x processes x accumulation), in"
    yield f"{provenance['precision']} on {provenance.get('device', 'an unknown device')}."
    if prompt := provenance.get("prompt"):
        yield f"Prompt: `{json.dumps(prompt)}`."
    versions = ", ".join(f"{name} {version}" for name, version in provenance.get("versions", {}).items())
    yield f"Versions: {versions or 'unknown'}. Every setting is in `config.json` under `provenance.config`."
    yield ""


def _figures(provenance: Mapping[str, Any]) -> Iterator[str]:
    yield "## Figures"
    yield ""
    figures = {**provenance.get("figures", {})}
    if ranking := provenance.get("ranking"):
        figures["ranking"] = ranking
    if not figures:
        yield "None were measured."
        return
    yield "On the held-out pictures above, recall and exact matches in per cent, losses in nats per token:"
    yield ""
    yield "| figure | value |"
    yield "|---|---|"
    yield from (f"| {name} | {value} |" for name, value in _flat(figures, ""))


def _flat(figures: Mapping[str, Any], before: str) -> Iterator[tuple[str, str]]:
    """Nested figures as rows; lists, such as the captions themselves, are left out."""
    for name, value in figures.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{before}{name} ")
        elif not isinstance(value, list):
            shown = f"{value:.4g}" if isinstance(value, float) else str(value).replace("|", "\\|")
            yield f"{before}{name}".replace("_", " "), shown
