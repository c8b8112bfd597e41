"""Weights of other libraries → isthmus's own folder: the bridge, its towers' addresses and fingerprints.

The towers stay where they are: of a folder of transformers the folder itself, for a file of LAVIS those that are named.
"""

from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError
from transformers import AutoConfig

from isthmus.build.bridge import fitting_state
from isthmus.build.exported import MODELS, check_new
from isthmus.build.precision import choose_compute
from isthmus.build.towers import build_encoder, build_llm, resolve
from isthmus.build.workshop import identify
from isthmus.checkpoints.card import model_card
from isthmus.checkpoints.keymap import QFORMER, misfit
from isthmus.checkpoints.lavis import read_lavis
from isthmus.checkpoints.native import write_bridge
from isthmus.checkpoints.safe_files import on_meta, weight_files
from isthmus.checkpoints.transformers import ForeignFolder, open_transformers, read_transformers
from isthmus.config.model import QUESTION, BridgeConfig, EncoderConfig, LanguageConfig, PromptConfig
from isthmus.errors import CheckpointError, ConfigError, TowerError
from isthmus.language.load import without_bars
from isthmus.language.prompts import Prompt
from isthmus.models.ranking import Ranking
from isthmus.qformer.tokenizer import MAX_TOKENS, QFormerTokenizer
from isthmus.records import BridgeFile, BridgeSizes

_FILES = ["*.json", "*.safetensors", "*.txt", "*.model", "qformer_tokenizer/*"]
_INSTRUCTION = 128  # LAVIS' longest instruction, in tokens


@dataclass(frozen=True)
class Towers:
    """Addresses of what a file of LAVIS does not hold, and which layer of the encoder its patches come from."""

    encoder: str | None = None
    hidden_layer: int | None = None
    llm: str | None = None
    tokenizer: str | None = None


@dataclass(frozen=True)
class _Found:
    """A bridge read from elsewhere, with what is known of its towers and of the texts that it reads."""

    file: BridgeFile
    encoder: EncoderConfig
    llm: LanguageConfig | None
    tokenizer: Path | None


def convert_in(source: str, output: Path, towers: Towers) -> BridgeFile:
    """Read a folder of transformers (a path, `folder:` or `hub:`) or a `.pth` file of LAVIS; write a folder of ours.

    Each tower is loaded once, for its fingerprint. Returns what was written.
    Raises `CheckpointError` for a place that is taken or what cannot be read whole, `ConfigError` for a tower that is
    not named, `TowerError` for one that is not there.
    """
    check_new(output)
    found = _from_lavis(Path(source), towers) if source.endswith((".pth", ".pt")) else _from_folder(source, towers)
    fitting_state(found.file)
    tokenizer = _tokenizer(found)
    file = replace(found.file, provenance=_provenance(source, found))
    save, card = None if tokenizer is None else tokenizer.save, model_card(file.provenance)
    write_bridge(file, output, save_tokenizer=save, card=card)
    return file


def _from_folder(source: str, towers: Towers) -> _Found:
    address = source if source.startswith(("hub:", "folder:")) else f"folder:{Path(source).expanduser().resolve()}"
    folder = _fetched(address)
    if address.startswith("hub:") and "@" not in address:
        address = f"{address}@{folder.name}"  # the commit that the Hub gave
    foreign = open_transformers(folder, AutoConfig.from_pretrained)
    if foreign.table is QFORMER and towers.encoder is None:
        raise ConfigError(_unnamed(source, "encoder"))
    file, llm, projects = read_transformers(foreign), None, foreign.sizes.language_width is not None
    _refuse_foreign_towers(foreign)
    if foreign.table is QFORMER and projects and towers.llm is None:
        raise ConfigError(_unnamed(source, "llm"))
    if projects:
        llm = LanguageConfig(
            weights=towers.llm or address, prompt=_prompt(_language_type(foreign.config), foreign.sizes)
        )
    encoder = EncoderConfig(kind="transformers", weights=towers.encoder or address, hidden_layer=towers.hidden_layer)
    own = None
    if foreign.sizes.text:  # without, the folder's tokenizer is the language model's
        own = folder / "qformer_tokenizer" if (folder / "qformer_tokenizer").is_dir() else folder
    return _Found(file, encoder, llm, own if towers.tokenizer is None else _fetched(towers.tokenizer))


def _refuse_foreign_towers(foreign: ForeignFolder) -> None:
    """Raise `CheckpointError` for keys that begin like a tower's and are none of it.

    transformers says which: it knows what older versions called a weight, which one is stored twice and which is no
    longer stored. Shapes and what is missing are seen when the towers are loaded.
    """
    if foreign.table.name not in MODELS:
        return
    try:
        with without_bars():
            _, report = MODELS[foreign.table.name].from_pretrained(
                None,
                config=foreign.config,
                state_dict=on_meta(weight_files(foreign.folder)),
                device_map={"": "meta"},
                ignore_mismatched_sizes=True,
                output_loading_info=True,
            )
    except (ValueError, KeyError, ImportError, RuntimeError) as problem:
        reason = str(problem).strip().partition("\n")[0]
        raise CheckpointError(
            f"{foreign.folder} makes no {foreign.table.name} in transformers ({reason}); fetch it again"
        ) from problem
    if unknown := sorted(key for key in report["unexpected_keys"] if key.startswith(foreign.table.towers)):
        raise misfit(foreign.folder, "has keys that no tower knows:", unknown, foreign.table)


