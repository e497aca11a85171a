"""`SparseAttention` upon a cache: token by token it is what it is in one piece."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import openwork as ow
from openwork.errors import AnnotationError, ArgumentError, LayoutError
from openwork.nn import AttentionCache, SparseAttention, set_plan

LENGTH, DIM = 40, 16
LOCAL = ow.Causal() & (ow.Window(before=5) | ow.First(keys=2))
FACTS = ow.Causal() & (ow.Window(before=3) | ow.Keys("heading"))
PATTERNS = {
    "window": LOCAL,
    "strided": ow.Causal() & ow.Strided(5),
    "heads": ow.PerHead(LOCAL, ow.Causal(), ow.Causal() & ow.Strided(3), LOCAL),
    "facts": FACTS,
}


def layer(pattern, **options) -> SparseAttention:
    torch.manual_seed(0)
    return SparseAttention(DIM, q_heads=4, kv_heads=2, pattern=pattern, **options).eval()


def hidden(batch: int = 2) -> torch.Tensor:
    return torch.randn(batch, LENGTH, DIM, generator=torch.Generator().manual_seed(1))


def headings(length: int) -> ow.Annotations:
    return ow.Annotations(length=length, flags={"heading": np.arange(length) % 11 == 4})


def in_pieces(module: SparseAttention, x: torch.Tensor, ends: list[int], **options) -> torch.Tensor:
    cache, pieces, start = AttentionCache(), [], 0
    positions = options.get("positions")
    for stop in ends:
        facts = {"annotations": headings(stop)} if module.pattern == FACTS else {}
        placed = {} if positions is None else {"positions": positions[:, start:stop]}
        pieces.append(module(x[:, start:stop], cache=cache, **facts, **placed))
        start = stop
    assert len(cache) == ends[-1]
    return torch.cat(pieces, dim=1)


@pytest.mark.parametrize("name", PATTERNS)
@pytest.mark.parametrize("ends", [[*range(1, LENGTH + 1)], [20, *range(21, LENGTH + 1)], [7, 8, 30, LENGTH]], ids=str)
def test_pieces_are_the_whole(name: str, ends: list[int]) -> None:
    module, x = layer(PATTERNS[name], qk_norm=True), hidden()
    facts = {"annotations": headings(LENGTH)} if name == "facts" else {}
    with torch.no_grad():
        torch.testing.assert_close(in_pieces(module, x, ends), module(x, **facts))


def test_without_positions_and_with_gradients() -> None:
    module, x = layer(LOCAL, rope_theta=None), hidden().requires_grad_()
    ours, theirs = in_pieces(module, x, [20, 21, LENGTH]), module(x)
    torch.testing.assert_close(ours, theirs)
    weight = torch.randn_like(theirs)
    for a, b in zip(
        *(torch.autograd.grad((y * weight).sum(), [x, *module.parameters()]) for y in (ours, theirs)), strict=True
    ):
        torch.testing.assert_close(a, b)


def test_sequences_of_a_batch_may_have_different_prompts() -> None:
    module, x = layer(LOCAL), hidden()
    positions = torch.stack([torch.arange(LENGTH), torch.arange(LENGTH) - 6]).clamp(min=-1)
    with torch.no_grad():
        ours = in_pieces(module, x, [20, *range(21, LENGTH + 1)], positions=positions)
        torch.testing.assert_close(ours[1, 6:], module(x[1:, 6:])[0])
        torch.testing.assert_close(ours[0], module(x[:1])[0])


def test_a_token_reads_the_keys_that_it_sees_and_no_others() -> None:
    module, x, cache = layer(LOCAL), hidden(), AttentionCache()
    with torch.no_grad():
        module(x[:, : LENGTH - 1], cache=cache)
        seen = {0, 1, *range(LENGTH - 6, LENGTH)}
        for tensor in (cache._keys, cache._values):
            tensor[:, :, [i for i in range(tensor.shape[2]) if i not in seen]] = torch.nan
        torch.testing.assert_close(module(x[:, LENGTH - 1 :], cache=cache), module(x)[:, LENGTH - 1 :])


def test_a_plan_may_let_single_tokens_see_more() -> None:
    module, x, cache = layer(LOCAL), hidden(), AttentionCache()
    set_plan(module, ow.Plan(LOCAL, decode=ow.Causal()))
    with torch.no_grad():
        torch.testing.assert_close(module(x[:, :30], cache=cache), layer(LOCAL)(x[:, :30]))
        torch.testing.assert_close(module(x[:, 30:31], cache=cache), layer(ow.Causal())(x[:, :31])[:, 30:])
        # a plan that changes on the way holds from there on
        set_plan(module, LOCAL)
        torch.testing.assert_close(module(x[:, 31:32], cache=cache), layer(LOCAL)(x[:, :32])[:, 31:])


def test_beams_choose_their_sequences() -> None:
    module, x, cache = layer(LOCAL), hidden(), AttentionCache()
    rows = torch.tensor([1, 1, 0])
    with torch.no_grad():
        module(x[:, :20], cache=cache)
        module(x[:, 20:21], cache=cache)
        cache.select(rows)
        torch.testing.assert_close(module(x[rows, 21:22], cache=cache), module(x[rows, :22])[:, 21:])


def test_beams_choose_among_prompts_of_different_lengths() -> None:
    module, x, cache, rows = layer(LOCAL), hidden(), AttentionCache(), torch.tensor([1, 0])
    positions = torch.stack([torch.arange(LENGTH), torch.arange(LENGTH) - 6]).clamp(min=-1)
    with torch.no_grad():
        for start, stop in ((0, 20), (20, 21)):
            module(x[:, start:stop], cache=cache, positions=positions[:, start:stop])
        cache.select(rows)
        ours = module(x[rows, 21:22], cache=cache, positions=positions[rows, 21:22])
        torch.testing.assert_close(ours, module(x[rows, :22], positions=positions[rows, :22])[:, 21:])


def test_dropout_works_on_single_tokens_in_training() -> None:
    module, x = layer(LOCAL, dropout_p=0.5).train(), hidden()
    steps = []
    for _ in range(2):
        cache = AttentionCache()
        module(x[:, :20], cache=cache)
        steps.append(module(x[:, 20:21], cache=cache))
    assert not torch.equal(*steps)


def test_a_layout_of_the_callers_own() -> None:
    module, x, cache = layer(ow.Causal()), hidden(), AttentionCache()
    with torch.no_grad():
        module(x[:, :20], cache=cache)
        ours = module(x[:, 20:], ow.compile_layout(LOCAL, q_len=20, kv_len=LENGTH), cache=cache)
        torch.testing.assert_close(ours, layer(LOCAL)(x)[:, 20:])


def test_what_does_not_fit_is_refused_in_words() -> None:
    module, x, cache = layer(LOCAL), hidden(), AttentionCache()
    module(x[:, :20], cache=cache)
    with pytest.raises(ArgumentError, match="the cache holds batch=2 sequences, but got batch=1; a new prompt needs"):
        module(x[:1, 20:], cache=cache)
    with pytest.raises(LayoutError, match="positions of a decoded sequence ascend"):
        module(x[:, 20:21], cache=cache, positions=[[5]])
    with pytest.raises(AnnotationError, match="heading"):
        layer(FACTS)(x[:, :1], cache=AttentionCache())
