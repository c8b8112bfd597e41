"""Whether the texts of a source answer questions, and whether the run wants that."""

from isthmus.data.mixture import Part
from isthmus.errors import DataError


def check_questions(part: Part, *, stage: int, instruct: bool) -> None:
    """Refuse a source without the questions that a run trains on, or with answers that it would train as captions.

    A source has questions for all of its texts or for none. Raises `DataError` naming it.
    """
    asked = len(part.source) > 0 and bool(part.source[0].questions)
    if instruct and not asked:
        raise DataError(
            f"{part.name}: there are no questions in it, and bridge.instruct trains on questions; give every text the "
            "question that it answers, or leave bridge.instruct out."
        )
    if asked and stage == 1:
        raise DataError(
            f"{part.name}: its texts answer questions, and stage 1 learns captions; give it a source without questions."
        )
    if asked and not instruct:
        raise DataError(
            f"{part.name}: its texts answer questions, and would be trained as captions; set bridge.instruct=true, or "
            "leave the questions out."
        )
