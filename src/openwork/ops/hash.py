"""The stated hash in torch: chance that is equal on every backend, device and machine.

`hash(seed, a, b, ...)`: `h = 0`; for `v` in (low 32 bits of the seed, high 32 bits, a, b, ...):
`h = mix32(h + (v + 1) * 0x9E3779B9)`, modulo 2^32, where `mix32` is the MurmurHash3 32-bit finalizer.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

__all__ = ["dropout_keep", "dropout_rows", "hash32", "keep_from_rows"]

_LOW32 = 0xFFFFFFFF
_GOLDEN = 0x9E3779B9


def _mix32(h: Tensor) -> Tensor:
    # int64 holds a 32-bit word; a product wraps, and its low 32 bits are right all the same
    h = ((h ^ (h >> 16)) * 0x85EBCA6B) & _LOW32
    h = ((h ^ (h >> 13)) * 0xC2B2AE35) & _LOW32
    return h ^ (h >> 16)


def _absorb(h: Tensor, value: Tensor) -> Tensor:
    return _mix32((h + (value + 1) * _GOLDEN) & _LOW32)


def hash32(seed: int, *values: Tensor | int) -> Tensor:
    """The stated hash of `values`, which broadcast against each other.

    Args:
        seed: 0 to 2^64 - 1.
        values: Non-negative integers below 2^31, as ints or integer tensors.

    Returns:
        int64 tensor of 32-bit words, 0 to 2^32 - 1.

    Examples:
        >>> hex(hash32(7, 2, 3, 1000, 999))
        '0xa856403'
        >>> hash32(0, 0, 0, 0, torch.tensor([0, 1])).tolist()
        [3136461558, 3913188837]
    """
    device = next((value.device for value in values if isinstance(value, Tensor)), None)
    h = torch.zeros((), dtype=torch.int64, device=device)
    for value in (seed & _LOW32, (seed >> 32) & _LOW32, *values):
        h = _absorb(h, torch.as_tensor(value, dtype=torch.int64, device=device))
    return h


def dropout_rows(seed: int, batch: Tensor, q_head: Tensor, q_idx: Tensor) -> Tensor:
    """The state of the hash after `(seed, batch, q_head, q_idx)`: all that the keys of one query share."""
    return hash32(seed, batch, q_head, q_idx)


def keep_from_rows(rows: Tensor, kv_idx: Tensor, dropout_p: float) -> Tensor:
    """Whether each pair is kept.

    Args:
        rows: From `dropout_rows`.
        kv_idx: Key indices, broadcasting against `rows`.
        dropout_p: 0 to 1.

    Returns:
        bool, `hash >= dropout_p * 2^32`.
    """
    return _absorb(rows, kv_idx.to(torch.int64)) >= math.ceil(dropout_p * 2**32)


def dropout_keep(seed: int, dropout_p: float, batch: int, q_heads: int, q_len: int, kv_len: int) -> Tensor:
    """Which pairs dropout keeps, densely: bool `[batch, q_heads, q_len, kv_len]`.

    Examples:
        >>> dropout_keep(7, 0.5, batch=1, q_heads=1, q_len=2, kv_len=4).int().tolist()
        [[[[1, 0, 1, 0], [1, 0, 1, 1]]]]
    """
    rows = dropout_rows(
        seed,
        torch.arange(batch)[:, None, None, None],
        torch.arange(q_heads)[:, None, None],
        torch.arange(q_len)[:, None],
    )
    return keep_from_rows(rows, torch.arange(kv_len), dropout_p)
