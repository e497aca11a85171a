"""Plans to start from, and plans that a model's own configuration can say."""

from __future__ import annotations

import architectures
import pytest
import torch
import transformers
from oracle import Oracle

from openwork import Causal, First, PerHead, Plan, Window
from openwork.errors import PlanError
from openwork.hf.plans import local_below, odd_layers_full, own_config, sparse_prefill
from openwork.testing import assert_no_worse_than

LOCAL = Causal() & Window(before=6)
MIXED = Plan(default=LOCAL, layers={1: Causal()})
AS_WIDE = Plan(default=Causal() & Window(before=8), layers={1: Causal()})
"""For models that have a window of 9 keys in some layers already."""


def test_odd_layers_are_full_and_the_others_local():
    plan = odd_layers_full(5, before=6, first_keys=2, dense_decode=True)
    local = Causal() & (Window(before=6) | First(keys=2))
    assert [plan.for_layer(i, 5) for i in range(5)] == [local, Causal(), local, Causal(), local]
    assert plan.part("decode") == Plan(default=Causal())
    assert odd_layers_full(4).part("decode") == odd_layers_full(4)
    assert odd_layers_full(3, before=6, first_keys=0) == Plan(default=LOCAL, layers={1: Causal()})


def test_a_sparse_prompt_decodes_dense():
    plan = sparse_prefill(before=6, first_keys=1)
    assert plan.default == Causal() & (Window(before=6) | First(keys=1))
    assert plan.part("decode") == Plan(default=Causal())


def test_layers_by_depth_end_each_period_full():
    assert sorted(local_below(13, period=6).layers) == [5, 11]
    assert sorted(local_below(4, period=2, first_layer_full=True).layers) == [0, 1, 3]


@pytest.mark.parametrize("make", [lambda: odd_layers_full(0), lambda: local_below(4, period=True)])
def test_a_count_that_is_none_is_refused(make):
    with pytest.raises(PlanError, match=r"(num_layers|period) is a whole number from 1; got (0|True)"):
        make()


def rebuilt(model, config):
    """The same weights under another configuration of the family."""
    copied = type(model)(config)
    copied.load_state_dict(model.state_dict())
    return copied.eval()


@pytest.mark.parametrize(
    ("name", "plan"),
    [(name, MIXED) for name in ("qwen2", "qwen3", "smollm3")]
    + [(name, AS_WIDE) for name in ("ministral", "gemma2", "gpt_oss")]
    + [(name, LOCAL) for name in ("mistral", "mixtral", "phi3", "starcoder2", "qwen3_moe", "qwen2", "gpt_oss")]
    + [(name, Plan(default=Causal(), layers={0: LOCAL, 1: LOCAL})) for name in ("gemma3_text", "cohere2", "exaone4")],
)
def test_the_models_own_configuration_computes_the_plan(name, plan):
    entry = architectures.by_name(name)
    if entry.missing:
        pytest.skip("the running transformers has no such model")
    model = entry.build()
    ids = torch.randint(4, 96, (1, 30), generator=torch.Generator().manual_seed(1))
    served = rebuilt(model, own_config(model.config, plan))
    reference, exact = (Oracle(model, plan, dtype, 3) for dtype in (torch.float32, torch.float64))
    with torch.no_grad():
        logits = [made(input_ids=ids).logits for made in (served, reference, exact, model)]
    assert_no_worse_than(*logits[:3], name=name, multiple=4.0, ulps=16.0)
    assert (logits[0] - logits[3]).abs().max() > 1e-2 * logits[3].abs().max(), "the plan changed nothing"


def test_the_configuration_given_stays_as_it_was(tmp_path):
    config = transformers.Qwen2Config(num_hidden_layers=3)
    before = config.to_dict()
    made = own_config(config, MIXED)
    assert config.to_dict() == before
    made.save_pretrained(tmp_path)
    loaded = transformers.AutoConfig.from_pretrained(tmp_path)
    assert (loaded.sliding_window, loaded.layer_types[:2]) == (7, ["sliding_attention", "full_attention"])


@pytest.mark.parametrize(
    ("config", "plan", "message"),
    [
        (transformers.LlamaConfig, LOCAL, "llama has no sliding_window"),
        (transformers.MistralConfig, MIXED, "mistral has one window for all its layers, .* leaves layer 1 full"),
        (transformers.Qwen2Config, Causal() & First(keys=2), "layer 0 of the plan is .*nothing else"),
        (transformers.Qwen2Config, PerHead(LOCAL, LOCAL), "layer 0 of the plan is PerHead"),
        (transformers.Qwen2Config, Plan(default=LOCAL, decode=Causal()), "encoder, decoder or decode parts"),
        (transformers.Qwen2Config, Plan(default=LOCAL, layers={0: Causal() & Window(before=3)}), "needs 4, 7 keys"),
        (transformers.Cohere2Config, LOCAL, "makes layer 3 of cohere2 local, but there a layer's type may decide"),
    ],
)
def test_what_a_configuration_cannot_say_is_refused(config, plan, message):
    made = config(num_hidden_layers=4, sliding_window=7) if "Cohere" in config.__name__ else config(num_hidden_layers=4)
    if getattr(made, "sliding_window", None) and config is transformers.MistralConfig:
        made.sliding_window = None
    with pytest.raises(PlanError, match=message):
        own_config(made, plan)


def test_a_layer_type_that_is_no_window_is_refused():
    config = transformers.Llama4TextConfig(num_hidden_layers=2)
    config.sliding_window = 9
    with pytest.raises(PlanError, match="layers of type chunked_attention"):
        own_config(config, LOCAL)
