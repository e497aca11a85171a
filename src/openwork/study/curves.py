"""Two plans compared where they have trained as long: at equal tokens, at equal seconds, and where curves cross.

A held-out curve is piecewise linear between its evaluations. Where two are compared, runs of one seed stand against
each other and differences are averaged over the seeds.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

import numpy as np
import numpy.typing as npt

from openwork.measure import Interval, paired_interval
from openwork.study.record import HeldOut, RunRecord

__all__ = ["AXES", "Crossing", "Meeting", "crossing", "meeting", "reaches"]

AXES = ("tokens", "seconds")
"""What curves are drawn over: training tokens seen, or seconds trained."""

_SAME = 0.02
"""Two runs whose ends differ by less than this share ended together."""
_FEWEST_POINTS = 3
_ROUNDING = 1e-12

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Meeting:
    """Quality of a plan and of dense attention after equally many tokens or seconds."""

    axis: str
    """`tokens` or `seconds`."""
    at: float
    """How many; mean over the seeds."""
    bits_per_byte: float
    """The plan's held-out quality there, in bits per byte."""
    dense_bits_per_byte: float
    """Dense attention's."""
    interval: Interval | None
    """The plan's minus dense attention's, by seed, with 95 % confidence; `None` with one seed."""
    final: bool
    """Whether both were at their end: then all held-out text counts. Else the one that went on longer is taken from its
    held-out curve, between two evaluations on the first part of the text."""

    @property
    def difference(self) -> float:
        """The plan's bits per byte minus dense attention's."""
        return self.bits_per_byte - self.dense_bits_per_byte


@dataclass(frozen=True, kw_only=True)
class Crossing:
    """Where a plan's held-out curve last crosses that of dense attention."""

    axis: str
    """`tokens` or `seconds`."""
    at: float | None
    """Where; `None` for never within this study."""
    ahead: str
    """Which is better from there on: `plan`, `dense`, or `neither` where they are equal throughout."""
    first: float
    """Where the comparison begins."""
    last: float
    """Where it ends: the shorter curve's end."""
    num_points: int
    """Evaluations in that range, of both plans together."""
    num_seeds: int
    """Seeds that the curves are means of."""


def _curve(record: RunRecord, axis: str) -> tuple[Floats, Floats]:
    points = np.array(record.held_out_curve, dtype=np.float64).reshape(-1, 3)
    return points[:, 0] * record.tokens_per_step if axis == "tokens" else points[:, 1], points[:, 2]


def _end(record: RunRecord, axis: str) -> float:
    return float(record.steps * record.tokens_per_step) if axis == "tokens" else record.spent_s


def meeting(plan: Sequence[RunRecord], dense: Sequence[RunRecord], axis: str, held_out: HeldOut) -> Meeting | None:
    """The plan beside dense attention where the shorter of them ended; `None` where curves do not reach so far back.

    Args:
        plan: The plan's runs, one for each seed.
        dense: Those of dense attention, in the same order of seeds.
        axis: `tokens` or `seconds`.
        held_out: The text that they were measured on.
    """
    ends = [(_end(a, axis), _end(b, axis)) for a, b in zip(plan, dense, strict=True)]
    final = all(abs(a - b) <= _SAME * max(a, b) for a, b in ends)
    pairs = []
    for ours, theirs, (a, b) in zip(plan, dense, ends, strict=True):
        if final:
            pairs.append((ours.bits_per_byte(held_out), theirs.bits_per_byte(held_out)))
            continue
        both = [_at(record, axis, min(a, b)) for record in (ours, theirs)]
        if both[0] is None or both[1] is None:
            return None
        pairs.append((both[0], both[1]))
    return Meeting(
        axis=axis,
        at=fmean(min(pair) for pair in ends),
        bits_per_byte=fmean(a for a, _ in pairs),
        dense_bits_per_byte=fmean(b for _, b in pairs),
        interval=paired_interval([a - b for a, b in pairs]),
        final=final,
    )


