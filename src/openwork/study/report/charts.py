"""The kinds of charts that reports need, drawn by matplotlib in the page's own colours."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from openwork.study.report.canvas import FONT_PX, axes, svg_of
from openwork.study.report.palette import SENTINELS, series
from openwork.study.report.values import Figure, Key

__all__ = ["Bar", "Line", "Point", "bar_figure", "line_figure", "point_figure"]

_WIDTH, _HEIGHT = 400.0, 280.0
_BAR_PX, _GROUP_GAP_PX = 17.0, 12.0
_LETTERS = 46
"""Letters in a line of a category's name."""
_SHORT_NAME = 12
"""Letters up to which the names of series are written at the ends of their bars."""
_MARKER_PX = {"^": 9.0, "v": 9.0, "P": 9.0}
"""Sizes of markers that look smaller than the others' 7 pixels."""
_MOST_TICKS = 6
_NUMBER_ROOM = 0.05
"""Share of a chart's width that the number of an event takes."""
_FAR = 0.8
"""How far from the data a level may lie to be drawn, as a share of the data's range."""
_ROOM = 0.06
"""Free room above and below the data, as a share of its range."""

Points = tuple[tuple[float, float], ...]


@dataclass(frozen=True)
class Line:
    """One line of a chart.

    Attributes:
        name: What the legend calls it.
        points: Pairs of x and y, x ascending.
        band: Triples of x, lowest and highest y around it, such as those of several seeds.
        markers: Quadruples of x, y, lowest and highest y: single measurements, drawn as markers with their range.
        style: Number of the series: its colour, dash and marker.
    """

    name: str
    points: Points = ()
    band: tuple[tuple[float, float, float], ...] = ()
    markers: tuple[tuple[float, float, float, float], ...] = ()
    style: int = 0


@dataclass(frozen=True)
class Bar:
    """One series of a bar chart.

    Attributes:
        name: What the legend calls it.
        values: Its value in each category; `None` where there is none.
        texts: What is written at the end of each bar; the value by default.
        ranges: Lowest and highest value, such as those of several seeds, drawn as a whisker.
        style: Number of the series.
    """

    name: str
    values: tuple[float | None, ...]
    texts: tuple[str, ...] = ()
    ranges: tuple[tuple[float, float] | None, ...] = ()
    style: int = 0


@dataclass(frozen=True)
class Point:
    """One point of a chart that sets one figure against another.

    Attributes:
        name: Written beside it.
        x: Its place.
        y: Its height.
        y_range: Lowest and highest y, such as those of several seeds.
        style: Number of the series.
    """

    name: str
    x: float
    y: float
    y_range: tuple[float, float] | None = None
    style: int = 0


