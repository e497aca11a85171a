"""What the kernels read of a layout says the same as the layout, by query block and by key block."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import openwork as ow
from openwork.layout.data import BlockLayout, Part
from openwork.ops.backends.cpu_lower import BLOCK, lower
from openwork.testing.inputs import awkward_masks, random_mask
from openwork.testing.layouts import shuffled_layout

LENGTHS = [(1, 1), (64, 64), (200, 200), (130, 300), (300, 130)]


class Words:
    """The words read back, by the tables of csrc/layout.cpp."""

    def __init__(self, layout: BlockLayout) -> None:
        self.words = lower(layout).numpy()
        self.header = self.words[:16]

    def array(self, offset: int, count: int, dtype: type) -> np.ndarray:
        return self.words[offset:].view(dtype)[:count]

    def parts(self) -> list[dict[str, np.ndarray]]:
        found = []
        for number in range(self.header[6]):
            row = self.words[self.header[13] + 22 * number :][:22]
            q_blocks, kv_blocks, num_masks = row[2], row[3], row[4]
            part = {"q_order": self.array(row[8], q_blocks * BLOCK, np.int32)}
            part["kv_order"] = self.array(row[9], kv_blocks * BLOCK, np.int32)
            part["masks"] = self.array(row[15], num_masks * BLOCK * 8, np.uint8).reshape(-1, BLOCK, 8)
            for prefix, blocks, at in (("", q_blocks, (10, 11, 12, 13, 14)), ("kv_", kv_blocks, (16, 17, 18, 19, 20))):
                full = part[prefix + "full_offsets"] = self.array(row[at[0]], blocks + 1, np.int32)
                part[prefix + "full_runs"] = self.array(row[at[1]], 2 * full[-1], np.int32).reshape(-1, 2)
                offsets = part[prefix + "partial_offsets"] = self.array(row[at[2]], blocks + 1, np.int32)
                part[prefix + "partial_block"] = self.array(row[at[3]], offsets[-1], np.int32)
                part[prefix + "partial_mask"] = self.array(row[at[4]], offsets[-1], np.int32)
            found.append(part)
        return found


def grid(part: dict[str, np.ndarray], prefix: str, shape: tuple[int, int]) -> np.ndarray:
    """-1 where a block is empty, -2 where it is full, else its mask; `[own blocks, other blocks]`."""
    table = np.full(shape, -1)
    for i in range(shape[0]):
        for first, stop in part[prefix + "full_runs"][slice(*part[prefix + "full_offsets"][i : i + 2])]:
            assert (table[i, first:stop] == -1).all() and 0 <= first < stop <= shape[1]
            table[i, first:stop] = -2
        entries = slice(*part[prefix + "partial_offsets"][i : i + 2])
        columns = part[prefix + "partial_block"][entries]
        assert (np.diff(columns) > 0).all() and (table[i, columns] == -1).all()
        table[i, columns] = part[prefix + "partial_mask"][entries]
    return table


def layouts():
    for q_len, kv_len in LENGTHS:
        for name, mask in awkward_masks(q_len, kv_len).items():
            yield pytest.param(BlockLayout.from_mask(mask), id=f"{name}-{q_len}x{kv_len}")
        mask = random_mask(q_len, kv_len, density=0.99, seed=3)
        yield pytest.param(BlockLayout.from_mask(mask, block_size=(16, 32)), id=f"reblocked-{q_len}x{kv_len}")
        yield pytest.param(shuffled_layout(mask), id=f"shuffled-{q_len}x{kv_len}")
    blocks = random_mask(2, 9, 12, density=0.7, seed=1)
    yield pytest.param(BlockLayout.from_blocks(blocks, q_len=9 * 64, kv_len=12 * 64), id="blocks")
    pattern = ow.Causal() & (ow.Window(before=70) | ow.Strided(50) | ow.First(keys=3))
    yield pytest.param(ow.compile_layout(pattern, q_len=900, kv_len=900), id="compiled")


@pytest.mark.parametrize("layout", list(layouts()))
def test_both_ways_of_reading_hold_the_same_blocks_and_all_allowed_pairs(layout):
    words = Words(layout)
    same: list[Part] = [part for plane in layout.reblock((BLOCK, BLOCK)).planes for part in plane.parts]
    assert len(words.parts()) == len(same)
    pairs = 0
    for lowered, part in zip(words.parts(), same, strict=True):
        by_query = grid(lowered, "", (part.q_blocks, part.kv_blocks))
        by_key = grid(lowered, "kv_", (part.kv_blocks, part.q_blocks))
        assert (by_query == by_key.T).all()
        rows, keys = lowered["q_order"].reshape(-1, BLOCK) >= 0, lowered["kv_order"].reshape(-1, BLOCK) >= 0
        masks = np.unpackbits(lowered["masks"], axis=-1, bitorder="little")
        for i, j in np.argwhere(by_query != -1):
            allowed = masks[by_query[i, j]] if by_query[i, j] >= 0 else np.ones((BLOCK, BLOCK), dtype=np.uint8)
            pairs += int((allowed * rows[i][:, None] * keys[j]).sum())
        # -1 marks exactly what is a pad or sees nothing here
        assert ((lowered["q_order"] >= 0) == (part.row_counts > 0)).all()
        assert ((lowered["kv_order"] >= 0) == part.key_seen).all()
    assert pairs == sum(plane.allowed_pairs for plane in layout.planes)


def test_the_words_are_written_once_and_grow_with_the_blocks_of_the_layout_not_with_all_pairs():
    layout = ow.compile_layout(ow.Causal(), q_len=64 * 512, kv_len=64 * 512)
    assert lower(layout).data_ptr() == lower(layout).data_ptr()
    # orders twice, a run and a mask for each block row and column
    assert lower(layout).nbytes < 2 * 4 * layout.q_len + 512 * 100 + 10_000


def test_positions_and_the_index_travel_along():
    mask = random_mask(2, 3, 70, 80, seed=2)
    layout = BlockLayout.from_mask(mask).with_positions(np.arange(70) * 2, np.stack([np.arange(80), np.arange(80) - 1]))
    words = Words(layout)
    header = words.header.tolist()
    assert header[2:9] == [70, 80, layout.q_start, len(layout.planes), len(words.parts()), 2, 3]
    assert (words.array(header[11], 6, np.int32).reshape(2, 3) == layout.index).all()
    assert (words.array(header[14], 70, np.int64) == np.arange(70) * 2).all()
    assert (words.array(header[15], 160, np.int64).reshape(2, 80) == layout.kv_positions).all()


def test_a_layout_lowered_among_fake_tensors_serves_real_ones():
    layout = BlockLayout.from_mask(awkward_masks(70, 70)["window"])
    with torch._subclasses.FakeTensorMode():
        assert isinstance(lower(layout), torch._subclasses.FakeTensor)
    assert int(lower(layout)[2]) == 70
