"""Schedules in a run: the plans change when they say, it is written down, and a resumed run does not differ."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from openwork.cli.main import main
from openwork.errors import AnnotationError, OpenworkError, PlanError, StudyError
from openwork.patterns import Causal, First, Keys, PerHead, Window
from openwork.plan import Plan
from openwork.study import Contender, StudyConfig, contender_from_text, run, with_schedules
from openwork.study.corpus import read_corpus
from openwork.study.folder import StudyFolder
from openwork.study.prepare import prepare_data
from openwork.study.record import RunRecord
from openwork.study.state import RunState
from openwork.study.trainer import Interrupted, StudyData, Trainer
from openwork.train import DenseThenSparse, RelaxOnPlateau, Schedule, Shrink

WINDOW = contender_from_text("window: Causal() & Window(before=7)")
SCHEDULES = {
    "dense-first": DenseThenSparse(steps=3),
    "shrink": Shrink(start_step=1, end_step=5, final_window=7, multiple=16),
    # nothing is ever better by half, so a layer is relaxed after every other measurement
    "relax": RelaxOnPlateau(start_step=1, patience=1, min_gain=0.5),
}
Tiny = Callable[..., StudyConfig]


@pytest.fixture(scope="module")
def data(texts: Path, tmp_path_factory: pytest.TempPathFactory) -> StudyData:
    config = StudyConfig(data=texts, tokenizer="bytes", seq_len=96)
    return prepare_data(config, read_corpus(texts), StudyFolder(tmp_path_factory.mktemp("data")), lambda event: None)


def train(config: StudyConfig, contender: Contender, data: StudyData, place: Path, **hooks: Any) -> RunState:
    place.mkdir(exist_ok=True)
    return Trainer(config, contender, config.seed, data, place, **hooks).run()


def scheduled(schedule: Schedule | None, contender: Contender = WINDOW) -> Contender:
    return replace(contender, schedule=schedule)


@pytest.mark.parametrize("name", SCHEDULES)
def test_a_run_that_was_stopped_at_any_step_has_the_same_curve_and_time_line(
    name: str, tiny: Tiny, data: StudyData, tmp_path: Path
) -> None:
    config, contender = tiny(steps=6, eval_every=1), scheduled(SCHEDULES[name])
    whole = train(config, contender, data, tmp_path / "whole")
    assert len(whole.timeline) >= 2
    for stop_after in range(1, 6):
        place = tmp_path / f"stopped{stop_after}"
        place.mkdir()
        trainer = Trainer(config, contender, 0, data, place)
        trainer._stop = lambda trainer=trainer, last=stop_after: trainer.state.step >= last  # type: ignore[misc]
        with pytest.raises(Interrupted):
            trainer.run()
        assert trainer.state.step == stop_after
        broken = train(config, contender, data, place)
        assert broken.losses == whole.losses and broken.density == whole.density
        assert broken.timeline == whole.timeline
        assert [(at, nats) for at, _, nats in broken.evaluated] == [(at, nats) for at, _, nats in whole.evaluated]


def test_a_window_shrinks_while_the_model_trains(tiny: Tiny, data: StudyData, tmp_path: Path) -> None:
    events: list[dict[str, Any]] = []
    state = train(tiny(), scheduled(SCHEDULES["shrink"]), data, tmp_path / "run", report=events.append)
    plain = train(tiny(), WINDOW, data, tmp_path / "plain")
    dense = train(tiny(), tiny().everyone[0], data, tmp_path / "dense")
    # windows of 96 (dense), 80, 64, 32 keys, then the plan
    assert [entry["step"] for entry in state.timeline] == [0, 2, 3, 4, 5]
    assert state.timeline[1]["plan"]["default"] == "Causal() & Window(before=80, after=0)"
    assert state.timeline[1]["reason"] == "the plan and a window of 80 keys"
    assert state.losses[:2] == dense.losses[:2] and state.losses[2] != dense.losses[2]
    assert state.density[:2] == dense.density[:2] and state.density[5] == plain.density[5]
    assert state.density == sorted(state.density, reverse=True) and len(set(state.density)) == 5
    told = [event for event in events if event["event"] == "schedule"]
    assert [(event["step"], event["reason"]) for event in told] == [(e["step"], e["reason"]) for e in state.timeline]


def test_upper_layers_are_relaxed_where_validation_stalls(tiny: Tiny, data: StudyData, tmp_path: Path) -> None:
    state = train(tiny(eval_every=1), scheduled(SCHEDULES["relax"]), data, tmp_path / "run")
    dense, plan, one, two = state.timeline
    assert [entry["step"] for entry in state.timeline] == [0, 1, 3, 4]
    assert dense["plan"] == {"openwork_plan": 1, "default": "Causal()"}
    assert plan["plan"]["default"] == "Causal() & Window(before=7, after=0)"
    assert one["plan"]["layers"] == {"1": "Causal()"} and two["plan"]["layers"] == {"0": "Causal()", "1": "Causal()"}
    per_token = {step: nats / 384 for step, _, nats in state.evaluated}
    assert one["reason"] == (
        f"step 3: validation stalled at {per_token[3]:.4f} after {per_token[2]:.4f} at step 2; layer 1 is relaxed to "
        "Causal()"
    )
    assert state.density[1] < state.density[3] < state.density[4] == state.density[0]


def test_what_a_relaxed_layer_gets_is_made_causal_and_annotated(tiny: Tiny, data: StudyData, tmp_path: Path) -> None:
    schedule = RelaxOnPlateau(patience=1, min_gain=0.5, to=Window(before=9, after=9) | Keys("definition"))
    contender = scheduled(schedule)
    assert contender.needs == {"definition": "flag"}
    state = train(tiny(eval_every=1), contender, data, tmp_path / "run")
    relaxed = state.timeline[-1]["plan"]["layers"]["1"]
    assert relaxed.startswith("Causal() & (") and "Keys(name='definition')" in relaxed


def test_a_mask_can_come_after_dense_steps(tiny: Tiny, data: StudyData, tmp_path: Path) -> None:
    np.save(tmp_path / "mask.npy", np.eye(96, dtype=bool))
    mask = Contender(name="mask", mask=tmp_path / "mask.npy", schedule=DenseThenSparse(steps=2))
    state = train(tiny(steps=4), mask, data, tmp_path / "run")
    assert [entry["step"] for entry in state.timeline] == [0, 2]
    assert state.timeline[1]["plan"] == {"mask": str(tmp_path / "mask.npy")}
    assert state.density[1] > 0.5 and state.density[2] == pytest.approx(1 / 96)
    with pytest.raises(
        PlanError, match=r"Shrink makes plans from a plan, but 'mask' is a mask; a mask takes DenseThen"
    ):
        replace(mask, schedule=Shrink(end_step=3))


def test_a_plan_by_depth_with_mixed_heads_trains_end_to_end(tiny: Tiny, tmp_path: Path) -> None:
    local, broad = Causal() & Window(before=7), Causal() & (Window(before=31) | First(keys=4))
    deep = Plan.by_depth({0.0: PerHead(local, local), 0.5: PerHead(local, broad)})
    (tmp_path / "deep.json").write_text(deep.to_json())
    out = tmp_path / "out"
    options = "--tokenizer bytes --model tiny --seq-len 96 --batch-size 2 --steps 4 --device cpu --eval-every 2".split()
    study = ["study", "--data", str(tiny().data), "--out", str(out), *options, "--plan", str(tmp_path / "deep.json")]
    study += ["--pattern", "window: Causal() & Window(before=7)", "--schedule", "DenseThenSparse(steps=1)"]
    assert main([*study, "--schedule", "deep: Shrink(end_step=3, final_window=31, multiple=1)"]) == 0
    record = json.loads((out / "record.json").read_text())
    runs = {entry["name"]: entry for entry in record["runs"]}
    assert runs["dense"]["timeline"] == []
    assert [entry["step"] for entry in runs["window"]["timeline"]] == [0, 1]
    assert [entry["step"] for entry in runs["deep"]["timeline"]] == [0, 1, 2, 3]
    assert Plan.from_json(json.dumps(runs["deep"]["timeline"][-1]["plan"])) == deep

    def pairs(before: int, first: int = 0) -> int:
        return sum(len({*range(max(0, row - before), row + 1), *range(min(first, row + 1))}) for row in range(96))

    expected = (3 * pairs(7) + pairs(31, 4)) / 4 / 96**2
    assert runs["deep"]["density"][3] == pytest.approx(expected)
    rows = {row["name"]: row for row in record["rows"]}
    assert rows["deep"]["density"] == pytest.approx(expected)
    page = (out / "report.html").read_text()
    assert "Time line" in page and "the plan and a window of 75 keys" in page and "dense for the first 1 steps" in page
    assert page.count("deep: the plan alone from step 3 on") == 2  # on both curves, beside the table
    assert main([*study, "--schedule", "deep: Shrink(end_step=2, final_window=31)"]) == 2


def test_a_record_knows_its_last_change() -> None:
    values: dict[str, Any] = {f: 0 for f in RunRecord.__dataclass_fields__}
    assert RunRecord(**values | {"timeline": ()}).settled_from == 0
    assert RunRecord(**values | {"timeline": ({"step": 0}, {"step": 9})}).settled_from == 9


def test_a_schedule_belongs_to_a_plan_by_name_or_to_all_the_rest() -> None:
    plans = (WINDOW, contender_from_text("Causal() & Window(before=3)"))
    own, rest = with_schedules(plans, ["window: Shrink(end_step=9)", "DenseThenSparse(steps=4)"])
    assert (own.schedule, rest.schedule) == (Shrink(end_step=9), DenseThenSparse(steps=4))
    one, other = with_schedules(plans, ["Causal() & Window(before=3): Shrink(end_step=9)"])
    assert (one.schedule, other.schedule) == (None, Shrink(end_step=9))
    for contender in (own, rest, one):
        assert Contender.from_dict(json.loads(json.dumps(contender.to_dict()))) == contender


def test_dense_steps_are_the_schedule_of_plans_without_one() -> None:
    plans = (scheduled(Shrink(end_step=9)), contender_from_text("other: Causal() & Window(before=3)"))
    config = StudyConfig(data="texts", contenders=plans, dense_steps=5, control=True)
    first = DenseThenSparse(steps=5)
    assert [c.schedule for c in config.everyone] == [None, Shrink(end_step=9), first, first]


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        (["wide: Shrink(end_step=9)"], "is for the plan 'wide', which there is not; plans are window"),
        (["window: Shrink(end_step=9)"] * 2, "--schedule is given twice for the plan 'window'"),
        (["Shrink(end_step=9)"] * 2, "--schedule is given twice for all plans; write NAME: SCHEDULE for the plan"),
        (
            ["window: Shrink(end_step=9)", "DenseThenSparse(steps=4)"],
            r"--schedule is DenseThenSparse\(steps=4\), but no plan is left for it",
        ),
        (["window: Shrnk(end_step=9)"], "unknown schedule 'Shrnk'; did you mean 'Shrink'"),
    ],
)
def test_schedules_that_fit_no_plan_are_refused(texts: list[str], message: str) -> None:
    with pytest.raises(PlanError, match=message):
        with_schedules((WINDOW,), texts)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"eval_every": 0}, "reads measurements of validation, and there are none: say --eval-every N"),
        ({"seconds": 5.0}, "when they come would depend on the clock: say --eval-every N"),
    ],
)
def test_a_schedule_that_reads_validation_needs_measurements(options: dict, message: str) -> None:
    contenders = (scheduled(RelaxOnPlateau()),)
    with pytest.raises(StudyError, match=message):
        StudyConfig(data="texts", contenders=contenders, **options)
    StudyConfig(data="texts", contenders=contenders, **{"seconds": 5.0, "eval_every": 10})
    StudyConfig(data="texts", contenders=(scheduled(Shrink(end_step=3)),), **options)


def test_facts_that_only_the_schedule_reads_must_be_there_too(tiny: Tiny) -> None:
    contender = scheduled(RelaxOnPlateau(to=Keys("heading")))
    error: type[OpenworkError] = AnnotationError
    with pytest.raises(error, match="reads the flag 'heading', which no annotator gives"):
        run(tiny(contenders=(contender,), eval_every=2))
