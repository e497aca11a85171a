"""4-D masks on Hugging Face models that `hf.sparsify` refuses, and mask functions in its own masking utilities."""

from __future__ import annotations

import pytest
import torch

import openwork as ow
from openwork import interop
from openwork.errors import LayoutError

from .conftest import LENGTH, NAMES, layout, same

transformers = pytest.importorskip("transformers", reason="transformers is in the hf extra")

SIZES = {"vocab_size": 50, "bos_token_id": 1, "eos_token_id": 2}


def refused_models() -> dict:
    """Architectures that bypass transformers' attention interface, tiny."""
    torch.manual_seed(0)
    from transformers import (
        FalconConfig,
        FalconForCausalLM,
        GPTJConfig,
        GPTJForCausalLM,
        GPTNeoConfig,
        GPTNeoForCausalLM,
    )

    neo = {"num_layers": 2, "num_heads": 4, "attention_types": [[["global"], 2]], "max_position_embeddings": 64}
    gptj = {"n_positions": 64, "n_embd": 32, "n_layer": 2, "n_head": 4, "rotary_dim": 4}
    return {
        "GPT-J": GPTJForCausalLM(GPTJConfig(**gptj, **SIZES)).eval(),
        "GPT-Neo": GPTNeoForCausalLM(GPTNeoConfig(hidden_size=32, **neo, **SIZES)).eval(),
        "Falcon": FalconForCausalLM(
            FalconConfig(hidden_size=32, num_hidden_layers=2, num_attention_heads=4, **SIZES)
        ).eval(),
    }


@pytest.fixture(scope="module")
def models() -> dict:
    return refused_models()


LOCAL = ow.Causal() & ow.Window(before=3)


def reach(logits_of, length: int, changed: int) -> list[int]:
    """Tokens whose logits change when one token changes."""
    tokens = torch.arange(length)[None] % 47 + 3
    other = tokens.clone()
    other[0, changed] = 2
    with torch.no_grad():
        difference = (logits_of(tokens) - logits_of(other)).abs().amax(dim=(0, 2))
    return [int(i) for i in torch.nonzero(difference > 0).flatten()]


@pytest.mark.parametrize("name", ["GPT-J", "GPT-Neo", "Falcon"])
def test_a_model_that_sparsify_refuses_sees_what_the_layout_allows(models: dict, name: str) -> None:
    model, length = models[name], 20
    mask = interop.to_hf(ow.compile_layout(LOCAL, q_len=length, kv_len=length), dtype=model.dtype)
    # two layers of a window of 3 carry a token 6 places
    assert reach(lambda x: model(x, attention_mask=mask).logits, length, 5) == [*range(5, 12)]
    assert reach(lambda x: model(x).logits, length, 5) == [*range(5, length)]
    dense = interop.to_hf(ow.compile_layout(ow.Causal(), q_len=length, kv_len=length), dtype=model.dtype)
    tokens = torch.arange(length)[None]
    torch.testing.assert_close(model(tokens, attention_mask=dense).logits, model(tokens).logits)


@pytest.mark.parametrize("name", ["GPT-J", "GPT-Neo", "Falcon"])
def test_padding_goes_into_the_mask(models: dict, name: str) -> None:
    model, padding = models[name], torch.ones(2, 20, dtype=torch.long)
    padding[1, :6] = 0
    tokens = torch.arange(40).view(2, 20) + 3
    mask = interop.to_hf(ow.compile_layout(LOCAL, q_len=20, kv_len=20), padding=padding)
    positions = (padding.cumsum(-1) - 1).clamp(min=0)
    alone = interop.to_hf(ow.compile_layout(LOCAL, q_len=14, kv_len=14))
    options = {} if name == "GPT-Neo" else {"position_ids": positions}
    own = {"position_ids": positions[1:, 6:]} if options else {"position_ids": torch.arange(6, 20)[None]}
    with torch.no_grad():
        batched = model(tokens, attention_mask=mask, **options).logits
        single = model(tokens[1:, 6:], attention_mask=alone, **own).logits
    torch.testing.assert_close(batched[1:, 6:], single)


