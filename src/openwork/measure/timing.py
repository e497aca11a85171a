"""Times with their spread: a median alone hides what a busy machine did."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

__all__ = ["Spread", "spread"]


class Spread(NamedTuple):
    """The middle of repeated measurements and how far they reach.

    Attributes:
        median: Half of the samples are below it.
        low: The 10th percentile.
        high: The 90th percentile.
        num_samples: How many there were.
    """

    median: float
    low: float
    high: float
    num_samples: int


def spread(samples: Sequence[float]) -> Spread | None:
    """Median with 10th and 90th percentile of the samples; `None` where there are none.

    >>> spread([3.0, 1.0, 2.0])
    Spread(median=2.0, low=1.2, high=2.8, num_samples=3)
    """
    if not len(samples):
        return None
    low, median, high = np.percentile(np.asarray(samples, dtype=np.float64), [10, 50, 90])
    return Spread(round(float(median), 6), round(float(low), 6), round(float(high), 6), len(samples))
