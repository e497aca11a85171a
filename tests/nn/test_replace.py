"""`replace_attention`: torch's own modules and modules that call SDPA, compared with themselves under a mask."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import openwork as ow
from openwork.errors import ArgumentError, LayoutError, PlanError
from openwork.nn import (
    SparseAttention,
    SparseMultiheadAttention,
    model_plan,
    replace_attention,
    restore_attention,
    set_plan,
)

from .homegrown import (
    CAUSAL,
    DIM,
    HEADS,
    LENGTH,
    LOCAL,
    SelfAttention,
    TimmAttention,
    compare,
    dense_of,
    encoder,
    hidden,
    masked,
)


@pytest.mark.parametrize("norm_first", [False, True])
def test_an_encoder_is_itself_under_a_mask(norm_first: bool) -> None:
    theirs = encoder(norm_first=norm_first)
    ours = replace_attention(copy.deepcopy(theirs), LOCAL)
    compare(ours, theirs, lambda m, d: m(hidden().to(d)), lambda m, d: m(hidden().to(d), mask=masked(LOCAL)))


def test_evaluation_takes_no_dense_short_cut() -> None:
    # in evaluation torch's encoder layer calls a fused kernel in place of its self_attn
    theirs = encoder().eval()
    ours = replace_attention(copy.deepcopy(theirs), LOCAL)
    with torch.no_grad():
        expected = theirs(hidden(), mask=masked(LOCAL))
        torch.testing.assert_close(ours(hidden()), expected)
        torch.testing.assert_close(ours.layers[0](hidden()), theirs.layers[0](hidden(), src_mask=masked(LOCAL)))
        assert not torch.allclose(theirs(hidden()), expected, atol=1e-2)


def test_padding_is_seen_by_nobody_in_training_and_evaluation() -> None:
    padding = torch.arange(LENGTH) >= torch.tensor([LENGTH, 25])[:, None]
    theirs = encoder()
    ours = replace_attention(copy.deepcopy(theirs), LOCAL)

    def with_padding(module: nn.Module, dtype: torch.dtype, **options) -> torch.Tensor:
        return module(hidden().to(dtype), src_key_padding_mask=padding, **options)

    compare(ours, theirs, with_padding, lambda m, d: with_padding(m, d, mask=masked(LOCAL)), where=~padding)
    ours.eval()
    with torch.no_grad():
        padded, alone = ours(hidden(), src_key_padding_mask=padding), ours(hidden()[1:, :25])
    torch.testing.assert_close(padded[1:, :25], alone)


def test_left_padding_moves_no_position() -> None:
    ours = replace_attention(encoder(), ow.Strided(4) | ow.First(keys=1)).eval()
    padding = torch.arange(LENGTH)[None] < 7
    padded = ours(hidden(1), src_key_padding_mask=padding)
    torch.testing.assert_close(padded[:, 7:], ours(hidden(1)[:, 7:]))


def test_a_causal_mask_still_holds() -> None:
    theirs, mask = encoder(), nn.Transformer.generate_square_subsequent_mask(LENGTH)
    ours = replace_attention(copy.deepcopy(theirs), LOCAL)
    both = masked(LOCAL) | torch.isinf(mask)
    for options in ({"mask": mask}, {"mask": mask, "is_causal": True}, {"mask": torch.isinf(mask)}):
        compare(ours, theirs, lambda m, d, o=options: m(hidden().to(d), **o), lambda m, d: m(hidden().to(d), mask=both))


@pytest.mark.filterwarnings("ignore:enable_nested_tensor is True")  # torch's own, of its own encoder
@pytest.mark.parametrize("batch_first", [False, True])
def test_a_transformer_has_two_stacks_and_dense_cross_attention(batch_first: bool) -> None:
    torch.manual_seed(0)
    theirs = nn.Transformer(DIM, HEADS, 2, 2, 32, dropout=0.0, batch_first=batch_first)
    plan = ow.Plan(default=ow.Dense(), encoder=LOCAL, decoder=CAUSAL)
    ours = replace_attention(copy.deepcopy(theirs), plan)
    kinds = [type(module) for module in ours.modules() if isinstance(module, nn.MultiheadAttention)]
    assert kinds.count(SparseMultiheadAttention) == 4 and kinds.count(nn.MultiheadAttention) == 2
    source, target = hidden(seed=1)[:, :, :], hidden(seed=2)
    if not batch_first:
        source, target = source.transpose(0, 1), target.transpose(0, 1)
    masks = {"src_mask": masked(LOCAL), "tgt_mask": masked(CAUSAL)}
    compare(
        ours,
        theirs,
        lambda m, d: m(source.to(d), target.to(d)),
        lambda m, d: m(source.to(d), target.to(d), **masks),
    )


def test_a_decoder_has_the_part_of_single_tokens() -> None:
    model = nn.Transformer(DIM, HEADS, 1, 1, 32, batch_first=True)
    replace_attention(model, ow.Plan(ow.Dense(), encoder=LOCAL, decoder=CAUSAL, decode=ow.Causal()))
    encoder_layer, decoder_layer = model.encoder.layers[0].self_attn, model.decoder.layers[0].self_attn
    assert (encoder_layer.pattern, encoder_layer.decode_pattern) == (LOCAL, None)
    assert (decoder_layer.pattern, decoder_layer.decode_pattern) == (CAUSAL, ow.Causal())


def test_parts_need_their_stacks() -> None:
    with pytest.raises(PlanError, match="part for the encoder, but the model is one stack"):
        replace_attention(nn.ModuleList([nn.MultiheadAttention(DIM, HEADS)]), ow.Plan(ow.Causal(), encoder=ow.Dense()))


@pytest.mark.parametrize("options", [{}, {"batch_first": True}, {"bias": False}, {"vdim": 6}])
def test_multihead_attention_keeps_its_arguments(options: dict) -> None:
    torch.manual_seed(0)
    theirs = nn.MultiheadAttention(DIM, HEADS, **options)
    ours = replace_attention(copy.deepcopy(theirs), LOCAL)
    values = torch.randn(2, LENGTH, options.get("vdim", DIM), generator=torch.Generator().manual_seed(3))
    per_head = torch.rand(2 * HEADS, LENGTH, LENGTH, generator=torch.Generator().manual_seed(4)) < 0.3
    per_head[:, :, 0] = False
    assert list(ours.state_dict()) == list(theirs.state_dict())
    for mask in (None, per_head, torch.zeros(per_head.shape).masked_fill(per_head, -torch.inf)):

        def call(module: nn.Module, dtype: torch.dtype, mask: torch.Tensor | None = mask, extra=None) -> torch.Tensor:
            x, v = hidden().to(dtype), values.to(dtype)
            if not options.get("batch_first"):
                x, v = x.transpose(0, 1), v.transpose(0, 1)
            allowed = None if mask is None else mask.to(dtype) if mask.is_floating_point() else mask
            if extra is not None:
                whole = torch.zeros_like(per_head) if mask is None else per_head
                allowed = whole | extra
            return module(x, x, v, attn_mask=allowed, need_weights=False)[0]

        compare(ours, theirs, call, lambda m, d, c=call: c(m, d, extra=masked(LOCAL)))


def test_one_sequence_without_a_batch_and_without_weights() -> None:
    layer = SparseMultiheadAttention(DIM, HEADS, pattern=LOCAL)
    single = hidden(1)[0]
    output, weights = layer(single, single, single)
    batched, _ = layer(single[:, None], single[:, None], single[:, None], need_weights=True)
    assert weights is None
    torch.testing.assert_close(output, batched[:, 0])


def test_dropout_is_off_in_evaluation() -> None:
    layer, x = SparseMultiheadAttention(DIM, HEADS, dropout=0.5, batch_first=True), hidden()
    assert not torch.equal(layer(x, x, x)[0], layer(x, x, x)[0])
    layer.eval()
    assert torch.equal(layer(x, x, x)[0], layer(x, x, x)[0])


def test_attention_as_timm_writes_it_keeps_its_own_code() -> None:
    torch.manual_seed(0)
    theirs = nn.Sequential(TimmAttention(), TimmAttention())
    ours = replace_attention(copy.deepcopy(theirs), LOCAL)
    assert list(ours.state_dict()) == list(theirs.state_dict()) and isinstance(ours[0], TimmAttention)

    def under_mask(module: nn.Module, dtype: torch.dtype) -> torch.Tensor:
        x = hidden().to(dtype)
        for layer in module:
            x = layer(x, dense_of(LOCAL))
        return x

    compare(ours, theirs, lambda m, d: m(hidden().to(d)), under_mask)


def test_a_class_of_the_users_own_stays_causal() -> None:
    torch.manual_seed(0)
    theirs = SelfAttention()
    ours = replace_attention(copy.deepcopy(theirs), LOCAL, kind=SelfAttention)

    def under_mask(module: SelfAttention, dtype: torch.dtype) -> torch.Tensor:
        x = hidden().to(dtype)
        q, k, v = (y.unflatten(-1, (HEADS, -1)).transpose(1, 2) for y in module.c_attn(x).chunk(3, dim=-1))
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=dense_of(LOCAL).tril())
        return module.c_proj(y.transpose(1, 2).flatten(2))

    compare(ours, theirs, lambda m, d: m(hidden().to(d)), under_mask)


def test_a_module_that_calls_no_sdpa_says_so() -> None:
    layer = replace_attention(SelfAttention(), LOCAL, kind=SelfAttention)
    layer.flash = False
    with pytest.raises(ArgumentError, match="SelfAttention did not call torch"):
        layer(hidden())


def test_sdpa_elsewhere_is_left_alone() -> None:
    layer = replace_attention(SelfAttention(causal=False), LOCAL, kind=SelfAttention)
    layer(hidden())
    q, k, v = torch.randn(3, 1, 1, 8, 4).unbind()
    torch.testing.assert_close(F.scaled_dot_product_attention(q, k, v), torch.softmax(q @ k.mT / 2, -1) @ v)


class Cached(SelfAttention):
    def forward(self, x: torch.Tensor, past: torch.Tensor | None = None) -> torch.Tensor:
        whole = x if past is None else torch.cat((past, x), dim=1)
        q = self.c_attn(x)[..., :DIM].unflatten(-1, (HEADS, -1)).transpose(1, 2)
        k, v = (y.unflatten(-1, (HEADS, -1)).transpose(1, 2) for y in self.c_attn(whole)[..., DIM:].chunk(2, dim=-1))
        y = F.scaled_dot_product_attention(q, k, v, is_causal=past is None)
        return self.c_proj(y.transpose(1, 2).flatten(2))


def test_a_step_upon_a_cache_of_the_users_own() -> None:
    layer = replace_attention(Cached(), CAUSAL, kind=Cached)
    whole = layer(hidden())
    torch.testing.assert_close(layer(hidden()[:, -3:], past=hidden()[:, :-3]), whole[:, -3:])
    set_plan(layer, ow.Plan(CAUSAL, decode=ow.Causal()))
    dense = restore_attention(copy.deepcopy(layer))
    step = {"past": hidden()[:, :-1]}
    torch.testing.assert_close(layer(hidden()[:, -1:], **step), dense(hidden()[:, -1:], **step))
    torch.testing.assert_close(layer(hidden()), whole)
    assert model_plan(layer).plan == ow.Plan(CAUSAL, decode=ow.Causal())


def test_each_head_may_have_its_own_pattern() -> None:
    heads = ow.PerHead(LOCAL, CAUSAL, ow.Dense(), ow.Causal())
    theirs = nn.MultiheadAttention(DIM, HEADS, batch_first=True)
    ours = replace_attention(copy.deepcopy(theirs), heads)
    mask = torch.stack([masked(heads.head(h)) for h in range(HEADS)]).repeat(2, 1, 1)
    compare(
        ours,
        theirs,
        lambda m, d: m(x := hidden().to(d), x, x)[0],
        lambda m, d: m(x := hidden().to(d), x, x, attn_mask=mask)[0],
    )


@pytest.mark.parametrize("shape", [(LENGTH, LENGTH), (HEADS, LENGTH, LENGTH)])
def test_a_boolean_tensor_is_a_plan(shape: tuple[int, ...]) -> None:
    mask = torch.rand(shape, generator=torch.Generator().manual_seed(0)) < 0.3
    mask |= torch.eye(LENGTH, dtype=torch.bool)
    theirs = encoder()
    ours = replace_attention(copy.deepcopy(theirs), mask.numpy() if len(shape) == 2 else mask)
    inverted = ~mask if len(shape) == 2 else ~mask.repeat(2, 1, 1)
    compare(ours, theirs, lambda m, d: m(hidden().to(d)), lambda m, d: m(hidden().to(d), mask=inverted))
    assert model_plan(ours) == (None, 2)
    with pytest.raises(LayoutError, match="Make it again from a mask of these lengths"):
        ours(hidden()[:, :30])
    padding = torch.arange(LENGTH)[None] >= torch.tensor([[LENGTH], [25]])
    assert torch.isfinite(ours(hidden(), src_key_padding_mask=padding)).all()


def test_sparse_attention_beside_it_is_a_layer_too() -> None:
    model = nn.ModuleList([SparseAttention(DIM, q_heads=HEADS), SelfAttention()])
    mask = dense_of(CAUSAL)
    replace_attention(model, mask, kind=SelfAttention)
    of_mask = model[0](hidden())
    set_plan(model, CAUSAL)
    torch.testing.assert_close(model[0](hidden()), of_mask)
