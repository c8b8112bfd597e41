import pytest
from PIL import Image

from isthmus.quickstart.sheet import SheetRow, retrieval_sheet

GREEN = (23, 132, 59)


def picture(path, colour):
    Image.new("RGB", (32, 32), colour).save(path)
    return path


def drawn(*arguments, **options):
    with Image.open(retrieval_sheet(*arguments, **options)) as sheet:
        return sheet.copy()


def framed(sheet):
    """How many pixels have the frame's colour."""
    return sum(count for count, colour in sheet.getcolors(1 << 24) if colour == GREEN)


def rows(tmp_path, marks):
    shown = [picture(tmp_path / f"{i}.png", (i, 0, 200)) for i in range(len(marks))]
    return [SheetRow("face with open eyes and hand over mouth", shown, marks)]


def test_only_right_pictures_are_framed(tmp_path):
    none, one, two = (
        framed(drawn(rows(tmp_path, marks), tmp_path / "out.png", title="Found"))
        for marks in ([False] * 3, [False, True, False], [True, True, False])
    )
    assert none == 0 and one > 0 and two == 2 * one


def test_a_long_title_makes_room_for_itself(tmp_path):
    made = rows(tmp_path, [True])
    short, long = (
        drawn(made, tmp_path / "deep" / "out.png", title=title, footer="F").height
        for title in ("Short", "A title of many words " * 5)
    )
    assert long > short


def test_rows_without_marks_are_refused(tmp_path):
    with pytest.raises(ValueError, match="one mark for each picture"):
        retrieval_sheet([], tmp_path / "out.png", title="")
    with pytest.raises(ValueError, match="one mark for each picture"):
        retrieval_sheet([SheetRow("a", [tmp_path / "a.png"], [])], tmp_path / "out.png", title="")
