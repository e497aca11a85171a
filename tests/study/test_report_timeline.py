"""The time line of a report: many changes of one plan do not hide the curve, and all of them are in the table."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any

import numpy as np

from openwork.patterns import Causal
from openwork.plan import Plan
from openwork.study.report.timeline import decision_events, timeline_sections
from openwork.study.report.values import Table

PLAN = json.loads(Plan(default=Causal()).to_json())


def result_of(*runs: tuple[str, int, list[int]], steps: int = 100) -> Any:
    records = [
        SimpleNamespace(
            name=name,
            seed=seed,
            steps=steps,
            timeline=tuple({"step": n, "reason": f"at {n}", "plan": PLAN} for n in at),
        )
        for name, seed, at in runs
    ]
    return SimpleNamespace(records=records, config=SimpleNamespace(seed=0, seeds=len({seed for _, seed, _ in runs})))


def places(record: Any) -> Any:
    return np.arange(1, record.steps + 1) * 10.0


def test_changes_are_where_their_step_begins_and_alike_ones_share_a_line() -> None:
    result = result_of(("a", 0, [0, 5, 100]), ("b", 0, [5]), ("dense", 0, [7]))
    assert decision_events(result, places) == [(50.0, "a, b: at 5")]


def test_only_the_first_seed_is_on_the_chart() -> None:
    result = result_of(("a", 0, [5]), ("a", 1, [9]))
    assert decision_events(result, places) == [(50.0, "a (seed 0): at 5")]
    (section,) = timeline_sections(result)
    (table,) = section.parts
    assert isinstance(table, Table)
    assert [row[:2] for row in table.rows] == [("a, seed 0", "5"), ("a, seed 1", "9")]


def test_of_many_changes_the_first_and_the_last_have_lines() -> None:
    result = result_of(("a", 0, list(range(1, 81))))
    first, last = decision_events(result, places)
    assert first == (10.0, "a: at 1; 78 more between the first and the last")
    assert last == (800.0, "a: at 80")
    (section,) = timeline_sections(result)
    (table,) = section.parts
    assert isinstance(table, Table)
    assert [row[1] for row in table.rows] == ["1", "2", "3", "4", "5", "6", "", "75", "76", "77", "78", "79", "80"]
    assert table.rows[6][2] == "and 68 more changes"


def test_without_schedules_there_is_no_table() -> None:
    assert timeline_sections(result_of(("a", 0, []))) == ()
