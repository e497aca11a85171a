"""What a plan's figures come to in practice: batches, epochs, accelerators, energy."""

from __future__ import annotations

import math
from dataclasses import dataclass

__all__ = ["ACCELERATORS", "Energy", "Practice", "accelerators_needed", "largest_batch"]

ACCELERATORS = 8
"""How many accelerators with dense attention a plan is set against."""

_ROUNDING = 1e-9


@dataclass(frozen=True, kw_only=True)
class Energy:
    """Energy of a plan's training, estimated: time x stated watts, mean over the seeds."""

    wh: float
    """Watt-hours to the end of the run."""
    wh_per_million_tokens: float
    """Watt-hours for each million training tokens."""
    co2e_g: float
    """Grams of CO2e to the end of the run."""
    tokens_to_dense: float | None
    """Training tokens until the quality of dense attention's end; `None` where it is not reached, and for dense."""
    seconds_to_dense: float | None
    """Training seconds until then."""
    wh_to_dense: float | None
    """Watt-hours until then."""


@dataclass(frozen=True, kw_only=True)
class Practice:
    """What the measured speed and memory come to."""

    largest_batch: int | None
    """Sequences of a step that fit into the memory, by `largest_batch`; `None` where memory was not measured."""
    bytes_per_sequence: float | None
    """What each sequence of a step adds to peak memory, in bytes, by the same model."""
    hours_per_epoch: float
    """Hours for every training token once."""
    accelerators: int
    """How many accelerators under this plan train as many tokens in a time as `ACCELERATORS` with dense attention."""


def largest_batch(
    *, peak_bytes: int, start_bytes: int, fixed_bytes: int, batch_size: int, memory_bytes: float
) -> tuple[int, float] | None:
    """Sequences in a step that fit into the memory, and the bytes for each; `None` where the model cannot say.

    A linear model from one measurement: peak memory is what the process had before the model was made, plus parameters,
    gradients and optimizer state, plus so much for each sequence of a step. Whatever else does not grow with the batch
    (layouts, libraries that load late) counts as the sequences' own, so the answer is low rather than high.

    Args:
        peak_bytes: Most memory while training.
        start_bytes: Memory before the model was made.
        fixed_bytes: Parameters, gradients and optimizer state.
        batch_size: Sequences that were in memory at once.
        memory_bytes: What there is.

    Examples:
        >>> largest_batch(peak_bytes=1000, start_bytes=100, fixed_bytes=300, batch_size=4, memory_bytes=2000)
        (10, 150.0)
    """
    each = (peak_bytes - start_bytes - fixed_bytes) / batch_size
    if each <= 0 or fixed_bytes <= 0:
        return None
    return max(0, math.floor((memory_bytes - start_bytes - fixed_bytes) / each)), each


def accelerators_needed(throughput: float, dense: float) -> int:
    """Accelerators that train as many tokens in a time as `ACCELERATORS` with dense attention do, a whole number.

    >>> [accelerators_needed(throughput, 100.0) for throughput in (50.0, 100.0, 110.0, 160.0, 1000.0)]
    [16, 8, 8, 5, 1]
    """
    return max(1, math.ceil(ACCELERATORS * dense / throughput - _ROUNDING)) if throughput > 0 else ACCELERATORS