def test_bloom_takes_no_mask_of_pairs() -> None:
    from transformers import BloomConfig, BloomForCausalLM

    model = BloomForCausalLM(BloomConfig(hidden_size=32, n_layer=1, n_head=4, **SIZES)).eval()
    mask = interop.to_hf(ow.compile_layout(LOCAL, q_len=20, kv_len=20))
    with pytest.raises(ValueError, match="too many values to unpack"):
        model(torch.arange(20)[None], attention_mask=mask)


def test_a_boolean_mask_is_added_by_eager_attention_and_leaks(models: dict) -> None:
    # why `to_hf` writes numbers unless it is told otherwise
    layout = ow.compile_layout(LOCAL, q_len=20, kv_len=20)
    mask = interop.to_hf(layout, dtype=torch.bool)
    assert 19 in reach(lambda x: models["GPT-J"](x, attention_mask=mask).logits, 20, 5)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.bool])
def test_what_is_written_is_read_back(name: str, dtype: torch.dtype) -> None:
    assert same(interop.from_hf(interop.to_hf(layout(name), dtype=dtype)), layout(name))


def test_transformers_own_masks_are_read() -> None:
    from transformers import MistralConfig
    from transformers.masking_utils import create_sliding_window_causal_mask

    for attention in ("eager", "sdpa"):
        config = MistralConfig(sliding_window=4, attn_implementation=attention)
        padding = torch.ones(2, 20, dtype=torch.long)
        padding[1, :6] = 0
        arguments = {"attention_mask": padding, "past_key_values": None, "position_ids": None}
        mask = create_sliding_window_causal_mask(config, torch.zeros(2, 20, 8), **arguments)
        allowed = torch.from_numpy(interop.from_hf(mask).to_dense())
        expected = torch.from_numpy(ow.bind(LOCAL, q_len=20, kv_len=20).to_dense()) & padding.bool()[:, None, None]
        real = padding.bool()[:, None].expand(2, 1, 20)
        assert torch.equal(allowed[real], expected[real])


@pytest.mark.parametrize("name", ["strided", "facts", "sequences", "short"])
def test_a_mask_function_is_one_of_transformers_own(name: str) -> None:
    from transformers.masking_utils import and_masks, causal_mask_function, sdpa_mask

    ours = layout(name)
    function = interop.to_mask_function(ours)
    sizes = {"batch_size": 2, "q_length": ours.q_len, "kv_length": LENGTH, "q_offset": LENGTH - ours.q_len}
    both = and_masks(causal_mask_function, function)
    theirs = sdpa_mask(**sizes, mask_function=both, allow_is_causal_skip=False, use_vmap=True)
    expected = torch.from_numpy(ours.to_dense()).expand(2, 1, -1, -1)
    assert torch.equal(theirs, expected)
    counts = {"q_len": ours.q_len, "kv_len": ours.kv_len, "batch": ours.batch}
    assert same(interop.from_mask_function(function, **counts), ours)


def test_transformers_mask_functions_are_read() -> None:
    from transformers.masking_utils import chunked_causal_mask_function, sliding_window_causal_mask_function

    read = interop.from_mask_function(sliding_window_causal_mask_function(4), q_len=20, kv_len=50)
    assert same(read, ow.compile_layout(LOCAL, q_len=20, kv_len=50))
    chunked = interop.from_mask_function(chunked_causal_mask_function(8, torch.tensor([0])), q_len=50, kv_len=50)
    assert same(chunked, ow.compile_layout(ow.Causal() & ow.Chunk(8), q_len=50, kv_len=50))


def refused(function, *arguments, **options) -> str:
    with pytest.raises(LayoutError) as raised:
        function(*arguments, **options)
    return str(raised.value)


def test_what_does_not_fit_is_refused_in_words() -> None:
    square = torch.ones(8, 8, dtype=torch.bool)
    assert "which transformers takes for padding, one row for each sequence, even where it is square" in refused(
        interop.from_hf, square
    )
    assert "must be [batch, 1 or heads, q_len, kv_len]; got [1, 8, 8]" in refused(interop.from_hf, square[None])
    ours = ow.compile_layout(LOCAL, q_len=8, kv_len=8)
    assert "padding must be [batch, kv_len=8]" in refused(interop.to_hf, ours, padding=torch.ones(2, 9))
    assert "query 3 of sequence 0 sees no key: openwork gives it 0" in refused(interop.to_hf, layout("empty rows"))
    assert interop.to_hf(layout("empty rows"), empty_rows="keep").shape == (1, 1, LENGTH, LENGTH)
