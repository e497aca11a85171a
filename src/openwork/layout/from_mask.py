"""Layouts from a boolean tensor, or from a kernel's own block table."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from openwork.errors import LayoutError
from openwork.layout.data import BlockLayout, Int32Array, MaskArray, Part, Plane
from openwork.patterns.annotations import BoolArray

__all__ = [
    "DEFAULT_BLOCK",
    "as_block_size",
    "natural_order",
    "part_from_entries",
    "plane_from_rows",
    "unique_rows",
]

DEFAULT_BLOCK = (64, 64)
_STRIPE = 1024
"""Queries of a mask that are looked at together."""

RowsFunction = Callable[[int, int], BoolArray]


def as_block_size(block_size: Any) -> tuple[int, int]:
    """`(q_block, kv_block)` from what a caller gave: `None` is 64x64, an int is square.

    Raises:
        LayoutError: A size is not a positive integer.
    """
    if block_size is None:
        return DEFAULT_BLOCK
    sizes = tuple(block_size) if isinstance(block_size, list | tuple | np.ndarray) else (block_size, block_size)
    if len(sizes) != 2 or not all(isinstance(size, int | np.integer) and size > 0 for size in sizes):
        raise LayoutError(
            f"block_size is (q_block, kv_block), two positive integers, or None for 64x64; got {block_size!r}."
        )
    return int(sizes[0]), int(sizes[1])


def natural_order(length: int, block: int) -> Int32Array:
    """int32: 0 to `length - 1`, then -1 up to a whole number of blocks."""
    order = np.full(-(-length // block) * block, -1, dtype=np.int32)
    order[:length] = np.arange(length, dtype=np.int32)
    return order


def unique_rows(rows: MaskArray) -> tuple[MaskArray, Int32Array]:
    """The distinct rows of `[n, m]` bytes, in order of first appearance, and for each row its number."""
    if len(rows) == 0:
        return rows, np.zeros(0, dtype=np.int32)
    keys = np.ascontiguousarray(rows).view(np.dtype((np.void, rows.shape[1]))).reshape(-1)
    _, first, inverse = np.unique(keys, return_index=True, return_inverse=True)
    rank = np.argsort(np.argsort(first))
    return rows[np.sort(first)], rank[inverse.reshape(-1)].astype(np.int32)


def part_from_entries(
    q_order: Int32Array,
    kv_order: Int32Array,
    block_size: tuple[int, int],
    full_runs: tuple[Any, Any, Any],
    partial: tuple[Any, Any, Any],
    masks: MaskArray,
) -> Part:
    """A part from unsorted entries.

    Args:
        q_order: int32 `[q_blocks * q_block]`.
        kv_order: int32 `[kv_blocks * kv_block]`.
        block_size: `(q_block, kv_block)`.
        full_runs: Query block, first and stop key block of each run; runs of a query block may touch, not overlap.
        partial: Query block, key block and mask number of each entry.
        masks: uint8 `[n_masks, q_block, bytes]`, distinct.
    """
    q_blocks = len(q_order) // block_size[0]
    rows, first, stop = (np.asarray(column, dtype=np.int64) for column in full_runs)
    order = np.lexsort((first, rows))
    rows, first, stop = rows[order], first[order], stop[order]
    starts = np.ones(len(rows), dtype=bool)
    starts[1:] = (rows[1:] != rows[:-1]) | (first[1:] != stop[:-1])
    ends = np.ones(len(rows), dtype=bool)
    ends[:-1] = starts[1:]
    rows, first, stop = rows[starts], first[starts], stop[ends]
    entry_rows, entry_keys, entry_masks = (np.asarray(column, dtype=np.int64) for column in partial)
    order = np.lexsort((entry_keys, entry_rows))
    part = Part(
        q_block=block_size[0],
        kv_block=block_size[1],
        q_order=q_order,
        kv_order=kv_order,
        full_offsets=_offsets(rows, q_blocks),
        full_runs=np.stack([first, stop], axis=1).astype(np.int32),
        partial_offsets=_offsets(entry_rows, q_blocks),
        partial_kv_block=entry_keys[order].astype(np.int32),
        partial_mask=entry_masks[order].astype(np.int32),
        masks=masks,
    )
    for array in vars(part).values():
        if isinstance(array, np.ndarray):
            array.setflags(write=False)
    return part


def _offsets(rows: Any, q_blocks: int) -> Int32Array:
    counts = np.bincount(rows, minlength=q_blocks)
    return np.concatenate([[0], np.cumsum(counts)]).astype(np.int32)


def layout_from_mask(mask: Any, block_size: Any) -> BlockLayout:
    """`BlockLayout.from_mask`."""
    if hasattr(mask, "detach"):
        mask = mask.detach().cpu().numpy()
    array = np.asarray(mask)
    if array.dtype != np.bool_:
        raise LayoutError(
            f"from_mask takes booleans, True = attend; got {array.dtype}. Write `mask == 0` for an additive mask, "
            "and `~mask` where True means masked (nn.MultiheadAttention)."
        )
    if not 2 <= array.ndim <= 4:
        raise LayoutError(
            f"from_mask takes [q_len, kv_len], [q_heads, q_len, kv_len] or [batch, q_heads, q_len, kv_len]; "
            f"got shape {list(array.shape)}."
        )
    array = array.reshape((1,) * (4 - array.ndim) + array.shape)
    blocks = as_block_size(block_size)
    batch, heads, q_len, kv_len = array.shape
    planes: list[Plane] = []
    seen: dict[bytes, int] = {}
    index = np.zeros((batch, heads), dtype=np.int32)
    for b in range(batch):
        for h in range(heads):
            key = np.packbits(array[b, h]).tobytes()
            if key not in seen:
                seen[key] = len(planes)
                planes.append(plane_from_rows(_rows_of(array[b, h]), q_len, kv_len, blocks))
            index[b, h] = seen[key]
    return BlockLayout(q_len, kv_len, tuple(planes), index, *blocks, q_start=kv_len - q_len)


def _rows_of(mask: BoolArray) -> RowsFunction:
    return lambda first, stop: mask[first:stop]


def plane_from_rows(
    rows_of: RowsFunction, q_len: int, kv_len: int, block_size: tuple[int, int], stripe: int = _STRIPE
) -> Plane:
    """The plane of a mask that is asked for stripe by stripe, so that it never lies in memory whole.

    Args:
        rows_of: `rows_of(first, stop)`: bool `[stop - first, kv_len]`, True = attend.
        q_len: Number of queries.
        kv_len: Number of keys.
        block_size: `(q_block, kv_block)`.
        stripe: About how many queries are asked for at a time.
    """
    q_block, kv_block = block_size
    q_order, kv_order = natural_order(q_len, q_block), natural_order(kv_len, kv_block)
    step = max(1, stripe // q_block) * q_block
    width = q_block * -(-kv_block // 8)
    full: list[Any] = [np.zeros((2, 0), dtype=np.int64)]
    partial: list[Any] = [np.zeros((2, 0), dtype=np.int64)]
    bits: list[MaskArray] = [np.zeros((0, width), dtype=np.uint8)]
    for first in range(0, q_len, step):
        stop = min(first + step, q_len)
        padded = np.zeros((-(-(stop - first) // q_block) * q_block, len(kv_order)), dtype=bool)
        padded[: stop - first, :kv_len] = rows_of(first, stop)
        tiles = padded.reshape(-1, q_block, len(kv_order) // kv_block, kv_block).transpose(0, 2, 1, 3)
        some: BoolArray = np.any(tiles, axis=(2, 3))
        # queries that are pads do not keep a block from being full, keys that are pads do
        pads = np.arange(first, first + len(padded)).reshape(-1, 1, q_block, 1) >= stop
        whole: BoolArray = np.all(tiles | pads, axis=(2, 3)) & some
        above = np.array([[first // q_block], [0]])
        full.append(np.stack(np.nonzero(whole)) + above)
        loose = np.nonzero(some & ~whole)
        partial.append(np.stack(loose) + above)
        bits.append(np.packbits(tiles[loose], axis=-1, bitorder="little").reshape(len(loose[0]), width))
    (full_rows, full_keys), (rows, keys) = np.concatenate(full, axis=1), np.concatenate(partial, axis=1)
    masks, numbers = unique_rows(np.concatenate(bits))
    part = part_from_entries(
        q_order,
        kv_order,
        block_size,
        (full_rows, full_keys, full_keys + 1),
        (rows, keys, numbers),
        masks.reshape(-1, q_block, -(-kv_block // 8)),
    )
    parts = (part,) if part.num_full or part.num_partial else ()
    return Plane(parts, q_len, kv_len, q_len * kv_len, ("natural order",) * len(parts), part.executed_pairs)


def layout_from_blocks(blocks: Any, q_len: int, kv_len: int, block_size: Any) -> BlockLayout:
    """`BlockLayout.from_blocks`."""
    q_block, kv_block = as_block_size(block_size)
    q_blocks, kv_blocks = -(-q_len // q_block), -(-kv_len // kv_block)
    if isinstance(blocks, tuple):
        kv_num_blocks, kv_indices = blocks
        blocks = _table_from_lists(kv_num_blocks, kv_indices, kv_blocks)
    if hasattr(blocks, "detach"):
        blocks = blocks.detach().cpu().numpy()
    table = np.asarray(blocks)
    if table.dtype != np.bool_ or not 2 <= table.ndim <= 4 or table.shape[-2:] != (q_blocks, kv_blocks):
        raise LayoutError(
            f"from_blocks needs a bool table [..., {q_blocks}, {kv_blocks}] for q_len={q_len}, kv_len={kv_len} and "
            f"block_size={(q_block, kv_block)}; got {table.dtype} {list(table.shape)}."
        )
    table = table.reshape((1,) * (4 - table.ndim) + table.shape)
    orders = natural_order(q_len, q_block), natural_order(kv_len, kv_block)
    ragged = kv_len % kv_block
    planes: list[Plane] = []
    seen: dict[bytes, int] = {}
    index = np.zeros(table.shape[:2], dtype=np.int32)
    for b, h in np.ndindex(*table.shape[:2]):
        key = table[b, h].tobytes()
        if key not in seen:
            seen[key] = len(planes)
            planes.append(_plane_from_table(table[b, h], orders, (q_block, kv_block), ragged, (q_len, kv_len)))
        index[b, h] = seen[key]
    return BlockLayout(q_len, kv_len, tuple(planes), index, q_block, kv_block, q_start=kv_len - q_len)


def _plane_from_table(
    table: BoolArray,
    orders: tuple[Int32Array, Int32Array],
    block_size: tuple[int, int],
    ragged: int,
    lengths: tuple[int, int],
) -> Plane:
    rows, keys = np.nonzero(table)
    short = (keys == table.shape[1] - 1) if ragged else np.zeros(len(keys), dtype=bool)
    # the short last key block needs a bitmask, one for whole query blocks and one for the short last
    bits = np.zeros((2, *block_size), dtype=bool)
    bits[:, :, :ragged] = True
    last_rows = lengths[0] % block_size[0] or block_size[0]
    bits[1, last_rows:] = False
    masks, numbers = unique_rows(np.packbits(bits, axis=-1, bitorder="little").reshape(2, -1))
    which = numbers[(rows[short] == table.shape[0] - 1).astype(np.int64)]
    used, which = np.unique(which, return_inverse=True)
    part = part_from_entries(
        *orders,
        block_size,
        (rows[~short], keys[~short], keys[~short] + 1),
        (rows[short], keys[short], which),
        masks[used].reshape(-1, block_size[0], -(-block_size[1] // 8)),
    )
    parts = (part,) if len(rows) else ()
    return Plane(parts, *lengths, lengths[0] * lengths[1], ("natural order",) * len(parts), part.executed_pairs)


def _table_from_lists(kv_num_blocks: Any, kv_indices: Any, kv_blocks: int) -> BoolArray:
    counts, indices = (np.asarray(x.detach().cpu() if hasattr(x, "detach") else x) for x in (kv_num_blocks, kv_indices))
    used = np.arange(indices.shape[-1]) < counts[..., None]
    if used.any() and not (0 <= indices[used].min() and indices[used].max() < kv_blocks):
        raise LayoutError(f"from_blocks lists key block {int(indices[used].max())}; there are {kv_blocks} key blocks.")
    table = np.zeros((*counts.shape, kv_blocks), dtype=bool)
    where = np.nonzero(used)
    table[(*where[:-1], indices[where])] = True
    return table
