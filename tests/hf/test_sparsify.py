"""`sparsify` only removes pairs, and everything else that is done with a model goes on."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest
import torch

import openwork as ow
from openwork.errors import ArgumentError, BackendError, PlanError, PlanWarning
from openwork.hf import densify, layers_of, sparsify
from openwork.hf.state import layer_state
from openwork.nn import set_plan

LOCAL = ow.Causal() & (ow.Window(before=5) | ow.First(keys=2))
CLOSE = {"rtol": 0.0, "atol": 2e-6}


def test_logits_are_those_of_the_dense_model_under_the_plan_as_a_mask(
    llama: Any, ids: torch.Tensor, pairs: Any, masked: Any
) -> None:
    expected, dense = masked(llama, ids, pairs(LOCAL, 40)), llama(ids).logits
    sparse = sparsify(llama, LOCAL)(ids).logits
    torch.testing.assert_close(sparse, expected, **CLOSE)
    assert (sparse - dense).abs().max() > 0.01


def test_a_window_to_both_sides_stays_causal_on_a_decoder(
    llama: Any, ids: torch.Tensor, pairs: Any, masked: Any
) -> None:
    expected = masked(llama, ids, pairs(ow.Causal() & ow.Window(before=5), 40))
    torch.testing.assert_close(sparsify(llama, ow.Window(before=5, after=5))(ids).logits, expected, **CLOSE)


def test_each_layer_and_head_has_its_own_pattern(llama: Any, ids: torch.Tensor, pairs: Any) -> None:
    heads = ow.PerHead(LOCAL, ow.Causal(), ow.Causal() & ow.Window(before=1), LOCAL)
    reference = copy.deepcopy(llama)
    allowed = {0: pairs(ow.Causal(), 40), 1: pairs(heads, 40), 2: pairs(ow.Causal() & ow.Window(before=3), 40)}
    for number, layer in enumerate(reference.model.layers):

        def handed(module: Any, args: Any, kwargs: Any, number: int = number) -> Any:
            return args, {**kwargs, "attention_mask": allowed[number].expand(2, -1, 40, 40)}

        layer.self_attn.register_forward_pre_hook(handed, with_kwargs=True)
    plan = ow.Plan(default=ow.Causal(), layers={1: heads, 2: ow.Window(before=3)})
    torch.testing.assert_close(sparsify(llama, plan)(ids).logits, reference(ids).logits, **CLOSE)


def test_a_boolean_tensor_is_a_plan(llama: Any, ids: torch.Tensor, masked: Any) -> None:
    generator = torch.Generator().manual_seed(3)
    mask = torch.rand(4, 40, 40, generator=generator) < 0.3
    expected = masked(llama, ids, (mask | torch.eye(40, dtype=torch.bool)).tril()[None])
    sparse = sparsify(llama, mask | torch.eye(40, dtype=torch.bool))
    torch.testing.assert_close(sparse(ids).logits, expected, **CLOSE)
    with pytest.raises(PlanError, match=r"boolean tensor of \[40, 40\], and the model was called with token 79; give"):
        sparse(torch.cat([ids, ids], dim=1))


def test_a_mask_of_numbers_is_no_plan(llama: Any) -> None:
    with pytest.raises(PlanError, match=r"True = attend; got float32\. Write `mask == 0`"):
        sparsify(llama, torch.zeros(4, 4))
    with pytest.raises(PlanError, match=r"\[q, k\] or \[heads, q, k\]; got shape \[1, 1, 4, 4\]"):
        sparsify(llama, torch.ones(1, 1, 4, 4, dtype=torch.bool))
    with pytest.raises(PlanError, match=r"a boolean tensor .*; got str\. Read text with openwork\.parse_pattern"):
        sparsify(llama, "Causal()")


@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_changes_nothing(llama: Any, ids: torch.Tensor, side: str) -> None:
    sparse = sparsify(llama, LOCAL)
    kept = slice(7, None) if side == "left" else slice(0, -7)
    valid = torch.zeros_like(ids)
    valid[0, kept], valid[1] = 1, 1
    together = sparse(ids, attention_mask=valid).logits
    torch.testing.assert_close(together[0, kept], sparse(ids[:1, kept]).logits[0], **CLOSE)
    torch.testing.assert_close(together[1], sparse(ids[1:]).logits[0], **CLOSE)


def test_packed_documents_are_computed_as_if_alone(llama: Any, ids: torch.Tensor) -> None:
    sparse = sparsify(llama, LOCAL)
    positions = torch.cat([torch.arange(15), torch.arange(25)])[None]
    together = sparse(ids[:1], position_ids=positions, use_cache=False).logits[0]
    torch.testing.assert_close(together[:15], sparse(ids[:1, :15]).logits[0], **CLOSE)
    torch.testing.assert_close(together[15:], sparse(ids[:1, 15:]).logits[0], **CLOSE)


def test_packed_documents_that_a_cache_mixes_are_told_of_once(
    llama: Any, ids: torch.Tensor, caplog: pytest.LogCaptureFixture
) -> None:
    sparse = sparsify(llama, LOCAL)
    positions = torch.cat([torch.arange(15), torch.arange(25)])[None]
    sparse(ids[:1], position_ids=positions, use_cache=False)
    sparse(ids[:1], position_ids=torch.arange(40)[None])
    assert not caplog.records
    sparse(ids[:1], position_ids=positions)
    sparse(ids[:1], position_ids=positions)
    (line,) = [record.getMessage() for record in caplog.records if record.name == "openwork.hf"]
    assert "transformers does not keep documents apart: pass use_cache=False" in line


@pytest.mark.parametrize("cache", [None, "static"])
def test_generation_with_a_cache_is_generation_without(llama: Any, ids: torch.Tensor, cache: str | None) -> None:
    sparse = sparsify(llama, LOCAL)
    options: dict[str, Any] = {"max_new_tokens": 12, "min_new_tokens": 12, "do_sample": False}
    expected = sparse.generate(ids, use_cache=False, **options)
    assert torch.equal(sparse.generate(ids, cache_implementation=cache, **options), expected)
    valid = torch.ones_like(ids)
    valid[0, :7] = 0
    padded = sparse.generate(ids, attention_mask=valid, cache_implementation=cache, **options)
    alone = sparse.generate(ids[:1, 7:], cache_implementation=cache, **options)
    assert torch.equal(padded[0, 40:], alone[0, 33:])


def test_densify_restores_the_model_exactly(llama: Any, ids: torch.Tensor) -> None:
    dense, before = llama(ids).logits, dict(llama.__dict__)
    config = llama.config.to_dict()
    sparsify(llama, LOCAL)
    assert densify(llama) is llama
    assert torch.equal(llama(ids).logits, dense)
    assert llama.config.to_dict() == config
    assert llama.__dict__.keys() == before.keys()
    assert not any(module._forward_pre_hooks for module in llama.modules())
    assert densify(llama) is llama


def test_it_works_twice_and_on_two_models_at_once(llama: Any, ids: torch.Tensor, pairs: Any, masked: Any) -> None:
    other = copy.deepcopy(llama)
    first = masked(llama, ids, pairs(LOCAL, 40))
    second = masked(llama, ids, pairs(ow.Causal() & ow.Window(before=1), 40))
    sparsify(llama, ow.Causal() & ow.Window(before=9))
    sparsify(llama, LOCAL)
    sparsify(other, ow.Causal() & ow.Window(before=1))
    torch.testing.assert_close(llama(ids).logits, first, **CLOSE)
    torch.testing.assert_close(other(ids).logits, second, **CLOSE)
    densify(other)
    torch.testing.assert_close(llama(ids).logits, first, **CLOSE)


def test_copies_and_pickles_are_sparse_and_apart(llama: Any, ids: torch.Tensor) -> None:
    dense = llama(ids).logits
    sparsify(llama, LOCAL)
    expected = llama(ids).logits
    for other in (copy.deepcopy(llama), pickle.loads(pickle.dumps(llama))):
        assert torch.equal(other(ids).logits, expected)
        set_plan(other, ow.Causal())
        torch.testing.assert_close(other(ids).logits, dense, **CLOSE)
        assert torch.equal(llama(ids).logits, expected)
        assert torch.equal(densify(other)(ids).logits, dense)


def test_set_plan_changes_a_live_model_or_nothing(llama: Any, ids: torch.Tensor) -> None:
    sparsify(llama, ow.Causal())
    set_plan(llama, LOCAL)
    assert llama.plan == ow.Plan(default=LOCAL)
    expected = llama(ids).logits
    with pytest.raises(PlanError, match="names layer 40, but the model has 3 layers"):
        set_plan(llama, ow.Plan(default=LOCAL, layers={40: ow.Causal()}))
    assert torch.equal(llama(ids).logits, expected)


def test_a_model_that_is_set_to_another_implementation_says_that_it_is_dense(
    llama: Any, ids: torch.Tensor, caplog: pytest.LogCaptureFixture
) -> None:
    dense = llama(ids).logits
    sparsify(llama, LOCAL)
    sparse = llama(ids).logits
    llama.set_attn_implementation("sdpa")
    assert torch.equal(llama(ids).logits, dense) and torch.equal(llama(ids).logits, dense)
    (line,) = [record.getMessage() for record in caplog.records if record.name == "openwork.hf"]
    assert line.startswith("LlamaForCausalLM is dense again: its attention implementation is 'sdpa' now")
    llama.set_attn_implementation("openwork")
    assert torch.equal(llama(ids).logits, sparse)


def test_a_square_boolean_mask_is_not_taken_for_padding(llama: Any, ids: torch.Tensor) -> None:
    sparsify(llama, LOCAL)
    with pytest.raises(ArgumentError, match=r"attention_mask is \[40, 40\], but the batch has 1 .*fy\(model, mask"):
        llama(ids[:1], attention_mask=torch.ones(40, 40, dtype=torch.bool).tril())


@pytest.mark.parametrize(
    "pattern",
    [ow.Causal(), LOCAL, ow.Window(before=2, after=2), ow.First(keys=1) | ow.Window(before=1, after=1)],
    ids=str,
)
def test_nor_where_the_batch_has_as_many_rows(llama: Any, pairs: Any, pattern: ow.Pattern) -> None:
    sparsify(llama, LOCAL)
    with pytest.raises(ArgumentError, match=r"attention_mask is \[8, 8\] and reads like pairs .*sparsify\(model, mask"):
        llama(torch.full((8, 8), 5), attention_mask=pairs(pattern, 8)[0, 0])
    for ends in ([8, 3, 8, 1, 5, 6, 7, 8], [8] * 7 + [2]):
        padded = torch.arange(8)[None] < torch.tensor(ends)[:, None]
        llama(torch.full((8, 8), 5), attention_mask=padded)
        llama(torch.full((8, 8), 5), attention_mask=padded.flip(1))


@pytest.mark.parametrize("kind", ["bool", "additive"])
def test_a_4d_mask_is_anded_with_the_plan(llama: Any, ids: torch.Tensor, kind: str, pairs: Any, masked: Any) -> None:
    given = torch.ones(40, 40, dtype=torch.bool).tril()
    given[4:, 3] = False
    expected = masked(llama, ids, pairs(LOCAL, 40) & given)
    handed = given.expand(2, 1, 40, 40)
    if kind == "additive":
        handed = torch.zeros(2, 1, 40, 40).masked_fill(~handed, torch.finfo(torch.float32).min)
    torch.testing.assert_close(sparsify(llama, LOCAL)(ids, attention_mask=handed).logits, expected, **CLOSE)


def test_a_bias_is_refused(llama: Any, ids: torch.Tensor) -> None:
    sparsify(llama, LOCAL)
    with pytest.raises(ArgumentError, match=r"model\.layers\.0\.self_attn is given a 4-D mask .*a bias, which sparse"):
        llama(ids, attention_mask=torch.randn(2, 1, 40, 40))


def test_a_mask_of_three_dimensions_is_refused(llama: Any, ids: torch.Tensor) -> None:
    with pytest.raises(ArgumentError, match=r"attention_mask has shape \[2, 40, 40\]; give \[batch, tokens\]"):
        sparsify(llama, LOCAL)(ids, attention_mask=torch.ones(2, 40, 40))


def test_what_would_be_lost_is_refused(llama: Any, ids: torch.Tensor, pairs: Any) -> None:
    sparsify(llama, LOCAL)
    with pytest.raises(ArgumentError, match="output_attentions=True asks for the probabilities of all pairs"):
        llama(ids, output_attentions=True)
    with pytest.raises(ArgumentError, match="head_mask multiplies whole heads"):
        llama(ids, head_mask=torch.ones(3, 4))


def test_a_plan_for_another_model_is_refused_and_nothing_is_changed(llama: Any, ids: torch.Tensor) -> None:
    dense = llama(ids).logits
    with pytest.raises(PlanError, match="names layer 40, but the model has 3 layers"):
        sparsify(llama, ow.Plan(default=LOCAL, layers={40: ow.Causal()}))
    with pytest.raises(PlanError, match="PerHead of 2 heads, but the model has 4 query heads"):
        sparsify(llama, ow.PerHead(LOCAL, LOCAL))
    assert torch.equal(llama(ids).logits, dense)


def test_the_implementation_without_a_plan_is_refused(llama: Any, ids: torch.Tensor) -> None:
    llama.set_attn_implementation("openwork")
    with pytest.raises(PlanError, match=r"LlamaAttention runs with attn_implementation='openwork' but has no plan"):
        llama(ids)


def test_a_decoders_plan_on_an_encoder_warns(ids: torch.Tensor, pairs: Any, sizes: Any) -> None:
    from transformers import BertConfig, BertModel

    sizes = {name: value for name, value in sizes.items() if name != "num_key_value_heads"}
    bert = BertModel(BertConfig(**sizes)).eval()
    with pytest.warns(PlanWarning, match="BertModel is an encoder, but in this plan no query sees a later key"):
        sparsify(bert, LOCAL)
    both = ow.Window(before=5, after=5)
    reference = densify(copy.deepcopy(bert))(ids, attention_mask=pairs(both, 40).expand(2, 1, 40, 40))
    sparse = sparsify(bert, both)(ids)
    torch.testing.assert_close(sparse.last_hidden_state, reference.last_hidden_state, **CLOSE)


@pytest.mark.parametrize(
    ("name", "options", "reason"),
    [
        ("GPTJ", {"n_embd": 32, "n_head": 4, "n_layer": 1, "rotary_dim": 4}, "its GPTJAttention computes attention it"),
        ("Bloom", {"hidden_size": 32, "n_head": 4, "n_layer": 1}, "add ALiBi to it"),
        ("Mamba", {"hidden_size": 32, "num_hidden_layers": 1}, "carries earlier tokens past any mask"),
        (
            "T5",
            {"d_model": 32, "d_kv": 8, "num_layers": 1, "num_heads": 4, "d_ff": 64},
            "(adds a learned bias to every|computes attention itself)",
        ),
    ],
)
def test_what_bypasses_the_interface_is_refused_by_name(name: str, options: dict[str, Any], reason: str) -> None:
    import transformers

    special = {f"{kind}_token_id": number for number, kind in enumerate(("pad", "bos", "eos"))}
    config = getattr(transformers, f"{name}Config")(vocab_size=64, **special, **options)
    model = getattr(transformers, f"{name}Model")(config)
    with pytest.raises(PlanError, match=rf"{name}Model cannot be made sparse: .*{reason}.*openwork\.interop"):
        sparsify(model, LOCAL)


def test_a_generate_of_the_users_own_is_left_alone(llama: Any) -> None:
    llama.generate = own = lambda *_, **__: "mine"
    assert sparsify(llama, LOCAL).generate is own and densify(llama).generate is own


def test_a_model_that_shuffles_its_patches_is_refused() -> None:
    import transformers

    sizes = {"image_size": 32, "patch_size": 8, "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 4}
    model = transformers.ViTMAEModel(transformers.ViTMAEConfig(**sizes, intermediate_size=64))
    with pytest.raises(PlanError, match="ViTMAEModel cannot be made sparse: its ViTMAEEmbeddings drops patches"):
        sparsify(model, ow.Window(before=3, after=3))


def test_other_modules_are_refused() -> None:
    with pytest.raises(PlanError, match="takes a transformers model; got Linear"):
        sparsify(torch.nn.Linear(2, 2), LOCAL)


def test_a_models_own_window_is_only_narrowed_and_is_reported(
    sizes: Any, ids: torch.Tensor, masked: Any, pairs: Any, caplog: Any
) -> None:
    from transformers import MistralConfig, MistralForCausalLM

    model = MistralForCausalLM(MistralConfig(**sizes, sliding_window=9)).eval()
    expected = masked(
        model, ids, pairs(ow.Causal() & ow.Window(before=8) & (ow.First(keys=2) | ow.Window(before=20)), 40)
    )
    with caplog.at_level("INFO", logger="openwork.hf"):
        sparsify(model, ow.First(keys=2) | ow.Window(before=20))
    assert "MistralForCausalLM has Window(before=8, after=0) of its own in the layers 0, 1, 2." in caplog.messages
    told = [layer.own for layer in layers_of(model)]
    assert told == [ow.Causal() & ow.Window(before=8)] * 3
    torch.testing.assert_close(model(ids).logits, expected, **CLOSE)
    handed = layers_of(model)[0].own
    assert pairs(handed, 40).equal(pairs(told[0], 40)) and layers_of(model)[2].causal


def test_a_named_backend_is_used_or_raises(llama: Any, ids: torch.Tensor) -> None:
    expected = sparsify(llama, LOCAL)(ids).logits
    torch.testing.assert_close(sparsify(llama, LOCAL, backend="reference")(ids).logits, expected, **CLOSE)
    with pytest.raises(BackendError, match="sdpa"):
        sparsify(llama, LOCAL, backend="sdpa")(ids)


def test_a_model_on_meta_is_sparsified_and_not_called(sizes: Any, ids: torch.Tensor) -> None:
    from transformers import LlamaConfig, LlamaModel

    with torch.device("meta"):
        model = sparsify(LlamaModel(LlamaConfig(**sizes)), LOCAL)
    with pytest.raises(ArgumentError, match="the model is on meta, which holds no values"):
        model(ids.to("meta"))


def test_another_models_cache_is_refused(llama: Any, ids: torch.Tensor, sizes: Any) -> None:
    from transformers import LlamaConfig, LlamaForCausalLM

    sparsify(llama, LOCAL)
    for changed, message in (
        ({"num_hidden_layers": 2}, r"past_key_values has 2 layers, but the model has 3: it is another"),
        (
            {"num_key_value_heads": 4},
            r"keys of 4 heads with 8 channels, but the model has 2 key heads with 8",
        ),
    ):
        other = LlamaForCausalLM(LlamaConfig(**{**sizes, **changed}))
        cache = other(ids[:, :20], use_cache=True).past_key_values
        with pytest.raises(ArgumentError, match=message):
            llama(ids[:, 20:21], past_key_values=cache)


def test_loaded_weights_get_one_line_about_the_risk(
    llama: Any, tmp_path: Any, caplog: pytest.LogCaptureFixture
) -> None:
    from transformers import LlamaForCausalLM

    sparsify(llama, LOCAL)
    densify(llama).save_pretrained(tmp_path)
    assert not caplog.records
    loaded = sparsify(LlamaForCausalLM.from_pretrained(tmp_path), LOCAL)
    (line,) = [record.getMessage() for record in caplog.records if record.name == "openwork.hf"]
    assert "were trained without this plan, so expect worse answers until they are tuned" in line
    assert "openwork study --model DIR --tune attention" in line
    loaded.save_pretrained(tmp_path)
    sparsify(LlamaForCausalLM.from_pretrained(tmp_path), LOCAL)
    assert len([record for record in caplog.records if record.name == "openwork.hf"]) == 1


def test_rows_that_end_in_padding_share_one_layout(llama: Any, ids: torch.Tensor) -> None:
    sparsify(llama, LOCAL)
    valid = torch.ones_like(ids)
    valid[0, -7:] = 0
    expected = llama(ids[:1, :-7]).logits
    before = len(layer_state(llama.model.layers[0].self_attn).model.cache._layouts)
    for cut in (5, 7, 11):
        valid[1, -cut:] = 0
        torch.testing.assert_close(llama(ids, attention_mask=valid).logits[:1, :-7], expected, **CLOSE)
    assert len(layer_state(llama.model.layers[0].self_attn).model.cache._layouts) == before + 1


@pytest.mark.filterwarnings("ignore:.*is deprecated and will be removed:FutureWarning")
def test_what_wraps_a_model_is_looked_through(llama: Any, ids: torch.Tensor) -> None:
    import peft

    expected = copy.deepcopy(sparsify(llama, LOCAL))(ids).logits
    densify(llama)
    wrapped = peft.get_peft_model(llama, peft.LoraConfig(target_modules=["q_proj"], r=2))
    assert sparsify(wrapped, LOCAL) is wrapped
    torch.testing.assert_close(wrapped(ids).logits, expected, **CLOSE)
    assert [layer.number for layer in layers_of(wrapped)] == [0, 1, 2]
    assert densify(torch.nn.DataParallel(wrapped)).module is wrapped
    with pytest.raises(PlanError, match="is not sparse"):
        layers_of(wrapped)
