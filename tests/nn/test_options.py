"""Options of the decoder that make it learn in fewer steps: what each means, and that none breaks what holds."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from openwork.errors import PlanError
from openwork.nn import Decoder, DecoderConfig, ShortConvolution, SparseAttention
from openwork.patterns import Causal, Window
from openwork.testing import assert_no_worse_than

PLAIN = DecoderConfig(vocab_size=50, dim=32, num_layers=2, q_heads=2, kv_heads=1, mlp_dim=64)
ALL = replace(PLAIN, qk_norm=True, zero_outputs=True, conv_width=3)


def decoder(config: DecoderConfig, pattern=None) -> Decoder:
    torch.manual_seed(0)
    return Decoder(config, pattern)


def trained(config: DecoderConfig, pattern=None) -> Decoder:
    """A model whose outputs and convolutions are no longer zero."""
    model = decoder(config, pattern)
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.1 * torch.randn(parameter.shape, generator=generator)
    return model


def tokens(seq_len: int = 64, batch: int = 2) -> torch.Tensor:
    return torch.randint(50, (batch, seq_len), generator=torch.Generator().manual_seed(1))


def influence(model: Decoder, seq_len: int = 24) -> torch.Tensor:
    """bool [seq_len, seq_len]: which token's embedding changes which place's output."""
    hidden = {}
    model.embedding.register_forward_hook(
        lambda module, inputs, output: hidden.setdefault("in", output.detach().requires_grad_())
    )
    output = model.embed(tokens(seq_len, 1))[0].double()
    direction = torch.randn(output.shape[-1], generator=torch.Generator().manual_seed(2)).double()
    rows = [torch.autograd.grad((output[place] * direction).sum(), hidden["in"], retain_graph=True)[0][0]
            for place in range(seq_len)]  # fmt: skip
    return torch.stack(rows).abs().sum(-1) > 0


@pytest.mark.parametrize("width", [2, 3, 5])
def test_a_convolution_carries_information_past_the_pattern_and_no_further_than_it_says(width: int) -> None:
    own = Causal() & Window(before=0)
    apart = torch.arange(24)[:, None] - torch.arange(24)[None, :]
    assert torch.equal(influence(trained(PLAIN, own)), apart == 0)
    # two layers: each carries width - 1 tokens further
    expected = (apart >= 0) & (apart <= 2 * (width - 1))
    assert torch.equal(influence(trained(replace(PLAIN, conv_width=width), own)), expected)


def test_a_token_depends_on_no_later_one_with_all_options() -> None:
    model, one = trained(ALL), tokens()
    other = one.clone()
    other[:, 40:] = (other[:, 40:] + 1) % 50
    assert torch.equal(model(one)[:, :40], model(other)[:, :40])
    assert not torch.equal(model(one)[:, 40:], model(other)[:, 40:])


def test_with_positions_a_convolution_is_the_same_function() -> None:
    torch.manual_seed(0)
    layer, hidden = ShortConvolution(8, width=4), torch.randn(2, 20, 8)
    torch.nn.init.normal_(layer.weight)
    exact = layer.double()(hidden.double(), torch.arange(20))
    layer.float()
    assert_no_worse_than(layer(hidden), layer(hidden, torch.arange(20)), exact, name="convolution")
    with pytest.raises(AssertionError, match="max error"):
        assert_no_worse_than(hidden, layer(hidden), exact, name="no convolution")


def test_sequences_in_one_row_are_those_alone_and_padding_gives_nothing() -> None:
    torch.manual_seed(0)
    layer = ShortConvolution(8, width=4)
    torch.nn.init.normal_(layer.weight)
    first, second = torch.randn(1, 7, 8), torch.randn(1, 5, 8)
    nothing = torch.full((1, 3, 8), float("nan"))
    row = torch.cat((nothing, first, second, nothing), dim=1).requires_grad_()
    positions = torch.cat((-torch.ones(3), torch.arange(7), torch.arange(5), -torch.ones(3))).long()
    output = layer(row, positions)
    for place, alone in ((slice(3, 10), first), (slice(10, 15), second)):
        assert torch.allclose(output[:, place], layer(alone), atol=1e-5)
    output[:, 3:15].sum().backward()
    assert row.grad is not None and row.grad[:, 3:15].isfinite().all() and not row.grad[:, :3].any()
    assert layer.weight.grad is not None and layer.weight.grad.isfinite().all()


def test_outputs_that_start_at_zero_make_the_model_its_embedding() -> None:
    model, plain = decoder(replace(PLAIN, zero_outputs=True)), decoder(PLAIN)
    assert torch.equal(model.embed(tokens()), model.norm(model.embedding(tokens())))
    assert not torch.equal(plain.embed(tokens()), plain.norm(plain.embedding(tokens())))
    # what is not zero is drawn as without the option
    same = [n for n, p in model.named_parameters() if torch.equal(p, dict(plain.named_parameters())[n])]
    assert len(same) == len(list(plain.parameters())) - 4


def test_normalised_queries_and_keys_do_not_depend_on_their_projections_scale() -> None:
    torch.manual_seed(0)
    hidden = torch.randn(1, 32, 16)
    for qk_norm in (True, False):
        layer = SparseAttention(16, q_heads=2, qk_norm=qk_norm)
        before = layer(hidden)
        with torch.no_grad():
            layer.q_proj.weight *= 64
        assert torch.allclose(layer(hidden), before, atol=1e-5) == qk_norm


def test_gains_start_where_they_are_told_and_sharpen_what_a_fresh_layer_looks_at() -> None:
    sharpest: list[float] = []
    for qk_gain in (1.0, 3.0):
        torch.manual_seed(0)
        layer = SparseAttention(16, q_heads=2, qk_norm=True, qk_gain=qk_gain, rope_theta=None)
        assert layer.q_norm is not None and layer.k_norm is not None
        assert layer.q_norm.weight.tolist() == layer.k_norm.weight.tolist() == [qk_gain] * 8
        query = layer.q_norm(torch.randn(200, 8)).detach()
        key = layer.k_norm(torch.randn(200, 8)).detach()
        scores = query @ key.T * 8**-0.5
        assert float(scores.abs().max()) <= qk_gain**2 * 8**0.5 + 1e-4
        sharpest.append(float(scores.softmax(-1).amax(-1).mean()))
    assert sharpest[1] > 5 * sharpest[0]
    model = decoder(replace(ALL, qk_gain=3.0))
    assert all(layer.q_norm.weight.tolist() == [3.0] * 16 for layer in model.layers if layer.q_norm is not None)


@pytest.mark.parametrize("qk_gain", [0.0, -1.0, float("nan"), float("inf")])
def test_a_gain_that_is_no_gain_is_refused(qk_gain: float) -> None:
    with pytest.raises(PlanError, match=r"qk_gain is what gains start at, so it must be more than 0 and finite; got"):
        SparseAttention(16, q_heads=2, qk_norm=True, qk_gain=qk_gain)


def test_options_work_under_autocast() -> None:
    model = trained(ALL, Causal() & Window(before=7))
    high = model.token_losses(tokens(), tokens())
    with torch.autocast("cpu", torch.bfloat16):
        low = model.token_losses(tokens(), tokens())
        low.mean().backward()
    assert low.dtype == torch.float32
    assert float(low.detach().mean()) == pytest.approx(float(high.detach().mean()), rel=0.02)
    assert not torch.equal(low, high)


@pytest.mark.parametrize("width", [-1, 1])
def test_a_convolution_of_one_token_is_refused(width: int) -> None:
    with pytest.raises(PlanError, match=f"conv_width counts the token itself, so it is 2 or more, or 0 .* got {width}"):
        replace(PLAIN, conv_width=width)
    with pytest.raises(PlanError, match=f"a width of 2 or more, itself counted; got channels=4, width={width}"):
        ShortConvolution(4, width)
