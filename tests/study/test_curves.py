"""Comparisons at equal tokens and seconds, and crossings, on made curves with known answers."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pytest

from openwork.study.curves import crossing, meeting, reaches
from openwork.study.record import HeldOut, RunRecord

BYTES, TOKENS = 1000, 100
HELD_OUT = HeldOut(num_tokens=400, num_bytes=BYTES, gzip_bits_per_byte=2.0)


def run(
    losses: Sequence[float], *, seconds_per_step: float = 1.0, every: int = 10, final: float | None = None
) -> RunRecord:
    """A run measured after each `every` steps of 100 tokens; its full evaluation gives `final`."""
    steps = every * len(losses)
    return RunRecord(
        name="x",
        seed=0,
        tokens_per_step=TOKENS,
        spent_s=steps * seconds_per_step,
        sessions=1,
        backend="gather",
        peak_bytes=0,
        start_bytes=0,
        nats=(losses[-1] if final is None else final) * BYTES * math.log(2),
        losses=(1.0,) * steps,
        step_ms=(1.0,) * steps,
        layout_ms=(0.0,) * steps,
        data_ms=(0.0,) * steps,
        density=(0.5,) * steps,
        block_density=(0.5,) * steps,
        held_out_curve=tuple((every * n, every * n * seconds_per_step, loss) for n, loss in enumerate(losses, start=1)),
    )


def line(first: float, slope: float, points: int = 8) -> list[float]:
    return [first + slope * n for n in range(1, points + 1)]


DENSE = run(line(3.0, -0.1))
"""2.9 at step 10, 2.2 at step 80, over 80 seconds."""


def test_runs_that_end_together_meet_at_their_full_evaluations() -> None:
    found = meeting([run(line(3.0, -0.1), final=2.05)], [DENSE], "tokens", HELD_OUT)
    assert found is not None and found.final and found.at == 8000
    assert (found.bits_per_byte, found.dense_bits_per_byte) == pytest.approx((2.05, 2.2))
    assert found.difference == pytest.approx(-0.15) and found.interval is None


def test_at_equal_seconds_the_longer_run_is_read_off_its_curve() -> None:
    fast = run(line(3.0, -0.1), seconds_per_step=0.45)
    found = meeting([fast], [DENSE], "seconds", HELD_OUT)
    assert found is not None and not found.final and found.at == pytest.approx(36)
    # dense attention at second 36 is between 2.7 (30 s) and 2.6 (40 s)
    assert (found.bits_per_byte, found.dense_bits_per_byte) == pytest.approx((2.2, 2.64))
    slow = run(line(3.0, -0.1), seconds_per_step=2.0)
    found = meeting([slow], [DENSE], "seconds", HELD_OUT)
    assert found is not None and found.at == 80
    assert (found.bits_per_byte, found.dense_bits_per_byte) == pytest.approx((2.6, 2.2))


def test_differences_are_paired_by_seed() -> None:
    dense = [run(line(first, -0.1)) for first in (3.0, 3.5, 4.0)]
    plan = [run(line(first, -0.1)) for first in (2.9, 3.39, 3.88)]
    found = meeting(plan, dense, "tokens", HELD_OUT)
    assert found is not None and found.interval is not None
    # the seeds differ by 1.0, the pairs by 0.02
    assert found.interval.mean == pytest.approx(-0.11) and found.interval.num_samples == 3
    assert not found.interval.holds_zero


def test_a_curve_of_one_point_says_nothing_of_the_way() -> None:
    once = run([2.2], every=80)
    assert meeting([run([2.2], every=40)], [once], "tokens", HELD_OUT) is None
    assert crossing([once], [once], "tokens") is None


@pytest.mark.parametrize("axis", ["tokens", "seconds"])
def test_straight_lines_cross_where_they_cross(axis: str) -> None:
    # 3.1 - 0.14 n against 3.0 - 0.1 n: at n = 2.5, that is step 25
    found = crossing([run(line(3.1, -0.14))], [DENSE], axis)
    assert found is not None and found.ahead == "plan" and found.num_points == 16
    assert found.at == pytest.approx(2500 if axis == "tokens" else 25)
    assert (found.first, found.last) == pytest.approx((1000, 8000) if axis == "tokens" else (10, 80))


def test_curves_may_cross_over_seconds_and_never_over_tokens() -> None:
    # worse at every step, but steps take half as long
    worse = run([loss + 0.05 for loss in line(3.0, -0.1)], seconds_per_step=0.5)
    over_tokens, over_seconds = (crossing([worse], [DENSE], axis) for axis in ("tokens", "seconds"))
    assert over_tokens is not None and over_tokens.at is None and over_tokens.ahead == "dense"
    assert over_seconds is not None and over_seconds.at is None and over_seconds.ahead == "plan"
    assert over_seconds.last == 40


def test_one_outlier_is_no_crossing() -> None:
    bumpy = line(3.05, -0.1)
    bumpy[3] -= 0.1
    found = crossing([run(bumpy)], [DENSE], "tokens")
    assert found is not None and found.at is None and found.ahead == "dense"
    bumpy[3] -= 0.3
    found = crossing([run(bumpy)], [DENSE], "tokens")
    assert found is not None and found.at is not None and found.ahead == "dense"


def test_equal_curves_do_not_cross() -> None:
    found = crossing([DENSE], [DENSE], "tokens")
    assert found is not None and (found.at, found.ahead) == (None, "neither")


def test_curves_of_several_seeds_are_averaged() -> None:
    plan = [run(line(3.1 + shift, -0.14)) for shift in (-0.04, 0.0, 0.04)]
    dense = [run(line(3.0 - shift, -0.1)) for shift in (-0.04, 0.0, 0.04)]
    found = crossing(plan, dense, "tokens")
    assert found is not None and found.num_seeds == 3 and found.at == pytest.approx(2500)


def test_the_quality_of_dense_attentions_end_is_reached_or_not() -> None:
    # 2.2 is reached at n = 0.9 / 0.14 of 3.1 - 0.14 n
    assert reaches([run(line(3.1, -0.14))], [DENSE], "tokens") == pytest.approx(1000 * 0.9 / 0.14)
    assert reaches([run(line(3.1, -0.1))], [DENSE], "tokens") is None
    assert reaches([run(line(3.1, -0.14)), run(line(3.1, -0.1))], [DENSE, DENSE], "seconds") is None
