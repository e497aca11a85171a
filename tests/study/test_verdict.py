"""The verdict: what it claims follows from the figures, and it claims no more."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Any

import pytest

from openwork.errors import StudyError
from openwork.study import StudyConfig, StudyResult, contender_from_text
from openwork.study.record import HeldOut, RunRecord, position_edges
from openwork.study.report import html_of, study_report
from openwork.study.table import columns_of, rich_table, table_cells
from openwork.study.verdict import can_tell_quality

BYTES = 1000


def result_of(
    plans: dict[str, dict[str, Any]],
    *,
    seeds: int = 1,
    gzip: float = 2.0,
    held_out_tokens: int = 400,
    **options: Any,
) -> StudyResult:
    """A result with made figures: `bpb` (one for each seed), `ms`, `data` (ms), `density` for each plan."""
    records = []
    for name, figures in plans.items():
        for seed in range(seeds):
            steps = figures.get("steps", 10)
            records.append(
                RunRecord(
                    name=name,
                    seed=seed,
                    tokens_per_step=1024,
                    spent_s=figures.get("seconds", 1.0),
                    sessions=1,
                    backend="gather",
                    peak_bytes=figures.get("peak", 500 << 20),
                    start_bytes=200 << 20,
                    nats=figures["bpb"][seed] * BYTES * math.log(2),
                    losses=tuple(5.0 - 0.1 * step for step in range(steps)),
                    step_ms=(900.0, 800.0) + (figures.get("ms", 100.0),) * (steps - 2),
                    layout_ms=(0.0,) * steps,
                    data_ms=(figures.get("data", 1.0),) * steps,
                    density=(figures.get("density", 0.5),) * steps,
                    block_density=(0.5,) * steps,
                    held_out_curve=figures.get("curve", ((steps, 1.0, figures["bpb"][seed]),)),
                    fixed_bytes=figures.get("fixed", 0),
                    position_nats=figures.get("positions", ()),
                    use_nats=figures.get("uses", ()),
                    use_tokens=(100, 10, 20, 30, 0) if "uses" in figures else (),
                    use_window=63 if "uses" in figures else None,
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
        held_out=HeldOut(num_tokens=held_out_tokens, num_bytes=BYTES, gzip_bits_per_byte=gzip),
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
        environment={"device": "cpu", "threads": 2, "memory_bytes": 8e9},
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
    ("data", "paid", "told"),
    [
        (1.0, True, None),
        (50.0, True, "it trains 27,307 tokens/s against 20,378 (1.34x);"),
        (120.0, False, "it trains 18,618 tokens/s against 20,378 (0.91x);"),
    ],
)
def test_time_before_the_steps_counts_for_what_was_paid(data: float, paid: bool, told: str | None) -> None:
    result = result_of({"dense": DENSE, "window": {"bpb": (1.7, 1.7), "ms": 100.0, "data": data}})
    dense, row = result.rows
    assert (row.tokens_per_s > dense.tokens_per_s) == paid and row.speedup == 2.0
    words = sentence(result, "window:")
    assert "steps are 2.00x as fast as dense (0.10 s against 0.20 s); " in words
    if told is None:
        assert "annotating" not in words
    else:
        assert f"(0.10 s against 0.20 s); with reading and annotating before each step {told} its" in words
    assert words.endswith("It paid in time." if paid else "It did not pay: no time was saved.")


def test_a_plan_that_trains_fewer_tokens_in_a_second_did_not_pay_where_quality_counts_either() -> None:
    window = {"bpb": (1.9, 1.91), "ms": 100.0, "data": 120.0}
    result = result_of({"dense": DENSE, "window": window, "control": CONTROL}, seeds=2)
    assert sentence(result, "window:").endswith("It did not pay: slower or equal, and worse.")


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
    one = "gzip -9 needs 2.000 bits per byte for the same text; window is not below it yet."
    assert one in result_of(plans, gzip=2.0).verdict.split("\n")
    several = result_of(plans | {"near": {"bpb": (2.2, 2.2)}, "control": CONTROL}, gzip=2.0).verdict
    assert "for the same text; window, near and control are not below it yet." in several
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


def test_equal_tokens_and_equal_seconds_stand_apart() -> None:
    steps = range(1, 11)
    dense = DENSE | {"seconds": 10.0, "curve": tuple((n, float(n), 3.0 - 0.1 * n) for n in steps)}
    window = {"bpb": (1.9, 1.89), "seconds": 5.0, "curve": tuple((n, 0.5 * n, 3.05 - 0.1 * n) for n in steps)}
    words = sentence(result_of({"dense": dense, "window": window}, seeds=2, steps=10), "window beside")
    assert "after equally many tokens (10,240) 1.895 against 1.805 bits per byte (+0.090, 95 % interval" in words
    assert "n = 2, within noise)" in words.partition(";")[0]
    assert (
        "after equally many seconds (5, where the learning rate of the slower one had not fallen yet) on the text of "
        "the curves 2.050 against 2.500 bits per byte (-0.450, 95 % interval" in words
    )
    assert "over tokens is above dense attention's throughout and never crosses it within this study" in words
    assert words.endswith("over seconds is below dense attention's throughout and never crosses it within this study.")


def test_a_crossing_is_told_with_its_place() -> None:
    steps = range(2, 11, 2)
    dense = DENSE | {"curve": tuple((n, n / 10, 3.0 - 0.1 * n) for n in steps)}
    window = {"bpb": (1.7,), "curve": tuple((n, n / 10, 3.1 - 0.12 * n) for n in steps)}
    words = sentence(result_of({"dense": dense, "window": window}), "window beside")
    assert "its held-out curve over tokens crosses dense attention's at 5,120 tokens and is below it" in words
    assert "(one seed: no interval)" in words
    # at four times the speed one evaluation of dense attention is as early as the plan's last
    window["curve"] = tuple((n, n / 40, bpb) for n, _, bpb in window["curve"])
    words = sentence(result_of({"dense": dense, "window": window | {"seconds": 0.25}}), "window beside")
    assert words.endswith("and over seconds has too few evaluations in common with it to say.")


def test_what_the_noise_of_the_seeds_covers_is_called_noise() -> None:
    plans = {"dense": {"bpb": (1.8, 1.9, 1.85)}, "window": {"bpb": (1.82, 1.86, 1.88)}, "control": {"bpb": (2.2,) * 3}}
    result = result_of(plans, seeds=3)
    words = sentence(result, "window:")
    row = result.rows[1]
    assert row.difference is not None and row.difference.holds_zero and row.difference.num_samples == 3
    assert "Quality is within the noise of the seeds" in words and "n = 3, within noise)" in words
    # the same means, the seeds in step with each other: a difference
    plans["window"] = {"bpb": (1.81, 1.911, 1.8611)}
    assert "Quality is 0.6 % worse" in sentence(result_of(plans, seeds=3), "window:")


def test_practice_says_what_fits_how_long_and_how_many() -> None:
    window = {"bpb": (1.8,), "ms": 99.0, "peak": 400 << 20, "fixed": 40 << 20}
    result = result_of({"dense": DENSE | {"ms": 199.0, "fixed": 40 << 20}, "window": window}, memory_gb=4.0)
    # 4 sequences need (peak - 200 MiB - 40 MiB); of 4e9 bytes 240 MiB are taken
    left = 4e9 - (240 << 20)
    ours, theirs = int(left / (40 << 20)), int(left / (65 << 20))
    words = sentence(result, "window in practice:")
    assert f"steps of up to {ours} sequences fit into 4.0 GB (dense: {theirs}; reckoned from one batch size)" in words
    # 9,000 bytes are 3,600 tokens, of which a step of 100 ms takes 4,096
    assert result.rows[1].practice.hours_per_epoch == pytest.approx(3600 / 40960 / 3600)
    assert "4 accelerators train as fast as 8 with dense attention" in words
    slow = result_of({"dense": DENSE, "window": DENSE | {"ms": 400.0}}, isolate=False)
    assert "takes 16" in sentence(slow, "window in practice:") and "fit into" not in slow.verdict
    same = result_of({"dense": DENSE, "window": DENSE})
    assert "of 8 accelerators none is saved" in sentence(same, "window in practice:")


def test_energy_is_called_estimated_and_names_its_watts() -> None:
    plans = {"dense": DENSE | {"seconds": 7200.0}, "window": DENSE | {"seconds": 3600.0}}
    words = sentence(result_of(plans, watts=100.0, gco2_per_kwh=50.0, pue=1.5), "Energy")
    assert words.startswith(
        "Energy, estimated as time x 100 W (as given) at 50 g CO2e/kWh, PUE 1.5: dense 300 Wh (15 g"
    )
    assert "window 150 Wh (7.5 g CO2e)" in words
    energy = result_of(plans, watts=100.0).rows[1].energy
    assert energy.wh_per_million_tokens == pytest.approx(100 / (10 * 1024) * 1e6)
    # both curves have their one point at second 1: that is when the quality was there
    assert energy.wh_to_dense == pytest.approx(100 / 3600)


def test_loss_by_position_and_on_uses_is_told_where_it_was_measured() -> None:
    number = len(position_edges(1024)) - 1
    nats = tuple(400 / 1024 * math.log(2) * float(number - n) for n in range(number))
    figures = {"positions": nats, "uses": tuple(math.log(2) * n for n in (100.0, 20.0, 80.0, 15.0, 0.0))}
    result = result_of({"dense": DENSE | figures, "window": DENSE | figures}, held_out_tokens=4096)
    words = sentence(result, "Bits per token on uses, by a window of 63 keys")
    assert "used names, definition outside (20): dense 4.00, window 4.00" in words
    assert "what follows them, definition inside (30): dense 0.50" in words
    assert "what follows them, definition outside (0): none" in words
    row = result.rows[0]
    assert row.positions[-1][:2] == (724, 1024) and row.uses["name_inside"] == (10, 2.0)
    expected = [nats[at] / math.log(2) / (4 * (row.positions[at].stop - row.positions[at].first)) for at in (-3, -1)]
    words = sentence(result, "Loss over the last doubling of the context, from positions 362-511 to 724-1,023")
    assert words.endswith(f"dense {expected[1] - expected[0]:+.3f}, window {expected[1] - expected[0]:+.3f}.")
    assert "Loss over the last" not in result_of({"dense": DENSE, "window": DENSE}).verdict


def test_a_result_survives_its_record() -> None:
    result = result_of({"dense": DENSE, "window": {"bpb": (1.7, 1.71)}}, seeds=2)
    again = StudyResult.from_dict(json.loads(json.dumps(result.to_dict())))
    assert (again.records, again.rows, again.verdict) == (result.records, result.rows, result.verdict)


def test_records_from_before_new_fields_are_read() -> None:
    content = json.loads(json.dumps(result_of({"dense": DENSE, "window": DENSE}).to_dict()))
    for run in content["runs"]:
        for name in ("position_nats", "use_nats", "use_tokens", "use_window", "fixed_bytes"):
            del run[name]
    del content["held_out"]["curve_num_bytes"], content["environment"]["memory_bytes"]
    for name in ("watts", "gco2_per_kwh", "pue", "memory_gb"):
        del content["config"][name]
    old = StudyResult.from_dict(content)
    assert old.rows[1].positions == () and old.rows[1].practice.largest_batch is None
    assert "window in practice" in old.verdict
    del content["runs"][0]["nats"]
    with pytest.raises(StudyError, match="the record of a run lacks nats: it was changed"):
        StudyResult.from_dict(content)
    with pytest.raises(StudyError, match=r"it was changed, or written by another version of openwork .*'vocab_size'"):
        StudyResult.from_dict({name: value for name, value in content.items() if name != "vocab_size"} | {"runs": []})
    with pytest.raises(StudyError, match="it is not a record of a study in format 1"):
        StudyResult.from_dict({"something": 1})
