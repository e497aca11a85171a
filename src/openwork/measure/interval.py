"""How far a mean of few runs can be off: Student's t interval, without a statistics library."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import fmean, stdev, variance
from typing import NamedTuple

__all__ = ["Interval", "paired_interval", "separate_interval", "t_quantile"]

LEVEL = 0.95
"""The level of intervals that do not say another."""
_BISECTIONS = 200


class Interval(NamedTuple):
    """A mean and where the true one lies, with 95 % confidence unless said otherwise.

    Attributes:
        mean: The mean of what was measured.
        low: Lower end.
        high: Upper end.
        num_samples: How many samples there were, or pairs; of two groups, those of the smaller.
    """

    mean: float
    low: float
    high: float
    num_samples: int

    @property
    def holds_zero(self) -> bool:
        """Whether no difference at all lies inside: then what was measured is within noise."""
        return self.low <= 0 <= self.high


def paired_interval(differences: Sequence[float], level: float = LEVEL) -> Interval | None:
    """Student's t interval of the mean of paired differences; `None` for fewer than two.

    Pairs are runs that share everything but what is compared (here: the seed, so first weights and order of data).
    With two pairs the interval is 9 standard deviations wide to either side, and says so.

    Examples:
        >>> interval = paired_interval([-0.10, -0.12, -0.11])
        >>> round(interval.low, 3), round(interval.high, 3), interval.holds_zero
        (-0.135, -0.085, False)
        >>> paired_interval([-0.1]) is None
        True
    """
    if len(differences) < 2:
        return None
    mean = fmean(differences)
    reach = t_quantile(len(differences) - 1, level) * stdev(differences) / math.sqrt(len(differences))
    return Interval(mean, mean - reach, mean + reach, len(differences))


def separate_interval(first: Sequence[float], second: Sequence[float], level: float = LEVEL) -> Interval | None:
    """Welch's t interval of `mean(second) - mean(first)` for runs that are not pairs; `None` for fewer than two in one.

    Degrees of freedom are those of Welch (1947) and Satterthwaite (1946), rounded down, which makes it wider.

    Examples:
        >>> separate_interval([1.80, 1.82], [1.50, 1.51, 1.52]).holds_zero
        False
    """
    if min(len(first), len(second)) < 2:
        return None
    mean = fmean(second) - fmean(first)
    shares = [variance(samples) / len(samples) for samples in (first, second)]
    total = sum(shares)
    smaller = min(len(first), len(second))
    if total == 0:
        return Interval(mean, mean, mean, smaller)
    parts = [share**2 / (len(samples) - 1) for share, samples in zip(shares, (first, second), strict=True)]
    freedom = max(1, math.floor(total**2 / sum(parts)))
    reach = t_quantile(freedom, level) * math.sqrt(total)
    return Interval(mean, mean - reach, mean + reach, smaller)


def t_quantile(freedom: int, level: float = LEVEL) -> float:
    """The `t` with `P(|T| <= t) = level` for Student's distribution with a whole number of degrees of freedom.

    >>> [round(t_quantile(freedom), 3) for freedom in (1, 2, 3, 10)]
    [12.706, 4.303, 3.182, 2.228]
    """
    low, high = 0.0, 1.0
    while _within(high, freedom) < level:
        high *= 2
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        if middle in (low, high):
            break
        low, high = (middle, high) if _within(middle, freedom) < level else (low, middle)
    return high


def _within(t: float, freedom: int) -> float:
    """`P(|T| <= t)`, by the finite sums of Abramowitz and Stegun (1964), 26.7.3 and 26.7.4."""
    angle = math.atan(t / math.sqrt(freedom))
    cosine = math.cos(angle)
    term, total = (1.0, 1.0) if freedom % 2 == 0 else (cosine, cosine)
    for k in range(2 if freedom % 2 == 0 else 3, freedom, 2):
        term *= (k - 1) / k * cosine**2
        total += term
    if freedom % 2 == 0:
        return math.sin(angle) * total
    return 2 / math.pi * (angle + (math.sin(angle) * total if freedom > 1 else 0.0))
