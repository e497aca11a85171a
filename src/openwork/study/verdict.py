"""What a study says in words: saved, cost, paid - and what so short a study cannot say."""

from __future__ import annotations

from openwork.study.config import CONTROL, DENSE
from openwork.study.details import details, interval_words
from openwork.study.result import Row, StudyResult
from openwork.study.tuned import tuning_sentences

__all__ = ["can_tell_quality", "verdict"]

_CONTROL_MARGIN = 0.02
"""By how much the control must be worse than dense attention before quality counts."""
_SAME_SPEED = 0.03
"""Speeds closer than this are called equal."""
_WIDE = 1.5
"""90th over 10th percentile of step times from which a speed is called uncertain."""
_FEW_STEPS = 5
"""Timed steps below which a speed is called uncertain."""


def verdict(result: StudyResult) -> list[str]:
    """The verdict, a sentence or two for each plan, what matters most first."""
    rows = {row.name: row for row in result.rows}
    dense = rows[DENSE]
    counted, reason = can_tell_quality(result)
    sentences = tuning_sentences(result)
    sentences += [_plan(rows[name], dense, result, counted) for name in rows if name not in (DENSE, CONTROL)]
    sentences.append(
        f"Dense attention ({dense.backend}) is the baseline: {_quality(dense)} after {dense.steps:.0f} steps, "
        f"{dense.tokens_per_s:,.0f} tokens/s."
    )
    if unsure := [row.name for row in rows.values() if _unsure(row)]:
        sentences.append(
            f"Step times of {', '.join(unsure)} are few or spread widely, as on a busy machine: speeds are uncertain."
        )
    if not counted:
        sentences.append(f"Quality is not distinguishable at this budget: {reason}.")
    sentences += [sentence for group in details(result) for sentence in group]
    gzip = result.held_out.gzip_bits_per_byte
    sentences.append(_beside_gzip(list(rows.values()), gzip))
    return sentences


def can_tell_quality(result: StudyResult) -> tuple[bool, str]:
    """Whether differences in quality count here, and if not, why.

    They count only where a plan that must lose, the control, is worse than dense attention by more than 2 % and by
    more than the spread of the seeds.
    """
    rows = {row.name: row for row in result.rows}
    if CONTROL not in rows:
        return False, "no control that must lose was trained (--control)"
    if result.config.seeds < 2:
        return False, "one seed does not show how far seeds differ (--seeds)"
    dense, control = rows[DENSE], rows[CONTROL]
    loss = control.bits_per_byte / dense.bits_per_byte - 1
    if loss <= _CONTROL_MARGIN:
        return False, f"the control, which must lose, is only {100 * loss:.1f} % worse than dense (2 % are needed)"
    noise = seed_spread(dense, control)
    if control.bits_per_byte - dense.bits_per_byte <= noise:
        return False, f"the control loses by no more than the seeds differ ({noise:.3f} bits per byte)"
    return True, ""


def seed_spread(*rows: Row) -> float:
    """The widest range of bits per byte that seeds alone make."""
    return max(max(row.bits_per_byte_seeds) - min(row.bits_per_byte_seeds) for row in rows)


def _unsure(row: Row) -> bool:
    times = row.step_ms
    return times is None or times.num_samples < _FEW_STEPS or times.high > _WIDE * times.low


def _quality(row: Row) -> str:
    return f"{row.bits_per_byte:.3f} bits per byte"


def _beside_gzip(rows: list[Row], gzip: float) -> str:
    needs = f"gzip -9 needs {gzip:.3f} bits per byte for the same text"
    worse = [row.name for row in rows if row.bits_per_byte >= gzip]
    if len(worse) == len(rows):
        return f"{needs}, and no plan is below it yet: train longer before judging quality."
    if not worse:
        return f"{needs}; every plan is below it."
    *first, last = worse
    names = f"{', '.join(first)} and {last} are" if first else f"{last} is"
    return f"{needs}; {names} not below it yet."


def _plan(row: Row, dense: Row, result: StudyResult, counted: bool) -> str:
    saved = _saved(row, dense)
    cost, paid = _cost(row, dense, result, counted)
    return f"{row.name}: {saved} {cost} {paid}"


def _throughput(row: Row, dense: Row) -> float:
    """Training tokens per second over those of dense attention: steps and what comes before them."""
    return row.tokens_per_s / dense.tokens_per_s if dense.tokens_per_s else 1.0


def _saved(row: Row, dense: Row) -> str:
    times = ""
    if row.step_ms and dense.step_ms:
        times = f" ({row.step_ms.median / 1e3:.2f} s against {dense.step_ms.median / 1e3:.2f} s)"
    if abs(row.speedup - 1) <= _SAME_SPEED:
        speed = f"steps take as long as dense{times}"
    elif row.speedup > 1:
        speed = f"steps are {row.speedup:.2f}x as fast as dense{times}"
    else:
        speed = f"steps are slower than dense, {row.speedup:.2f}x{times}"
    gain = _throughput(row, dense)
    if abs(gain - row.speedup) > _SAME_SPEED * row.speedup:
        speed += (
            f"; with reading and annotating before each step it trains {row.tokens_per_s:,.0f} tokens/s against "
            f"{dense.tokens_per_s:,.0f} ({gain:.2f}x)"
        )
    ideal = (
        f"its {100 * row.causal_density:.1f} % of the pairs would allow {row.step_ideal:.2f}x for the whole step and "
        f"{row.attention_ideal:.1f}x for attention alone"
    )
    memory = ""
    if row.peak_bytes and dense.peak_bytes:
        change = row.peak_bytes / dense.peak_bytes - 1
        memory = ", memory is the same" if abs(change) <= _SAME_SPEED else f", memory is {100 * change:+.0f} %"
    return f"{speed}; {ideal}{memory}."


def _cost(row: Row, dense: Row, result: StudyResult, counted: bool) -> tuple[str, str]:
    change = row.bits_per_byte / dense.bits_per_byte - 1
    direction = "better" if change < 0 else "worse"
    equal = "the same seconds" if result.config.seconds is not None and dense.steps != row.steps else "the same steps"
    figure = f"{_quality(row)} against {_quality(dense)} after {equal}"
    # steps alone would hide what the plan costs before them: reading and annotating its data
    faster = _throughput(row, dense) > 1 + _SAME_SPEED
    if not counted:
        measured = f"It measured {figure}, which this study cannot tell apart."
        return measured, "It paid in time." if faster else "It did not pay: no time was saved."
    surely = interval_words(row.difference)
    if row.difference is None or row.difference.holds_zero:
        return f"Quality is within the noise of the seeds: {figure} ({surely}).", (
            "It paid." if faster else "It did not pay: no time was saved."
        )
    quality = f"Quality is {100 * abs(change):.1f} % {direction}: {figure} ({surely})."
    if change < 0:
        return quality, "It paid." if faster else "It paid in quality alone: no time was saved."
    paid = "It paid in time and cost quality." if faster else "It did not pay: slower or equal, and worse."
    return quality, paid