def _at(record: RunRecord, axis: str, place: float) -> float | None:
    x, y = _curve(record, axis)
    if not len(x) or not x[0] <= place:
        return None
    return float(np.interp(place, x, y))


def smooth(values: Floats) -> Floats:
    """A running mean over three neighbours; the first and the last value stand as they are.

    >>> smooth(np.array([3.0, 1.0, 2.0, 0.0])).tolist()
    [3.0, 2.0, 1.0, 0.0]
    """
    smoothed = values.copy()
    smoothed[1:-1] = (values[:-2] + values[1:-1] + values[2:]) / 3
    return smoothed


def crossing(plan: Sequence[RunRecord], dense: Sequence[RunRecord], axis: str) -> Crossing | None:
    """Where the plan's held-out curve last crosses dense attention's; `None` with fewer than three points in common.

    Each curve is smoothed by a running mean over three neighbouring evaluations (its ends stand as measured), then the
    differences by seed are averaged at every point of any of them that all of them cover. Of several crossings the last
    one counts: from there to the end of the study one plan stays ahead.
    """
    curves = [tuple(map(_curve, pair, (axis, axis))) for pair in zip(plan, dense, strict=True)]
    flat = [curve for pair in curves for curve in pair]
    if not all(len(x) for x, _ in flat):
        return None
    first, last = max(float(x[0]) for x, _ in flat), min(float(x[-1]) for x, _ in flat)
    if first > last:
        return None
    grid = np.unique(np.concatenate([[first, last], *(x[(x >= first) & (x <= last)] for x, _ in flat)]))
    fewest = min(int(((x >= first) & (x <= last)).sum()) for x, _ in flat)
    if fewest < _FEWEST_POINTS or len(grid) < _FEWEST_POINTS:
        return None
    lines = [[np.interp(grid, x, smooth(y)) for x, y in pair] for pair in curves]
    difference = np.mean([ours - theirs for ours, theirs in lines], axis=0)
    at, ahead = _last_change(grid, difference)
    num_points = sum(int(((x >= first) & (x <= last)).sum()) for x, _ in curves[0])
    return Crossing(axis=axis, at=at, ahead=ahead, first=first, last=last, num_points=num_points, num_seeds=len(curves))


def _last_change(grid: Floats, difference: Floats) -> tuple[float | None, str]:
    """Where the sign last changes, and who is ahead (has less loss) from there on."""
    signs = np.where(np.abs(difference) <= _ROUNDING, 0, np.sign(difference)).astype(int)
    (decided,) = np.nonzero(signs)
    if not len(decided):
        return None, "neither"
    ahead = "plan" if signs[decided[-1]] < 0 else "dense"
    (others,) = np.nonzero(signs == -signs[decided[-1]])
    if not len(others):
        return None, ahead
    before = others[-1]
    after = before + 1
    share = difference[before] / (difference[before] - difference[after])
    return float(grid[before] + share * (grid[after] - grid[before])), ahead


def reaches(plan: Sequence[RunRecord], dense: Sequence[RunRecord], axis: str) -> float | None:
    """Where the plan first has the quality of dense attention's end, mean over the seeds; `None` where one never has.

    Both on the text of the curves, the plan's curve smoothed as in `crossing`.
    """
    found = []
    for ours, theirs in zip(plan, dense, strict=True):
        x, y = _curve(ours, axis)
        _, goal = _curve(theirs, axis)
        if not len(x) or not len(goal):
            return None
        place = _first_below(x, smooth(y), float(goal[-1]))
        if math.isnan(place):
            return None
        found.append(place)
    return fmean(found)


def _first_below(x: Floats, y: Floats, goal: float) -> float:
    (below,) = np.nonzero(y <= goal)
    if not len(below):
        return math.nan
    after = int(below[0])
    if after == 0:
        return float(x[0])
    share = (y[after - 1] - goal) / (y[after - 1] - y[after])
    return float(x[after - 1] + share * (x[after] - x[after - 1]))
