"""The sentences of a verdict that say how its figures were compared, and what they come to in practice."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from openwork.measure import Interval
from openwork.study.config import CONTROL, DENSE
from openwork.study.curves import Crossing, Meeting
from openwork.study.practice import ACCELERATORS
from openwork.study.result import StudyResult
from openwork.study.rows import Row, Stretch, UseLoss

__all__ = ["Details", "details", "interval_words"]

_OCTAVE = 2
"""Stretches of positions in which the context doubles."""


class Details(NamedTuple):
    """Sentences that a report sets beside the figures they are about.

    Attributes:
        comparisons: Plans beside dense attention at equal tokens and at equal seconds.
        practice: Batches, epochs, accelerators, energy.
        context: Where in the text the loss is.
    """

    comparisons: list[str]
    practice: list[str]
    context: list[str]


def details(result: StudyResult) -> Details:
    """Comparisons at equal tokens and seconds, practice, energy, and where in the text the loss is."""
    rows = {row.name: row for row in result.rows}
    dense = rows[DENSE]
    compared = [row for name, row in rows.items() if name not in (DENSE, CONTROL)]
    shown = [dense, *compared]
    return Details(
        comparisons=[found for row in compared if (found := _apart(row, result))],
        practice=[*(_practice(row, dense, result) for row in compared), _energy(shown, result)],
        context=[found for found in (_positions(shown), _uses(shown, result)) if found],
    )


def interval_words(interval: Interval | None) -> str:
    """What an interval of differences says, in brackets' words."""
    if interval is None:
        return "one seed: no interval"
    if interval.low == interval.high == 0:
        return "no difference"
    within = ", within noise" if interval.holds_zero else ""
    return (
        f"{interval.mean:+.3f}, 95 % interval {interval.low:+.3f} to {interval.high:+.3f}, n = {interval.num_samples}"
        + (within)
    )


def _apart(row: Row, result: StudyResult) -> str:
    """Equal tokens and equal seconds, each by itself."""
    parts = []
    if row.equal_tokens is not None:
        parts.append(f"after equally many tokens ({_count(row.equal_tokens.at)}) {_meeting(row.equal_tokens)}")
    if row.equal_seconds is not None:
        early = ""
        if result.config.steps is not None and not row.equal_seconds.final:
            early = ", where the learning rate of the slower one had not fallen yet"
        parts.append(f"after equally many seconds ({row.equal_seconds.at:,.0f}{early}) {_meeting(row.equal_seconds)}")
    crossings = {"tokens": row.crossing_tokens, "seconds": row.crossing_seconds}
    if any(crossings.values()):
        told = (
            _crossing(found) if found is not None else f"over {axis} has too few evaluations in common with it to say"
            for axis, found in crossings.items()
        )
        parts.append("its held-out curve " + " and ".join(told))
    return f"{row.name} beside dense attention, {'; '.join(parts)}." if parts else ""


def _meeting(meeting: Meeting) -> str:
    on_the_way = "" if meeting.final else "on the text of the curves "
    return (
        f"{on_the_way}{meeting.bits_per_byte:.3f} against {meeting.dense_bits_per_byte:.3f} bits per byte "
        f"({interval_words(meeting.interval)})"
    )


def _crossing(crossing: Crossing) -> str:
    """Where curves cross: `ahead` has the lower loss."""
    over = f"over {crossing.axis}"
    if crossing.ahead == "neither":
        return f"{over} is that of dense attention"
    place = "below" if crossing.ahead == "plan" else "above"
    if crossing.at is None:
        return f"{over} is {place} dense attention's throughout and never crosses it within this study"
    at = f"{_count(crossing.at)} tokens" if crossing.axis == "tokens" else f"{crossing.at:,.0f} s"
    return f"{over} crosses dense attention's at {at} and is {place} it from there on"


