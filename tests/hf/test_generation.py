"""`generate` in its many ways on a sparsified model, each beside the masked model that has no cache."""

from __future__ import annotations

import contract
import pytest
import torch
from architectures import DECODER, LAYERS, PAIR, SUPPORTED, by_name
from inputs import DECODER_PLAN, padded, sequences, tokens
from oracle import Oracle
from torch import Tensor, nn
from transformers import DynamicCache, StaticCache

from openwork import Causal, First, Plan, Window, hf
from openwork.testing import assert_no_worse_than

SETTINGS = {"max_new_tokens": 8, "min_new_tokens": 8, "do_sample": False, "pad_token_id": 0}
CACHED = ("llama", "mistral", "gemma2", "gemma3_text", "gpt_oss", "qwen3", "gpt2", "gpt_neox", "bart", "whisper")


def usable(name: str):
    entry = by_name(name)
    if entry.missing:
        pytest.skip("the running transformers has no such model")
    return entry


@pytest.mark.parametrize("name", CACHED)
def test_a_static_cache_writes_the_same(name):
    contract.check_generation(usable(name), cache_implementation="static")


@pytest.mark.parametrize("name", CACHED)
def test_beams_write_the_same(name):
    contract.check_generation(usable(name), num_beams=3)


@pytest.mark.parametrize("name", ["llama", "gemma3_text", "gpt2"])
def test_a_prompt_read_in_chunks_writes_the_same(name):
    contract.check_generation(usable(name), prefill_chunk_size=7)


@pytest.mark.parametrize("name", ["mistral", "gemma3_text", "gpt_oss"])
def test_a_window_of_the_models_own_stays_a_window_when_the_cache_drops_keys(name):
    """A long answer: the model's window of 9 keys has left the prompt behind, and the plan allows far more."""
    entry = usable(name)
    plan = Causal() & (Window(before=30) | First(keys=2))
    model = hf.sparsify(entry.build(), plan)
    oracle = Oracle(entry.build(), plan, torch.float32, LAYERS)
    ids = tokens(13, 3)
    options = {**SETTINGS, "max_new_tokens": 24, "min_new_tokens": 24}
    wanted = oracle.model.generate(input_ids=ids, **options, use_cache=False)
    for kind in (None, "static"):
        assert model.generate(input_ids=ids, **options, cache_implementation=kind).equal(wanted), kind


def both(name: str) -> tuple[nn.Module, nn.Module]:
    """A sparsified model, and the masked model."""
    entry = usable(name)
    return hf.sparsify(entry.build(), DECODER_PLAN), Oracle(entry.build(), DECODER_PLAN, torch.float32, LAYERS).model


def test_sampling_draws_what_the_masked_model_draws():
    sparse, oracle = both("llama")
    options = {**SETTINGS, "do_sample": True, "temperature": 1.5, "top_k": 20}
    drawn = []
    for model, cached in ((sparse, True), (oracle, False)):
        torch.manual_seed(11)
        drawn.append(model.generate(input_ids=tokens(21, 4), **options, use_cache=cached))
    assert drawn[0].equal(drawn[1])


@pytest.mark.parametrize("helper", ["dense", "sparse", "prompt"])
def test_assisted_decoding_writes_what_the_model_writes_alone(helper):
    sparse, oracle = both("llama")
    ids = tokens(21, 5)
    wanted = oracle.generate(input_ids=ids, **SETTINGS, use_cache=False)
    if helper == "prompt":
        made = sparse.generate(input_ids=ids.repeat(1, 1), **SETTINGS, prompt_lookup_num_tokens=3)
    else:
        assistant = by_name("llama").build(seed=0 if helper == "sparse" else 9)
        if helper == "sparse":
            hf.sparsify(assistant, Causal() & Window(before=4))
        made = sparse.generate(input_ids=ids, **SETTINGS, assistant_model=assistant)
    assert made.equal(wanted)


@pytest.mark.parametrize("name", ["llama", "gemma3_text", "gpt_oss"])
@pytest.mark.parametrize("how", ["assistant", "prompt", "chunks"])
def test_under_a_decode_part_every_way_of_generating_writes_the_same(name, how):
    """Candidates of assisted decoding are generated tokens, and a chunk of one token is a prompt's."""
    plan = Plan(default=Causal() & Window(before=2), decode=Causal())
    model, ids = hf.sparsify(usable(name).build(), plan), tokens(22, 5)
    options = {**SETTINGS, "max_new_tokens": 12, "min_new_tokens": 12}
    wanted = model.generate(input_ids=ids, **options, output_logits=True, return_dict_in_generate=True)
    ways = {
        "assistant": {"assistant_model": hf.sparsify(by_name("llama").build(seed=0), plan)},
        "prompt": {"prompt_lookup_num_tokens": 3},
        "chunks": {"prefill_chunk_size": 7},
    }
    made = model.generate(input_ids=ids, **options, **ways[how], output_logits=True, return_dict_in_generate=True)
    assert made.sequences.equal(wanted.sequences)
    torch.testing.assert_close(torch.stack(made.logits), torch.stack(wanted.logits), rtol=1e-4, atol=1e-4)
    narrow = hf.sparsify(usable(name).build(), plan.default).generate(
        input_ids=ids, **options, output_logits=True, return_dict_in_generate=True
    )
    # without its decode part the plan writes something else: the comparison can fail
    assert (torch.stack(narrow.logits) - torch.stack(wanted.logits))[1:].abs().max() > 1e-2


