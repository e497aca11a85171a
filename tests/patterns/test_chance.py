"""The stated hash, against its published vectors and a plain restatement of its definition."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from openwork.patterns.chance import hash32


def plain(seed: int, *values: int) -> int:
    """The definition of DESIGN.md, Meaning 9, in unbounded integers."""

    def mix32(h: int) -> int:
        h ^= h >> 16
        h = h * 0x85EBCA6B % 2**32
        h ^= h >> 13
        h = h * 0xC2B2AE35 % 2**32
        return h ^ h >> 16

    h = 0
    for v in (seed % 2**32, seed >> 32, *values):
        h = mix32((h + (v + 1) * 0x9E3779B9) % 2**32)
    return h


@pytest.mark.parametrize(
    ("seed", "values", "expected"),
    [
        (0, (0, 0, 0, 0), 0xBAF29AF6),
        (0, (0, 0, 0, 1), 0xE93E85E5),
        (7, (2, 3, 1000, 999), 0x0A856403),
        (2**40 + 5, (0, 7, 65535, 65530), 0x57A38C0E),
    ],
)
def test_the_published_vectors(seed: int, values: tuple[int, ...], expected: int) -> None:
    assert hash32(seed, *values) == plain(seed, *values) == expected


@settings(deadline=None)
@given(st.integers(0, 2**64 - 1), st.lists(st.integers(0, 2**31 - 1), max_size=5))
def test_ints_and_arrays_and_tensors_agree_with_the_definition(seed: int, values: list[int]) -> None:
    import torch

    expected = plain(seed, *values)
    assert hash32(seed, *values) == expected
    for dtype in (np.int64, np.int32):
        assert np.all(hash32(seed, *(np.full(3, v, dtype=dtype) for v in values)) == expected)
        assert np.all(
            hash32(seed, *(np.array(v, dtype=dtype)[()] for v in values)) == expected
        )  # scalars must not warn
    assert bool(
        (torch.as_tensor(hash32(seed, *(torch.tensor([v], dtype=torch.int32) for v in values))) == expected).all()
    )


def test_the_hash_is_even() -> None:
    draws = hash32(3, np.arange(200_000))
    counts = np.bincount(draws >> 28, minlength=16)
    assert abs(counts / 12_500 - 1).max() < 0.04
    assert len(np.unique(draws)) > 199_000