def _from_lavis(path: Path, towers: Towers) -> _Found:
    file = read_lavis(path)
    needed = {"encoder": True, "llm": file.sizes.language_width is not None, "tokenizer": file.sizes.text}
    for name, is_needed in needed.items():
        given = getattr(towers, name) is not None
        if is_needed and not given:
            raise ConfigError(_unnamed(path, name))
        if given and not is_needed and name == "llm":
            raise ConfigError(f"--llm is about a projection, and the bridge in {path} has none; leave it out")
    layout, llm = file.provenance["layout"], None
    if towers.llm is not None:
        activation = "gelu" if layout == "LAVIS t5_proj" else None  # Flan-T5's own is gelu_new
        prompt = _prompt("opt" if layout == "LAVIS opt_proj" else layout, file.sizes)
        if layout == "LAVIS llm_proj":
            prompt = prompt.model_copy(update={"bos_token": "</s>"})  # LAVIS gives Vicuna's tokenizer another BOS
        llm = LanguageConfig(weights=towers.llm, activation=activation, prompt=prompt)
    encoder = EncoderConfig(kind="transformers", weights=towers.encoder, hidden_layer=towers.hidden_layer, squash=True)
    return _Found(file, encoder, llm, None if towers.tokenizer is None else _fetched(towers.tokenizer))


def _unnamed(source: object, name: str) -> str:
    return (
        f"{source} holds a bridge without its {name}; name the one that it was trained with: --{name} hub:NAME or "
        f"--{name} folder:PATH"
    )


def _language_type(config: Any) -> str:
    return str(config.text_config.model_type) if hasattr(config, "text_config") else "unknown"


def _prompt(language: str, sizes: BridgeSizes) -> PromptConfig:
    """The soft prompt first, then BOS and text, as LAVIS has it; OPT's captions end with a line break.

    A bridge that reads instructions gives each to its language model too, as it is.
    """
    ends = language in ("opt", "t5", "LAVIS t5_proj") and not (language == "opt" and sizes.text)
    after = QUESTION if sizes.text else ""
    return PromptConfig(after=after, bos="after_soft_prompt", caption_prefix="", end=None if ends else "")


def _tokenizer(found: _Found) -> QFormerTokenizer | None:
    """The Q-Former's tokenizer, which a bridge that reads texts needs; raises `CheckpointError` for other words."""
    if found.tokenizer is None:
        return None
    sizes, rows = found.file.sizes, found.file.sizes.vocabulary
    of_lavis = str(found.file.provenance["layout"]).startswith("LAVIS")  # others say it in the tokenizer's own files
    cut: Literal["left"] | None = "left" if of_lavis and _reads_instructions(found) else None
    tokenizer = QFormerTokenizer(found.tokenizer, max_tokens=_longest(found), cut=cut)
    # [DEC] is the last word, and only ITG needs its row; a processor's mark for pictures may follow, which is no word
    if sizes.text and rows not in (tokenizer.dec, tokenizer.dec + 1):
        raise CheckpointError(
            f"the tokenizer in {found.tokenizer} has {tokenizer.dec + 1} words with [DEC], and the bridge "
            f"{rows} word embeddings; give its own: --tokenizer folder:PATH"
        )
    return tokenizer


def _longest(found: _Found) -> int:
    """The longest text of the Q-Former, in tokens: a caption, or an instruction."""
    return min(found.file.sizes.positions, _INSTRUCTION if _reads_instructions(found) else MAX_TOKENS)


def _reads_instructions(found: _Found) -> bool:
    return found.file.sizes.text and found.llm is not None


def _provenance(source: str, found: _Found) -> dict[str, Any]:
    """What the folder says of its making: it was converted, and nothing is known of its training.

    The towers are loaded for their fingerprints alone, which are of weights rounded to bf16: as such they take half of
    the memory. `precision` is that of the bridge.
    """
    sizes, compute = found.file.sizes, choose_compute("cpu", "bf16")
    encoder = build_encoder(found.encoder, compute)
    towers = {"encoder": asdict(identify(encoder))}
    del encoder  # before the language model takes its place
    prompt, config = None, {"encoder": found.encoder.model_dump(mode="json"), "llm": None}
    if found.llm is not None:
        llm = build_llm(found.llm, Prompt(**found.llm.prompt.model_dump(exclude={"examples"})), compute)
        towers["llm"], prompt = asdict(identify(llm)), llm.prompt.as_json()
        config["llm"] = found.llm.model_dump(mode="json")
    bridge = BridgeConfig(
        queries=sizes.queries,
        cross_frequency=sizes.cross_frequency,
        patch_norm_eps=sizes.patch_norm_eps,
        max_tokens=_longest(found),
        instruct=_reads_instructions(found),
    )
    ranking = Ranking(rule="original") if sizes.shared_width is not None and not sizes.temperature else None
    return {
        "stage": 1 if found.llm is None else 2,
        "towers": towers,
        "prompt": prompt,
        "config": {**config, "bridge": bridge.model_dump(mode="json")},
        "precision": "float32",
        "converted": {"from": source, "layout": found.file.provenance["layout"], "absent": _absent(found.file)},
        **({} if ranking is None else {"ranking": asdict(ranking)}),
        "versions": {name: version(name) for name in ("isthmus", "torch", "transformers")},
    }


def _absent(file: BridgeFile) -> list[str]:
    """The parts that a bridge of its stage can have and this one lacks."""
    sizes = file.sizes
    lacking = {"LM head": not sizes.lm_head, "temperature": not sizes.temperature}
    return [name for name, is_absent in lacking.items() if is_absent and sizes.shared_width is not None]


def _fetched(address: str) -> Path:
    """The folder at an address; one of the Hub is fetched."""
    place = resolve(address)
    if place.path is not None:
        return place.path
    try:
        return Path(snapshot_download(place.name, revision=place.revision, allow_patterns=_FILES))  # .../COMMIT
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as problem:
        raise TowerError(f"{address} cannot be fetched from the Hub; check the name and the connection") from problem
