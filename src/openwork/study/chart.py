"""Line charts as SVG text: no library, no network, colours from the page's own style."""

from __future__ import annotations

import html
import math
from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["DASHES", "Line", "line_chart"]

DASHES = ("", "7 3", "2 3", "9 3 2 3", "4 2")
"""Dash of each line in turn, so that lines differ without colour too."""

_WIDTH, _HEIGHT = 440, 270
_LEFT, _RIGHT, _TOP, _BOTTOM = 48, 10, 12, 40
_TICKS = 5


@dataclass(frozen=True)
class Line:
    """One line of a chart.

    Attributes:
        name: What the legend calls it.
        points: Pairs of x and y, x ascending.
        markers: Pairs that are drawn as dots: single measurements.
    """

    name: str
    points: tuple[tuple[float, float], ...]
    markers: tuple[tuple[float, float], ...] = ()


def line_chart(
    lines: Sequence[Line], *, title: str, x_label: str, y_label: str, level: tuple[str, float] | None = None
) -> str:
    """A chart of the lines as an `<svg>`; line `i` has the class `c<i % 5>` and the dash `DASHES[i]`.

    Args:
        lines: What to draw.
        title: Read aloud by screen readers.
        x_label: Under the chart.
        y_label: Above it.
        level: A name and a height at which a thin line is drawn across.
    """
    xs = [x for line in lines for x, _ in (*line.points, *line.markers)]
    ys = _heights(lines) + ([level[1]] if level else [])
    if not xs or not ys:
        return ""
    x_ticks, y_ticks = _ticks(min(0.0, *xs), max(xs)), _ticks(min(ys), max(ys))
    x_low, x_high = x_ticks[0], max(x_ticks[-1], max(xs))
    y_low, y_high = y_ticks[0], y_ticks[-1]

    def place(x: float, y: float) -> tuple[float, float]:
        across = (x - x_low) / (x_high - x_low or 1)
        up = (min(y, y_high) - y_low) / (y_high - y_low or 1)
        return _LEFT + across * (_WIDTH - _LEFT - _RIGHT), _HEIGHT - _BOTTOM - up * (_HEIGHT - _TOP - _BOTTOM)

    parts = [f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{html.escape(title)}">']
    for tick in y_ticks:
        _, y = place(x_low, tick)
        parts.append(f'<line class="grid" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(f'<text x="{_LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{tick:g}</text>')
    for tick in x_ticks:
        x, _ = place(tick, y_low)
        parts.append(f'<text x="{x:.1f}" y="{_HEIGHT - _BOTTOM + 16}" text-anchor="middle">{tick:g}</text>')
    middle = (_LEFT + _WIDTH - _RIGHT) / 2
    parts.append(f'<text x="{middle}" y="{_HEIGHT - 6}" text-anchor="middle">{html.escape(x_label)}</text>')
    parts.append(
        f'<text x="12" y="{(_HEIGHT - _BOTTOM) / 2}" text-anchor="middle" '
        f'transform="rotate(-90 12 {(_HEIGHT - _BOTTOM) / 2})">{html.escape(y_label)}</text>'
    )
    if level:
        _, y = place(x_low, level[1])
        parts.append(f'<line class="level" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(f'<text x="{_LEFT + 4}" y="{y - 4:.1f}">{html.escape(level[0])}</text>')
    for number, line in enumerate(lines):
        dash, colour = DASHES[number % len(DASHES)], number % len(DASHES)
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in (place(*point) for point in line.points))
        parts.append(f'<polyline class="c{colour}" stroke-dasharray="{dash}" points="{path}"/>')
        for x, y in (place(*point) for point in line.markers):
            parts.append(f'<circle class="c{colour}" cx="{x:.1f}" cy="{y:.1f}" r="4"/>')
    return "".join([*parts, "</svg>"])


def _heights(lines: Sequence[Line]) -> list[float]:
    """The heights that the axis must reach: not those of the steep start, which would flatten all the rest."""
    heights = [y for line in lines for _, y in line.markers]
    for line in lines:
        settled = line.points[len(line.points) // 10 :]
        heights += [y for _, y in settled if math.isfinite(y)]
    return heights


def _ticks(low: float, high: float) -> list[float]:
    """Round numbers from below `low` to above `high`.

    >>> _ticks(0.0, 87.0)
    [0.0, 20.0, 40.0, 60.0, 80.0, 100.0]
    """
    rough = (high - low) / _TICKS or abs(high) or 1.0
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(size * power for size in (1, 2, 5, 10) if size * power >= rough * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(number * step, 10) for number in range(first, max(last, first + 1) + 1)]
