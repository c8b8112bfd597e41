"""What the configuration says of itself: every key has a meaning, and an unknown one finds its neighbour."""

import pytest

from isthmus.config.describe import knobs, known_keys, meaning, nearest, table
from isthmus.config.run import RunConfig, check

CONTENT = {
    "stage": 2,
    "output": "runs/a",
    "init": {"from": "runs/b"},
    "data": {"train": {"folder": "pictures"}},
    "encoder": {"kind": "timm", "name": "vit"},
    "llm": {"weights": "folder:llama"},
    "train": {"steps": 10, "batch_size": 4, "lr": 1e-4},
}


def sections(model):
    yield model
    for field in model.model_fields.values():
        for part in (field.annotation, *getattr(field.annotation, "__args__", ())):
            if isinstance(part, type) and issubclass(part, RunConfig.__mro__[1]):
                yield from sections(part)


def test_every_key_says_what_it_means():
    silent = [
        f"{s.__name__}.{name}" for s in sections(RunConfig) for name, f in s.model_fields.items() if not meaning(f)
    ]
    assert silent == [] and len(list(sections(RunConfig))) > 8


def test_the_schema_carries_the_meanings_and_the_limits():
    schema = RunConfig.model_json_schema()
    train = schema["$defs"]["TrainConfig"]["properties"]
    assert train["lr"]["description"] == "Peak learning rate of tensors that started from a checkpoint."
    assert train["steps"]["minimum"] == 1 and schema["additionalProperties"] is False
    assert list(schema["$defs"]["InitConfig"]["properties"]) == ["from", "lm_head", "temperature"]


def test_every_knob_has_its_value_and_whether_it_was_given():
    found = {knob.key: knob for knob in knobs(check(CONTENT, "here"))}
    assert set(found) <= set(known_keys(RunConfig))
    assert (found["init.from"].value, found["init.from"].given) == ("runs/b", True)
    assert (found["train.lr"].value, found["train.lr"].given) == (1e-4, True)  # given, though it is the default
    assert (found["train.beta2"].value, found["train.beta2"].given) == (0.98, False)
    assert (found["bridge.dropout.hidden"].value, found["bridge.dropout.hidden"].given) == (0.1, False)
    assert found["bridge.scratch"].value is None and "bridge.scratch.width" not in found
    assert found["llm.prompt.bos"].meaning.startswith("Where the tokenizer's BOS stands")


def test_the_table_has_a_line_for_every_knob():
    config = check(CONTENT, "here")
    lines = table(config).splitlines()
    assert len(lines) == len(list(knobs(config)))
    line = next(line for line in lines if line.startswith("train.clip "))
    assert " ".join(line.split()) == "train.clip 1.0 default Largest norm of the gradient."


@pytest.mark.parametrize(
    ("unknown", "meant"),
    [
        ("train.stps", "train.steps"),
        ("lr", "train.lr"),
        ("train.queries", "bridge.queries"),
        ("data.train.foldr", "data.train.folder"),
        ("bridge.dropout.hiden", "bridge.dropout.hidden"),
        ("encoder.hidden_layers", "encoder.hidden_layer"),
        ("llm.prompt.befor", "llm.prompt.before"),
        ("banana", None),
        ("train.optimiser_kind_of_mine", None),
    ],
)
def test_the_key_that_was_meant(unknown, meant):
    assert nearest(unknown, RunConfig) == meant
