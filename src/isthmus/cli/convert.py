"""`isthmus convert`: weights of transformers and LAVIS into isthmus's own folder, and out of it again."""

import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Literal

import typer

from isthmus.build.compared import compare
from isthmus.build.exported import Exported, check_exportable, check_new, export_model, export_qformer
from isthmus.build.folders import Moved, one_bridge
from isthmus.build.imported import Towers, convert_in
from isthmus.build.pretrained import Wishes, load_alone, load_pretrained
from isthmus.checkpoints.exported_card import exported_card
from isthmus.checkpoints.native import CARD
from isthmus.checkpoints.sealed import MARKER
from isthmus.cli.inputs import print_json
from isthmus.cli.show import quiet_libraries
from isthmus.errors import CheckpointError, ConfigError
from isthmus.files import write_atomically


def run_convert(
    source: str, output: Path, towers: Towers, *, to: Literal["transformers", "qformer"] | None, as_json: bool
) -> None:
    """Convert, and say what came over, what is absent or left behind, and how far the numbers lie apart."""
    quiet_libraries()
    own = (one_bridge(Path(source)) / MARKER).is_file()
    if own != (to is not None):
        raise ConfigError(
            f"{source} is isthmus's own folder: say what to write, --to transformers or --to qformer"
            if own
            else f"--to is for isthmus's own folders, and {source} is none; convert it first, without --to"
        )
    if to is None:
        file = convert_in(source, output, towers)
        converted = file.provenance["converted"]
        told = {"layout": converted["layout"], "tensors": len(file.tensors), "absent": converted["absent"]}
        _tell({**told, "sizes": asdict(file.sizes), "folder": str(output)}, as_json=as_json)
        return
    if towers.hidden_layer is not None or towers.tokenizer is not None:
        raise ConfigError("--hidden-layer and --tokenizer are about weights that come in; leave them out beside --to")
    _tell(_write_out(Path(source), output, towers, to), as_json=as_json)


def _write_out(source: Path, output: Path, towers: Towers, to: str) -> dict[str, object]:
    """Write beside the place, compare, and only then take it: a folder that is there is whole and was compared."""
    check_new(output)
    scratch = output.with_name(f".{output.name}-unfinished")
    shutil.rmtree(scratch, ignore_errors=True)
    try:
        told = _written(source, scratch, towers, to)
        scratch.rename(output)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return {**told, "folder": str(output)}


def _written(source: Path, output: Path, towers: Towers, to: str) -> dict[str, object]:
    if to == "qformer":
        loaded = load_alone(source)
        exported, differences = export_qformer(loaded, output), {}
        provenance = loaded.provenance
    else:
        wishes = Wishes(device="cpu", dtype="float32", towers=Moved(towers.encoder, towers.llm, "--{} {}"))
        pretrained = load_pretrained([one_bridge(source)], wishes)
        (stage,) = pretrained.bridges
        check_exportable(pretrained, stage)
        exported = export_model(pretrained, stage, output)
        found = compare(pretrained, stage, exported)
        if far := next((name for name, one in found.items() if name != "pixels" and one.is_far), None):
            raise CheckpointError(
                f"nothing was written: the {far} of transformers lie {found[far].largest:.2e} from ours, of at most "
                f"{found[far].scale:.2e}, which two eps do not explain; please report this"
            )
        differences = {name: (one.largest, one.scale) for name, one in found.items()}
        provenance = pretrained.bridges[stage].provenance
    card = exported_card(provenance, layout=exported.table.name, lost=exported.lost, differences=differences)
    write_atomically(output / CARD, lambda path: path.write_text(card, encoding="utf-8"))
    return _told(exported, differences)


def _told(exported: Exported, differences: dict[str, tuple[float, float]]) -> dict[str, object]:
    apart = {name: {"largest_difference": most, "largest_number": scale} for name, (most, scale) in differences.items()}
    return {
        "layout": exported.table.name,
        "left_behind": list(exported.lost),
        "against_isthmus": apart,
    }


def _tell(content: dict[str, object], *, as_json: bool) -> None:
    if as_json:
        print_json(content)
        return
    for name, value in content.items():
        if isinstance(value, dict):
            for key, inner in value.items():
                typer.echo(f"{key}: {_short(inner)}")
        elif value or value == 0:
            typer.echo(f"{name.replace('_', ' ')}: {_short(value)}")


def _short(value: object) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name.replace('_', ' ')} {number:.2e}" for name, number in value.items())
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)
