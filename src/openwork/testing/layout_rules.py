"""What every `BlockLayout` keeps, whoever made it."""

from __future__ import annotations

import numpy as np

from openwork.layout.data import BlockLayout, Part, unpack_masks
from openwork.patterns.annotations import BoolArray

__all__ = ["layout_contract"]


def layout_contract(layout: BlockLayout, dense: BoolArray) -> None:
    """Holds a layout against its dense mask: every promise of its fields, and every allowed pair in exactly one part.

    Args:
        layout: Any layout, compiled or made by hand.
        dense: bool `[batch or 1, q_heads or 1, q_len, kv_len]`, the pairs that it should hold.

    Raises:
        AssertionError: A promise of `Part`, `Plane` or `BlockLayout` is broken.
    """
    np.testing.assert_array_equal(layout.to_dense(), dense)
    assert layout.allowed_pairs == dense.sum()
    for row, column in np.ndindex(*layout.index.shape):
        plane = layout.plane(row, column)
        np.testing.assert_array_equal(plane.row_counts(), dense[row, column].sum(axis=-1))
        np.testing.assert_array_equal(plane.seen_keys(), dense[row, column].any(axis=-2))
        assert sum(part.allowed_pairs for part in plane.parts) == dense[row, column].sum()
        for part in plane.parts:
            _check_part(part)


def _check_part(part: Part) -> None:
    for order, block in ((part.q_order, part.q_block), (part.kv_order, part.kv_block)):
        assert order.dtype == np.int32
        assert len(order) % block == 0
        real = order[order >= 0]
        assert len(np.unique(real)) == len(real)
    masks = unpack_masks(part.masks, part.kv_block)
    assert masks.any(axis=(1, 2)).all()
    assert not masks.all(axis=(1, 2)).any()
    assert len({mask.tobytes() for mask in masks}) == len(masks)
    assert set(part.partial_mask.tolist()) == set(range(len(masks)))
    q_pads = (part.q_order < 0).reshape(-1, part.q_block)
    kv_pads = (part.kv_order < 0).reshape(-1, part.kv_block)
    for i in range(part.q_blocks):
        runs = part.full_runs[part.full_offsets[i] : part.full_offsets[i + 1]]
        assert (runs[:, 0] < runs[:, 1]).all()
        assert (runs[1:, 0] > runs[:-1, 1]).all()
        full = {j for first, stop in runs.tolist() for j in range(first, stop)}
        assert not kv_pads[list(full)].any()
        entries = range(part.partial_offsets[i], part.partial_offsets[i + 1])
        keys = part.partial_kv_block[entries.start : entries.stop]
        assert (np.diff(keys) > 0).all()
        assert not full & set(keys.tolist())
        for entry, key in zip(entries, keys, strict=True):
            mask = masks[part.partial_mask[entry]]
            assert not mask[q_pads[i]].any()
            assert not mask[:, kv_pads[key]].any()
            # a block whose real queries see every key is full, not partial
            assert not (mask | q_pads[i][:, None]).all()
