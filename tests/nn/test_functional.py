"""`nn.functional`: torch's own function over the pairs of a layout, compared with torch's own function."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import openwork as ow
from openwork.errors import AnnotationError, ArgumentError, LayoutError
from openwork.nn import functional
from openwork.nn.functional import scaled_dot_product_attention
from openwork.nn.narrow import LayoutMaker
from openwork.testing import assert_no_worse_than, make_inputs

LENGTH = 70
BOTH_SIDES = ow.Window(before=9, after=4) | ow.First(keys=2)


def dense_of(rule, q_len: int = LENGTH, kv_len: int = LENGTH) -> torch.Tensor:
    return torch.from_numpy(ow.bind(rule, q_len=q_len, kv_len=kv_len).to_dense())


def compare(allowed: torch.Tensor, inputs, **arguments) -> None:
    """The result and all gradients against torch's function under the boolean mask `allowed`."""
    found = {}
    for name, dtype in (("ours", torch.float32), ("torch", torch.float32), ("exact", torch.float64)):
        numbers = inputs.to(dtype)
        leaves = [x.clone().requires_grad_() for x in (numbers.query, numbers.key, numbers.value)]
        gqa = leaves[0].shape[1] != leaves[1].shape[1]
        if name == "ours":
            output = scaled_dot_product_attention(*leaves, enable_gqa=gqa, **arguments)
        else:
            output = F.scaled_dot_product_attention(*leaves, attn_mask=allowed, enable_gqa=gqa)
        found[name] = (output, *torch.autograd.grad(output, leaves, numbers.output_weight))
    for what, ours, theirs, exact in zip(("output", "dq", "dk", "dv"), *found.values(), strict=True):
        assert_no_worse_than(ours, theirs, exact, name=what)


@pytest.mark.parametrize("kv_heads", [4, 2])
def test_a_pattern_is_torchs_function_under_its_mask(kv_heads: int) -> None:
    inputs = make_inputs(batch=2, q_heads=4, kv_heads=kv_heads, q_len=LENGTH)
    compare(dense_of(BOTH_SIDES), inputs, layout=BOTH_SIDES)


def test_queries_are_the_last_of_the_keys() -> None:
    inputs = make_inputs(q_heads=2, q_len=5, kv_len=LENGTH)
    rule = ow.Causal() & ow.Window(before=9)
    compare(dense_of(rule, 5), inputs, layout=rule)
    compare(dense_of(rule, 5), inputs, layout=ow.compile_layout(rule, q_len=5, kv_len=LENGTH))


def test_without_a_layout_it_is_torchs_function() -> None:
    inputs = make_inputs(q_len=9, kv_len=12)
    for options in ({}, {"is_causal": True}, {"attn_mask": torch.ones(9, 12).tril().log()}, {"scale": 0.3}):
        theirs = F.scaled_dot_product_attention(inputs.query, inputs.key, inputs.value, **options)
        assert torch.equal(scaled_dot_product_attention(inputs.query, inputs.key, inputs.value, **options), theirs)


@pytest.mark.parametrize("shape", [(LENGTH, LENGTH), (2, LENGTH, LENGTH), (3, 2, LENGTH, LENGTH)])
def test_a_literal_boolean_tensor_is_a_layout(shape: tuple[int, ...]) -> None:
    mask = torch.rand(shape, generator=torch.Generator().manual_seed(0)) < 0.2
    mask[..., 3, :] = False
    inputs = make_inputs(batch=3, q_len=LENGTH)
    compare(mask, inputs, layout=mask)
    compare(mask, inputs, layout=mask.numpy())
    nothing = scaled_dot_product_attention(inputs.query, inputs.key, inputs.value, layout=mask)[:, :, 3]
    assert not nothing.any()


def additive(allowed: torch.Tensor, masked: float) -> torch.Tensor:
    return torch.zeros(allowed.shape).masked_fill(~allowed, masked)


CAUSAL = torch.ones(LENGTH, LENGTH, dtype=torch.bool).tril()
GENERATOR = torch.Generator().manual_seed(1)
MASKS = {
    "causal": CAUSAL,
    "of pairs": torch.rand(LENGTH, LENGTH, generator=GENERATOR) < 0.6,
    "of keys": torch.rand(3, 1, 1, LENGTH, generator=GENERATOR) < 0.6,
    "of one row of keys": torch.rand(LENGTH, generator=GENERATOR) < 0.6,
    "of heads": torch.rand(2, LENGTH, LENGTH, generator=GENERATOR) < 0.6,
    "of everything": torch.rand(3, 2, LENGTH, LENGTH, generator=GENERATOR) < 0.6,
}


