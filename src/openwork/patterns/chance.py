"""Chance as a stated function: the hash that random blocks and dropout draw from, equal on every machine."""

from __future__ import annotations

from typing import Any

import numpy as np

__all__ = ["hash32"]

_LOW = 0xFFFFFFFF


def _times(x: Any, factor: int) -> Any:
    # x * factor modulo 2^32 in halves: no product leaves 48 bits, so int64 never overflows
    return ((x & 0xFFFF) * factor + ((((x >> 16) * factor) & 0xFFFF) << 16)) & _LOW


def _wide(x: Any) -> Any:
    if isinstance(x, np.ndarray | np.generic):
        return x.astype(np.int64)
    return x.long() if hasattr(x, "long") else int(x)


def hash32(seed: int, *values: Any) -> Any:
    """The project's hash: `h = mix32(h + (v + 1) * 0x9E3779B9)` over the seed's low and high 32 bits and `values`.

    `mix32` is the MurmurHash3 32-bit finalizer; everything is modulo 2^32 (DESIGN.md, Meaning 9).

    Args:
        seed: An integer of up to 64 bits.
        values: Ints, NumPy arrays or torch tensors of integers; they broadcast.

    Returns:
        The hash, from 0 to 2^32 - 1: an int for ints, int64 otherwise.

    Examples:
        >>> [hex(hash32(0, 0, 0, 0, 0)), hex(hash32(2**40 + 5, 0, 7, 65535, 65530))]
        ['0xbaf29af6', '0x57a38c0e']
        >>> hash32(7, np.array([2, 2]), 3, 1000, np.array([999, 998])).tolist()
        [176514051, 2184905001]
    """
    h: Any = 0
    for value in (seed & _LOW, (seed >> 32) & _LOW, *map(_wide, values)):
        h = (h + _times(((value & _LOW) + 1) & _LOW, 0x9E3779B9)) & _LOW
        h = _times(h ^ (h >> 16), 0x85EBCA6B)
        h = _times(h ^ (h >> 13), 0xC2B2AE35)
        h = h ^ (h >> 16)
    return h
