"""Pictures with captions, and the stored features made of them."""

from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag, model_validator

from isthmus.config.base import PathText, Section

Share = Annotated[float, Field(gt=0, le=1)]
ONE, SEVERAL = "(one)", "(several)"
"""Marks in the place of an error that pydantic reports below a union; they are no keys."""

_KEYS_OF_KIND = {
    "imagefolder": ("folder", "metadata"),
    "sidecar": ("folder",),
    "table": ("table", "split", "image_column", "text_column", "id_column", "question_column"),
}


class SourceConfig(Section):
    """Pictures with captions: a folder with a metadata file or with texts beside the pictures, or a table."""

    kind: Literal["imagefolder", "sidecar", "table"] = "imagefolder"
    """`imagefolder`: a folder with a metadata file; `sidecar`: pictures with a .txt beside each; `table`."""
    folder: PathText | None = None
    """The folder of the pictures (imagefolder, sidecar)."""
    metadata: PathText | None = None
    """The metadata file in it, .jsonl or .csv (imagefolder); empty: metadata.jsonl, else metadata.csv."""
    table: PathText | None = None
    """A .parquet or .csv file, or hub:NAME@REVISION (table)."""
    split: str = "train"
    """The split of a dataset of the Hub (table)."""
    image_column: str = "image"
    """The column of pictures: bytes, or paths within the file's folder (table)."""
    text_column: str = "text"
    """The column of captions: a string or a list of strings (table)."""
    id_column: str | None = None
    """The column that names the thing pictured (table); empty: the picture's path or bytes."""
    question_column: str | None = None
    """The column of the questions that the texts answer (table); empty: `question`, if there is such a column."""
    weight: float | None = Field(default=None, gt=0)
    """Share of the training rows among several sources, in proportion; empty for all: their sizes."""

    @model_validator(mode="after")
    def _keys_are_of_the_kind(self) -> "SourceConfig":
        own = _KEYS_OF_KIND[self.kind]
        if getattr(self, own[0]) is None:
            raise ValueError(f"a source of kind {self.kind} needs the key `{own[0]}`; give it a value")
        others = sorted({key for keys in _KEYS_OF_KIND.values() for key in keys} - set(own))
        self.refuse(others, f"says nothing about a source of kind {self.kind}")
        return self


def _one_or_several(value: Any) -> str:
    return SEVERAL if isinstance(value, list) else ONE


class DataConfig(Section):
    """What is trained on and what is evaluated on."""

    train: Annotated[
        Annotated[SourceConfig, Tag(ONE)] | Annotated[list[SourceConfig], Field(min_length=1), Tag(SEVERAL)],
        Discriminator(_one_or_several),
    ]
    """The training pictures: a source, or a list of them."""
    evaluation: SourceConfig | None = None
    """Held-out pictures, scored during and after training."""
    held_out: float | None = Field(default=None, gt=0, lt=1)
    """In place of `evaluation`: about this share of the training pictures, chosen by what they show, is held out."""
    broken: Literal["error", "skip", "quarantine"] = "error"
    """What a picture that cannot be read does: end the run, be passed over, or be passed over and moved aside."""
    broken_rate: float = Field(default=0.01, ge=0, le=1)
    """Share of broken pictures above which the run ends all the same."""
    workers: int = Field(default=0, ge=0)
    """Processes that load pictures or features beside the training process."""
    timeout: float = Field(default=300.0, gt=0)
    """Seconds after which a loading process that gives nothing counts as hung, and the run ends."""

    @property
    def sources(self) -> list[SourceConfig]:
        """The training sources as a list."""
        return self.train if isinstance(self.train, list) else [self.train]

    @model_validator(mode="after")
    def _agree(self) -> "DataConfig":
        if self.held_out is not None and self.evaluation is not None:
            raise ValueError("`held_out` and `evaluation` exclude each other; set one of them to null")
        if self.evaluation is not None and self.evaluation.weight is not None:
            raise ValueError("`evaluation.weight` does nothing; leave it out")
        weighted = sum(source.weight is not None for source in self.sources)
        if weighted and len(self.sources) == 1:
            raise ValueError("`weight` of a single training source does nothing; leave it out")
        if 0 < weighted < len(self.sources):
            raise ValueError(
                f"{weighted} of {len(self.sources)} training sources have a `weight`; give it to all or none"
            )
        return self


class FeaturesConfig(Section):
    """The feature store; `folder: null` trains from pixels, encoding in every step."""

    folder: PathText | None = None
    """Where encoded patches are kept."""
    views: int = Field(default=1, ge=1)
    """Stored views per picture: the centre, then keyed random crops; without a store each visit has its own crop."""
    seed: int = Field(default=0, ge=0)
    """Key of the stored crops, so that runs of other seeds share a store."""
    batch_size: int = Field(default=32, ge=1)
    """Pictures encoded at once."""
    scale_min: Share = 0.5
    """Smallest share of a picture's area that a random crop keeps."""
    flip: bool = True
    """Mirror half of the random crops; turn it off where captions say left or right."""
    colour: float = Field(default=0.0, ge=0, lt=1)
    """Share by which brightness, contrast and saturation of a crop may change; 0 where captions say how bright."""
