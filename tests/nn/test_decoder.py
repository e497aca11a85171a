"""The decoder and its plans: shapes, sharing, switching, causality, and equal curves where plans mean the same."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from openwork.errors import ArgumentError, LayoutError, PlanError
from openwork.nn import Decoder, DecoderConfig, LayoutCache, SparseAttention, prepare_layouts, set_plan
from openwork.patterns import Annotations, Causal, Keys, PerHead, Window
from openwork.plan import Plan
from openwork.testing import assert_no_worse_than

CONFIG = DecoderConfig(vocab_size=50, dim=32, num_layers=3, q_heads=2, kv_heads=1, mlp_dim=64)
LOCAL = Causal() & Window(before=7)


def make(plan: Plan | None = None) -> Decoder:
    torch.manual_seed(0)
    return Decoder(CONFIG, plan)


def tokens(seq_len: int = 100) -> torch.Tensor:
    return torch.randint(50, (2, seq_len), generator=torch.Generator().manual_seed(1))


def test_a_token_depends_on_no_later_one() -> None:
    model, one = make(Plan(default=LOCAL, layers={1: Causal()})), tokens()
    other = one.clone()
    other[:, 60:] = (other[:, 60:] + 1) % 50
    assert torch.equal(model(one)[:, :60], model(other)[:, :60])
    assert not torch.equal(model(one)[:, 60:], model(other)[:, 60:])


def test_the_embedding_is_the_output_layer() -> None:
    model = make()
    per_block = 32 * 32 * 2 + 32 * 2 * 16 + 3 * 32 * 64 + 2 * 32
    assert model.num_parameters == 50 * 32 + 3 * per_block + 32
    loss = model.token_losses(tokens(), tokens()).mean()
    loss.backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


def test_a_fresh_model_guesses_uniformly() -> None:
    loss = make().token_losses(tokens(), tokens().flip(0)).mean()
    assert float(loss.detach()) == pytest.approx(torch.log(torch.tensor(50.0)).item(), abs=0.1)


def test_set_plan_switches_a_live_model_and_back() -> None:
    model, batch = make(), tokens()
    dense = model(batch)
    set_plan(model, Plan(default=LOCAL, layers={2: Causal()}))
    assert [layer.pattern for layer in model.layers] == [LOCAL, LOCAL, Causal()]
    assert not torch.allclose(model(batch), dense)
    set_plan(model, Causal())
    assert torch.equal(model(batch), dense)


def test_set_plan_reaches_any_model_with_sparse_attention() -> None:
    model = nn.Sequential(SparseAttention(32, q_heads=2), nn.ReLU(), SparseAttention(32, q_heads=2))
    set_plan(model, Plan.by_depth({0.0: LOCAL, 0.5: Causal()}))
    assert model[0].pattern == LOCAL
    assert model[2].pattern == Causal()


@pytest.mark.parametrize(
    ("plan", "message"),
    [
        (Plan(default=LOCAL, layers={3: Causal()}), "names layer 3, but the model has 3 layers"),
        (
            Plan(default=PerHead(LOCAL, LOCAL, LOCAL)),
            "default is a PerHead of 3 heads, but the model has 2 query heads",
        ),
    ],
)
def test_a_plan_that_does_not_fit_changes_nothing(plan: Plan, message: str) -> None:
    model = make()
    home_grown = nn.ModuleList(SparseAttention(32, q_heads=2) for _ in range(3))
    for target in (model, home_grown):
        with pytest.raises(PlanError, match=message):
            set_plan(target, plan)
    assert {layer.pattern for layer in (*model.layers, *home_grown)} == {Causal()}


def test_a_model_without_sparse_attention_is_refused() -> None:
    with pytest.raises(PlanError, match="Linear has no SparseAttention layer and no set_plan method"):
        set_plan(nn.Linear(2, 2), Causal())


def test_layers_of_one_pattern_share_their_layout() -> None:
    cache = LayoutCache()
    plan = Plan(default=LOCAL, layers={1: Causal()})
    first, second, third = prepare_layouts(plan, 3, 128, cache=cache)
    assert first is third and first is not second
    assert prepare_layouts(plan, 3, 128, cache=cache)[0] is first
    assert prepare_layouts(plan, 3, 64, cache=cache)[0] is not first


def test_layouts_are_found_by_content_and_only_by_what_is_read() -> None:
    cache = LayoutCache()

    def notes(place: int, other: int) -> Annotations:
        flags = {"heading": [i == place for i in range(64)], "other": [i == other for i in range(64)]}
        return Annotations(length=64, flags=flags)

    pattern = Causal() & Keys("heading")
    layout = prepare_layouts(pattern, 1, 64, annotations=notes(3, 4), cache=cache)[0]
    assert prepare_layouts(pattern, 1, 64, annotations=notes(3, 9), cache=cache)[0] is layout
    assert prepare_layouts(pattern, 1, 64, annotations=notes(5, 4), cache=cache)[0] is not layout
    dense = prepare_layouts(Causal(), 1, 64, annotations=notes(3, 4), cache=cache)[0]
    assert prepare_layouts(Causal(), 1, 64, cache=cache)[0] is dense


def test_positions_are_part_of_the_content() -> None:
    cache = LayoutCache()
    restarted = torch.cat((torch.arange(32), torch.arange(32)))[None]
    one, other = (prepare_layouts(LOCAL, 1, 64, positions=p, cache=cache)[0] for p in (None, restarted))
    assert one is not other
    assert prepare_layouts(LOCAL, 1, 64, positions=restarted.clone(), cache=cache)[0] is other


def test_a_cache_forgets_the_layout_unused_for_longest() -> None:
    cache = LayoutCache(size=2)
    old, kept = (cache.layout(Causal(), q_len=n, kv_len=n) for n in (8, 16))
    assert cache.layout(Causal(), q_len=8, kv_len=8) is old
    cache.layout(Causal(), q_len=24, kv_len=24)
    assert cache.layout(Causal(), q_len=8, kv_len=8) is old
    assert cache.layout(Causal(), q_len=16, kv_len=16) is not kept


@pytest.mark.parametrize("tokens", [torch.zeros(1, 5), torch.zeros(5, dtype=torch.long)], ids=["float", "flat"])
def test_tokens_are_integers_in_rows(tokens: torch.Tensor) -> None:
    model = Decoder(DecoderConfig(vocab_size=8, dim=16, num_layers=1))
    with pytest.raises(ArgumentError, match=r"tokens must be int \[batch, seq_len\]; got torch"):
        model(tokens)


def test_as_many_layouts_as_layers_are_needed() -> None:
    model = make()
    with pytest.raises(LayoutError, match="the model has 3 layers, but got 2 layouts; one for each"):
        model(tokens(), model.prepare(100)[:2])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dim": 0}, "DecoderConfig dim must be 1 or more; got 0"),
        ({"q_heads": 3}, "needs q_heads to divide dim and kv_heads to divide q_heads; got dim=32, q_heads=3"),
    ],
)
def test_a_wrong_shape_is_refused_in_words(options: dict, message: str) -> None:
    with pytest.raises(PlanError, match=message):
        DecoderConfig(**{"vocab_size": 50, "dim": 32, **options})


def curve(plan: Plan, backend: str, steps: int = 8, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """Training losses of a tiny model."""
    model = make(plan).to(dtype)
    model.set_backend(backend)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    generator, losses = torch.Generator().manual_seed(2), []
    for _ in range(steps):
        batch = torch.randint(50, (2, 97), generator=generator).cumsum(1) % 50
        loss = model.token_losses(batch[:, :-1], batch[:, 1:]).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.detach())
    return torch.stack(losses)


FULL = Plan(default=Causal() & Window(before=200))


@pytest.mark.parametrize(
    ("plan", "backend"),
    [
        (Plan(default=Causal()), "gather"),
        (Plan(default=Causal()), "reference"),
        (FULL, "gather"),
        (FULL, "auto"),
        (Plan(default=PerHead(Causal(), Causal() & Window(before=96))), "gather"),
    ],
)
def test_full_density_has_the_curve_of_dense_attention(plan: Plan, backend: str) -> None:
    dense = Plan(default=Causal())
    exact = curve(dense, "reference", dtype=torch.float64)
    assert_no_worse_than(curve(plan, backend), curve(dense, "sdpa"), exact, name="loss curve")


def test_a_sparse_plan_has_one_curve_on_every_backend_and_another_than_dense() -> None:
    plan = Plan(default=Causal() & Window(before=3))
    gather, reference = curve(plan, "gather"), curve(plan, "reference")
    exact = curve(plan, "reference", dtype=torch.float64)
    assert_no_worse_than(gather, reference, exact, name="loss curve")
    with pytest.raises(AssertionError, match="max error"):
        assert_no_worse_than(curve(Plan(default=Causal()), "sdpa"), reference, exact, name="another plan")
