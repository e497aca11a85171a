"""Schedules: values from step to plan, read back from their text, the same whenever they are asked."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from openwork.errors import PlanError
from openwork.patterns import Causal, Chunk, Dense, First, Keys, PerHead, Window
from openwork.plan import Plan
from openwork.testing.strategies import patterns
from openwork.train import DenseThenSparse, RelaxOnPlateau, Schedule, Shrink, parse_schedule
from openwork.train.schedules import DENSE_PLAN, Decision, Measurement
from openwork.train.wider import wider

LOCAL = Plan(default=Causal() & Window(before=63))
SIZE: dict[str, Any] = {"seq_len": 1024, "num_layers": 4}


def history(*losses: float, every: int = 10) -> list[Measurement]:
    return [Measurement((number + 1) * every, loss) for number, loss in enumerate(losses)]


def decide(schedule: Schedule, *losses: float, plan: Plan = LOCAL, step: int = 10_000) -> Decision:
    return schedule.decide(step, plan, **SIZE, measured=history(*losses))


def relaxed(decision: Decision) -> list[int]:
    return sorted(decision.plan.layers)


@given(one=patterns(), other=patterns(), q=st.integers(0, 40), k=st.integers(0, 40), causal=st.booleans())
def test_wider_is_the_union(one: Any, other: Any, q: int, k: int, causal: bool) -> None:
    if causal:
        one, other = Causal() & one, Causal() & other
    if one.needs or other.needs:
        return
    joined = wider(one, other)
    for head in range(len(joined.patterns) if isinstance(joined, PerHead) else 1):
        expected = bool(one.head(head).allows(q, k)) or bool(other.head(head).allows(q, k))
        assert bool(joined.head(head).allows(q, k)) == expected


@pytest.mark.parametrize(
    ("one", "other", "joined"),
    [
        (Causal() & Window(before=3), Causal() & Window(before=7), Causal() & Window(before=7)),
        (Causal() & Window(before=9), Causal() & Window(before=7), Causal() & Window(before=9)),
        (Causal() & Window(before=9), Causal(), Causal()),
        (Causal(), Causal() & First(keys=3), Causal()),
        (Causal() & First(keys=3), Causal() & First(keys=3), Causal() & First(keys=3)),
        (Causal() & Keys("a"), Causal() & Window(before=7), Causal() & (Keys("a") | Window(before=7))),
        (Causal() & Window(before=2, after=None), Causal() & Window(before=None, after=1), Causal()),
        (PerHead(Causal(), Causal() & Window(before=1)), Causal() & Window(before=2),
         PerHead(Causal(), Causal() & Window(before=2))),
        (Window(before=1), Causal() & Window(before=2), Window(before=1) | (Causal() & Window(before=2))),
    ],
)  # fmt: skip
def test_a_union_is_written_in_few_words(one: Any, other: Any, joined: Any) -> None:
    assert wider(one, other) == joined


def test_dense_then_sparse_changes_once() -> None:
    schedule = DenseThenSparse(steps=5)
    plans = [schedule.plan_at(step, LOCAL, **SIZE) for step in range(8)]
    assert plans == [DENSE_PLAN] * 5 + [LOCAL] * 3
    assert schedule.decide(4, LOCAL, **SIZE).reason == "dense for the first 5 steps"


@given(start=st.integers(0, 30), span=st.integers(0, 30), final=st.integers(0, 70), seq_len=st.integers(2, 200),
       multiple=st.integers(1, 64))  # fmt: skip
def test_a_window_shrinks_from_all_to_its_end_and_never_grows(
    start: int, span: int, final: int, seq_len: int, multiple: int
) -> None:
    schedule = Shrink(start_step=start, end_step=start + span, final_window=final, multiple=multiple)
    windows = [schedule.window_at(step, seq_len=seq_len) for step in range(start + span + 3)]
    assert windows[:start] == [None] * start
    shrinking = [window for window in windows[start:] if window is not None]
    assert shrinking == sorted(shrinking, reverse=True) and shrinking[-1] == final
    if span:
        assert shrinking[0] >= max(seq_len, final)
        assert all(window % multiple == 0 for window in shrinking[:-3])


def test_shrink_goes_from_dense_over_wider_plans_to_the_plan_itself() -> None:
    facts = Plan.by_depth({0.0: Causal() & (Window(before=63) | First(keys=4)), 0.5: Causal() & Chunk(128)})
    schedule = Shrink(start_step=10, end_step=20, final_window=63)
    assert schedule.plan_at(9, facts, **SIZE) == DENSE_PLAN == schedule.plan_at(10, facts, **SIZE)
    middle = schedule.plan_at(15, facts, **SIZE)
    # 63 + (1024 - 63) / 2 = 543.5, rounded up to a multiple of 64
    assert middle.default == Causal() & (Window(before=63) | First(keys=4) | Window(before=576))
    assert middle.depths == ((0.5, Causal() & (Chunk(128) | Window(before=576))),)
    assert schedule.plan_at(20, facts, **SIZE) == schedule.plan_at(99, facts, **SIZE) == facts
    assert schedule.decide(15, facts, **SIZE).reason == "the plan and a window of 576 keys"


def test_a_stall_relaxes_the_upper_layers_first_and_says_why() -> None:
    schedule = RelaxOnPlateau(patience=2, min_gain=0.01)
    assert relaxed(decide(schedule, 3.0, 2.9, 2.8)) == []
    assert relaxed(decide(schedule, 3.0, 2.9, 2.89)) == []
    one = decide(schedule, 3.0, 2.9, 2.89, 2.9)
    assert one.plan == Plan(default=LOCAL.default, layers={3: Causal()})
    assert one.reason == (
        "step 40: validation stalled at 2.8900, 2.9000 after 2.9000 at step 20; layer 3 is relaxed to Causal()"
    )
    # counting starts anew, and what was relaxed stays so
    assert relaxed(decide(schedule, 3.0, 2.9, 2.89, 2.9, 2.9)) == [3]
    assert relaxed(decide(schedule, 3.0, 2.9, 2.89, 2.9, 2.9, 2.9)) == [2, 3]
    assert relaxed(decide(schedule, 3.0, 2.9, 2.89, 2.9, 2.0, 1.9)) == [3]
    assert relaxed(decide(schedule, *[3.0] * 40)) == [0, 1, 2, 3]


def test_a_spike_relaxes_at_once() -> None:
    schedule = RelaxOnPlateau(patience=9, spike=0.1, layers=2)
    assert relaxed(decide(schedule, 3.0, 3.2)) == []
    spiked = decide(schedule, 3.0, 3.4)
    assert relaxed(spiked) == [2, 3]
    assert spiked.reason == (
        "step 20: validation spiked to 3.4000 after 3.0000 at step 10; layers 2, 3 are relaxed to Causal()"
    )
    assert relaxed(decide(schedule, 3.0, math.nan)) == [2, 3]


def test_only_layers_that_can_get_more_are_relaxed() -> None:
    plan = Plan.by_depth({0.0: LOCAL.default, 0.5: Causal()})
    schedule = RelaxOnPlateau(patience=1, most=1)
    assert decide(schedule, 3.0, 3.0, plan=plan).plan.layers == {1: Causal()}
    assert decide(schedule, *[3.0] * 9, plan=plan).plan.layers == {1: Causal()}
    mixed = Plan(default=PerHead(Causal(), Causal() & Window(before=7)))
    wide = RelaxOnPlateau(patience=1, to=Causal() & Window(before=127))
    assert decide(wide, 3.0, 3.0, plan=mixed).plan.layers == {3: PerHead(Causal(), Causal() & Window(before=127))}
    assert RelaxOnPlateau(to=Causal() & Keys("heading")).needs == {"heading": "flag"}


def test_the_future_and_the_dense_start_do_not_count() -> None:
    schedule = RelaxOnPlateau(start_step=20, patience=1)
    losses = (2.0, 2.0, 2.9, 2.9, 2.9)
    assert decide(schedule, *losses, step=19).plan == DENSE_PLAN
    # steps 10 and 20 were dense; 30 is the first of the plan's own
    assert relaxed(decide(schedule, *losses, step=30)) == []
    assert relaxed(decide(schedule, *losses, step=39)) == []
    assert relaxed(decide(schedule, *losses, step=40)) == [3]
    assert relaxed(decide(schedule, *losses, step=50)) == [2, 3]


@pytest.mark.parametrize(
    "schedule",
    [
        DenseThenSparse(steps=7),
        Shrink(end_step=9),
        Shrink(start_step=3, end_step=9, final_window=5, multiple=1),
        RelaxOnPlateau(),
        RelaxOnPlateau(start_step=5, patience=1, min_gain=0.0, spike=0.5, layers=3, most=2,
                       to=Causal() & (Window(before=7) | Keys("heading"))),
    ],
)  # fmt: skip
def test_the_text_of_a_schedule_is_read_back(schedule: Schedule) -> None:
    assert parse_schedule(repr(schedule)) == schedule
    assert hash(parse_schedule(repr(schedule))) == hash(schedule)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("Relax()", "unknown schedule 'Relax'; known are DenseThenSparse, Shrink, RelaxOnPlateau"),
        ("shrink(end_step=3)", "unknown schedule 'shrink'; did you mean 'Shrink'?"),
        ("Shrink", "'Shrink' is no schedule with its arguments. It is written like Shrink\\("),
        ("Shrink(", "schedule text 'Shrink\\(' cannot be read. It is written like Shrink\\("),
        ("Shrink()", "Shrink lacks end_step; it takes start_step=..., end_step, final_window=..., multiple=..."),
        ("DenseThenSparse(5)", "DenseThenSparse lacks steps; it takes steps"),
        ("RelaxOnPlateau(5)", "RelaxOnPlateau takes its arguments by name; it takes start_step="),
        ("Shrink(end_step=3, last=4)", "Shrink has no argument 'last'; it takes start_step"),
        ("Shrink(end_step=__import__('os').getpid())", 'Shrink end_step is a number; got "__import__'),
        ("Shrink(**{'end_step': 3})", "Shrink has no argument None"),
        ("Shrink(end_step=1.5)", "Shrink end_step must be a whole number, 0 or more; got 1.5"),
        ("Shrink(end_step=3, start_step=4)", "end_step must not be before start_step; got end_step=3, start_step=4"),
        ("Shrink(end_step=3, multiple=0)", "Shrink multiple must be a whole number, 1 or more; got 0"),
        ("DenseThenSparse(steps=-1)", "DenseThenSparse steps must be a whole number, 0 or more; got -1"),
        ("RelaxOnPlateau(patience=0)", "RelaxOnPlateau patience must be a whole number, 1 or more; got 0"),
        ("RelaxOnPlateau(spike=-1)", "RelaxOnPlateau spike is a share of the best loss, 0 or more; got -1"),
        ("RelaxOnPlateau(to=Windw(before=3))", "RelaxOnPlateau to: unknown pattern 'Windw'; did you mean 'Window'"),
        ("RelaxOnPlateau(to=3)", "RelaxOnPlateau to: .* is not a pattern"),
    ],
)
def test_a_wrong_text_is_refused_in_words(text: str, message: str) -> None:
    with pytest.raises(PlanError, match=message):
        parse_schedule(text)


def test_what_is_no_text_is_refused() -> None:
    with pytest.raises(PlanError, match="parse_schedule takes text; got int"):
        parse_schedule(3)  # type: ignore[arg-type]
    with pytest.raises(PlanError, match="may have 10,000 characters at most; got 10,001"):
        parse_schedule("x" * 10_001)
    with pytest.raises(PlanError, match="RelaxOnPlateau to must be a pattern; got 'Causal'"):
        RelaxOnPlateau(to="Causal")  # type: ignore[arg-type]


def test_a_pattern_that_looks_ahead_is_never_made_causal_here() -> None:
    both = Plan(default=Window(before=3, after=3))
    shrunk = Shrink(end_step=10, multiple=1).plan_at(9, both, **SIZE).default
    assert shrunk.allows(5, 8) and not Dense() == shrunk
