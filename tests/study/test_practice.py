"""Batches and accelerators: the model behind them gives back what it was made from."""

from __future__ import annotations

import pytest

from openwork.study.practice import ACCELERATORS, accelerators_needed, largest_batch


@pytest.mark.parametrize("batch_size", [1, 4, 16])
def test_a_linear_process_is_found_from_any_batch(batch_size: int) -> None:
    start, fixed, each, memory = 200 << 20, 50 << 20, 30 << 20, 4 << 30
    found = largest_batch(
        peak_bytes=start + fixed + batch_size * each,
        start_bytes=start,
        fixed_bytes=fixed,
        batch_size=batch_size,
        memory_bytes=memory,
    )
    assert found is not None and found[1] == each
    assert start + fixed + found[0] * each <= memory < start + fixed + (found[0] + 1) * each


def test_what_does_not_grow_makes_the_answer_low_never_high() -> None:
    start, fixed, each, scratch, memory = 200, 50, 30, 100, 10_000
    true = (memory - start - fixed - scratch) // each
    for batch_size in (1, 4, 64):
        peak = start + fixed + scratch + batch_size * each
        found = largest_batch(
            peak_bytes=peak, start_bytes=start, fixed_bytes=fixed, batch_size=batch_size, memory_bytes=memory
        )
        assert found is not None and found[0] <= true


def test_no_memory_and_no_measurement_have_no_batch() -> None:
    numbers = {"start_bytes": 200, "batch_size": 4, "memory_bytes": 300}
    assert largest_batch(peak_bytes=450, fixed_bytes=50, **numbers) == (1, 50.0)
    assert largest_batch(peak_bytes=450, fixed_bytes=150, **numbers) == (0, 25.0)
    assert largest_batch(peak_bytes=450, fixed_bytes=0, **numbers) is None
    assert largest_batch(peak_bytes=240, fixed_bytes=50, **numbers) is None


@pytest.mark.parametrize(
    ("speedup", "needed"), [(1.0, 8), (1.14, 8), (8 / 7, 7), (1.15, 7), (2.0, 4), (2.01, 4), (9.0, 1), (0.5, 16)]
)
def test_accelerators_are_whole(speedup: float, needed: int) -> None:
    assert accelerators_needed(speedup * 123.4, 123.4) == needed
    # as many, each faster, do at least the work, and one fewer would not
    assert needed * speedup >= ACCELERATORS - 1e-9 and (needed == 1 or (needed - 1) * speedup < ACCELERATORS)