@pytest.mark.parametrize("masked", [None, -torch.inf, torch.finfo(torch.float32).min, -1e4])
@pytest.mark.parametrize("name", MASKS)
def test_what_is_seen_is_the_layout_and_the_mask(name: str, masked: float | None) -> None:
    allowed = MASKS[name]
    mask = allowed if masked is None else additive(allowed, masked)
    inputs = make_inputs(batch=3, q_len=LENGTH)
    both = dense_of(BOTH_SIDES) & allowed
    layout = ow.compile_layout(BOTH_SIDES, q_len=LENGTH, kv_len=LENGTH)
    for rule in (BOTH_SIDES, layout, dense_of(BOTH_SIDES)[0, 0]):
        compare(both, inputs, layout=rule, attn_mask=mask)


def test_a_mask_of_keys_and_a_causal_mask_join_without_a_dense_layout(monkeypatch) -> None:
    def dense(self):
        raise AssertionError("something of size q_len x kv_len was made")

    monkeypatch.setattr(ow.BlockLayout, "to_dense", dense)
    maker = LayoutMaker()
    for mask in (CAUSAL, MASKS["of keys"]):
        maker.layout(BOTH_SIDES, q_len=LENGTH, kv_len=LENGTH, mask=mask)
    with pytest.raises(AssertionError, match="q_len x kv_len"):
        maker.layout(BOTH_SIDES, q_len=LENGTH, kv_len=LENGTH, mask=MASKS["of pairs"])


@pytest.mark.parametrize("kind", ["pattern", "layout", "mask", "causal layout"])
def test_is_causal_removes_later_keys(kind: str) -> None:
    rules = {
        "pattern": BOTH_SIDES,
        "layout": ow.compile_layout(BOTH_SIDES, q_len=LENGTH, kv_len=LENGTH),
        "mask": dense_of(BOTH_SIDES)[0, 0],
        "causal layout": ow.compile_layout(ow.Causal() & BOTH_SIDES, q_len=LENGTH, kv_len=LENGTH),
    }
    inputs = make_inputs(q_len=LENGTH)
    compare(dense_of(BOTH_SIDES) & CAUSAL, inputs, layout=rules[kind], is_causal=True)


def test_is_causal_leaves_a_causal_layout_as_it_is() -> None:
    maker, rule = LayoutMaker(), ow.Causal() & ow.Strided(7)
    layout = ow.compile_layout(rule, q_len=LENGTH, kv_len=LENGTH)
    assert maker.layout(layout, q_len=LENGTH, kv_len=LENGTH, is_causal=True) is layout


def test_is_causal_goes_by_index_where_positions_restart() -> None:
    positions = [*range(40), *range(LENGTH - 40)]
    layout = ow.compile_layout(ow.Causal(), q_len=LENGTH, kv_len=LENGTH, kv_positions=positions)
    allowed = torch.from_numpy(layout.to_dense()) & CAUSAL
    assert not torch.equal(allowed, torch.from_numpy(layout.to_dense()))
    compare(allowed, make_inputs(q_len=LENGTH), layout=layout, is_causal=True)


def test_leading_sizes_are_those_of_torch() -> None:
    inputs = make_inputs(batch=6, q_heads=2, q_len=LENGTH)
    rule = ow.Causal() & ow.Window(before=9)
    whole = scaled_dot_product_attention(inputs.query, inputs.key, inputs.value, layout=rule)
    more = [x.unflatten(0, (2, 3)) for x in (inputs.query, inputs.key, inputs.value)]
    assert torch.equal(scaled_dot_product_attention(*more, layout=rule), whole.unflatten(0, (2, 3)))
    mask = torch.rand(2, 3, 1, 1, LENGTH, generator=torch.Generator().manual_seed(0)) < 0.5
    expected = F.scaled_dot_product_attention(*more, attn_mask=mask & dense_of(rule))
    torch.testing.assert_close(scaled_dot_product_attention(*more, mask, layout=rule), expected)
    single = [x[0] for x in (inputs.query, inputs.key, inputs.value)]
    assert torch.equal(scaled_dot_product_attention(*single, layout=rule), whole[0])


def test_equal_content_is_compiled_once(monkeypatch) -> None:
    made = []
    from_mask = ow.BlockLayout.from_mask.__func__

    def counted(cls, mask, **options):
        made.append(mask)
        return from_mask(cls, mask, **options)

    monkeypatch.setattr(ow.BlockLayout, "from_mask", classmethod(counted))
    monkeypatch.setattr(functional, "_MAKER", LayoutMaker(size=2))
    inputs, mask = make_inputs(q_len=LENGTH), MASKS["of pairs"].clone()
    for _ in range(3):
        scaled_dot_product_attention(inputs.query, inputs.key, inputs.value, layout=mask.clone())
    assert len(made) == 1
    mask[0, 0] = ~mask[0, 0]
    scaled_dot_product_attention(inputs.query, inputs.key, inputs.value, layout=mask)
    assert len(made) == 2


