"""A page of retrieval results: a name, the drawings found for it, the right ones framed."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from isthmus.quickstart.artists import credits_line

_TILE, _GAP, _MARGIN, _NAMES, _HEADING, _NOTE = 132, 14, 28, 250, 34, 20
_PAPER, _INK, _FAINT, _GREY, _GREEN = "#ffffff", "#1c1c1c", "#5a5a5a", "#c8c8c8", "#17843b"
_FRAME_RIGHT, _FRAME_OTHER = 6, 1


@dataclass(frozen=True)
class SheetRow:
    """One query: its name, the pictures found for it, nearest first, and which of them are right."""

    query: str
    pictures: Sequence[Path]
    right: Sequence[bool]


def retrieval_sheet(rows: Sequence[SheetRow], path: Path, *, title: str, footer: str | None = None) -> Path:
    """Draw the rows into one PNG under a title, over a footer that by default credits every artist.

    A right picture has a thick green frame, the others a thin grey one, so that the difference is seen
    without colour too.

    Raises:
        ValueError: there is no row, or a row's marks are not as many as its pictures.

    """
    if not rows or any(len(row.pictures) != len(row.right) for row in rows):
        raise ValueError("a sheet needs at least one row, and in every row one mark for each picture")
    columns = max(len(row.pictures) for row in rows)
    width = 2 * _MARGIN + _NAMES + columns * (_TILE + _GAP)
    large, small = ImageFont.load_default(26), ImageFont.load_default(14)
    heading = _wrap(title, large, width - 2 * _MARGIN)
    notes = _wrap(credits_line() if footer is None else footer, small, width - 2 * _MARGIN)
    head = _MARGIN + _HEADING * len(heading) + _GAP
    foot = head + len(rows) * (_TILE + _GAP) + _GAP
    sheet = Image.new("RGB", (width, foot + _NOTE * len(notes) + _MARGIN), _PAPER)
    pen = ImageDraw.Draw(sheet)
    for number, line in enumerate(heading):
        pen.text((_MARGIN, _MARGIN + _HEADING * number), line, fill=_INK, font=large)
    for number, row in enumerate(rows):
        _draw_row(sheet, row, head + number * (_TILE + _GAP))
    for number, line in enumerate(notes):
        pen.text((_MARGIN, foot + _NOTE * number), line, fill=_FAINT, font=small)
    return _save(sheet, path)


def _draw_row(sheet: Image.Image, row: SheetRow, top: int) -> None:
    pen = ImageDraw.Draw(sheet)
    font = ImageFont.load_default(22)
    name = "\n".join(_wrap(row.query, font, _NAMES - _GAP))
    pen.multiline_text((_MARGIN, top + _TILE // 2), name, fill=_INK, font=font, anchor="lm")
    for column, (picture, right) in enumerate(zip(row.pictures, row.right, strict=True)):
        left = _MARGIN + _NAMES + column * (_TILE + _GAP)
        frame = _FRAME_RIGHT if right else _FRAME_OTHER
        pen.rectangle((left, top, left + _TILE - 1, top + _TILE - 1), outline=_GREEN if right else _GREY, width=frame)
        inner = _TILE - 2 * _FRAME_RIGHT - 2
        with Image.open(picture) as opened:
            tile = opened.convert("RGB").resize((inner, inner), Image.Resampling.LANCZOS)
        sheet.paste(tile, (left + _FRAME_RIGHT + 1, top + _FRAME_RIGHT + 1))


def _wrap(text: str, font: ImageFont.ImageFont | ImageFont.FreeTypeFont, width: int) -> list[str]:
    """Break a text between words into lines no wider than `width`; a longer word stands alone."""
    lines: list[str] = []
    for word in text.split():
        if lines and font.getlength(f"{lines[-1]} {word}") <= width:
            lines[-1] += f" {word}"
        else:
            lines.append(word)
    return lines


def _save(sheet: Image.Image, path: Path) -> Path:
    """Write the PNG by one rename."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}")
    sheet.save(part, format="PNG")
    part.replace(path)
    return path
