"""The verdict: what it claims follows from the figures, and it claims no more."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

import pytest

from openwork.study import StudyConfig, StudyResult, contender_from_text
from openwork.study.record import HeldOut, RunRecord
from openwork.study.report import html_of, study_report
from openwork.study.table import columns_of, rich_table, table_cells
from openwork.study.verdict import can_tell_quality

BYTES = 1000


def result_of(plans: dict[str, dict[str, Any]], *, seeds: int = 1, gzip: float = 2.0, **options: Any) -> StudyResult:
    """A result with made figures: `bpb` (one for each seed), `ms`, `density` for each plan."""
    records = []
    for name, figures in plans.items():
        for seed in range(seeds):
            steps = figures.get("steps", 10)
            records.append(
                RunRecord(
                    name=name,
                    seed=seed,
                    tokens_per_step=1024,
                    spent_s=1.0,
                    sessions=1,
                    backend="gather",
                    peak_bytes=figures.get("peak", 500 << 20),
                    start_bytes=200 << 20,
                    nats=figures["bpb"][seed] * BYTES * math.log(2),
                    losses=tuple(5.0 - 0.1 * step for step in range(steps)),
                    step_ms=(900.0, 800.0) + (figures.get("ms", 100.0),) * (steps - 2),
                    layout_ms=(0.0,) * steps,
                    data_ms=(1.0,) * steps,
                    density=(figures.get("density", 0.5),) * steps,
                    block_density=(0.5,) * steps,
                    held_out_curve=((steps, 1.0, figures["bpb"][seed]),),
                )
            )
    names = [name for name in plans if name not in ("dense", "control")]
    config = StudyConfig(
        data="texts",
        out=Path("out"),
        contenders=tuple(contender_from_text(f"{name}: Causal() & Window(before=7)") for name in names),
        control="control" in plans,
        seeds=seeds,
        seq_len=1024,
        **options,
    )
    return StudyResult(
        config=config,
        records=tuple(records),
        held_out=HeldOut(num_tokens=400, num_bytes=BYTES, gzip_bits_per_byte=gzip),
        training_bytes_per_token=2.5,
        data={
            "root": "texts",
            "training_files": 9,
            "training_bytes": 9000,
            "held_out_files": ["a"],
            "held_out_bytes": 1000,
            "left_out": {},
            "fingerprint": "x",
        },
        environment={"device": "cpu", "threads": 2},
        vocab_size=2048,
    )


DENSE = {"bpb": (1.8, 1.81), "ms": 200.0, "density": 0.5}
CONTROL = {"bpb": (2.2, 2.21), "ms": 100.0, "density": 0.05}


def sentence(result: StudyResult, start: str) -> str:
    (found,) = (line for line in result.verdict.split("\n") if line.startswith(start))
    return found


def test_a_faster_plan_of_unknown_quality_paid_in_time_alone() -> None:
    result = result_of({"dense": DENSE, "window": {"bpb": (1.7, 1.7), "ms": 100.0, "density": 0.05}})
    words = sentence(result, "window:")
    assert "steps are 2.00x as fast as dense (0.10 s against 0.20 s)" in words
    assert re.search(r"its 10.0 % of the pairs would allow \d\.\d\dx for the whole step and 10.0x for attention", words)
    assert "1.700 bits per byte against 1.800 bits per byte after the same steps, which this study cannot" in words
    assert words.endswith("It paid in time.")
    assert "Quality is not distinguishable at this budget: no control that must lose was trained" in result.verdict


@pytest.mark.parametrize(
    ("ms", "words"),
    [(300.0, "steps are slower than dense, 0.67x"), (199.0, "steps take as long as dense")],
)
def test_a_plan_that_saves_no_time_did_not_pay(ms: float, words: str) -> None:
    result = result_of({"dense": DENSE, "window": {"bpb": (1.7, 1.7), "ms": ms}})
    assert words in sentence(result, "window:")
    assert sentence(result, "window:").endswith("It did not pay: no time was saved.")


@pytest.mark.parametrize(
    ("control", "seeds", "reason"),
    [
        ({"bpb": (1.83, 1.83)}, 2, "the control, which must lose, is only 1.4 % worse than dense"),
        ({"bpb": (1.6, 2.4)}, 2, r"the control loses by no more than the seeds differ \(0.800 bits per byte\)"),
        (CONTROL, 1, "one seed does not show how far seeds differ"),
    ],
)
def test_quality_counts_only_where_the_control_loses(control: dict[str, Any], seeds: int, reason: str) -> None:
    result = result_of({"dense": DENSE, "window": DENSE, "control": control}, seeds=seeds)
    assert not can_tell_quality(result)[0]
    assert re.search("not distinguishable at this budget: " + reason, result.verdict)


@pytest.mark.parametrize(
    ("window", "words"),
    [
        ({"bpb": (1.9, 1.91), "ms": 100.0}, r"Quality is 5.5 % worse: .* It paid in time and cost quality."),
        ({"bpb": (1.7, 1.71), "ms": 100.0}, r"Quality is 5.5 % better: .* It paid."),
        ({"bpb": (1.81, 1.8), "ms": 100.0}, r"Quality is within the noise of the seeds: .* It paid."),
        ({"bpb": (1.9, 1.91), "ms": 200.0}, r"It did not pay: slower or equal, and worse."),
        ({"bpb": (1.7, 1.71), "ms": 200.0}, r"It paid in quality alone: no time was saved."),
    ],
)
def test_where_quality_counts_it_is_weighed(window: dict[str, Any], words: str) -> None:
    result = result_of({"dense": DENSE, "window": window, "control": CONTROL}, seeds=2)
    assert can_tell_quality(result) == (True, "")
    assert re.search(words + "$", sentence(result, "window:"))
    assert not any(line.startswith("control") for line in result.verdict.split("\n"))


def test_gzip_is_named_with_those_it_beats() -> None:
    plans = {"dense": DENSE, "window": {"bpb": (2.1, 2.1)}}
    assert "gzip -9 needs 1.500 bits per byte for the same text, and no plan is below it yet: train longer" in (
        result_of(plans, gzip=1.5).verdict
    )
    assert "not every plan (window) is below it" in result_of(plans, gzip=2.0).verdict
    assert "every plan is below it" in result_of(plans, gzip=3.0).verdict


@pytest.mark.parametrize(("steps", "uncertain"), [(10, False), (6, True)])
def test_few_steps_make_a_speed_uncertain(steps: int, uncertain: bool) -> None:
    result = result_of({"dense": DENSE, "window": DENSE | {"steps": steps}})
    assert ("Step times of window are few or spread widely" in result.verdict) == uncertain


def test_under_a_time_limit_the_comparison_says_so() -> None:
    plans = {"dense": DENSE | {"steps": 5}, "window": {"bpb": (1.7, 1.7), "steps": 9}}
    assert "after the same seconds" in sentence(result_of(plans, seconds=5.0), "window:")


def test_the_first_steps_are_left_out_of_the_times() -> None:
    row = result_of({"dense": DENSE}).rows[0]
    assert row.step_ms is not None and row.step_ms.high == 200.0
    assert row.tokens_per_s == pytest.approx(4 * 1024 / 0.201)


def test_dense_steps_of_a_sparse_plan_are_left_out_too() -> None:
    # of 12 steps three are sparse, and of those the first two are not timed
    result = result_of({"dense": DENSE | {"steps": 12}, "window": DENSE | {"steps": 12}}, dense_steps=9)
    assert [row.step_ms.num_samples for row in result.rows if row.step_ms] == [10, 1]


def test_the_ideal_of_a_step_counts_its_matrices_too() -> None:
    row = result_of({"dense": DENSE, "window": {"bpb": (1.8, 1.8), "density": 1025 / 2048 / 10}}).rows[1]
    # small: 4 layers of 128 channels, 2 heads of 64, 1 key head, 352 hidden, a convolution over 4; 1,024 tokens
    matrices = 4 * (128 * 128 * 2 + 128 * 2 * 64 + 3 * 128 * 352 + 128 * 4) + 2048 * 128
    linear, attention = 6 * 1024 * matrices, 3.5 * 4 * (1024 * 1025 / 2) * 64 * 2 * 4
    assert row.attention_ideal == pytest.approx(10)
    assert row.step_ideal == pytest.approx((linear + attention) / (linear + attention / 10))


def test_memory_is_shown_where_it_is_the_plans_own() -> None:
    plans = {"dense": DENSE | {"peak": 800 << 20}, "window": {"bpb": (1.8, 1.8), "peak": 600 << 20}}
    result = result_of(plans)
    assert "memory is -25 %" in sentence(result, "window:")
    place = [name for name, _ in columns_of(result)].index("memory")
    assert [cells[place] for cells in table_cells(result)] == ["800 MiB (600)", "600 MiB (400)"]
    shared = result_of(plans, isolate=False)
    assert "memory" not in [name for name, _ in columns_of(shared)]
    assert shared.memory_meaning == "not measured: the plans shared one process"
    assert "resident memory" in result.memory_meaning
    assert result_of(plans, device="cuda").memory_meaning == "most memory allocated by torch on the device"


def test_a_hostile_name_cannot_leave_its_place_on_the_page() -> None:
    result = result_of({"dense": DENSE})
    result.data["root"] = "</script><b>x"
    assert "</script><b>" not in html_of(study_report(result))


def test_the_table_has_a_column_for_each_plan() -> None:
    result = result_of({"dense": DENSE, "window": DENSE})
    assert [column.header for column in rich_table(result).columns] == ["", "dense", "window"]
