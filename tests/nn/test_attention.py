"""`SparseAttention`: the layer against attention written out, and what it refuses."""

from __future__ import annotations

import re

import pytest
import torch

from openwork.errors import AnnotationError, ArgumentError, LayoutError, PlanError
from openwork.layout import compile_layout
from openwork.nn import SparseAttention, rotary_table
from openwork.nn.rotary import rotate
from openwork.patterns import Annotations, Causal, Keys, PerHead, Window


def written_out(layer: SparseAttention, hidden: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """The layer in plain torch, head by head; `mask` is [batch, seq_len, seq_len]."""
    batch, seq_len, _ = hidden.shape
    query = layer.q_proj(hidden).view(batch, seq_len, layer.q_heads, -1)
    key, value = layer.kv_proj(hidden).view(batch, seq_len, 2, layer.kv_heads, -1).unbind(2)
    mixed = []
    for head in range(layer.q_heads):
        q, k, v = query[:, :, head], *(x[:, :, head * layer.kv_heads // layer.q_heads] for x in (key, value))
        if layer.rope_theta is not None:
            q, k = (turned(x, layer.rope_theta) for x in (q, k))
        scores = (q @ k.mT / layer.head_dim**0.5).masked_fill(~mask, float("-inf"))
        mixed.append(torch.softmax(scores, -1) @ v)
    return layer.out_proj(torch.cat(mixed, -1))


def turned(x: torch.Tensor, theta: float) -> torch.Tensor:
    """Rotary embedding as multiplication of complex numbers."""
    half = x.shape[-1] // 2
    angles = torch.arange(x.shape[1])[:, None] * theta ** (-torch.arange(half) / half)
    both = torch.complex(x[..., :half], x[..., half:]) * torch.polar(torch.ones_like(angles), angles)
    return torch.cat((both.real, both.imag), -1)


@pytest.mark.parametrize("rope_theta", [10_000.0, None])
@pytest.mark.parametrize("kv_heads", [1, 2, 4])
def test_the_layer_is_attention_over_the_allowed_pairs(kv_heads: int, rope_theta: float | None) -> None:
    torch.manual_seed(0)
    pattern = Causal() & Window(before=9)
    layer = SparseAttention(32, q_heads=4, kv_heads=kv_heads, pattern=pattern, rope_theta=rope_theta)
    hidden = torch.randn(2, 70, 32)
    q_pos, kv_pos = torch.arange(70)[:, None], torch.arange(70)[None]
    expected = written_out(layer, hidden, pattern.allows(q_pos, kv_pos)[None])
    torch.testing.assert_close(layer(hidden), expected)


def test_each_head_may_have_its_own_pattern() -> None:
    torch.manual_seed(0)
    layer = SparseAttention(16, q_heads=2, pattern=Causal())
    hidden = torch.randn(1, 40, 16)
    dense = layer(hidden)
    layer.set_pattern(PerHead(Causal(), Causal()))
    torch.testing.assert_close(layer(hidden), dense)
    layer.set_pattern(PerHead(Causal(), Causal() & Window(before=3)))
    assert not torch.allclose(layer(hidden), dense)


def test_a_layout_from_outside_takes_the_place_of_the_pattern() -> None:
    torch.manual_seed(0)
    layer, hidden = SparseAttention(16, q_heads=2), torch.randn(1, 50, 16)
    pattern = Causal() & Window(before=5)
    given = layer(hidden, compile_layout(pattern, q_len=50, kv_len=50))
    layer.set_pattern(pattern)
    assert torch.equal(layer(hidden), given)


def test_annotations_differ_by_sequence() -> None:
    torch.manual_seed(0)
    pattern = Causal() & (Window(before=2) | Keys("heading"))
    layer, hidden = SparseAttention(16, q_heads=2, pattern=pattern), torch.randn(1, 30, 16)
    notes = [Annotations(length=30, flags={"heading": [i == place for i in range(30)]}) for place in (0, 7)]
    both = layer(hidden.expand(2, -1, -1), annotations=notes)
    for row, facts in enumerate(notes):
        torch.testing.assert_close(both[row : row + 1], layer(hidden, annotations=facts))
    assert not torch.allclose(both[0], both[1])


def test_padding_is_seen_by_nobody() -> None:
    torch.manual_seed(0)
    layer, hidden = SparseAttention(16, q_heads=2), torch.randn(1, 20, 16)
    positions = torch.cat((torch.full((4,), -1), torch.arange(16)))[None]
    padded = layer(hidden, positions=positions)
    torch.testing.assert_close(padded[:, 4:], layer(hidden[:, 4:]))
    changed = hidden.clone()
    changed[:, :4] = 1e6
    assert torch.equal(layer(changed, positions=positions)[:, 4:], padded[:, 4:])


def test_dropout_works_in_training_alone() -> None:
    torch.manual_seed(0)
    layer, hidden = SparseAttention(16, q_heads=2, dropout_p=0.5), torch.randn(1, 20, 16)
    assert not torch.equal(layer(hidden), layer(hidden))
    layer.eval()
    assert torch.equal(layer(hidden), layer(hidden))


def test_rotary_keeps_lengths_and_depends_on_distance_alone() -> None:
    torch.manual_seed(0)
    q, k = torch.randn(2, 1, 1, 1, 16)

    def score(q_pos: int, kv_pos: int) -> torch.Tensor:
        q_table, k_table = (rotary_table(torch.tensor([place]), 16) for place in (q_pos, kv_pos))
        return (rotate(q, q_table) * rotate(k, k_table)).sum()

    torch.testing.assert_close(rotate(q, rotary_table(torch.tensor([99]), 16)).norm(), q.norm())
    torch.testing.assert_close(score(7, 3), score(107, 103))
    assert abs(score(7, 3) - score(7, 0)) > 1e-2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"q_heads": 4, "kv_heads": 3}, "kv_heads must divide q_heads; got q_heads=4, kv_heads=3, dim=32"),
        ({"q_heads": 5}, "q_heads=5 does not divide dim=32; say head_dim"),
        ({"q_heads": 2, "head_dim": 7}, "head_dim must be even; got 7"),
        (
            {"q_heads": 4, "pattern": PerHead(Causal(), Causal())},
            "a PerHead of 2 heads does not fit a layer of 4 query",
        ),
        ({"q_heads": 4, "dropout_p": 1.5}, "dropout_p must be 0 or more and less than 1; got 1.5"),
    ],
)
def test_a_wrong_layer_is_refused_in_words(options: dict, message: str) -> None:
    with pytest.raises(PlanError, match=message):
        SparseAttention(32, **options)


def test_a_layout_for_another_length_is_refused() -> None:
    layer, layout = SparseAttention(16, q_heads=2), compile_layout(Causal(), q_len=8, kv_len=8)
    with pytest.raises(LayoutError, match="compiled for q_len=8, kv_len=8"):
        layer(torch.randn(1, 16, 16), layout)


def test_missing_annotations_are_an_error() -> None:
    layer = SparseAttention(16, q_heads=2, pattern=Causal() & Keys("heading"))
    with pytest.raises(AnnotationError, match="heading"):
        layer(torch.randn(1, 16, 16))


@pytest.mark.parametrize("shape", [(16, 16), (1, 8, 12)])
def test_an_input_of_another_shape_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ArgumentError, match=re.escape(f"hidden must be [batch, seq_len, dim=16]; got {list(shape)}")):
        SparseAttention(16, q_heads=2)(torch.zeros(shape))
