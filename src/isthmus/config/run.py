"""A whole run: the one file that a user writes, read from YAML and overridden by `key.sub=value`."""

import copy
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import AfterValidator, Field, ValidationError, model_validator

from isthmus.config.base import PathText, Section
from isthmus.config.data import ONE, SEVERAL, DataConfig, FeaturesConfig
from isthmus.config.describe import nearest
from isthmus.config.model import QUESTION, BridgeConfig, EncoderConfig, InitConfig, LanguageConfig
from isthmus.config.train import BOOKKEEPING, ObjectivesConfig, TrainConfig
from isthmus.errors import ConfigError

_EXPONENT = re.compile(r"[+-]?[0-9]+(\.[0-9]*)?[eE][+-]?[0-9]+")


LABELS = {"encoder": {"licence"}, "llm": {"licence", "sharded"}}
"""Keys that say something of a run, or how its processes share its towers, and change no number in it."""


class RunConfig(Section):
    """Everything one training run depends on."""

    stage: Literal[1, 2]
    """1: against text (ITC, ITM, ITG); 2: through the frozen language model."""
    output: Annotated[PathText, AfterValidator(os.path.expanduser)]
    """The run's folder: bridge, log, record."""
    overwrite: bool = False
    """Train over the bridge of an earlier run in `output`, and do not go on from its checkpoints."""
    resume: PathText | None = None
    """The folder of a checkpoint to go on from; empty: the newest whole one in `output`, where there is one."""
    seed: int = Field(default=0, ge=0)
    """Key of every random choice."""
    device: str = "auto"
    """`auto`, `cpu`, `cuda` or `cuda:N`."""
    precision: Literal["auto", "bf16", "fp32"] = "auto"
    """`auto`: bf16 where the device has it natively, else fp32."""
    data: DataConfig
    """Pictures and captions."""
    features: FeaturesConfig = FeaturesConfig()
    """The feature store."""
    encoder: EncoderConfig
    """The frozen image encoder."""
    bridge: BridgeConfig = BridgeConfig()
    """The trained part."""
    init: InitConfig | None = None
    """The bridge that this one goes on from: stage 2 always does, stage 1 in place of `bridge.bert`."""
    llm: LanguageConfig | None = None
    """Stage 2 only: the frozen language model."""
    objectives: ObjectivesConfig = ObjectivesConfig()
    """Stage 1 only: switches of the losses."""
    train: TrainConfig
    """Optimizer and schedule."""

    def given(self) -> dict[str, Any]:
        """The keys that were given and not filled in: what a run is known by when it is asked for again.

        Where it lies, what computes it and labels are no part of it; what it goes on from is known by its weights.
        """
        elsewhere: dict[str, Any] = {"output": True, "overwrite": True, "resume": True, "device": True}
        elsewhere |= {"init": {"folder"}, "data": {"workers", "timeout"}, "train": BOOKKEEPING}
        given = self.model_dump(mode="json", exclude_unset=True, exclude={**elsewhere, **LABELS})
        return {key: value for key, value in given.items() if (key, value) != ("init", {})}

    def shares_encoder(self, other: "RunConfig") -> bool:
        """Whether two runs can use one image encoder, as it was loaded."""
        wanted = (self.encoder, self.device, self.precision)
        return wanted == (other.encoder, other.device, other.precision)

    @model_validator(mode="after")
    def _keys_are_of_the_stage(self) -> "RunConfig":
        """A key that another stage reads would do nothing here; at its default it is a config written out."""
        foreign: dict[int, dict[str, object]] = {
            1: {
                "bridge.projection": self.bridge.projection != "random",
                "bridge.instruct": self.bridge.instruct,
                "train.lr_projection": self.train.lr_projection,
                "train.group_by_length": self.train.group_by_length,
            },
            2: {
                "init.lm_head": self.init and self.init.lm_head,
                "init.temperature": self.init and self.init.temperature,
                "objectives": self.objectives != ObjectivesConfig(),
                "train.decay_temperature": self.train.decay_temperature,
                "train.chunked": self.train.chunked,
            },
        }
        for key, given in foreign[self.stage].items():
            if given:
                raise ValueError(f"`{key}` is a key of stage {3 - self.stage}; leave it out of stage {self.stage}")
        return self

    @model_validator(mode="after")
    def _best_is_scored(self) -> "RunConfig":
        if self.train.best is not None and self.data.evaluation is None and self.data.held_out is None:
            raise ValueError("`train.best` needs pictures to be scored on; give `data.evaluation` or `data.held_out`")
        return self

    @model_validator(mode="after")
    def _goes_on_or_starts_anew(self) -> "RunConfig":
        if self.overwrite and self.resume is not None:
            raise ValueError("`resume` goes on from a checkpoint and `overwrite` starts anew; leave one of them out")
        return self

    @model_validator(mode="after")
    def _stages_are_whole(self) -> "RunConfig":
        starts = [name for name in ("bert", "scratch") if getattr(self.bridge, name) is not None]
        if self.stage == 1:
            self._check_stage1(starts)
            return self
        if self.llm is None or self.init is None:
            missing = "llm" if self.llm is None else "init.from"
            raise ValueError(f"stage 2 needs `{missing}`: a frozen language model and the folder of a trained bridge")
        if starts:
            raise ValueError(f"`bridge.{starts[0]}` starts a bridge in stage 1; stage 2 has `init.from`; leave it out")
        self._check_question(self.llm)
        return self

    def _check_question(self, llm: LanguageConfig) -> None:
        """Where the bridge reads questions, the language model is asked them too, and nowhere else."""
        asked = QUESTION in llm.prompt.after
        if self.bridge.instruct and not asked:
            raise ValueError(
                "`bridge.instruct` asks the language model too: give `llm.prompt.after` the place of the question, for "
                f'example " Question: {QUESTION} Answer:"'
            )
        if asked and not self.bridge.instruct:
            raise ValueError(
                f"`llm.prompt.after` holds {QUESTION}, which stands for the questions of bridge.instruct=true; set "
                "that, or leave it out of the prompt"
            )
        if self.bridge.instruct and llm.prefix_lm:
            raise ValueError(
                "`llm.prefix_lm` splits captions, and with `bridge.instruct` the encoder reads the question in "
                "place of a part; leave it out"
            )

    def _check_stage1(self, starts: list[str]) -> None:
        if len(starts) + (self.init is not None) != 1:
            raise ValueError("stage 1 needs exactly one of `bridge.bert`, `bridge.scratch` and `init.from`")
        if self.llm is not None:
            raise ValueError("`llm` is a key of stage 2; leave it out of stage 1")
        self.train.check_accumulation(stored=self.features.folder is not None)
        self.train.check_itm_rows(self.objectives.itm_every)


