"""Functions `(batch, head, q_idx, kv_idx) -> bool` as masks, and layouts as such functions, without whole masks."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from openwork.errors import ArgumentError, LayoutError
from openwork.layout import BlockLayout
from openwork.layout.data import Plane, unpack_masks
from openwork.layout.from_mask import RowsFunction, as_block_size, plane_from_rows
from openwork.patterns.annotations import BoolArray, IntArray

__all__ = ["BlockTable", "MaskMod", "block_table", "evaluate", "layout_of", "mask_mod_of"]

MaskMod = Callable[[Any, Any, Any, Any], Any]
"""`(batch, head, q_idx, kv_idx)`, each a scalar int tensor, to a scalar bool tensor."""

_EMPTY, _FULL = -1, -2


def evaluate(mask_mod: MaskMod, batch: int, head: int, q_idx: Any, kv_idx: Any, device: Any) -> BoolArray:
    """What the function says of each pair of `q_idx` and `kv_idx`, arrays that broadcast; as torch asks it, by `vmap`.

    Raises:
        LayoutError: It does not answer True or False.
    """
    q, k = (torch.from_numpy(np.ascontiguousarray(x)).to(device) for x in np.broadcast_arrays(q_idx, kv_idx))
    b, h = (torch.full_like(q, number) for number in (batch, head))
    said = torch.vmap(mask_mod)(*(x.flatten() for x in (b, h, q, k)))
    if said.dtype != torch.bool:
        raise LayoutError(f"a mask function must answer True (attend) or False for each pair; it gave {said.dtype}.")
    answer: BoolArray = said.reshape(q.shape).cpu().numpy()
    return answer


def layout_of(
    rows_of: Callable[[int, int], RowsFunction],
    *,
    q_len: int,
    kv_len: int,
    batch: int,
    heads: int,
    block_size: Any,
    stripe: int,
) -> BlockLayout:
    """The layout of masks that are asked for stripe by stripe; equal ones share a plane.

    Args:
        rows_of: For a sequence and a head, the function `(first, stop)` to bool `[stop - first, kv_len]`.
        q_len: Number of queries.
        kv_len: Number of keys.
        batch: Sequences that may differ.
        heads: Heads that may differ.
        block_size: Of the layout.
        stripe: Queries that are asked for at a time.

    Raises:
        ArgumentError: A size is not positive.
    """
    for name, size in (("q_len", q_len), ("kv_len", kv_len), ("batch", batch), ("heads", heads)):
        if isinstance(size, bool) or not isinstance(size, int) or size < 1:
            raise ArgumentError(f"{name} must be 1 or more; got {size!r}.")
    blocks = as_block_size(block_size)
    planes: list[Plane] = []
    seen: dict[bytes, int] = {}
    index = np.zeros((batch, heads), dtype=np.int32)
    for b, h in np.ndindex(batch, heads):
        digest = hashlib.blake2b(digest_size=16)
        plane = plane_from_rows(_digested(rows_of(b, h), digest), q_len, kv_len, blocks, stripe)
        key = digest.digest()
        if key not in seen:
            seen[key] = len(planes)
            planes.append(plane)
        index[b, h] = seen[key]
    return BlockLayout(q_len, kv_len, tuple(planes), index, *blocks, q_start=kv_len - q_len)


def _digested(rows_of: RowsFunction, digest: Any) -> RowsFunction:
    def rows(first: int, stop: int) -> BoolArray:
        answer = rows_of(first, stop)
        digest.update(np.packbits(answer).tobytes())
        return answer

    return rows


@dataclass(frozen=True)
class BlockTable:
    """A layout as plain blocks in natural order.

    Attributes:
        block: `(q_block, kv_block)`.
        index: int64 `[batch or 1, heads or 1]`: the plane of each.
        entries: int32 `[planes, q_blocks, kv_blocks]`: -1 empty, -2 full, else the row of `tiles`.
        tiles: bool `[n, q_block, kv_block]`, True = attend.
    """

    block: tuple[int, int]
    index: Tensor
    entries: Tensor
    tiles: Tensor

    def full(self) -> Tensor:
        """Bool `[planes, q_blocks, kv_blocks]`."""
        return self.entries == _FULL

    def partial(self) -> Tensor:
        """Bool `[planes, q_blocks, kv_blocks]`."""
        return self.entries >= 0


def block_table(layout: BlockLayout, block_size: Any, device: Any) -> BlockTable:
    """The layout as plain blocks; memory for one stripe of queries, the table and its distinct partial blocks.

    Args:
        layout: The layout.
        block_size: `(q_block, kv_block)`, or one int for both.
        device: Where the tensors lie.
    """
    if not isinstance(layout, BlockLayout):
        raise ArgumentError(
            f"layout must be a BlockLayout (compile_layout, BlockLayout.from_mask); got {type(layout).__name__}."
        )
    q_block, kv_block = as_block_size(block_size)
    q_blocks, kv_blocks = -(-layout.q_len // q_block), -(-layout.kv_len // kv_block)
    entries = np.full((len(layout.planes), q_blocks, kv_blocks), _EMPTY, dtype=np.int32)
    numbers: dict[bytes, int] = {}
    tiles: list[BoolArray] = []
    for p, plane in enumerate(layout.planes):
        slots = _slots(plane)
        for i in range(q_blocks):
            first, stop = i * q_block, min((i + 1) * q_block, layout.q_len)
            stripe = np.zeros((q_block, kv_blocks * kv_block), dtype=bool)
            stripe[: stop - first, : layout.kv_len] = _rows(plane, slots, first, stop)
            cut = stripe.reshape(q_block, kv_blocks, kv_block).transpose(1, 0, 2)
            some, every = np.any(cut, axis=(1, 2)), np.all(cut, axis=(1, 2))
            entries[p, i, every] = _FULL
            for j in np.flatnonzero(some & ~every):
                key = np.packbits(cut[j]).tobytes()
                if key not in numbers:
                    numbers[key] = len(tiles)
                    tiles.append(cut[j].copy())
                entries[p, i, j] = numbers[key]
    stacked = np.stack(tiles) if tiles else np.zeros((1, q_block, kv_block), dtype=bool)
    arrays = (torch.from_numpy(x).to(device) for x in (layout.index.astype(np.int64), entries, stacked))
    return BlockTable((q_block, kv_block), *arrays)


def mask_mod_of(table: BlockTable) -> MaskMod:
    """The layout as a function that reads its table: `(batch, head, q_idx, kv_idx)` to bool."""
    (q_block, kv_block), index, entries, tiles = table.block, table.index, table.entries, table.tiles
    batch, heads = index.shape

    def mask_mod(b: Any, h: Any, q_idx: Any, kv_idx: Any) -> Any:
        plane = index[b if batch > 1 else b * 0, h if heads > 1 else h * 0]
        entry = entries[plane, q_idx // q_block, kv_idx // kv_block]
        inside = tiles[entry.clamp(min=0).long(), q_idx % q_block, kv_idx % kv_block]
        return (entry == _FULL) | ((entry >= 0) & inside)

    return mask_mod


def _slots(plane: Plane) -> list[IntArray]:
    """For each part, where each query stands in its order; -1 where it is not there."""
    slots = []
    for part in plane.parts:
        used = np.flatnonzero(part.q_order >= 0)
        own = np.full(plane.q_len, -1, dtype=np.int64)
        own[part.q_order[used]] = used
        slots.append(own)
    return slots


def _rows(plane: Plane, slots: list[IntArray], first: int, stop: int) -> BoolArray:
    """Bool `[stop - first, kv_len]`: the allowed pairs of some queries."""
    dense = np.zeros((stop - first, plane.kv_len), dtype=bool)
    for part, own in zip(plane.parts, slots, strict=True):
        rows = np.flatnonzero(own[first:stop] >= 0)
        places = own[first + rows]
        keys = part.kv_order.reshape(-1, part.kv_block)
        for block in np.unique(places // part.q_block):
            here = places // part.q_block == block
            of_block, inner = rows[here], places[here] % part.q_block
            for start, end in part.full_runs[part.full_offsets[block] : part.full_offsets[block + 1]]:
                dense[np.ix_(of_block, keys[start:end].reshape(-1))] = True
            entries = slice(part.partial_offsets[block], part.partial_offsets[block + 1])
            masks = unpack_masks(part.masks[part.partial_mask[entries]][:, inner], part.kv_block)
            for kv_block, mask in zip(part.partial_kv_block[entries], masks, strict=True):
                there = keys[kv_block] >= 0
                dense[np.ix_(of_block, keys[kv_block][there])] |= mask[:, there]
    return dense
