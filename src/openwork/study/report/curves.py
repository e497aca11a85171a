"""Curves of a study: loss over time and over tokens, the seeds of a plan as one line with a band."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from openwork.measure import bits_per_byte
from openwork.study.config import CONTROL
from openwork.study.record import RunRecord
from openwork.study.report.charts import Line, line_figure
from openwork.study.report.timeline import decision_events
from openwork.study.report.values import Figure
from openwork.study.result import StudyResult

__all__ = ["curve_figures", "plan_line", "seconds_of", "tokens_of"]

_POINTS = 50
"""Points of a line; each is the mean of the steps around it."""
_START = 0.1
"""Share of a curve, at its start, whose heights the axis need not show."""
_QUALITY = "bits per byte"

Floats = npt.NDArray[np.float64]
Places = Callable[[RunRecord], Floats]


def curve_figures(result: StudyResult) -> tuple[Figure, Figure]:
    """Loss over training time, and over tokens seen."""
    over_time = _figure(result, seconds_of, "Loss over training time", "training time in seconds", held_out_x=1)
    over_tokens = _figure(result, tokens_of, "Loss over tokens", "training tokens seen", held_out_x=0)
    return over_time, over_tokens


def seconds_of(record: RunRecord) -> Floats:
    """Training seconds at the end of each step, its data included."""
    return np.cumsum(np.asarray(record.step_ms) + np.asarray(record.data_ms)) / 1e3


def tokens_of(record: RunRecord) -> Floats:
    """Training tokens seen at the end of each step."""
    return np.arange(1, record.steps + 1, dtype=np.float64) * record.tokens_per_step


def _figure(result: StudyResult, places: Places, caption: str, x_label: str, *, held_out_x: int) -> Figure:
    lines = [plan_line(result, row.name, places, style, held_out_x) for style, row in enumerate(result.rows)]
    gzip = result.held_out.gzip_bits_per_byte
    settled = [y for line in lines for _, y in line.points[int(len(line.points) * _START) :]]
    settled += [high for line in lines for *_, high in line.band[int(len(line.band) * _START) :]]
    settled += [high for line in lines for *_, high in line.markers[len(line.markers) // 3 :]]
    top = max(settled)
    if top < gzip <= top + (top - min(settled)):
        top = gzip
    drawn = [y for line in lines for _, y in line.points] + [y for line in lines for _, y, *_ in line.markers]
    cut = any(y > top for y in drawn)
    grouped = max(record.steps for record in result.records) > _POINTS
    note = "Lines: training" + (", means of neighbouring steps" if grouped else "") + "; markers: held-out text"
    note += ", its first part on the way." if result.held_out.curve_num_bytes else "."
    if result.config.seeds > 1:
        note += f" Bands and whiskers: lowest to highest of {result.config.seeds} seeds; lines are their mean."
    if cut:
        note += " The steep start is cut off."
    axis = ("tokens", "seconds")[held_out_x]
    events = [*decision_events(result, places), *_crossings(result, axis)]
    ends = "; ".join(f"{line.name} ends at {line.points[-1][1]:.3f} in training, {_last(line)}" for line in lines)
    return line_figure(
        lines,
        caption=caption,
        alt=f"{caption}, in {_QUALITY}: {ends}. gzip -9 needs {gzip:.3f}.",
        x_label=x_label,
        y_label=_QUALITY,
        note=note,
        levels=[("gzip -9", gzip)],
        events=events,
        y_high=top,
    )


def _crossings(result: StudyResult, axis: str) -> list[tuple[float, str]]:
    """Where held-out curves last cross that of dense attention."""
    events = []
    for row in result.rows:
        if row.name == CONTROL:
            continue
        found = row.crossing_tokens if axis == "tokens" else row.crossing_seconds
        if found is not None and found.at is not None:
            ahead = row.name if found.ahead == "plan" else "dense"
            events.append((found.at, f"held-out curves of {row.name} and dense cross, {ahead} is ahead from here"))
    return events


def _last(line: Line) -> str:
    return f"{line.markers[-1][1]:.3f} held out" if line.markers else "not measured held out"


def plan_line(result: StudyResult, name: str, places: Places, style: int, held_out_x: int) -> Line:
    """One plan: mean and range of its seeds where they had done the same share of their steps."""
    records = result.of(name)
    curves = [_smooth(places(record), _quality(record, result.training_bytes_per_token)) for record in records]
    num_points = max(len(x) for x, _ in curves)
    x_axis = np.mean([_at_progress(x, num_points) for x, _ in curves], axis=0)
    heights = np.stack([_at_progress(y, num_points) for _, y in curves])
    mean, low, high = heights.mean(axis=0), heights.min(axis=0), heights.max(axis=0)
    band = tuple(zip(x_axis.tolist(), low.tolist(), high.tolist(), strict=True)) if len(records) > 1 else ()
    per_step = records[0].tokens_per_step
    # the n-th measurement of each seed together, and the last ones, which seeds may reach after more or fewer
    on_the_way = zip(*(record.held_out_curve[:-1] for record in records), strict=False)
    at_the_end = zip(*(record.held_out_curve[-1:] for record in records), strict=False)
    markers = []
    for points in (*on_the_way, *at_the_end):
        heights_here = [bpb for _, _, bpb in points]
        x = np.mean([(step * per_step, seconds)[held_out_x] for step, seconds, _ in points])
        markers.append((float(x), float(np.mean(heights_here)), min(heights_here), max(heights_here)))
    return Line(name, tuple(zip(x_axis.tolist(), mean.tolist(), strict=True)), band, tuple(markers), style)


def _quality(record: RunRecord, bytes_per_token: float) -> Floats:
    return np.asarray([bits_per_byte(loss, 1) / bytes_per_token for loss in record.losses])


def _at_progress(values: Floats, num_points: int) -> Floats:
    """The values at as many equal shares of the way; as they are where there are as many."""
    return np.interp(np.linspace(0, 1, num_points), np.linspace(0, 1, len(values)), values)


def _smooth(x: Floats, y: Floats) -> tuple[Floats, Floats]:
    """Means of neighbouring steps, so that a curve has few points and less noise; short curves stay as they are."""
    size = -(-len(x) // _POINTS)
    if size == 1:
        return x, y
    edges = np.arange(0, len(x), size)
    counts = np.diff([*edges, len(x)])
    return np.add.reduceat(x, edges) / counts, np.add.reduceat(y, edges) / counts
