"""Published weights against published numbers: what the originals wrote and scored on two pictures.

Captions of LAVIS' merlion are those of its own test of full models (`tests/models/test_blip2.py`, five beams); caption
and scores of the beach are those of transformers' slow tests (`test_modeling_blip_2.py`). Both depend on weights and
pictures that must be on disk, and captions on the version of transformers too.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from isthmus.errors import ConfigError, DataError
from isthmus.predictor import Predictor

MERLION, BEACH = "merlion.png", "demo.jpg"
TOLERANCE = 1e-3
_DOG = "A woman and her dog sitting in a beach"


@dataclass(frozen=True)
class Check:
    """One published number or caption: of which picture, asked how, and what it must be."""

    what: str
    picture: str
    ask: Callable[[Predictor, Path], str | float]
    published: str | float

    @property
    def matches(self) -> bool:
        """Whether it is a score of a picture with a text, which a stage-1 bridge gives."""
        return isinstance(self.published, float)


@dataclass(frozen=True)
class Outcome:
    """A check with what came out here."""

    check: Check
    found: str | float

    @property
    def agrees(self) -> bool:
        """Whether it is what was published: a caption to the letter, a number within 0.001."""
        if isinstance(self.found, float) and isinstance(self.check.published, float):
            return abs(self.found - self.check.published) <= TOLERANCE
        return self.found == self.check.published


def _beams(predictor: Predictor, picture: Path) -> str:
    """LAVIS' own decoding: five beams, at most 30 tokens."""
    return str(predictor.caption(picture, num_beams=5, max_new_tokens=30))


def _prompted_beams(predictor: Predictor, picture: Path) -> str:
    """The same for weights tuned on COCO, whose configuration at LAVIS has a prompt."""
    return str(predictor.caption(picture, "a photo of", num_beams=5, max_new_tokens=30))


def _greedy(predictor: Predictor, picture: Path) -> str:
    return str(predictor.caption(picture))


def _match(predictor: Predictor, picture: Path) -> float:
    matches = predictor.match(picture, [_DOG])
    assert matches.itm is not None
    return float(matches.itm[0, 0])


def _cosine(predictor: Predictor, picture: Path) -> float:
    return float(predictor.match(picture, [_DOG], itm=False).itc[0, 0])


def _merlion(caption: str) -> Check:
    return Check("caption, five beams", MERLION, _beams, caption)


def _merlion_of_coco(caption: str) -> Check:
    return Check("caption, five beams after 'a photo of'", MERLION, _prompted_beams, caption)


PUBLISHED: Mapping[str, tuple[Check, ...]] = {
    "blip2-opt-2.7b": (Check("caption, greedy", BEACH, _greedy, "a woman sitting on the beach with a dog"),),
    "blip2-opt-2.7b-coco": (_merlion_of_coco("a statue of a mermaid spraying water into the air"),),
    "blip2-opt-6.7b": (_merlion("a statue of a merlion in front of a water fountain"),),
    "blip2-flan-t5-xl": (_merlion("marina bay sands, singapore"),),
    "blip2-flan-t5-xxl": (_merlion("the merlion statue in singapore"),),
    "blip2-itm-vit-g": (
        Check(f"ITM, probability of {_DOG!r}", BEACH, _match, 0.9762),
        Check(f"ITC, cosine of {_DOG!r}", BEACH, _cosine, 0.4406),
    ),
}


def checks_of(weights: str, pictures: Path) -> tuple[Check, ...]:
    """The published checks of some weights.

    Raises `ConfigError` for weights of which nothing was published here, `DataError` where a picture is not there.
    """
    checks = PUBLISHED.get(weights)
    if checks is None:
        raise ConfigError(f"nothing is known of {weights!r}; published are the numbers of {', '.join(PUBLISHED)}")
    for check in checks:
        if not (pictures / check.picture).is_file():
            raise DataError(f"{pictures} lacks {check.picture}; see docs/checkpoints.md for where it is published")
    return checks