def test_dropout_is_that_of_the_operation() -> None:
    inputs = make_inputs(q_len=LENGTH)
    torch.manual_seed(3)
    first = scaled_dot_product_attention(inputs.query, inputs.key, inputs.value, dropout_p=0.5, layout=ow.Causal())
    torch.manual_seed(3)
    again = scaled_dot_product_attention(inputs.query, inputs.key, inputs.value, dropout_p=0.5, layout=ow.Causal())
    without = scaled_dot_product_attention(inputs.query, inputs.key, inputs.value, layout=ow.Causal())
    assert torch.equal(first, again) and not torch.allclose(first, without)


def error_of(**arguments) -> str:
    inputs = make_inputs(**{"q_len": 8, **{k: arguments.pop(k) for k in ("kv_len", "kv_heads") if k in arguments}})
    options = {"layout": ow.Causal(), **arguments}
    with pytest.raises((ArgumentError, LayoutError, AnnotationError)) as raised:
        scaled_dot_product_attention(inputs.query, inputs.key, inputs.value, **options)
    return str(raised.value)


def test_top_left_causality_is_refused() -> None:
    assert "is_causal=True with q_len=8 and kv_len=12 is top-left in torch" in error_of(kv_len=12, is_causal=True)


def test_multiplying_by_infinity_is_explained() -> None:
    mask = torch.ones(8, 8).tril()
    assert "holds NaN in 36 of 64 places. 0 * -inf is NaN" in error_of(attn_mask=(1 - mask) * -torch.inf)


def test_what_is_no_mask_is_refused_in_words() -> None:
    bias = torch.zeros(8, 8)
    bias[2, 5] = 0.5
    assert re.search(r"attn_mask adds 0.5 at \[2, 5\], which is neither 0", error_of(attn_mask=bias))
    learned = torch.zeros(8, 8, requires_grad=True)
    assert "attn_mask requires a gradient: it is a learned bias" in error_of(attn_mask=learned)
    assert "attn_mask has dtype int64: a mask is boolean" in error_of(attn_mask=torch.ones(8, 8, dtype=torch.int64))
    wrong = torch.ones(7, 8, dtype=torch.bool)
    assert "attn_mask has shape [7, 8], which does not broadcast to [batch, q_heads, q_len=8" in error_of(
        attn_mask=wrong
    )


def test_a_layout_that_does_not_fit_is_refused() -> None:
    assert "compiled for q_len=4, kv_len=4" in error_of(layout=np.ones((4, 4), bool), is_causal=True)
    assert "got float32. Write `mask == 0` for an additive mask" in error_of(layout=torch.zeros(8, 8))
    assert "layout must be a Pattern, a BlockLayout or a boolean tensor, True = attend; got str" in error_of(
        layout="no"
    )
    assert "heading" in error_of(layout=ow.Causal() & ow.Keys("heading"))
    heads = torch.ones(3, 8, 8, dtype=torch.bool)
    odd = torch.rand(8, 8, generator=torch.Generator().manual_seed(0)) < 0.5
    per_head = ow.BlockLayout.from_mask(heads)
    message = error_of(layout=per_head, attn_mask=odd.expand(2, 8, 8))
    assert "attn_mask is for [batch, q_heads] = [1, 2], but the layout is for [1, 3]" in message


def test_shapes_are_refused_in_words() -> None:
    assert "key has 1 heads and query has 2: say enable_gqa=True" in error_of(kv_heads=1)
    query = torch.zeros(2, 8, 4)
    with pytest.raises(ArgumentError, match=re.escape("key must be [batch, heads, length, head_dim] with the batch")):
        scaled_dot_product_attention(query, torch.zeros(1, 2, 8, 4), query, layout=ow.Causal())


def test_joining_pair_by_pair_has_a_limit(monkeypatch) -> None:
    monkeypatch.setattr("openwork.nn.narrow._MOST_PAIRS", 63)
    odd = torch.rand(8, 8, generator=torch.Generator().manual_seed(0)) < 0.5
    assert "attn_mask has to be joined with this layout pair by pair, and 64 pairs are more" in error_of(attn_mask=odd)
    layout = ow.BlockLayout.from_mask(odd)
    assert "is_causal=True has to be joined" in error_of(layout=layout, is_causal=True)
