"""The layout's data: what each field promises, from tensors and tables, and in blocks of other sizes."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from openwork.errors import LayoutError
from openwork.layout.data import BlockLayout
from openwork.testing import layout_contract

sizes = st.tuples(st.integers(1, 20), st.integers(1, 20))


def random_mask(seed: int, shape: tuple[int, ...]) -> np.ndarray:
    rng = np.random.default_rng(seed)
    mask = rng.random(shape) < rng.choice([0.02, 0.3, 0.97])
    if rng.random() < 0.5:
        mask[..., : shape[-1] // 2] = rng.random() < 0.5
    return mask


@given(st.integers(0, 10**6), st.integers(1, 90), st.integers(1, 90), sizes, sizes)
def test_a_mask_comes_back_and_reblocks(seed, q_len, kv_len, block_size, other):
    mask = random_mask(seed, (2, 2, q_len, kv_len))
    layout = BlockLayout.from_mask(mask, block_size=block_size)
    layout_contract(layout, mask)
    again = layout.reblock(other)
    assert again.block_size == other
    layout_contract(again, mask)
    # the same blocks are full and partial as if it had been cut so from the start
    direct = BlockLayout.from_mask(mask, block_size=other)
    assert again.executed_pairs == direct.executed_pairs
    assert layout.reblock(other) is again


@given(st.integers(0, 10**6), st.integers(1, 60), st.integers(1, 60), sizes)
def test_a_block_table_is_a_layout(seed, q_len, kv_len, block_size):
    rng = np.random.default_rng(seed)
    q_blocks, kv_blocks = -(-q_len // block_size[0]), -(-kv_len // block_size[1])
    table = rng.random((3, q_blocks, kv_blocks)) < 0.4
    expected = np.repeat(np.repeat(table, block_size[0], axis=-2), block_size[1], axis=-1)[None, :, :q_len, :kv_len]
    layout = BlockLayout.from_blocks(table, q_len=q_len, kv_len=kv_len, block_size=block_size)
    layout_contract(layout, expected)
    counts = table.sum(axis=-1)
    indices = np.argsort(~table, axis=-1, kind="stable")
    lists = BlockLayout.from_blocks((counts, indices), q_len=q_len, kv_len=kv_len, block_size=block_size)
    np.testing.assert_array_equal(lists.to_dense(), expected)


def test_equal_heads_share_a_plane():
    mask = np.zeros((3, 8, 8), dtype=bool)
    mask[1] = True
    layout = BlockLayout.from_mask(mask)
    assert layout.index.tolist() == [[0, 1, 0]]
    assert layout.planes[0].parts == ()


def test_torch_masks_do_as_well():
    torch = pytest.importorskip("torch")
    mask = torch.rand(5, 7) < 0.5
    np.testing.assert_array_equal(BlockLayout.from_mask(mask).to_dense()[0, 0], mask.numpy())


def test_derived_things_are_made_once():
    layout = BlockLayout.from_mask(np.ones((2, 2), dtype=bool))
    made: list[int] = []
    for _ in range(2):
        assert layout.cached("key", lambda: made.append(1) or "value") == "value"
    assert made == [1]


def test_positions_can_be_added_for_alibi():
    layout = BlockLayout.from_mask(np.ones((2, 3), dtype=bool)).with_positions([1, 2], [0, 1, 2])
    assert layout.q_positions.tolist() == [[1, 2]]
    assert layout.with_positions(torch.tensor([[1, 2], [-1, 0]]), [0, 1, 2]).q_positions.tolist() == [[1, 2], [-1, 0]]
    with pytest.raises(LayoutError, match=r"kv_positions has shape \[2\]; it needs \[3\] or \[batch, 3\]"):
        layout.with_positions([1, 2], [0, 1])
    with pytest.raises(LayoutError, match="q_positions must be integers; got float64"):
        layout.with_positions([1.5, 2.0], [0, 1, 2])
    with pytest.raises(LayoutError, match="kv_positions holds -2; positions are 0 or more, and -1 is padding"):
        layout.with_positions([1, 2], [-2, 1, 2])


def test_a_tall_mask_is_looked_at_in_stripes():
    mask = np.random.default_rng(0).random((2500, 70)) < 0.3
    mask[1100:1400] = True
    layout = BlockLayout.from_mask(mask, block_size=(48, 32))
    layout_contract(layout, mask[None, None])
    assert len(layout.planes[0].parts[0].full_runs)


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        (np.zeros((2, 2)), r"takes booleans, True = attend; got float64. Write `mask == 0` for an additive mask"),
        (np.zeros(3, dtype=bool), r"got shape \[3\]"),
        (np.zeros((1, 1, 1, 2, 2), dtype=bool), r"got shape \[1, 1, 1, 2, 2\]"),
    ],
)
def test_other_tensors_are_refused(mask, message):
    with pytest.raises(LayoutError, match=message):
        BlockLayout.from_mask(mask)


def test_tables_and_blocks_that_do_not_fit_are_refused():
    with pytest.raises(LayoutError, match=r"needs a bool table \[..., 2, 1\] for q_len=100, kv_len=64"):
        BlockLayout.from_blocks(np.ones((1, 1), dtype=bool), q_len=100, kv_len=64)
    with pytest.raises(LayoutError, match="lists key block 7; there are 1 key blocks"):
        BlockLayout.from_blocks((np.array([1]), np.array([[7]])), q_len=64, kv_len=64)
    for block_size in (0, 2.5, (64, -1), (1, 2, 3), (1.5, 2)):
        with pytest.raises(LayoutError, match="two positive integers"):
            BlockLayout.from_mask(np.ones((2, 2), dtype=bool), block_size=block_size)
