"""Loss curves as inline SVG: colours are CSS variables of the page, so that they follow light and dark."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from markupsafe import Markup, escape

_WIDTH, _HEIGHT = 400, 236
_LEFT, _RIGHT, _TOP, _BOTTOM = 36, 14, 16, 40
_TICKS = 5


@dataclass(frozen=True)
class Level:
    """A value to compare a curve with, such as chance."""

    value: float
    label: str


@dataclass(frozen=True)
class Chart:
    """A loss over steps; `title` says to a screen reader what a glance says to others."""

    title: str
    steps: Sequence[int]
    values: Sequence[float]
    levels: Sequence[Level] = ()


def line_chart(chart: Chart) -> Markup:
    """Draw a curve with a mark at each logged step, from zero up, and its levels as dashed lines.

    Raises:
        ValueError: there is nothing to draw, or not one value a step.

    """
    if not chart.steps or len(chart.steps) != len(chart.values):
        raise ValueError(f"a chart needs steps and a value for each, not {len(chart.steps)} and {len(chart.values)}")
    last = float(max(chart.steps))
    across = _Axis(ticks(last), _LEFT, _WIDTH - _RIGHT, last)
    highest = max([*chart.values, *(level.value for level in chart.levels)])
    up = _Axis(ticks(highest * 1.06), _HEIGHT - _BOTTOM, _TOP)
    points = [(across(float(step)), up(value)) for step, value in zip(chart.steps, chart.values, strict=True)]
    parts = [
        f'<svg class="chart" viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{escape(chart.title)}">',
        *_grid(across, up),
        *(_level(level, up) for level in chart.levels),
        f'<polyline class="curve" points="{" ".join(f"{x:.1f},{y:.1f}" for x, y in points)}"/>',
        *(f'<circle class="mark" cx="{x:.1f}" cy="{y:.1f}" r="2.6"/>' for x, y in points),
        _last(points[-1], chart.values[-1]),
        "</svg>",
    ]
    return Markup("".join(parts))


def ticks(highest: float) -> list[float]:
    """Round numbers from 0 to the first that is not below `highest`, about five of them."""
    rough = highest / _TICKS if highest > 0 else 1.0
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(step for step in (power, 2 * power, 2.5 * power, 5 * power, 10 * power) if step >= rough * (1 - 1e-9))
    return [number * step for number in range(max(1, math.ceil(highest / step - 1e-9)) + 1)]


@dataclass(frozen=True)
class _Axis:
    """From numbers to places: 0 lies at `start`, `highest` (the last tick, if not given) at `end`."""

    ticks: Sequence[float]
    start: int
    end: int
    highest: float | None = None

    def __call__(self, value: float) -> float:
        return self.start + (self.end - self.start) * value / (self.highest or self.ticks[-1])


def _grid(across: _Axis, up: _Axis) -> list[str]:
    lines, gap = [], min(b - a for a, b in pairwise(up.ticks))
    digits = max(0, -math.floor(math.log10(gap) + 1e-9))
    for tick in up.ticks:
        y = up(tick)
        lines.append(f'<line class="grid" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
        lines.append(f'<text class="tick end" x="{_LEFT - 7}" y="{y + 4:.1f}">{tick:.{digits}f}</text>')
    for tick in across.ticks:
        if tick <= (across.highest or tick):
            lines.append(
                f'<text class="tick middle" x="{across(tick):.1f}" y="{_HEIGHT - _BOTTOM + 17}">{tick:g}</text>'
            )
    lines.append(f'<text class="tick end" x="{_WIDTH - _RIGHT}" y="{_HEIGHT - 4}">steps</text>')
    return lines


def _level(level: Level, up: _Axis) -> str:
    y = up(level.value)
    return (
        f'<line class="level" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>'
        f'<text class="note end" x="{_WIDTH - _RIGHT}" y="{y - 6:.1f}">{escape(level.label)} {level.value:.2f}</text>'
    )


def _last(point: tuple[float, float], value: float) -> str:
    """The last value, below its mark, or above where the axis is near."""
    x, y = point
    below = y + 19 < _HEIGHT - _BOTTOM
    return f'<text class="value end" x="{x:.1f}" y="{y + 17 if below else y - 8:.1f}">{value:.2f}</text>'
