"""Masks of JAX, Flax and Trax, which arrive as NumPy: 1 means *attend*."""

from __future__ import annotations

from typing import Any

import numpy as np

from openwork.errors import LayoutError
from openwork.interop.dense import MAX_BYTES, EmptyRows, dense_mask
from openwork.layout import BlockLayout
from openwork.patterns.annotations import BoolArray

__all__ = ["from_flax", "to_flax"]


def from_flax(mask: Any, *, q_len: int | None = None, block_size: tuple[int, int] | None = None) -> BlockLayout:
    """The layout of a mask as `flax.linen`, `jax.nn.dot_product_attention` and Trax take it: 1 or True = attend.

    Args:
        mask: Bool, or numbers that are 0 and 1 (`flax.linen.make_causal_mask` gives float32): `[q_len, kv_len]`, or
            with `[heads or 1]` and `[batch]` before. More leading sizes must be 1, or are one batch together.
        q_len: Number of queries, where the mask is one of keys for all of them (Trax: `[batch, 1, 1, kv_len]`).
        block_size: `(q_block, kv_block)`; `None` is 64x64.

    Raises:
        LayoutError: It holds other numbers, which makes it a bias, or does not have the shape.

    Examples:
        >>> from_flax(np.tril(np.ones((1, 1, 3, 3), dtype=np.float32))).allowed_pairs
        6
    """
    array = np.asarray(mask)
    if array.dtype != np.bool_:
        # JAX's bfloat16 is no number to NumPy's comparisons of kinds
        numbers = array.astype(np.float32)
        if not np.isin(numbers, (0.0, 1.0)).all():
            raise LayoutError(
                f"a Flax mask holds 1 where a pair attends and 0 where not; got {array.dtype} values from "
                f"{float(np.nanmin(numbers)):g} to {float(np.nanmax(numbers)):g}. What is added to the scores "
                "(Flax calls it bias) is read by from_additive."
            )
        array = numbers == 1.0
    if array.ndim > 4:
        array = array.reshape(-1, *array.shape[-3:])
    if q_len is not None and array.ndim >= 2 and array.shape[-2] in (1, q_len):
        array = np.broadcast_to(array, (*array.shape[:-2], q_len, array.shape[-1]))
    elif q_len is not None:
        raise LayoutError(f"the mask has shape {list(array.shape)}, which is not for q_len={q_len}.")
    return BlockLayout.from_mask(array, block_size=block_size)


def to_flax(layout: BlockLayout, *, empty_rows: EmptyRows = "raise", max_bytes: int = MAX_BYTES) -> BoolArray:
    """NumPy bool `[batch or 1, heads or 1, q_len, kv_len]`, True = attend; `jax.numpy.asarray` takes it.

    Args:
        layout: What to write.
        empty_rows: `"raise"`: JAX and Flax fill with a large finite number, so a query that sees no key gets the mean
            of all *forbidden* values.
        max_bytes: Most bytes that it may take.

    Raises:
        LayoutError: A query sees no key, or it would take more.
    """
    library = "JAX and Flax the mean of the forbidden values"
    return dense_mask(layout, max_bytes=max_bytes, empty_rows=empty_rows, library=library)
