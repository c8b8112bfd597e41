"""Pictures with captions, and the stored features made of them."""

from typing import Annotated

from pydantic import Field

from isthmus.config.base import Section

Share = Annotated[float, Field(gt=0, le=1)]


class SourceConfig(Section):
    """A folder of pictures with a metadata file (`file_name`, `text`, optional `image_id`)."""

    folder: str
    """The folder that file names are relative to."""
    metadata: str = "metadata.jsonl"
    """The metadata file in it."""


class DataConfig(Section):
    """What is trained on and what is evaluated on."""

    train: SourceConfig
    """The training pictures."""
    evaluation: SourceConfig | None = None
    """Held-out pictures, scored during and after training."""
    workers: int = Field(default=0, ge=0)
    """Processes that load pictures or features beside the training process."""


class FeaturesConfig(Section):
    """The feature store; `folder: null` trains from pixels, encoding in every step."""

    folder: str | None = None
    """Where encoded patches are kept."""
    views: int = Field(default=1, ge=1)
    """Stored views per picture: the centre, then keyed random crops."""
    seed: int = Field(default=0, ge=0)
    """Key of the stored crops, so that runs of other seeds share a store."""
    batch_size: int = Field(default=32, ge=1)
    """Pictures encoded at once."""
    scale_min: Share = 0.5
    """Smallest share of a picture's area that a random crop keeps."""
    flip: bool = True
    """Mirror half of the random crops; turn it off where captions say left or right."""
