"""`replace_attention`: what cannot be replaced, and calls that a replaced layer does not take, in words."""

from __future__ import annotations

import re

import pytest
import torch
from torch import nn

import openwork as ow
from openwork.errors import ArgumentError, LayoutError, PlanError
from openwork.nn import SparseMultiheadAttention, replace_attention, set_plan

LENGTH, DIM, HEADS = 12, 16, 4
LOCAL = ow.Window(before=5, after=3)
CAUSAL = ow.Causal()


def hidden() -> torch.Tensor:
    return torch.randn(2, LENGTH, DIM, generator=torch.Generator().manual_seed(0))


def encoder() -> nn.TransformerEncoder:
    return nn.TransformerEncoder(nn.TransformerEncoderLayer(DIM, HEADS, 32, batch_first=True), 2)


class TimmAttention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.num_heads, self.qkv, self.proj = HEADS, nn.Linear(DIM, 3 * DIM), nn.Linear(DIM, DIM)


REFUSED = {
    "nothing there": (nn.Linear(3, 3), {}, "Linear has no attention layer that can be replaced"),
    "bias_kv": (nn.MultiheadAttention(DIM, HEADS, add_bias_kv=True), {}, "has add_bias_kv or add_zero_attn"),
    "zero_attn": (nn.MultiheadAttention(DIM, HEADS, add_zero_attn=True), {}, "has add_bias_kv or add_zero_attn"),
    "another skip": (TimmAttention(), {"skip": ["attn"]}, "skip names 'attn', but the model has no module"),
    "all skipped": (encoder(), {"skip": ["self_attn"]}, "no attention layer"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_replaced_is_refused_in_words(name: str) -> None:
    model, options, message = REFUSED[name]
    with pytest.raises(PlanError, match=re.escape(message)):
        replace_attention(model, LOCAL, **options)


def test_a_refusal_changes_nothing() -> None:
    model = nn.ModuleList([nn.MultiheadAttention(DIM, HEADS), nn.MultiheadAttention(DIM, HEADS, add_zero_attn=True)])
    for plan, message in (
        (LOCAL, "1 has add_bias_kv"),
        (ow.Causal() & ow.Keys("heading"), "reads annotations, and 0 has no argument that brings them"),
        (ow.PerHead(LOCAL, LOCAL), "default is a PerHead of 2 heads, but the model has 4"),
        (torch.ones(3, 8, 8, dtype=torch.bool), "the mask is for 3 heads, but 0 has 4"),
        (torch.ones(2, 4, 8, 8, dtype=torch.bool), "a mask for all layers is [q, k] or [heads, q, k]; got shape [2, 4"),
        (ow.Plan(LOCAL, layers={7: CAUSAL}), "names layer 7"),
    ):
        with pytest.raises(PlanError, match=re.escape(message)):
            replace_attention(model, plan)
        assert all(type(module) is nn.MultiheadAttention for module in model)
    replace_attention(model, LOCAL, skip=["1"])
    assert [type(module) is nn.MultiheadAttention for module in model] == [False, True]
    with pytest.raises(PlanError, match="SparseMultiheadAttention has no argument that brings them"):
        set_plan(model, ow.Causal() & ow.Keys("heading"))
    with pytest.raises(PlanError, match="add_bias_kv and add_zero_attn put keys beside the sequence"):
        SparseMultiheadAttention(DIM, HEADS, add_zero_attn=True)


def test_names_that_are_taken_and_kinds_of_multihead_attention_are_refused() -> None:
    class Own(nn.MultiheadAttention):
        def forward(self, *args, **kwargs):
            return super().forward(*args, **kwargs)

    with pytest.raises(PlanError, match=r"is a Own, a kind of nn\.MultiheadAttention that may compute something else"):
        replace_attention(Own(DIM, HEADS), LOCAL)
    layer = TimmAttention()
    layer.backend = "mine"
    with pytest.raises(PlanError, match="TimmAttention has an attribute 'backend' of its own"):
        replace_attention(layer, LOCAL)


def test_cross_attention_nested_tensors_and_biases_are_refused() -> None:
    layer = replace_attention(nn.MultiheadAttention(DIM, HEADS, batch_first=True), LOCAL)
    x = hidden()
    with pytest.raises(ArgumentError, match="key must be the tensor query, and value its tokens; got query"):
        layer(x, x.clone(), x)
    with pytest.raises(ArgumentError, match="takes padded tensors with key_padding_mask, not nested ones"):
        layer(*[torch.nested.nested_tensor([x[0], x[1, :9]], layout=torch.jagged)] * 3)
    with pytest.raises(LayoutError, match="attn_mask adds 1 at"):
        layer(x, x, x, attn_mask=torch.ones(LENGTH, LENGTH))
    with pytest.raises(LayoutError, match="key_padding_mask holds NaN in"):
        layer(x, x, x, key_padding_mask=torch.zeros(2, LENGTH) * -torch.inf)
    with pytest.raises(ArgumentError, match=re.escape("key_padding_mask must be [batch=2, seq_len=12]; got [3]")):
        layer(x, x, x, key_padding_mask=torch.zeros(3, dtype=torch.bool))
