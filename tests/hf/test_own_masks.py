"""What transformers' own mask functions become: patterns where they are known, rules asked pair by pair where not."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from transformers import masking_utils

import openwork as ow
from openwork.hf.own import read_mask_function
from openwork.hf.register import mask
from openwork.hf.rule import ModelRule
from openwork.hf.state import LayerState, ModelState
from openwork.nn import LayoutCache

if not hasattr(masking_utils, "packed_sequence_compatibility_function"):
    pytest.skip("this transformers composes packed rows otherwise; test_packing.py runs them", allow_module_level=True)

LENGTH, BATCH = 23, 2
BLOCKS = torch.tensor([[-1] * 4 + [0] * 5 + [-1] * 6 + [1] * 8, [-1] * 23])
PACKED = torch.tensor([[0] * 9 + [1] * 14, [0] * 23])
PLACES = torch.cat([torch.cat([torch.arange(9), torch.arange(14)])[None], torch.arange(23)[None]])


def even_keys(batch_idx: Any, head_idx: Any, q_idx: Any, kv_idx: Any) -> Any:
    return kv_idx % 2 == batch_idx


CAUSAL = masking_utils.causal_mask_function
FUNCTIONS = {
    "causal": CAUSAL,
    "bidirectional": masking_utils.bidirectional_mask_function,
    "window": masking_utils.sliding_window_causal_mask_function(5),
    "two-sided window": masking_utils.sliding_window_bidirectional_mask_function(3),
    "chunk": masking_utils.chunked_causal_mask_function(6, torch.zeros(BATCH, dtype=torch.int64)),
    "packed": masking_utils.packed_sequence_compatibility_function(CAUSAL, PLACES, PACKED),
    "packed windows": masking_utils.packed_sequence_compatibility_function(
        masking_utils.sliding_window_causal_mask_function(4), PLACES, PACKED
    ),
    "blocks": masking_utils.or_masks(CAUSAL, masking_utils.blockwise_overlay(BLOCKS)),
    "no blocks": masking_utils.or_masks(CAUSAL, masking_utils.blockwise_overlay(BLOCKS[1:].expand(2, -1))),
    "user's and": masking_utils.and_masks(CAUSAL, even_keys),
    "user's or": masking_utils.or_masks(CAUSAL, even_keys),
    "packed user's": masking_utils.packed_sequence_compatibility_function(
        masking_utils.and_masks(CAUSAL, even_keys), PLACES, PACKED
    ),
}


@pytest.mark.parametrize("single", [False, True], ids=["", "asked singly"])
@pytest.mark.parametrize("padded", [False, True], ids=["", "padded"])
@pytest.mark.parametrize("name", FUNCTIONS)
def test_the_pattern_is_the_function(name: str, padded: bool, single: bool) -> None:
    function = FUNCTIONS[name]
    valid = torch.ones(BATCH, LENGTH, dtype=torch.bool)
    if padded:
        valid[0, -4:] = False
    lazy = mask(BATCH, LENGTH, LENGTH, mask_function=function, attention_mask=valid, use_vmap=single)
    layout = lazy.surroundings.layout(ow.Dense(), LayoutCache())
    dense = np.broadcast_to(layout.to_dense(), (BATCH, 1, LENGTH, LENGTH))
    # what a padded query sees is read by nobody
    read = valid.numpy()[:, None, :, None]
    assert np.array_equal(dense & read, lazy.pairs().numpy() & read)
    known = not any(isinstance(leaf, ModelRule) for leaf in ow.patterns.base.leaves(lazy.surroundings.own.pattern))
    assert known == ("user" not in name)


def test_left_padding_moves_chunks_with_the_text() -> None:
    valid = torch.ones(BATCH, LENGTH, dtype=torch.bool)
    valid[0, :4] = False
    function = masking_utils.chunked_causal_mask_function(6, torch.tensor([4, 0]))
    lazy = mask(BATCH, LENGTH, LENGTH, mask_function=function, attention_mask=valid)
    dense = np.broadcast_to(lazy.surroundings.layout(ow.Dense(), LayoutCache()).to_dense(), (BATCH, 1, LENGTH, LENGTH))
    assert np.array_equal(dense, lazy.pairs().numpy() & valid.numpy()[:, None, :, None])


@pytest.mark.parametrize("name", ["causal", "window", "user's and", "user's or", "blocks"])
@pytest.mark.parametrize("q_length", [1, 3])
def test_slots_of_a_static_cache_that_are_not_written_are_seen_by_nobody(name: str, q_length: int) -> None:
    lazy = mask(BATCH, q_length, LENGTH, q_offset=torch.tensor(11), mask_function=FUNCTIONS[name])
    surroundings = lazy.surroundings
    assert surroundings.kv_len == 11 + q_length
    expected = lazy.pairs().numpy()[..., : 11 + q_length]
    if name == "user's or":
        assert lazy.pairs().numpy()[..., 11 + q_length :].any()
    layout = surroundings.layout(ow.Dense(), LayoutCache())
    assert np.array_equal(np.broadcast_to(layout.to_dense(), expected.shape), expected)
    if q_length == 1:
        visible = surroundings.visible(ow.Dense())
        for row in range(BATCH):
            keys = visible[row if len(visible) > 1 else 0][0]
            assert keys.tolist() == np.flatnonzero(expected[row, 0, 0]).tolist()


def test_a_cache_that_dropped_tokens_keeps_their_positions() -> None:
    function = masking_utils.sliding_window_causal_mask_function(5)
    plan = ow.Strided(2) | ow.Window(before=1)
    lazy = mask(1, 1, 5, q_offset=30, kv_offset=26, mask_function=function)
    assert lazy.surroundings.visible(plan)[0][0].tolist() == [0, 2, 3, 4]


def test_a_changed_function_is_not_taken_for_transformers_own(monkeypatch: pytest.MonkeyPatch) -> None:
    def causal_mask_function(batch_idx: Any, head_idx: Any, q_idx: Any, kv_idx: Any) -> Any:
        return kv_idx < q_idx

    assert isinstance(read_mask_function(causal_mask_function).pattern, ModelRule)


def test_a_lazy_mask_is_the_models_own_mask_for_whoever_computes_with_it() -> None:
    lazy = mask(BATCH, LENGTH, LENGTH, mask_function=CAUSAL)
    assert lazy.contiguous() is lazy and lazy.ndim == 4 and lazy.shape == (BATCH, 1, LENGTH, LENGTH)
    later = torch.ones(LENGTH, LENGTH, dtype=torch.bool).triu(1)
    assert torch.equal(~lazy, later.expand(BATCH, 1, -1, -1))
    assert lazy.to(torch.float32).sum() == BATCH * LENGTH * (LENGTH + 1) / 2
    assert lazy.to("cpu").surroundings is lazy.surroundings


def test_a_state_can_be_copied_without_its_layouts() -> None:
    import copy

    state = ModelState(ow.Plan(default=ow.Causal()))
    state.cache.layout(ow.Causal(), q_len=4, kv_len=4)
    layer = LayerState("layer", state, ow.Causal())
    copied = copy.deepcopy([layer, layer])
    assert copied[0] is copied[1] and copied[0].model is not state and copied[0].model.plan == state.plan
    assert not copied[0].model.cache._layouts
