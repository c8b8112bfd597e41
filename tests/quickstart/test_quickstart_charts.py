import math
import re
from xml.etree import ElementTree

import pytest

from isthmus.quickstart.charts import Chart, Level, line_chart, ticks
from isthmus.quickstart.curves import ITM_PRIOR, loss_charts
from reports import tiny_report

SVG = "{http://www.w3.org/2000/svg}"


def drawn(chart):
    return ElementTree.fromstring(str(line_chart(chart)))


def points(svg):
    line = next(element for element in svg.iter() if element.get("class") == "curve")
    return [tuple(map(float, pair.split(","))) for pair in line.get("points").split()]


@pytest.mark.parametrize(
    ("highest", "wanted"),
    [
        (4.3, [0, 1, 2, 3, 4, 5]),
        (0.7, [0, 0.2, 0.4, 0.6, 0.8]),
        (360.0, [0, 100, 200, 300, 400]),
        (10.0, [0, 2, 4, 6, 8, 10]),
        (0.0, [0, 1]),
    ],
)
def test_ticks_are_round_and_reach_the_highest(highest, wanted):
    assert ticks(highest) == pytest.approx(wanted)


def test_a_curve_goes_down_where_the_loss_does_and_has_a_mark_a_step():
    svg = drawn(Chart("a loss", [10, 20, 30], [4.0, 2.0, 1.0]))
    places = points(svg)
    assert [x for x, _ in places] == sorted(x for x, _ in places)
    heights = [y for _, y in places]
    assert heights == sorted(heights), "down in SVG is a larger y"
    assert heights[1] - heights[0] == pytest.approx(2 * (heights[2] - heights[1]), abs=0.2)
    assert len([e for e in svg.iter() if e.tag.endswith("circle")]) == 3
    assert svg.get("aria-label") == "a loss"


def test_a_level_lies_at_its_value_and_is_dashed_by_its_class_with_its_number():
    svg = drawn(Chart("a loss", [1, 2], [4.0, 1.0], [Level(4.0, "chance <&>"), Level(6.0, "more")]))
    levels = [e for e in svg.iter() if e.get("class") == "level"]
    assert float(levels[0].get("y1")) == pytest.approx(points(svg)[0][1], abs=0.1)
    assert float(levels[1].get("y1")) < float(levels[0].get("y1"))
    assert "chance <&> 4.00" in [e.text for e in svg.iter() if e.get("class") == "note end"]


def test_colours_are_left_to_the_page():
    assert not re.search(r"#[0-9a-f]{3}|rgb|style=|fill=|stroke=", str(line_chart(Chart("a", [1], [1.0]))))


@pytest.mark.parametrize(("steps", "values"), [([], []), ([1, 2], [1.0])])
def test_nothing_to_draw_is_refused(steps, values):
    with pytest.raises(ValueError, match="a value for each"):
        line_chart(Chart("a", steps, values))


def test_every_term_has_its_chart_and_what_to_compare_it_with(tmp_path):
    charts = dict(loss_charts(tiny_report(tmp_path)))
    assert list(charts) == ["itc", "itm", "itg", "lm"]
    assert charts["itc"].levels[0].value == pytest.approx(math.log(64))
    assert charts["itm"].levels[0].value == ITM_PRIOR == pytest.approx(0.6365, abs=1e-4)
    assert [level.value for level in charts["lm"].levels] == [2.34, 7.09]
    assert charts["itg"].levels == []
    assert charts["itc"].title == "ITC loss of stage 1, from 4.00 at step 20 to 1.00 at step 60"
