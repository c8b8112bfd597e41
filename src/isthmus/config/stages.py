"""One file for both stages: shared keys, and under `stage1:` and `stage2:` what each has of its own (docs/adr/0006)."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from isthmus.config.run import RunConfig, check, parse_overrides, put, read_yaml
from isthmus.errors import ConfigError

STAGES = {1: "stage1", 2: "stage2"}
"""What each stage is called: its section in a file of both, and its folder below the output of both."""

NOT_SHARED = {
    "stage": "the sections `stage1:` and `stage2:` say which stage is meant",
    "init": "say `stage1.init.from` or `stage2.init.from`",
}
WRITTEN_BELOW = ("stage", "output")


@dataclass(frozen=True)
class Stages:
    """The runs that a file asks for, in their order; `in_turn`: they are the stages of one file, kept side by side."""

    runs: tuple[RunConfig, ...]
    in_turn: bool


def load_stages(path: Path, overrides: list[str] | None = None, *, only: int | None = None) -> Stages:
    """Read a YAML file of one run or of both stages, apply `key.sub=value` overrides, check it.

    In a file of both, `key=value` replaces the value in every stage and `stage1.key=value` in one. Every stage is
    written below the file's `output`, and stage 2 starts from stage 1 where it does not say otherwise. `only`: this
    stage alone.
    Raises `ConfigError` with one line: the file, the key, and what was wrong.
    """
    content, values = read_yaml(path), parse_overrides(overrides or [])
    if not content.keys() & STAGES.values():
        run = check(put(content, values), str(path))
        if only not in (None, run.stage):
            raise ConfigError(f"{path} is a file of stage {run.stage}, not of stage {only}; leave --stage out")
        return Stages((run,), in_turn=False)
    content = put(content, values)
    _check_shared(content, path)
    wanted = [stage for stage, name in STAGES.items() if content.get(name) is not None and only in (None, stage)]
    if not wanted:
        raise ConfigError(f"{path} has no section `stage{only}:`; leave --stage out or write one")
    runs = tuple(_run(stage, content, values, path) for stage in wanted)
    if len({run.train.timeout_minutes for run in runs}) > 1:
        raise ConfigError(
            f"{path}: `train.timeout_minutes` differs from stage to stage, which the same processes train; write it "
            "once, beside both stages"
        )
    return Stages(runs, in_turn=True)


def _check_shared(content: dict[str, Any], path: Path) -> None:
    for key, hint in NOT_SHARED.items():
        if key in content:
            raise ConfigError(f"{path}: `{key}` cannot be shared by both stages; {hint}")
    if not isinstance(content.get("output"), str):
        raise ConfigError(f"{path}: the key `output` is missing; give the folder that holds both stages")
    for name in STAGES.values():
        section = content.get(name)
        if section is not None and not isinstance(section, dict):
            raise ConfigError(f"{path}: `{name}` is {section!r}: it should be a section of keys")
        for key in WRITTEN_BELOW:
            if key in (section or {}):
                raise ConfigError(f"{path}: leave `{name}.{key}` out: {name} is written below the file's `output`")


def _run(stage: int, content: dict[str, Any], values: dict[str, Any], path: Path) -> RunConfig:
    """One stage: the shared keys, its own over them, then the overrides, the stage's own last."""
    name, sections = STAGES[stage], STAGES.values()
    shared = {key: value for key, value in content.items() if key not in sections}
    run = _over(shared, content[name])
    run = put(run, {key: value for key, value in values.items() if key.partition(".")[0] not in sections})
    run = put(run, {key.removeprefix(f"{name}."): v for key, v in values.items() if key.startswith(f"{name}.")})
    output = Path(content["output"])
    if stage == 2 and run.get("init") is None and content.get(STAGES[1]) is not None:
        run["init"] = {"from": str(output / STAGES[1])}
    return check({**run, "stage": stage, "output": str(output / name)}, f"{path}, {name}")


def _over(below: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    """One mapping laid over another, section by section."""
    joined = dict(below)
    for key, value in above.items():
        inner = below.get(key)
        joined[key] = _over(inner, value) if isinstance(inner, dict) and isinstance(value, dict) else value
    return joined
