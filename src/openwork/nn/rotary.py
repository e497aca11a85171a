"""Rotary position embedding, computed once for all layers."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

__all__ = ["RotaryTable", "rotary_table", "rotate"]


class RotaryTable(NamedTuple):
    """Cosines and sines of every position's angles.

    Attributes:
        cos: float32 [batch or 1, 1, seq_len, head_dim // 2].
        sin: The same shape.
    """

    cos: Tensor
    sin: Tensor


def rotary_table(positions: Tensor, head_dim: int, theta: float = 10_000.0) -> RotaryTable:
    """Angles `position * theta ** (-2 i / head_dim)` for the channel pairs `i`, as cosines and sines.

    Args:
        positions: [seq_len], or [batch, seq_len] where sequences differ. Padding (-1) gets an angle like any other.
        head_dim: Channels per head, even.
        theta: Base of the wavelengths.

    Examples:
        >>> table = rotary_table(torch.arange(4), head_dim=8)
        >>> table.cos.shape
        torch.Size([1, 1, 4, 4])
    """
    pairs = torch.arange(0, head_dim, 2, device=positions.device, dtype=torch.float32)
    angles = positions.reshape(-1, 1, positions.shape[-1], 1).float() * theta ** (-pairs / head_dim)
    return RotaryTable(angles.cos(), angles.sin())


def rotate(heads: Tensor, table: RotaryTable) -> Tensor:
    """Turns the channel pairs `(i, i + head_dim // 2)` of each head by their position's angle.

    Args:
        heads: [batch, heads, seq_len, head_dim].
        table: Angles for `seq_len` positions.
    """
    first, second = heads.chunk(2, dim=-1)
    cos, sin = table.cos.to(heads.dtype), table.sin.to(heads.dtype)
    return torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1)
