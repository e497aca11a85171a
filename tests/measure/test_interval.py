"""Intervals: known quantiles, and coverage on made samples."""

from __future__ import annotations

import math
import random

import pytest

from openwork.measure import paired_interval, separate_interval, t_quantile


@pytest.mark.parametrize(
    ("freedom", "level", "expected"),
    # printed tables of Student's distribution, two-sided
    [
        (1, 0.95, 12.7062),
        (2, 0.95, 4.3027),
        (3, 0.95, 3.1824),
        (4, 0.95, 2.7764),
        (5, 0.95, 2.5706),
        (7, 0.95, 2.3646),
        (8, 0.99, 3.3554),
        (9, 0.99, 3.2498),
        (30, 0.95, 2.0423),
        (120, 0.95, 1.9799),
        (2, 0.999, 31.5991),
    ],
)
def test_quantiles_are_those_of_the_tables(freedom: int, level: float, expected: float) -> None:
    assert t_quantile(freedom, level) == pytest.approx(expected, abs=1e-4)


def test_two_pairs_say_little() -> None:
    interval = paired_interval([-0.1, -0.2])
    assert interval is not None and interval.num_samples == 2
    assert interval.high - interval.mean == pytest.approx(12.7062 * math.sqrt(0.005) / math.sqrt(2), abs=1e-4)
    assert interval.holds_zero
    assert paired_interval([]) is paired_interval([1.0]) is separate_interval([1.0], [1.0, 2.0]) is None


def test_equal_differences_leave_no_doubt() -> None:
    interval = paired_interval([0.5, 0.5, 0.5])
    assert interval is not None and (interval.low, interval.high) == (0.5, 0.5) and not interval.holds_zero


def test_intervals_hold_the_truth_as_often_as_they_say() -> None:
    chance = random.Random(0)
    paired = separate = 0
    for _ in range(2000):
        a, b = ([chance.gauss(mean, sigma) for _ in range(n)] for mean, sigma, n in ((1.0, 1.0, 3), (1.5, 2.0, 5)))
        one, two = paired_interval([x - 1.0 for x in a]), separate_interval(a, b)
        assert one is not None and two is not None
        paired += one.holds_zero
        separate += two.low <= 0.5 <= two.high
    # a binomial's three standard deviations are 1.5 %
    assert 0.935 <= paired / 2000 <= 0.965
    # rounding degrees of freedom down makes Welch's interval wider, never narrower
    assert 0.94 <= separate / 2000 <= 0.98
