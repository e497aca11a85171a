"""`replace_attention` on living models: identity, copies, pickles, other plans, checkpointing, autocast, training."""

from __future__ import annotations

import copy
import pickle

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

import openwork as ow
from openwork.nn import model_plan, replace_attention, restore_attention, set_plan

from .homegrown import CAUSAL, LENGTH, LOCAL, SelfAttention, encoder, hidden, mixed


def test_parameters_hooks_and_identity_stay() -> None:
    model = mixed()
    modules, before, seen = list(model.modules()), copy.deepcopy(model.state_dict()), []
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    model["torch"].layers[0].self_attn.register_forward_hook(lambda *_: seen.append(1))
    replace_attention(model, LOCAL, kind=SelfAttention)
    assert all(a is b for a, b in zip(modules, model.modules(), strict=True))
    assert list(before) == list(model.state_dict())
    mixed().load_state_dict(model.state_dict())
    model.load_state_dict(mixed().state_dict())
    model["torch"](hidden()).sum().backward()
    optimizer.step()
    assert seen and not torch.equal(
        model.state_dict()["torch.layers.0.linear1.weight"], before["torch.layers.0.linear1.weight"]
    )


def test_restoring_gives_the_model_back() -> None:
    model, fresh = mixed(), mixed()
    replace_attention(model, LOCAL, kind=SelfAttention)
    assert restore_attention(model) is model
    for ours, theirs in zip(model.modules(), fresh.modules(), strict=True):
        assert type(ours) is type(theirs) and ours.__dict__.keys() == theirs.__dict__.keys()
    assert model["torch"].use_nested_tensor
    for name in model:
        assert torch.equal(model[name](hidden()), fresh[name](hidden()))
    restore_attention(model)


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))])
def test_copies_and_pickles_keep_their_patterns(copied) -> None:
    model = replace_attention(mixed(), LOCAL, kind=SelfAttention)
    for module in model.values():
        module(hidden())
    again = copied(model)
    set_plan(model, ow.Causal())
    expected = replace_attention(mixed(), LOCAL, kind=SelfAttention)
    for name in model:
        assert torch.equal(again[name](hidden()), expected[name](hidden()))
        assert type(again[name]) is type(expected[name])
    restore_attention(again)
    assert type(again["own"]) is SelfAttention


def test_plans_change_while_the_model_lives() -> None:
    model = replace_attention(mixed(), ow.Plan(LOCAL, layers={1: CAUSAL}), kind=SelfAttention)
    assert model_plan(model) == (ow.Plan(LOCAL, layers={1: CAUSAL}), 4)
    assert model["torch"].layers[0].self_attn.pattern == CAUSAL
    set_plan(model, CAUSAL)
    assert torch.equal(model["own"](hidden()), replace_attention(mixed(), CAUSAL, kind=SelfAttention)["own"](hidden()))
    replace_attention(model, LOCAL)
    assert model_plan(model) == (ow.Plan(LOCAL), 4)


@pytest.mark.parametrize("reentrant", [False, True])
def test_checkpointing_gives_the_same_gradients(reentrant: bool) -> None:
    model, x = replace_attention(mixed(), LOCAL, kind=SelfAttention), hidden().requires_grad_()
    for module in model.values():
        expected = torch.autograd.grad(module(x).square().sum(), x)[0]
        torch.testing.assert_close(
            torch.autograd.grad(checkpoint(module, x, use_reentrant=reentrant).square().sum(), x)[0]
            if not reentrant
            else _reentrant(module, x),
            expected,
        )


def _reentrant(module: nn.Module, x: torch.Tensor) -> torch.Tensor:
    x = x.detach().requires_grad_()
    checkpoint(module, x, use_reentrant=True).square().sum().backward()
    return x.grad


def test_autocast_computes_in_low_precision() -> None:
    model = replace_attention(mixed(), LOCAL, kind=SelfAttention)
    with torch.autocast("cpu", torch.bfloat16):
        for module in model.values():
            low = module(hidden())
            assert low.isfinite().all()
            torch.testing.assert_close(low.float(), module.float()(hidden()).float())


def test_a_literal_boolean_tensor_goes_all_the_way_to_a_trained_model() -> None:
    # built on the CPU, pair by pair, as tutorials do it
    mask = torch.zeros(LENGTH, LENGTH, dtype=torch.bool)
    for query in range(LENGTH):
        for key in range(query + 1):
            mask[query, key] = query - key < 6 or key % 8 == 7

    def trained(model: nn.Module, **options) -> list[float]:
        optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
        losses = []
        for step in range(30):
            x = hidden(4, seed=step)
            # each token is to be the one before it
            loss = (model(x, **options) - x.roll(1, dims=1)).square()[:, 1:].mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        return losses

    dense = trained(encoder(norm_first=True), mask=~mask)
    sparse = trained(replace_attention(encoder(norm_first=True), mask))
    np.testing.assert_allclose(sparse, dense, rtol=1e-3)
    assert sparse[-1] < 0.8 * sparse[0]