def line_figure(
    lines: Sequence[Line],
    *,
    caption: str,
    alt: str,
    x_label: str,
    y_label: str,
    note: str = "",
    levels: Sequence[tuple[str, float]] = (),
    events: Sequence[tuple[float, str]] = (),
    y_high: float | None = None,
    y_range: tuple[float, float] | None = None,
    whole_x: bool = False,
    log_x: bool = False,
    log_y: bool = False,
) -> Figure:
    """A chart of lines, with bands around them and markers on them.

    Args:
        lines: What to draw.
        caption: Its title.
        alt: What it shows, in words.
        x_label: What x is, with the unit.
        y_label: What y is, with the unit.
        note: How to read it.
        levels: Names and heights at which thin lines are drawn across; one far from all data is only named.
        events: Places and short names of things that happened, drawn as upright lines numbered from 1 in their order;
            the note names them.
        y_high: Highest y to show, where what is higher would flatten the rest.
        y_range: Lowest and highest y to show, such as 0 and 1 for a share; what the data needs by default.
        whole_x: Whether x counts things, so that only whole numbers are marked.
        log_x: Whether x is drawn logarithmically (base 2).
        log_y: Whether y is drawn logarithmically.
    """
    with axes(_WIDTH, _HEIGHT) as (figure, plot):
        for line in lines:
            _draw_line(plot, line)
        places = [x for line in lines for x, *_ in (*line.points, *line.markers)]
        if not (log_x or whole_x) and min(places, default=-1) >= 0:
            plot.set_xlim(left=0)
        drawn_levels = _draw_levels(plot, lines, levels, y_high)
        _scale(plot, lines, [height for _, height in drawn_levels], y_high, log_x=log_x, log_y=log_y)
        if y_range is not None:
            plot.set_ylim(y_range[0] - 0.03 * (y_range[1] - y_range[0]), y_range[1] + 0.03 * (y_range[1] - y_range[0]))
        if whole_x:
            plot.xaxis.get_major_locator().set_params(integer=True)
        events = sorted(events)
        _draw_events(plot, [place for place, _ in events])
        plot.set_xlabel(x_label)
        plot.set_ylabel(y_label)
        drawn = svg_of(figure)
    if events:
        named = "; ".join(f"{number}: {name}" for number, (_, name) in enumerate(events, start=1))
        note = f"{note} Upright lines: {named}.".strip()
    keys = [Key(line.name, line.style, _shape(line)) for line in lines]
    keys += _level_keys(levels, drawn_levels)
    return Figure(drawn, caption, alt, note, tuple(keys))


def _draw_events(plot: Any, places: Sequence[float]) -> None:
    """An upright line for each, numbered above the chart; a number that has no room beside the last stands higher."""
    low, high = plot.get_xlim()
    taken: list[float] = []  # how far to the right each row of numbers is used, as a share of the width
    for number, place in enumerate(places, start=1):
        plot.axvline(place, color=SENTINELS["soft"], linewidth=1, dashes=(5, 3))
        share = (place - low) / (high - low)
        row = next((n for n, end in enumerate(taken) if share - end > _NUMBER_ROOM), len(taken))
        taken[row : row + 1] = [share]
        plot.annotate(
            str(number), (place, 1), xycoords=("data", "axes fraction"), xytext=(0, 2 + row * FONT_PX),
            textcoords="offset points", ha="center", va="bottom", fontsize=FONT_PX - 1.5, annotation_clip=False,
        )  # fmt: skip


def _draw_levels(
    plot: Any, lines: Sequence[Line], levels: Sequence[tuple[str, float]], y_high: float | None = None
) -> list[tuple[str, float]]:
    """Draws the levels that are not so far from the data that they would flatten it; returns them."""
    heights = [height if y_high is None else min(height, y_high) for height in _heights(lines)]
    low, high = min(heights, default=0.0), max(heights, default=0.0)
    room = (high - low) * _FAR
    near = [(name, height) for name, height in levels if low - room <= height <= high + room]
    for _, height in near:
        plot.axhline(height, color=SENTINELS["soft"], linewidth=1.2, dashes=(1.2, 2.4))
    return near


def _level_keys(levels: Sequence[tuple[str, float]], drawn: Sequence[tuple[str, float]]) -> list[Key]:
    return [
        Key(f"{name} {height:.3g}", shape="level")
        if (name, height) in drawn
        else Key(f"{name} {height:.3g}: outside the chart", shape="none")
        for name, height in levels
    ]


def _heights(lines: Sequence[Line]) -> list[float]:
    heights = [y for line in lines for _, y in line.points]
    heights += [y for line in lines for _, low, high in line.band for y in (low, high)]
    heights += [y for line in lines for _, _, low, high in line.markers for y in (low, high)]
    return [y for y in heights if math.isfinite(y)]


def _shape(line: Line) -> str:
    return "both" if line.points and line.markers else "line" if line.points else "marker"


