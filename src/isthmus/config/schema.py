"""The JSON Schema of a recipe, for editors: a file of one run, or one of both stages (docs/adr/0006)."""

from collections.abc import Container
from typing import Any

from isthmus.config.run import RunConfig
from isthmus.config.stages import NOT_SHARED, STAGES, WRITTEN_BELOW

_PART = "Part"


def recipe_schema() -> dict[str, Any]:
    """A file with a section `stage1` or `stage2` is checked as one of both stages, every other as one run.

    What a stage needs may stand in the shared keys or in its own, which no schema can add up: of a file of both
    stages only `output` is required here, and `load_stages` looks whether each stage is whole.
    """
    run = RunConfig.model_json_schema()
    defs = run.pop("$defs")
    section = _without(_part(run), WRITTEN_BELOW)
    shared = _without(_part(run), NOT_SHARED)
    shared["properties"] |= {name: {"anyOf": [{"$ref": "#/$defs/Stage"}, {"type": "null"}]} for name in STAGES.values()}
    both = {
        **shared,
        "title": "Stages",
        "description": "Both stages: shared keys, and what each has of its own.",
        "required": ["output"],
    }
    stage = {**section, "title": "Stage", "description": "What this stage has of its own, laid over the shared keys."}
    parts = {f"{name}{_PART}": _part(content) for name, content in defs.items()}
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Recipe",
        "description": "A recipe of isthmus: one training run, or both stages in one file.",
        "type": "object",
        "if": {"anyOf": [{"required": [name]} for name in STAGES.values()]},
        "then": {"$ref": "#/$defs/Stages"},
        "else": {"$ref": "#/$defs/RunConfig"},
        "$defs": {"RunConfig": run, "Stages": both, "Stage": stage, **defs, **parts},
    }


def _part(schema: Any) -> Any:
    """The same schema with nothing required, in the sections that it refers to either."""
    if isinstance(schema, list):
        return [_part(inner) for inner in schema]
    if not isinstance(schema, dict):
        return schema
    kept = {key: inner for key, inner in schema.items() if key != "required"}
    return {key: f"{inner}{_PART}" if key == "$ref" else _part(inner) for key, inner in kept.items()}


def _without(schema: dict[str, Any], keys: Container[str]) -> dict[str, Any]:
    return {**schema, "properties": {key: inner for key, inner in schema["properties"].items() if key not in keys}}
