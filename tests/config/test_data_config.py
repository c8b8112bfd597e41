"""What a run's sources may be, and what excludes what."""

import re
from pathlib import Path

import pytest
import yaml
from pydantic import ValidationError

from isthmus.config.data import DataConfig, SourceConfig
from isthmus.config.run import check
from isthmus.errors import ConfigError

FOLDER, TABLE = {"folder": "a"}, {"kind": "table", "table": "b.parquet"}
RUN = {
    "stage": 1,
    "output": "out",
    "encoder": {"kind": "transformers", "weights": "hub:x/y"},
    "bridge": {"bert": "hub:bert"},
    "train": {"steps": 1, "batch_size": 2},
}


def refused(data, match):
    with pytest.raises(ConfigError, match=match) as caught:
        check({**RUN, "data": data}, "here")
    assert "(one)" not in str(caught.value) and "(several)" not in str(caught.value)


def test_one_source_or_several():
    assert DataConfig.model_validate({"train": FOLDER}).sources == [SourceConfig(folder="a")]
    several = DataConfig.model_validate({"train": [{**FOLDER, "weight": 2.0}, {**TABLE, "weight": 1.0}]})
    assert [source.kind for source in several.sources] == ["imagefolder", "table"]
    assert DataConfig.model_validate(several.model_dump(mode="json")) == several


@pytest.mark.parametrize(
    ("data", "match"),
    [
        ({"train": {"kind": "table"}}, r"in `data\.train`: a source of kind table needs the key `table`"),
        ({"train": {"kind": "sidecar"}}, r"a source of kind sidecar needs the key `folder`"),
        ({"train": {**TABLE, "folder": "a"}}, r"`folder` says nothing about a source of kind table; leave it out"),
        ({"train": {**FOLDER, "split": "test"}}, r"`split` says nothing about a source of kind imagefolder"),
        ({"train": {"kind": "sidecar", **FOLDER, "metadata": "x"}}, r"`metadata` says nothing about .* sidecar"),
        ({"train": {**FOLDER, "kind": "coco"}}, r"`data\.train\.kind` is 'coco'"),
        ({"train": {**FOLDER, "foldr": "a"}}, r"unknown key `data\.train\.foldr`"),
        ({"train": [FOLDER, {**FOLDER, "foldr": "a"}]}, r"unknown key `data\.train\.1\.foldr`"),
        ({"train": []}, r"`data\.train` is \[\]"),
        ({"train": [FOLDER, {**FOLDER, "weight": 1.0}]}, r"1 of 2 training sources have a `weight`; give it to all or"),
        ({"train": {**FOLDER, "weight": 1.0}}, r"`weight` of a single training source does nothing"),
        ({"train": [FOLDER, {**FOLDER, "weight": 0.0}]}, r"`data\.train\.1\.weight` is 0\.0"),
        ({"train": FOLDER, "evaluation": {**FOLDER, "weight": 1.0}}, r"`evaluation\.weight` does nothing"),
        ({"train": FOLDER, "evaluation": FOLDER, "held_out": 0.1}, r"`held_out` and `evaluation` exclude each other"),
        ({"train": FOLDER, "held_out": 1.0}, r"`data\.held_out` is 1\.0"),
        ({"train": FOLDER, "broken": "ignore"}, r"`data\.broken` is 'ignore'"),
        ({"train": FOLDER, "broken_rate": 1.5}, r"`data\.broken_rate` is 1\.5"),
        ({"train": FOLDER, "timeout": 0}, r"`data\.timeout` is 0"),
    ],
)
def test_what_does_not_fit_is_named(data, match):
    refused(data, match)


def test_a_source_alone_is_checked_too():
    with pytest.raises(ValidationError, match="says nothing"):
        SourceConfig(folder="a", id_column="x")


def test_the_snippets_in_the_documents_are_valid():
    """The section `data` alone, in blocks marked `yaml data`; test_house.py loads the whole files."""
    text = (Path(__file__).parents[2] / "docs/data.md").read_text()
    found = re.findall(r"^```yaml data\n(.*?)^```$", text, flags=re.MULTILINE | re.DOTALL)
    assert len(found) == 5
    for block in found:
        DataConfig.model_validate(yaml.safe_load(block)["data"])