def _draw_line(plot: Any, line: Line) -> None:
    colour, dash, marker = series(line.style)
    ink = SENTINELS[colour]
    if line.band:
        x, low, high = zip(*line.band, strict=True)
        plot.fill_between(x, low, high, color=ink, alpha=0.15, linewidth=0)
    if line.points:
        x, y = zip(*line.points, strict=True)
        plot.plot(x, y, color=ink, dashes=dash if dash else (None, None), solid_capstyle="round")
    if line.markers:
        x, y, low, high = zip(*line.markers, strict=True)
        below, above = ([b - a for a, b in zip(low, y, strict=True)], [b - a for a, b in zip(y, high, strict=True)])
        plot.errorbar(
            x, y, yerr=[below, above], fmt=marker, color=ink, markersize=_MARKER_PX.get(marker, 7.0),
            markeredgecolor=SENTINELS["paper"],
            markeredgewidth=1, elinewidth=1.2, capsize=3 if any(below) or any(above) else 0, zorder=3,
        )  # fmt: skip


def _scale(
    plot: Any, lines: Sequence[Line], levels: Sequence[float], y_high: float | None, *, log_x: bool, log_y: bool
) -> None:
    heights = [*_heights(lines), *levels]
    if log_x:
        from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

        plot.set_xscale("log", base=2)
        places = [x for line in lines for x, *_ in (*line.points, *line.markers)]
        octaves = math.log2(max(places) / min(places)) if places else 1.0
        plot.xaxis.set_major_locator(LogLocator(base=2 ** max(1, math.ceil(octaves / _MOST_TICKS))))
        plot.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:,.0f}"))
        plot.xaxis.set_minor_locator(NullLocator())
    else:
        plot.locator_params(axis="x", nbins=5)
        plot.xaxis.set_major_formatter(_thousands())
    if log_y:
        from matplotlib.ticker import FuncFormatter

        plot.set_yscale("log")
        plot.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{y:g}"))
    elif heights:
        low, high = min(heights), max(heights)
        high = min(high, y_high) if y_high is not None else high
        room = (high - low) * _ROOM or abs(high) * _ROOM or 1.0
        plot.set_ylim(low - room, high + room)
        plot.locator_params(axis="y", nbins=6)


def _thousands() -> Any:
    from matplotlib.ticker import FuncFormatter

    def text(x: float, _: int | None) -> str:
        return f"{x / 1e6:g}M" if abs(x) >= 1e6 else f"{x / 1e3:g}k" if abs(x) >= 1e4 else f"{x:g}"

    return FuncFormatter(text)


def bar_figure(
    categories: Sequence[str],
    bars: Sequence[Bar],
    *,
    caption: str,
    alt: str,
    x_label: str,
    note: str = "",
    levels: Sequence[tuple[str, float]] = (),
    x_high: float | None = None,
) -> Figure:
    """Lying bars, each with its value written at its end: categories from top to bottom, the series side by side.

    Args:
        categories: What is measured, one group of bars each.
        bars: The series.
        caption: Its title.
        alt: What it shows, in words.
        x_label: What the length is, with the unit.
        note: How to read it.
        levels: Names and values at which thin lines are drawn.
        x_high: Where the axis ends, such as 1 for a share; the longest bar and its text by default.
    """
    named = len(bars) > 1 and max(len(bar.name) for bar in bars) <= _SHORT_NAME
    per_group = len(bars) * _BAR_PX + _GROUP_GAP_PX
    names_above = len(bars) > 1 or max(map(len, categories)) > 16
    wrapped = [textwrap.wrap(category, _LETTERS) or [""] for category in categories]
    line_px = FONT_PX + 4
    height = 46 + len(categories) * per_group + names_above * line_px * sum(map(len, wrapped))
    with axes(_WIDTH, height) as (figure, plot):
        longest = max([value for bar in bars for value in bar.values if value is not None] + [v for _, v in levels])
        ticks, top = [], 0.0
        for group, words in enumerate(wrapped):
            for line in words if names_above else ():
                plot.text(0, top + line_px / 2, line, va="center", ha="left", fontsize=FONT_PX)
                top += line_px
            first = top
            for bar in bars:
                _draw_bar(plot, bar, group, top + _BAR_PX / 2, longest, named=named)
                top += _BAR_PX
            ticks.append((first + top) / 2)
            top += _GROUP_GAP_PX
        for _, value in levels:
            plot.axvline(value, color=SENTINELS["soft"], linewidth=1.2, dashes=(1.2, 2.4))
        plot.set_yticks([] if names_above else ticks, [] if names_above else list(categories))
        plot.tick_params(axis="y", length=0)
        plot.grid(False, axis="y")
        plot.set_ylim(top - _GROUP_GAP_PX / 2, -3)
        # room for the text after the longest bar
        plot.set_xlim(0, max(x_high or 0.0, longest) * (1.45 if named else 1.22) or 1.0)
        if x_high is None:
            plot.locator_params(axis="x", nbins=5)
        else:
            plot.set_xticks([x_high * part / 4 for part in range(5)])
            plot.xaxis.set_major_formatter(_thousands())
        plot.set_xlabel(x_label)
        drawn = svg_of(figure)
    keys = [Key(bar.name, bar.style, "bar") for bar in bars] if len(bars) > 1 and not named else []
    keys += [Key(f"{name} {value:.3g}", shape="level") for name, value in levels]
    return Figure(drawn, caption, alt, note, tuple(keys))


