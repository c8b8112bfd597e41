"""Captions, or questions, that say left or right beside pictures that are mirrored: half of them become false."""

import logging
import re

from isthmus import distributed
from isthmus.config.data import FeaturesConfig
from isthmus.records import Source

WORTH_A_WARNING = 0.01  # of the pictures: "right" is also what is not wrong
_SIDE = re.compile(r"\b(left|right)\b", re.IGNORECASE)
_log = logging.getLogger(__name__)


def warn_of_sides(source: Source, config: FeaturesConfig) -> None:
    """Warn where crops of a training source are mirrored and captions of a hundredth of it say left or right.

    The first stored view is the whole picture as it is, so that a store of one view mirrors nothing.
    """
    mirrors = config.flip and (config.folder is None or config.views > 1)
    if not mirrors or distributed.rank() > 0:
        return
    examples = (source[index] for index in range(len(source)))
    found = [
        text
        for example in examples
        if (text := next(filter(_SIDE.search, (*example.captions, *example.questions)), None)) is not None
    ]
    if found and len(found) >= WORTH_A_WARNING * len(source):
        _log.warning(
            "captions of %d of %d training pictures say left or right (%r), and half of the crops are mirrored: "
            "set features.flip=false",
            len(found),
            len(source),
            found[0],
        )