def test_generate_of_another_model_says_nothing_of_this_ones_prompt():
    """A judge that is called inside a `generate` reads its text as a prompt, whatever the other has generated."""
    plan = Plan(default=Causal() & Window(before=2), decode=Causal())
    judge, model = (hf.sparsify(by_name("llama").build(seed=seed), plan) for seed in (3, 0))
    alone, inside = judge(input_ids=tokens(9, 7)).logits, []

    def judged(ids: Tensor, scores: Tensor) -> Tensor:
        inside.append(judge(input_ids=tokens(9, 7)).logits)
        return scores

    model.generate(input_ids=tokens(4, 5), **SETTINGS, logits_processor=[judged])
    assert len(inside) == 8 and all(logits.equal(alone) for logits in inside)
    assert "generate" not in hf.densify(model).__dict__


def continued(model: nn.Module, cache: object, ids: Tensor, steps: tuple[int, ...]) -> Tensor:
    """Logits of the tokens, given to the model in pieces upon one cache."""
    parts, start = [], 0
    for step in steps:
        with torch.no_grad():
            made = model(input_ids=ids[:, start : start + step], past_key_values=cache, use_cache=True)
        parts.append(made.logits)
        start += step
    return torch.cat(parts, 1)


@pytest.mark.parametrize("kind", ["dynamic", "static", "from tuple"])
def test_a_cache_given_by_hand_is_continued(kind):
    entry = by_name("llama")
    tried, ids = contract.case(entry), tokens(22, 6)
    if kind == "static":
        cache = StaticCache(config=tried.sparse.config, max_cache_len=40)
        made = continued(tried.sparse, cache, ids, (9, 6, 1, 1, 5))
    elif kind == "dynamic":
        made = continued(tried.sparse, DynamicCache(config=tried.sparse.config), ids, (9, 6, 1, 1, 5))
    else:  # a cache that was taken apart and put together again, as people do to share a prompt
        with torch.no_grad():
            first = tried.sparse(input_ids=ids[:, :9], use_cache=True)
        layers = [(layer.keys.clone(), layer.values.clone()) for layer in first.past_key_values.layers]
        cache = DynamicCache(config=tried.sparse.config)
        for number, (keys, values) in enumerate(layers):
            cache.update(keys, values, number)
        made = torch.cat([first.logits, continued(tried.sparse, cache, ids[:, 9:], (6, 1, 6))], 1)
    tried.compare(made[0], {"input_ids": ids}, f"a {kind} cache")


def test_a_sparse_prompt_is_decoded_dense():
    """`decode=Causal()`: the generated tokens see every key, and the prompt's hidden states are the sparse ones."""
    entry = by_name("llama")
    plan = Plan(default=Causal() & Window(before=4), decode=Causal())
    sparse, dense = hf.sparsify(entry.build(), plan), entry.build()
    ids = tokens(22, 8)
    cache, wanted = DynamicCache(config=dense.config), []
    prompt = Oracle(dense, plan.default, torch.float32, LAYERS).model
    with torch.no_grad():
        wanted.append(prompt(input_ids=ids[:, :17], past_key_values=cache, use_cache=True).logits)
        exact = [prompt.double()(input_ids=ids[:, :17], use_cache=False).logits]
        for at in range(17, 22):
            wanted.append(dense(input_ids=ids[:, at : at + 1], past_key_values=cache, use_cache=True).logits)
    made = continued(sparse, DynamicCache(config=dense.config), ids, (17, 1, 1, 1, 1, 1))
    assert_no_worse_than(made[:, :17], wanted[0], exact[0], name="prompt", multiple=4.0, ulps=16.0)
    later = torch.cat(wanted[1:], 1)
    assert_no_worse_than(made[:, 17:], later, later.double(), name="decoded", ulps=64.0)
    narrow = continued(hf.sparsify(entry.build(), plan.default), DynamicCache(config=dense.config), ids, (17, 1))
    assert (narrow[:, 17] - made[:, 17]).abs().max() > 1e-2


@pytest.mark.parametrize("name", ["llama", "gemma3_text", "gpt_oss", "opt"])
def test_more_than_one_sequence_is_returned_for_each_prompt(name):
    entry = usable(name)
    tried, given = contract.case(entry), sequences(entry)
    ids, mask = padded([one["input_ids"] for one in given], "left")
    options = {**SETTINGS, "num_beams": 4, "num_return_sequences": 2}
    made = tried.sparse.generate(input_ids=ids, attention_mask=mask, **options)
    for row, one in enumerate(given):
        wanted = tried.reference.model.generate(**one, **options, use_cache=False)
        assert made[2 * row : 2 * row + 2, -8:].equal(wanted[:, -8:]), row


def test_every_family_that_generates_is_in_the_contract():
    assert len([entry for entry in SUPPORTED if entry.kind in (DECODER, PAIR)]) >= 30
