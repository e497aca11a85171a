"""FlexAttention of PyTorch: its `mask_mod` and its `BlockMask`."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask

from openwork.errors import ArgumentError
from openwork.interop.pairs import MaskMod, block_table, evaluate, layout_of, mask_mod_of
from openwork.layout import BlockLayout
from openwork.layout.from_mask import RowsFunction
from openwork.patterns.annotations import BoolArray

__all__ = ["from_block_mask", "from_mask_mod", "to_block_mask", "to_mask_mod"]

_STRIPE = 256
"""Queries whose pairs are asked for together."""


def from_mask_mod(
    mask_mod: MaskMod,
    *,
    q_len: int,
    kv_len: int,
    batch: int = 1,
    heads: int = 1,
    block_size: tuple[int, int] | None = None,
    device: Any = None,
) -> BlockLayout:
    """The layout of a FlexAttention `mask_mod(b, h, q_idx, kv_idx)`, which speaks of indices.

    Every pair is asked, a stripe of queries at a time, as `create_mask` of torch does it: time grows with `q_len *
    kv_len`, memory with `kv_len`. A rule of positions alone is better said as a pattern, `Custom` among them.

    Args:
        mask_mod: The function; it may read tensors of its own.
        q_len: Number of queries.
        kv_len: Number of keys.
        batch: Sequences that it tells apart.
        heads: Query heads that it tells apart.
        block_size: `(q_block, kv_block)` of the layout; `None` is 64x64.
        device: Where the indices lie; that of the tensors which the function reads.

    Raises:
        ArgumentError: A size is not positive.
        LayoutError: It does not answer True or False.

    Examples:
        >>> from_mask_mod(lambda b, h, q_idx, kv_idx: q_idx >= kv_idx, q_len=4, kv_len=4).allowed_pairs
        10
    """

    def rows_of(b: int, h: int) -> RowsFunction:
        def rows(first: int, stop: int) -> BoolArray:
            return evaluate(mask_mod, b, h, np.arange(first, stop)[:, None], np.arange(kv_len)[None], device)

        return rows

    return layout_of(
        rows_of, q_len=q_len, kv_len=kv_len, batch=batch, heads=heads, block_size=block_size, stripe=_STRIPE
    )


def to_mask_mod(layout: BlockLayout, *, block_size: Any = 128, device: Any = None) -> MaskMod:
    """A layout as a FlexAttention `mask_mod`: it reads a table of blocks, and no whole mask is made.

    Annotations, positions, padding and heads are in the table, so it stands for this layout's lengths alone.

    Args:
        layout: What to write.
        block_size: Size of the blocks of its table; `(q_block, kv_block)`, or one int for both.
        device: Where the table lies; that of the query.
    """
    return mask_mod_of(block_table(layout, block_size, device))


def from_block_mask(block_mask: BlockMask, *, block_size: tuple[int, int] | None = None) -> BlockLayout:
    """The layout of a FlexAttention `BlockMask`: full blocks whole, partial ones as its `mask_mod` says.

    Args:
        block_mask: As `create_block_mask` or `BlockMask.from_kv_blocks` makes it.
        block_size: `(q_block, kv_block)` of the layout; `None` is 64x64.

    Raises:
        ArgumentError: It is no `BlockMask`.
    """
    if not isinstance(block_mask, BlockMask):
        raise ArgumentError(f"block_mask must be torch's BlockMask; got {type(block_mask).__name__}.")
    q_len, kv_len = block_mask.seq_lengths
    q_block, kv_block = block_mask.BLOCK_SIZE
    device = block_mask.kv_indices.device
    lead = block_mask.kv_num_blocks.shape[:-1]
    heads = lead[-1] if lead else 1
    tables = [
        (counts.reshape(-1, counts.shape[-1]).cpu().numpy(), indices.reshape(-1, *indices.shape[-2:]).cpu().numpy())
        for counts, indices in (
            (block_mask.kv_num_blocks, block_mask.kv_indices),
            (block_mask.full_kv_num_blocks, block_mask.full_kv_indices),
        )
        if counts is not None and indices is not None
    ]

    def rows_of(b: int, h: int) -> RowsFunction:
        def rows(first: int, stop: int) -> BoolArray:
            answer = np.zeros((stop - first, -(-kv_len // kv_block) * kv_block), dtype=bool)
            for row in range(first // q_block, -(-stop // q_block)):
                queries = np.arange(max(first, row * q_block), min(stop, (row + 1) * q_block))
                for kind, (counts, indices) in enumerate(tables):
                    blocks = indices[b * heads + h, row, : counts[b * heads + h, row]]
                    keys = (blocks[:, None] * kv_block + np.arange(kv_block)).reshape(-1)
                    keys = keys[keys < kv_len]
                    if len(keys):
                        pairs = queries[:, None], keys[None]
                        said = kind == 1 or evaluate(block_mask.mask_mod, b, h, *pairs, device)
                        answer[np.ix_(queries - first, keys)] |= said
            return answer[:, :kv_len]

        return rows

    batch = int(np.prod(lead[:-1], dtype=np.int64)) if lead else 1
    return layout_of(
        rows_of, q_len=q_len, kv_len=kv_len, batch=batch, heads=heads, block_size=block_size, stripe=_STRIPE
    )


def to_block_mask(layout: BlockLayout, *, block_size: Any = 128, device: Any = None) -> BlockMask:
    """A layout as a FlexAttention `BlockMask`, without `create_block_mask`, which asks every pair on the device.

    Parts with an order of their own become plain blocks, which run more pairs; every pair keeps its meaning. A query
    that sees no key gets 0 from FlexAttention, as from openwork.

    Args:
        layout: What to write.
        block_size: `(q_block, kv_block)`, or one int for both; FlexAttention's own default is 128.
        device: Where it lies; that of the query.

    Returns:
        A `BlockMask` of `[batch or 1, heads or 1, q_len, kv_len]`; FlexAttention broadcasts the 1.

    Examples:
        >>> import openwork as ow
        >>> to_block_mask(ow.compile_layout(ow.Causal(), q_len=256, kv_len=256)).shape
        (1, 1, 256, 256)
    """
    table = block_table(layout, block_size, device)
    partial, full = ((kind[table.index]) for kind in (table.partial(), table.full()))
    return BlockMask.from_kv_blocks(
        *_ordered(partial),
        *_ordered(full),
        BLOCK_SIZE=table.block,
        mask_mod=mask_mod_of(table),
        seq_lengths=(layout.q_len, layout.kv_len),
    )


def _ordered(blocks: Tensor) -> tuple[Tensor, Tensor]:
    """Counts and indices of the True entries of each row, as FlexAttention lists them."""
    indices = torch.argsort((~blocks).to(torch.int8), dim=-1, stable=True)
    return blocks.sum(dim=-1).to(torch.int32), indices.to(torch.int32).contiguous()