def load_config(path: Path, overrides: list[str] | None = None) -> RunConfig:
    """Read a YAML file, apply `key.sub=value` overrides, check it.

    Raises `ConfigError` with one line: the file, the key, and what was wrong.
    """
    return check(put(read_yaml(path), parse_overrides(overrides or [])), str(path))


def read_yaml(path: Path) -> dict[str, Any]:
    """Read a YAML file of keys and values; raises `ConfigError` where it is none."""
    if not path.is_file():
        raise ConfigError(f"no configuration file at {path}; give the path of a YAML file")
    try:
        content = _numbers(yaml.safe_load(path.read_text(encoding="utf-8")))
    except OSError as problem:
        raise ConfigError(f"{path} cannot be read ({problem.strerror}); give the path of a YAML file") from problem
    except UnicodeDecodeError as problem:
        raise ConfigError(f"{path} is no text in UTF-8; give the path of a YAML file") from problem
    except yaml.YAMLError as problem:
        where = getattr(problem, "problem_mark", None)
        line = f" in line {where.line + 1}" if where else ""
        raise ConfigError(f"{path} is no valid YAML{line}; mend it") from problem
    except ValueError as problem:  # a date that is none
        raise ConfigError(f"{path} holds a value that YAML cannot read ({problem}); put it in quotes") from problem
    if not isinstance(content, dict):
        raise ConfigError(f"{path} holds no mapping of keys to values; see recipes/ for examples")
    return content


def parse_overrides(overrides: list[str]) -> dict[str, Any]:
    """Read `key.sub=value` strings as values by key; raises `ConfigError` for one of another form."""
    values = {}
    for override in overrides:
        key, equals, value = override.partition("=")
        if not equals or not key:
            raise ConfigError(
                f"the override {override!r} is not of the form key.sub=value; write for example train.lr=1e-4"
            )
        try:
            values[key] = _numbers(yaml.safe_load(value))
        except (yaml.YAMLError, ValueError) as problem:
            raise ConfigError(f"the value in the override {override!r} is no valid YAML; put it in quotes") from problem
    return values


def put(content: dict[str, Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """Put values at their `key.sub` places into a copy of a mapping."""
    content = copy.deepcopy(content)
    for key, value in values.items():
        *parents, last = key.split(".")
        place = content
        for parent in parents:
            if place.get(parent) is None:
                place[parent] = {}
            if not isinstance(place[parent], dict):
                raise ConfigError(f"the key {key!r} goes below `{parent}`, which is no section")
            place = place[parent]
        place[last] = value
    return content


def check(content: dict[str, Any], where: str) -> RunConfig:
    """Check a mapping; raises `ConfigError` naming the first wrong key."""
    try:
        return RunConfig.model_validate(content)
    except ValidationError as problem:
        # a key with a slip is two errors, unknown and missing: the unknown one tells more
        first = min(problem.errors(), key=lambda error: error["type"] != "extra_forbidden")
        key = ".".join(str(part) for part in first["loc"] if part not in (ONE, SEVERAL))
        raise ConfigError(f"{where}: {_sentence(key, first)}") from problem


def _sentence(key: str, error: Any) -> str:
    if error["type"] == "extra_forbidden":
        meant = nearest(key, RunConfig)
        known = f"did you mean `{meant}`?" if meant else "`isthmus config schema` lists the known ones"
        return f"unknown key `{key}`; {known}"
    if error["type"] == "missing":
        return f"the key `{key}` is missing; give it a value"
    if error["type"] == "value_error":
        message = str(error["msg"]).removeprefix("Value error, ")
        return f"in `{key}`: {message}" if key else message
    return f"`{key}` is {error['input']!r}: {error['msg'][0].lower()}{error['msg'][1:]}"


def _numbers(value: Any) -> Any:
    """YAML 1.1 reads 1e-4 as a string; a user means the number."""
    if isinstance(value, dict):
        return {key: _numbers(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_numbers(inner) for inner in value]
    if isinstance(value, str) and _EXPONENT.fullmatch(value):
        return float(value)
    return value
