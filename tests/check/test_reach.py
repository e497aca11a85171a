"""Reach by sets of keys against boolean matrix powers."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import openwork as ow
from openwork.check import Reach, predicted_accuracy, reachability
from openwork.check import runs as runs_module
from openwork.check import walk as walk_module
from openwork.errors import AnnotationError, ArgumentError, LayoutError, PlanError
from openwork.patterns import zoo
from openwork.testing import shuffled_layout
from openwork.testing.strategies import facts as drawn_facts
from openwork.testing.strategies import patterns, per_head

N = 512
LAYERS = 20


def assert_same(oracle, reach: Reach, expected: list[float]) -> None:
    assert reach.coverage == pytest.approx(expected, abs=1e-12)
    assert reach.hops == oracle.first_full(expected)
    assert all(later >= earlier for earlier, later in zip(reach.coverage, reach.coverage[1:], strict=False))


@pytest.mark.parametrize("name", zoo.__all__)
def test_every_zoo_entry_reaches_what_matrix_powers_reach(name, oracle) -> None:
    pattern, notes = oracle.entry(name), oracle.facts(N)
    expected = oracle.shares([oracle.mask(pattern, N, notes)] * LAYERS)
    reach = reachability(pattern, N, LAYERS, notes)
    assert_same(oracle, reach, expected)
    assert reach.causal == ((getattr(zoo, name).__doc__ or "").startswith("Decoder"))
    # nothing changes in the layers that are left: settled, or the last step was the last change
    assert not reach.settled or expected[-1] == oracle.shares([oracle.mask(pattern, N, notes)] * 40)[-1]
    assert reach.settled or expected[-1] > expected[-2]


SLOW = {
    "window": "Causal() & Window(before=13)",
    "both ways": "Window(before=7, after=9)",
    "headings": "policy_documents(window=10, sinks=1)",
    "source": "source_code(window=10, sinks=1)",
    "strided": "sparse_transformer_strided(19)",
    "fixed": "sparse_transformer_fixed(16, c=2)",
    "longnet": "longnet((8, 32, 128), (1, 2, 4), 3)",
    "power": "power_attention(window=3)",
    "grid": "natten_2d(16, 32, kernel=3)",
    "dilated grid": "natten_2d(16, 32, kernel=3, dilation=2)",
    "bigbird": "bigbird_causal(block=16, random_blocks=1)",
    "documents": "Same('document') & Window(before=20, after=3)",
    "an order that is turned round": "Window(before=0, after=5)",
    "nothing": "Causal() & ~Causal()",
    "empty rows": "Causal() & Strided(7) & ~Window(before=0)",
}


@pytest.mark.parametrize("case", SLOW)
def test_patterns_that_take_many_layers(case, oracle) -> None:
    pattern, notes = ow.parse_pattern(SLOW[case]), oracle.facts(N)
    expected = oracle.shares([oracle.mask(pattern, N, notes)] * 64)
    assert_same(oracle, reachability(pattern, N, 64, notes), expected)


@pytest.mark.parametrize("parts", [1, 3])
@pytest.mark.parametrize("text", ["Causal() & Window(before=40)", "Window(before=3, after=8) | First(keys=2)"])
def test_parts_in_any_order_are_exact(oracle, text, parts) -> None:
    mask = oracle.mask(ow.parse_pattern(text), 200)
    expected = oracle.shares([mask] * 12)
    assert_same(oracle, reachability(shuffled_layout(mask, parts=parts), layers=12), expected)


def test_an_order_that_cuts_keys_into_many_runs_is_left(oracle) -> None:
    mask = oracle.mask(ow.Causal() & ow.Window(before=40), 200)
    (runs,) = runs_module.plane_runs(shuffled_layout(mask, parts=1).planes[0])
    (lookups,) = runs.lookups()
    assert runs.natural
    # 41 keys in one run each, where the part's own order would have cut them into many
    assert len(lookups.first) == 200


@pytest.mark.filterwarnings("ignore::openwork.errors.AnnotationWarning")
@settings(max_examples=60)
@given(data=st.data(), pattern=st.one_of(patterns(), per_head()), n=st.integers(1, 130), layers=st.integers(1, 6))
def test_any_combination_of_patterns_is_exact(oracle, data, pattern, n, layers) -> None:
    notes = data.draw(drawn_facts(n))
    expected = oracle.shares([oracle.mask(pattern, n, notes)] * layers)
    assert_same(oracle, reachability(pattern, n, layers, notes), expected)


@settings(max_examples=30)
@given(data=st.data(), n=st.integers(1, 100), layers=st.integers(1, 7))
def test_any_plan_is_exact(oracle, data, n, layers) -> None:
    simple = patterns(annotated=False, max_leaves=2)
    plan = ow.Plan(
        default=data.draw(simple), layers=data.draw(st.dictionaries(st.integers(0, layers - 1), simple, max_size=3))
    )
    masks = [oracle.mask(plan.for_layer(layer, layers), n) for layer in range(layers)]
    assert_same(oracle, reachability(plan, n, layers), oracle.shares(masks))


def test_a_plan_gives_each_layer_its_own_step(oracle) -> None:
    local, broad = ow.Causal() & ow.Window(before=9), zoo.sparse_transformer_strided(32)
    plan = ow.Plan.by_depth({0.0: local, 0.67: broad}, layers={1: zoo.log_sparse()})
    masks = [oracle.mask(plan.for_layer(layer, 9), N) for layer in range(9)]
    assert_same(oracle, reachability(plan, N, 9), oracle.shares(masks))
    # the order of layers matters, so a step that is put elsewhere is seen
    assert oracle.shares(masks[::-1]) != pytest.approx(oracle.shares(masks))


def test_a_layer_of_many_heads_lets_through_what_any_head_does(oracle) -> None:
    heads = ow.Causal() & ow.PerHead(ow.Window(before=3), ow.Strided(16), ow.Window(before=3), ow.First(keys=2))
    expected = oracle.shares([oracle.mask(heads, N)] * 8)
    assert_same(oracle, reachability(heads, N, 8), expected)
    assert expected != oracle.shares([oracle.mask(heads.head(0), N)] * 8)


def test_alike_heads_are_one(oracle) -> None:
    window = ow.Causal() & ow.Window(before=3)
    assert reachability(ow.PerHead(window, window), 64, 5) == reachability(window, 64, 5)


@pytest.mark.parametrize("density", [0.002, 0.02, 0.5])
def test_a_scattered_mask_is_exact(density, oracle, monkeypatch) -> None:
    allowed = np.random.default_rng(1).random((300, 300)) < density
    layout = ow.BlockLayout.from_mask(allowed)
    expected = oracle.shares([allowed] * 12)
    assert_same(oracle, reachability(layout, layers=12), expected)
    # the same where runs are found anew for each layer, and where panels are many
    monkeypatch.setattr(runs_module, "_MOST_KEPT", 100)
    monkeypatch.setattr(runs_module, "_PAIRS_AT_ONCE", 1 << 14)
    monkeypatch.setattr(walk_module, "_PANEL", 64)
    monkeypatch.setattr(walk_module, "_ROUNDS", 2)
    assert_same(oracle, reachability(layout, layers=12), expected)


def test_a_custom_rule_is_exact(oracle) -> None:
    rule = ow.Custom(lambda q, k: (q * 7 + k * 3) % 11 == 0, "sieve") & ow.Causal()
    assert_same(oracle, reachability(rule, 200, 6), oracle.shares([oracle.mask(rule, 200)] * 6))


def test_published_figures_of_coverage_come_out() -> None:
    # measured by hand for 1,024 tokens before this package was written
    known = {
        "Causal() & Window(before=31)": (33, [0.061, 0.119, 0.175, 0.229]),
        "Causal() & Window(before=127)": (9, [0.234, 0.436, 0.607, 0.747]),
        "streaming_llm(sinks=4, window=31)": (33, [0.069, 0.127, 0.182, 0.236]),
        "sparse_transformer_strided(32)": (2, [0.092, 1.0, 1.0, 1.0]),
        "sparse_transformer_fixed(32, c=1)": (2, [0.062, 1.0, 1.0, 1.0]),
        "log_sparse()": (10, [0.020, 0.090, 0.254, 0.500]),
        "power_attention(window=31)": (6, [0.069, 0.320, 0.690, 0.936]),
    }
    for text, (hops, coverage) in known.items():
        reach = reachability(ow.parse_pattern(text), 1024)
        assert reach.hops == hops, text
        assert reach.coverage[:4] == pytest.approx(coverage, abs=6e-4), text


def test_a_window_moves_by_its_width_each_layer() -> None:
    reach = reachability(ow.Causal() & ow.Window(before=10), 101, 64)
    assert reach.hops == 10
    assert reach.after(1) == (11 * 101 - 10 * 11 // 2) / (101 * 102 // 2)
    never = reachability(ow.Causal() & ow.Chunk(10), 100, 3)
    assert (never.hops, never.settled) == (None, True)
    short = reachability(ow.Causal() & ow.Window(before=10), 101, 9)
    assert (short.hops, short.settled) == (None, False)


def test_progress_goes_from_nothing_to_all_in_the_callers_thread() -> None:
    import threading

    seen = []
    reachability(
        ow.Causal() & ow.Window(before=20), 4096, 64, progress=lambda share: seen.append((share, threading.get_ident()))
    )
    shares = [share for share, _ in seen]
    assert shares == sorted(shares) and shares[-1] == 1.0
    assert {thread for _, thread in seen} == {threading.get_ident()}


def test_an_error_in_progress_ends_the_walk() -> None:
    def stop(share: float) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        reachability(ow.Causal() & ow.Window(before=20), 4096, 64, progress=stop)


def test_the_law_of_reach() -> None:
    # anchors: window of a prototype .062 of 1/16, BigBird .74, all reached
    assert predicted_accuracy(0.0, 16) == 1 / 16
    assert predicted_accuracy(1.0, 16) == 1.0
    assert predicted_accuracy(0.25, 4) == pytest.approx(0.4375)


def test_what_cannot_be_checked_is_said() -> None:
    window = ow.Causal() & ow.Window(before=3)
    square = ow.BlockLayout.from_mask(np.ones((3, 3), dtype=bool))
    notes = ow.Annotations(4, flags={"heading": np.zeros(4, dtype=bool)})
    with pytest.raises(ArgumentError, match="length must be 1 or more tokens; got 0"):
        reachability(window, 0)
    with pytest.raises(ArgumentError, match="length must be 1 or more tokens; got None"):
        reachability(window)
    with pytest.raises(ArgumentError, match="layers must be 1 to 4096; got 0"):
        reachability(window, 4, 0)
    with pytest.raises(ArgumentError, match=r"a check takes a pattern, a plan or a layout; got ndarray.*from_mask"):
        reachability(np.ones((3, 3), dtype=bool), 3)  # type: ignore[arg-type]
    with pytest.raises(LayoutError, match="the layout has q_len=3 and kv_len=5"):
        reachability(ow.BlockLayout.from_mask(np.ones((3, 5), dtype=bool)))
    with pytest.raises(LayoutError, match="the layout is for 2 sequences that differ; check one at a time"):
        reachability(ow.BlockLayout.from_mask(np.ones((2, 1, 3, 3), dtype=bool)))
    with pytest.raises(LayoutError, match="the layout is for 3 tokens, but length=4; leave length out"):
        reachability(square, 4)
    with pytest.raises(LayoutError, match="annotations describe 4 tokens, but the layout is for 3"):
        reachability(square, annotations=notes)
    with pytest.raises(PlanError, match="the plan names layer 5, but the model has 2 layers"):
        reachability(ow.Plan(default=window, layers={5: ow.Causal()}), 4, 2)
    with pytest.raises(AnnotationError, match="reads the flag 'heading'"):
        reachability(ow.Keys("heading"), 4)
    with pytest.raises(ArgumentError, match="layers must be 1 to 2, as far as was looked; got 3"):
        reachability(window, 4, 2).after(3)
    with pytest.raises(ArgumentError, match=r"reached_share is a fraction, 0 to 1; got 1\.5"):
        predicted_accuracy(1.5, 4)
    with pytest.raises(ArgumentError, match="num_choices must be 1 or more; got 0"):
        predicted_accuracy(0.5, 0)