def _practice(row: Row, dense: Row, result: StudyResult) -> str:
    ours, theirs = row.practice, dense.practice
    parts = []
    if ours.largest_batch is not None and theirs.largest_batch is not None and result.memory_bytes is not None:
        parts.append(
            f"steps of up to {ours.largest_batch:,} sequences fit into {result.memory_bytes / 1e9:,.1f} GB (dense: "
            f"{theirs.largest_batch:,}; reckoned from one batch size)"
        )
    parts.append(f"an epoch takes {_hours(ours.hours_per_epoch)} (dense: {_hours(theirs.hours_per_epoch)})")
    if ours.accelerators < ACCELERATORS:
        parts.append(f"{ours.accelerators} accelerators train as fast as {ACCELERATORS} with dense attention")
    elif ours.accelerators == ACCELERATORS:
        parts.append(f"of {ACCELERATORS} accelerators none is saved")
    else:
        parts.append(f"to train as fast as {ACCELERATORS} accelerators with dense attention takes {ours.accelerators}")
    return f"{row.name} in practice: {', '.join(parts)}."


def _energy(rows: Sequence[Row], result: StudyResult) -> str:
    config, power = result.config, result.power
    each = "; ".join(f"{row.name} {_wh(row.energy.wh)} ({_grams(row.energy.co2e_g)} CO2e)" for row in rows)
    sooner = [
        f"{row.name} has dense attention's final quality after {_wh(row.energy.wh_to_dense)}"
        for row in rows
        if row.energy.wh_to_dense is not None and row.energy.wh_to_dense < rows[0].energy.wh
    ]
    pue = f", PUE {config.pue:g}" if config.pue != 1 else ""
    return (
        f"Energy, estimated as time x {power.watts:g} W ({power.reason}) at {config.gco2_per_kwh:g} g CO2e/kWh{pue}: "
        f"{each}" + (f"; {', '.join(sooner)}" if sooner else "") + "."
    )


def _positions(rows: Sequence[Row]) -> str:
    """Whether loss still falls over the last doubling of the context."""
    if any(len(row.positions) <= 2 * _OCTAVE for row in rows):
        return ""
    before, last = (rows[0].positions[at] for at in (-1 - _OCTAVE, -1))

    def fall(positions: tuple[Stretch, ...]) -> float:
        return positions[-1 - _OCTAVE].bits_per_token - positions[-1].bits_per_token

    falls = ", ".join(f"{row.name} {-fall(row.positions):+.3f}" for row in rows)
    return (
        f"Loss over the last doubling of the context, from positions {before.first:,}-{before.stop - 1:,} to "
        f"{last.first:,}-{last.stop - 1:,}, changes in bits per token by: {falls}."
    )


def _uses(rows: Sequence[Row], result: StudyResult) -> str:
    if not all(row.uses for row in rows):
        return ""
    window = result.records[0].use_window
    parts = []
    for kind, words in (("name", "used names"), ("after", "what follows them")):
        for place in ("outside", "inside"):
            losses = [row.uses[f"{kind}_{place}"] for row in rows]
            parts.append(f"{words}, definition {place} ({losses[0].num_tokens:,}): {_losses(rows, losses)}")
    return f"Bits per token on uses, by a window of {window:,} keys (tokens): {'; '.join(parts)}."


def _losses(rows: Sequence[Row], losses: Sequence[UseLoss]) -> str:
    if losses[0].bits_per_token is None:
        return "none"
    return ", ".join(f"{row.name} {loss.bits_per_token:.2f}" for row, loss in zip(rows, losses, strict=True))


def _count(tokens: float) -> str:
    """A count of tokens, short.

    >>> _count(8192), _count(1_234_567)
    ('8,192', '1.23 M')
    """
    return f"{tokens / 1e6:,.2f} M" if tokens >= 1e6 else f"{tokens:,.0f}"


def _hours(hours: float) -> str:
    """Hours, minutes where that is short.

    >>> _hours(0.012), _hours(3.21), _hours(250.4)
    ('0.7 min', '3.2 h', '250 h')
    """
    if hours < 1:
        return f"{hours * 60:.1f} min"
    return f"{hours:,.0f} h" if hours >= 10 else f"{hours:.1f} h"


def _wh(wh: float) -> str:
    return f"{wh / 1e3:,.3g} kWh" if wh >= 1e3 else f"{wh:.3g} Wh"


def _grams(grams: float) -> str:
    return f"{grams / 1e3:,.3g} kg" if grams >= 1e3 else f"{grams:.3g} g"
