"""Attention biases of xformers, through their `materialize`."""

from __future__ import annotations

from typing import Any

import torch

from openwork.errors import ArgumentError
from openwork.interop.masks import from_additive
from openwork.layout import BlockLayout

__all__ = ["from_xformers"]


def from_xformers(
    bias: Any, *, q_len: int, kv_len: int, batch: int = 1, heads: int = 1, block_size: tuple[int, int] | None = None
) -> BlockLayout:
    """The layout of an xformers `AttentionBias`: what its `materialize` forbids with `-inf`.

    xformers packs sequences into one row (`BlockDiagonalMask.from_seqlens`): then `q_len` and `kv_len` are the lengths
    of the packed rows. The other direction is `to_additive`, which xformers takes as a tensor bias, expanded to its
    batch and heads.

    Args:
        bias: Anything with `materialize(shape, dtype=, device=)`, which gives 0 and -inf; or such a tensor.
        q_len: Number of queries.
        kv_len: Number of keys.
        batch: Sequences that it tells apart.
        heads: Heads that it tells apart.
        block_size: `(q_block, kv_block)`; `None` is 64x64.

    Raises:
        ArgumentError: It has no `materialize`.
        LayoutError: It adds a bias (`LowerTriangularMaskWithTensorBias`), which a layout cannot express.
    """
    if isinstance(bias, torch.Tensor):
        return from_additive(bias, block_size=block_size)
    if not callable(getattr(bias, "materialize", None)):
        raise ArgumentError(
            f"an xformers bias has materialize(shape, dtype=, device=); got {type(bias).__name__}. None is Dense()."
        )
    shape = (batch, heads, q_len, kv_len) if batch * heads > 1 else (q_len, kv_len)
    return from_additive(bias.materialize(shape, dtype=torch.float32, device="cpu"), block_size=block_size)
