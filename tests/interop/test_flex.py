"""FlexAttention's `mask_mod` and `BlockMask`, both ways, against FlexAttention itself on the CPU."""

from __future__ import annotations

import pytest
import torch
from torch.nn.attention.flex_attention import BlockMask, create_block_mask, create_mask, flex_attention

import openwork as ow
from openwork import interop
from openwork.errors import ArgumentError, LayoutError

from .conftest import HEADS, LENGTH, NAMES, computed, inputs_for, layout, same

# uncompiled FlexAttention says that it is slow
pytestmark = pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")


@pytest.mark.parametrize("block", [128, (64, 32)])
@pytest.mark.parametrize("name", [*NAMES, "empty rows"])
def test_flex_attention_computes_the_layout_under_its_block_mask(name: str, block: int | tuple[int, int]) -> None:
    ours, inputs = layout(name), inputs_for(layout(name))
    mask = interop.to_block_mask(ours, block_size=block)
    theirs = flex_attention(inputs.query, inputs.key, inputs.value, block_mask=mask)
    torch.testing.assert_close(computed(ours), theirs)
    assert same(interop.from_block_mask(mask), ours)


@pytest.mark.parametrize("name", NAMES)
def test_a_mask_mod_says_the_layout_pair_by_pair(name: str) -> None:
    ours = layout(name)
    mask_mod = interop.to_mask_mod(ours, block_size=(32, 16))
    theirs = create_mask(mask_mod, ours.batch, ours.heads, ours.q_len, ours.kv_len, device="cpu")
    assert torch.equal(theirs, torch.from_numpy(ours.to_dense()))
    sizes = {"q_len": ours.q_len, "kv_len": ours.kv_len, "batch": ours.batch, "heads": ours.heads}
    assert same(interop.from_mask_mod(mask_mod, **sizes), ours)


def test_a_block_mask_skips_what_torchs_own_skips() -> None:
    pattern = ow.Causal() & ow.Window(before=99)
    theirs = create_block_mask(
        lambda b, h, q, k: (q >= k) & (q - k <= 99), 1, 1, 1024, 1024, device="cpu", BLOCK_SIZE=64
    )
    ours = interop.to_block_mask(ow.compile_layout(pattern, q_len=1024, kv_len=1024), block_size=64)
    for name in ("kv_num_blocks", "full_kv_num_blocks", "q_num_blocks", "full_q_num_blocks"):
        assert torch.equal(getattr(ours, name), getattr(theirs, name)), name
    assert torch.equal(ours.to_dense(), theirs.to_dense())
    assert (
        interop.from_block_mask(theirs).allowed_pairs
        == ow.compile_layout(pattern, q_len=1024, kv_len=1024).allowed_pairs
    )


def test_a_users_mask_mod_is_read_with_the_tensors_that_it_reads() -> None:
    documents = torch.arange(LENGTH) // 40
    flags = torch.rand(2, LENGTH, generator=torch.Generator().manual_seed(0)) < 0.1

    def mask_mod(b, h, q_idx, kv_idx):
        near = torch.where(h == 0, q_idx - kv_idx < 9, documents[q_idx] == documents[kv_idx])
        return (q_idx >= kv_idx) & (near | flags[b, kv_idx])

    sizes = {"q_len": LENGTH, "kv_len": LENGTH, "batch": 2, "heads": HEADS}
    ours = interop.from_mask_mod(mask_mod, **sizes)
    assert torch.equal(torch.from_numpy(ours.to_dense()), create_mask(mask_mod, 2, HEADS, LENGTH, LENGTH, device="cpu"))
    block_mask = create_block_mask(mask_mod, 2, HEADS, LENGTH, LENGTH, device="cpu", BLOCK_SIZE=32)
    assert same(interop.from_block_mask(block_mask, block_size=(16, 16)), ours)
    inputs = inputs_for(ours)
    theirs = flex_attention(inputs.query, inputs.key, inputs.value, block_mask=block_mask)
    torch.testing.assert_close(computed(ours), theirs)


def test_full_blocks_are_not_asked() -> None:
    counts, indices = torch.ones(1, 1, 2, dtype=torch.int32), torch.zeros(1, 1, 2, 1, dtype=torch.int32)
    mask = BlockMask.from_kv_blocks(
        torch.zeros_like(counts),
        indices,
        counts,
        indices,
        BLOCK_SIZE=16,
        mask_mod=lambda b, h, q, k: q < 0,
        seq_lengths=(30, 30),
    )
    dense = interop.from_block_mask(mask).to_dense()[0, 0]
    assert dense[:, :16].all() and not dense[:, 16:].any()


def test_many_queries_are_asked_in_stripes() -> None:
    def mask_mod(b, h, q_idx, kv_idx):
        return (q_idx * 7 + kv_idx * 3) % 11 == 0

    sizes = {"q_len": 700, "kv_len": 50}
    expected = create_mask(mask_mod, 1, 1, 700, 50, device="cpu")
    assert torch.equal(torch.from_numpy(interop.from_mask_mod(mask_mod, **sizes).to_dense()), expected)
    block_mask = create_block_mask(mask_mod, 1, 1, 700, 50, device="cpu", BLOCK_SIZE=32)
    assert torch.equal(torch.from_numpy(interop.from_block_mask(block_mask).to_dense()), expected)


def test_equal_heads_share_a_plane() -> None:
    read = interop.from_mask_mod(lambda b, h, q, k: (q >= k) | (h == 3), q_len=20, kv_len=20, batch=2, heads=4)
    assert len(read.planes) == 2 and read.index.tolist() == [[0, 0, 0, 1]] * 2


def test_no_whole_mask_is_made(monkeypatch) -> None:
    def dense(self):
        raise AssertionError("a whole mask was made")

    for kind in (ow.BlockLayout, type(layout("strided").planes[0])):
        monkeypatch.setattr(kind, "to_dense", dense)
    mask = interop.to_block_mask(layout("facts"))
    interop.from_block_mask(mask)
    largest = max(x.numel() for x in (mask.kv_indices, mask.full_kv_indices, mask.q_indices))
    assert largest == 4


def test_what_is_no_mask_is_refused_in_words() -> None:
    with pytest.raises(LayoutError, match=r"True \(attend\) or False for each pair; it gave torch.int64"):
        interop.from_mask_mod(lambda b, h, q, k: q - k, q_len=4, kv_len=4)
    with pytest.raises(ArgumentError, match="q_len must be 1 or more; got 0"):
        interop.from_mask_mod(lambda b, h, q, k: q >= k, q_len=0, kv_len=4)
    with pytest.raises(ArgumentError, match="block_mask must be torch's BlockMask; got Tensor"):
        interop.from_block_mask(torch.ones(3, 3))
    with pytest.raises(ArgumentError, match="layout must be a BlockLayout"):
        interop.to_block_mask(ow.Causal())
