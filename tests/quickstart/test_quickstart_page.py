import ast
import base64
import io
import re
from html.parser import HTMLParser

import pytest
from PIL import Image
from typer.main import get_command

import isthmus
from isthmus.cli.app import app
from isthmus.errors import DataError
from isthmus.quickstart.page import commands, duration, ordinal, render_page, write_page
from isthmus.quickstart.tables import chance_of_finding, retrieval_groups
from isthmus.quickstart.thumbnails import spotlight, thumbnail
from reports import tiny_report, without_what_came_later

SECTIONS = ["frozen", "loss", "strips", "captions", "scores", "looks", "cost", "credits", "next"]
VOID = {"meta", "link", "img", "br"}


class Reader(HTMLParser):
    """What a page is made of; complains of a tag that is not closed where it should be."""

    def __init__(self, page):
        super().__init__()
        self.open, self.tags, self.text = [], [], ""
        self.feed(page)
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        self.text += " " if tag in ("td", "th", "small") else ""
        self.tags.append((tag, dict(attributes)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data

    def all(self, tag):
        return [attributes for name, attributes in self.tags if name == tag]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("made")
    report = tiny_report(folder)
    return report, folder, render_page(report, folder)


def decoded(uri):
    head, _, content = uri.partition(",")
    assert head == "data:image/webp;base64"
    return Image.open(io.BytesIO(base64.b64decode(content)))


def test_sections_come_in_order_each_with_a_heading_and_how_to_read_it(made):
    page = Reader(made[2])
    assert [tag["id"] for tag in page.all("section")] == SECTIONS
    assert len(page.all("h1")) == 1 and len(page.all("h2")) == len(SECTIONS)
    assert page.text.count("How to read it:") == len(SECTIONS)
    assert [tag["href"] for tag in page.all("a")][: len(SECTIONS)] == [f"#{name}" for name in SECTIONS]


def test_the_page_asks_nothing_of_any_server(made):
    page = Reader(made[2])
    assert all(tag["src"].startswith("data:") for tag in page.all("img"))
    assert [tag["href"] for tag in page.all("link")] == ["data:,"]
    assert page.all("script") == []
    assert not re.search(r"url\(|@import|@font-face", made[2])


def test_every_picture_says_what_it_is(made):
    alts = [tag["alt"] for tag in Reader(made[2]).all("img")]
    assert all(alts)
    assert "Twitter Emoji drawing of “red square”, the right one" in alts


def test_what_a_report_says_is_text_and_never_markup(made):
    assert "hat &amp; &lt;wide&gt; brim" in made[2]
    assert "<wide>" not in made[2]


def test_the_right_answers_are_marked_and_missing_ones_have_their_place(made):
    page = Reader(made[2])
    classes = [tag.get("class") for tag in page.all("li")]
    assert classes.count("tile right") == 1
    assert classes.count("right") == 1
    assert "the right one is 17th of 810" in page.text
    assert "is 21st" in page.text


def test_numbers_stand_with_their_intervals_and_chance(made):
    text = " ".join(Reader(made[2]).text.replace("\N{EN DASH}", " to ").split())
    assert "re-ranked (λ = 0.25, first 16) 56.7 55.7 to 57.7" in text
    assert "the original's sum 40.4 39.4 to 41.4" in text
    assert "chance 0.1 0.6 1.2 405.5" in text
    assert "56 % as query 5" in text
    assert "a gap of 4.75" in text and "would not be looking at the picture" in text
    assert "863 GFLOP/s in bfloat16" in text
    assert "16 min 15 s in all" in text


def test_a_tower_that_changed_is_said_loudly(tmp_path):
    report = tiny_report(tmp_path)
    assert "✗ NO" not in render_page(report, tmp_path)
    report["towers_unchanged"]["stage 2"]["llm"] = False
    assert render_page(report, tmp_path).count("✗ NO") == 1


def test_an_older_report_is_shown_without_what_it_lacks(tmp_path):
    page = Reader(render_page(without_what_came_later(tiny_report(tmp_path)), tmp_path))
    assert [tag["id"] for tag in page.all("section")] == SECTIONS
    assert "re-ranked" not in page.text and "not recorded" in page.text


def test_the_page_is_written_beside_its_report(tmp_path):
    path = write_page(tiny_report(tmp_path), tmp_path)
    assert path == tmp_path / "report.html"
    assert path.read_text().startswith("<!DOCTYPE html>")


def test_a_missing_picture_is_named(tmp_path):
    report = tiny_report(tmp_path)
    (tmp_path / "pictures" / "twemoji" / "blue-dot.png").unlink()
    with pytest.raises(DataError, match=r"blue-dot\.png"):
        render_page(report, tmp_path)


def test_its_commands_are_commands_with_options_that_there_are(made):
    known = get_command(app).commands
    lines = commands(made[0], made[1])
    python = lines.pop("From Python")
    names = {node.attr for node in ast.walk(ast.parse(python)) if isinstance(node, ast.Attribute)}
    assert names == {"from_pretrained", "caption"} and all(hasattr(isthmus.Predictor, name) for name in names)
    for line in lines.values():
        program, name, *words = line.split()
        assert program == "isthmus" and name in known
        options = {word for word in words if word.startswith("--")}
        assert options <= {option for parameter in known[name].params for option in parameter.opts}


def test_a_thumbnail_is_the_picture_made_small(tmp_path):
    Image.new("RGB", (300, 200), "red").save(tmp_path / "a.png")
    small = decoded(thumbnail(tmp_path / "a.png", 96))
    assert small.size == (96, 64)
    red, green, blue = small.convert("RGB").getpixel((40, 30))
    assert red > 240 and green < 20 and blue < 20


def test_the_veil_is_open_where_a_query_looks(tmp_path):
    Image.new("RGB", (90, 90), "white").save(tmp_path / "a.png")
    seen = decoded(spotlight(tmp_path / "a.png", [0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0], 3, 90)).convert("L")
    assert seen.getpixel((85, 85)) > 230
    assert seen.getpixel((10, 10)) < 60
    even = decoded(spotlight(tmp_path / "a.png", [1 / 9] * 9, 3, 90)).convert("L")
    assert even.getextrema()[0] > 250, "even attention hides nothing"


def test_ordinals_and_durations_as_people_say_them():
    assert [ordinal(n) for n in (1, 2, 3, 4, 11, 12, 13, 21, 101, 111)] == [
        *("1st", "2nd", "3rd", "4th", "11th", "12th", "13th", "21st", "101st", "111th")
    ]
    assert [duration(s) for s in (0.64, 42.4, 61.0, 3599.7, 3780.0)] == [
        "0.6 s",
        "42 s",
        "1 min 1 s",
        "1 h 0 min",
        "1 h 3 min",
    ]


def test_chance_and_groups(made):
    assert chance_of_finding(5, 200) == 2.5
    assert chance_of_finding(5, 3) == 100.0
    titles = [group.title for group in retrieval_groups(made[0]["retrieval"])]
    assert titles == [
        f"{name}, {way}" for name in ("unseen artist", "unseen names") for way in ("name → drawing", "drawing → name")
    ]
