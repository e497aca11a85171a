"""Layouts built by hand, to test a kernel with orders and parts that no compiler would choose."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from openwork.layout.data import BlockLayout, Part, Plane

__all__ = ["part_of_mask", "shuffled_layout"]

BoolArray = npt.NDArray[np.bool_]
Int32Array = npt.NDArray[np.int32]


def part_of_mask(mask: BoolArray, q_order: Int32Array, kv_order: Int32Array, block_size: tuple[int, int]) -> Part:
    """The part that allows `mask[q, k]` for the queries and keys of two orders, by plain enumeration.

    Args:
        mask: bool `[q_len, kv_len]`; pairs outside the orders must be False.
        q_order: int32, a whole number of blocks, -1 is a pad.
        kv_order: int32, the same for keys.
        block_size: `(q_block, kv_block)`.
    """
    q_block, kv_block = block_size
    runs: list[list[int]] = []
    entries: list[tuple[int, int]] = []
    masks: dict[bytes, tuple[int, npt.NDArray[np.uint8]]] = {}
    run_offsets, entry_offsets = [0], [0]
    for i in range(len(q_order) // q_block):
        rows = q_order[i * q_block : (i + 1) * q_block]
        for j in range(len(kv_order) // kv_block):
            keys = kv_order[j * kv_block : (j + 1) * kv_block]
            tile = mask[np.ix_(rows, keys)] & (rows >= 0)[:, None] & (keys >= 0)[None, :]
            if not tile.any():
                continue
            if tile[rows >= 0].all():
                if len(runs) > run_offsets[-1] and runs[-1][1] == j:
                    runs[-1][1] = j + 1
                else:
                    runs.append([j, j + 1])
                continue
            bits = np.packbits(tile, axis=-1, bitorder="little")
            number = masks.setdefault(bits.tobytes(), (len(masks), bits))[0]
            entries.append((j, number))
        run_offsets.append(len(runs))
        entry_offsets.append(len(entries))
    table = [bits for _, bits in masks.values()]
    return Part(
        q_block=q_block,
        kv_block=kv_block,
        q_order=q_order.astype(np.int32),
        kv_order=kv_order.astype(np.int32),
        full_offsets=np.array(run_offsets, dtype=np.int32),
        full_runs=np.array(runs, dtype=np.int32).reshape(-1, 2),
        partial_offsets=np.array(entry_offsets, dtype=np.int32),
        partial_kv_block=np.array([j for j, _ in entries], dtype=np.int32),
        partial_mask=np.array([number for _, number in entries], dtype=np.int32),
        masks=np.array(table, dtype=np.uint8).reshape(-1, q_block, -(-kv_block // 8)),
    )


def shuffled_layout(
    mask: BoolArray, *, parts: int = 3, block_size: tuple[int, int] = (16, 16), seed: int = 0
) -> BlockLayout:
    """A layout of the same pairs, dealt to parts whose orders are random and hold pads in random places.

    Args:
        mask: bool `[q_len, kv_len]`, `[heads, q_len, kv_len]` or `[batch, heads, q_len, kv_len]`.
        parts: Into how many parts each plane is split; keys are dealt whole, by turns of rows.
        block_size: `(q_block, kv_block)`.
        seed: Of the shuffling.

    Examples:
        >>> mask = np.tri(20, dtype=bool)
        >>> layout = shuffled_layout(mask, block_size=(4, 8))
        >>> len(layout.planes[0].parts), bool((layout.to_dense()[0, 0] == mask).all())
        (3, True)
    """
    generator = np.random.default_rng(seed)
    masks = mask.reshape((1,) * (4 - mask.ndim) + mask.shape)
    batch, heads, q_len, kv_len = masks.shape
    planes = []
    for plane_mask in masks.reshape(-1, q_len, kv_len):
        owner = (generator.integers(parts, size=kv_len)[None, :] + np.arange(q_len)[:, None] // 8) % parts
        made = []
        for number in range(parts):
            own = plane_mask & (owner == number)
            q_order = _shuffled(np.flatnonzero(own.any(axis=1)), block_size[0], generator)
            kv_order = _shuffled(np.flatnonzero(own.any(axis=0)), block_size[1], generator)
            if own.any():
                made.append(part_of_mask(own, q_order, kv_order, block_size))
        planes.append(Plane(tuple(made), q_len, kv_len, q_len * kv_len))
    index = np.arange(batch * heads, dtype=np.int32).reshape(batch, heads)
    return BlockLayout(q_len, kv_len, tuple(planes), index, *block_size, q_start=kv_len - q_len)


def _shuffled(indices: npt.NDArray[np.int64], block: int, generator: np.random.Generator) -> Int32Array:
    blocks = -(-(len(indices) + 3) // block)
    order = np.full(blocks * block, -1, dtype=np.int32)
    order[generator.permutation(len(order))[: len(indices)]] = indices
    return order