def _draw_bar(plot: Any, bar: Bar, group: int, middle: float, longest: float, *, named: bool) -> None:
    value = bar.values[group]
    if value is None:
        plot.text(longest * 0.01, middle, "not measured", va="center", ha="left", fontsize=FONT_PX - 1.5)
        return
    colour, _, _ = series(bar.style)
    plot.barh(middle, value, height=_BAR_PX - 3, color=SENTINELS[colour], linewidth=0)
    end = value
    if bar.ranges and (whisker := bar.ranges[group]) is not None:
        low, high = whisker
        plot.plot([low, high], [middle, middle], color=SENTINELS["soft"], linewidth=2, solid_capstyle="butt")
        end = max(value, high)
    text = bar.texts[group] if bar.texts else f"{value:.3g}"
    text = f"{text} {bar.name}" if named else text
    plot.annotate(
        text, (end, middle), xytext=(4, 0), textcoords="offset points", va="center", fontsize=FONT_PX - 1,
        annotation_clip=False,
    )  # fmt: skip


def point_figure(
    points: Sequence[Point],
    *,
    caption: str,
    alt: str,
    x_label: str,
    y_label: str,
    note: str = "",
    levels: Sequence[tuple[str, float]] = (),
    x_from_zero: bool = True,
) -> Figure:
    """One figure set against another: a marker for each thing; the legend names them.

    Args:
        points: What to draw.
        caption: Its title.
        alt: What it shows, in words.
        x_label: What x is, with the unit.
        y_label: What y is, with the unit.
        note: How to read it.
        levels: Names and heights at which thin lines are drawn across.
        x_from_zero: Whether the x axis begins at 0, as lengths and times should.
    """
    marked = [Line(p.name, markers=((p.x, p.y, *(p.y_range or (p.y, p.y))),), style=p.style) for p in points]
    with axes(_WIDTH, _HEIGHT - 30) as (figure, plot):
        for line in marked:
            _draw_line(plot, line)
        drawn_levels = _draw_levels(plot, marked, levels)
        _scale(plot, marked, [height for _, height in drawn_levels], None, log_x=False, log_y=False)
        highest = max(point.x for point in points)
        plot.set_xlim(0 if x_from_zero else None, highest * 1.08 if highest > 0 else 1)
        plot.set_xlabel(x_label)
        plot.set_ylabel(y_label)
        drawn = svg_of(figure)
    keys = [Key(point.name, point.style, "marker") for point in points]
    keys += _level_keys(levels, drawn_levels)
    return Figure(drawn, caption, alt, note, tuple(keys))
