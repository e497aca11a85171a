"""What a study is told: refusals in words, and how two of them differ."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from openwork.errors import DataError, OpenworkError, PlanError, StudyError
from openwork.patterns import Causal, PerHead, Window
from openwork.plan import Plan
from openwork.study import Contender, StudyConfig, contender_from_text, read_plan, with_contenders
from openwork.study.config import refuse_changes, with_digests
from openwork.study.contender import made_causal
from openwork.study.recipes import live_study
from openwork.study.schedule import rate_share

WINDOW = contender_from_text("window: Causal() & Window(before=7)")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"seq_len": 1}, "--seq-len must be 2 or more; got 1"),
        ({"steps": 0}, "--steps must be 1 or more; got 0"),
        ({"seconds": 0.0}, "--seconds must be more than 0 and finite; got 0.0"),
        ({"lr": float("nan")}, "--lr must be more than 0 and finite; got nan"),
        ({"optimizer": "sgd"}, "--optimizer must be one of muon, adamw; got 'sgd'"),
        ({"matrix_lr": 0.0}, "--matrix-lr must be more than 0 and finite; got 0.0"),
        (
            {"optimizer": "adamw", "matrix_lr": 0.1},
            "--matrix-lr is the rate of Muon, but --optimizer is adamw; leave it out, or set --lr",
        ),
        ({"accumulate": 0}, "--accumulate must be 1 or more; got 0"),
        ({"batch_size": 10**8}, "a step of --batch-size 100000000 times --seq-len 1024 is 102,400,000,000 tokens; at"),
        ({"accumulate": 3, "batch_size": 4}, "--accumulate 3 must divide --batch-size 4: a step's sequences are cut"),
        ({"dense_steps": -1}, "--dense-steps must be 0 or more; got -1"),
        ({"watts": 0}, "--watts must be more than 0 and finite; got 0"),
        ({"memory_gb": float("inf")}, "--memory-gb must be more than 0 and finite; got inf"),
        ({"pue": 0.9}, "--pue must be 1 or more; got 0.9"),
        ({"gco2_per_kwh": float("inf")}, "--gco2-per-kwh must be 0 or more; got inf"),
        ({"seed": 1 << 64}, r"--seed must be below 2\^64, with room for --seeds 1; got 18446744073709551616"),
        ({"device": "tpu"}, "--device must be one of auto, cpu, cuda, mps; got 'tpu'"),
        ({"dtype": "float16"}, "--dtype must be one of float32, bfloat16; got 'float16'"),
        ({"model": "huge"}, "--model must be one of tiny, small, base, FILE.py:FUNCTION .*; got 'huge'"),
        ({"contenders": (WINDOW, WINDOW)}, r"plan 'window' \(number 2\) is given twice"),
        ({"contenders": (replace(WINDOW, name="dense"),)}, "plan 'dense' .* is the baseline, which is always part"),
        (
            {"contenders": (Contender(name="x", plan=Plan(default=Causal(), layers={9: Causal()})),)},
            "names layer 9, but the model has 4 layers",
        ),
        (
            {"contenders": (Contender(name="x", plan=Plan(default=PerHead(Causal()))),)},
            "default is a PerHead of 1 heads, but the model has 2 query heads",
        ),
    ],
)
def test_a_wrong_option_is_refused_by_its_name(options: dict, message: str) -> None:
    with pytest.raises(OpenworkError, match=message):
        StudyConfig(data="texts", **options)


def test_each_optimizer_has_its_rates() -> None:
    assert StudyConfig(data="texts").matrix_lr == 0.02
    assert StudyConfig(data="texts", matrix_lr=0.01).matrix_lr == 0.01
    assert StudyConfig(data="texts", optimizer="adamw").matrix_lr is None
    assert StudyConfig(data="texts").lr == 0.02
    assert StudyConfig(data="texts", optimizer="adamw").lr == 0.004
    assert StudyConfig(data="texts", optimizer="adamw", lr=0.01).lr == 0.01


def test_a_contender_is_a_plan_or_a_mask() -> None:
    for options in ({}, {"plan": Plan(default=Causal()), "mask": Path("m.npy")}):
        with pytest.raises(PlanError, match="a name and either a plan or a mask file; got 'x'"):
            Contender(name="x", **options)


def test_a_text_may_have_a_name() -> None:
    assert contender_from_text("Causal()").name == "Causal()"
    named = contender_from_text("my plan 2: Causal() & Window(before=7)")
    assert (named.name, named.plan) == ("my plan 2", Plan(default=Causal() & Window(before=7)))


def test_a_plan_only_removes_pairs() -> None:
    wide = contender_from_text("Window(before=3, after=3)").plan_of_layers
    assert wide is not None and wide.default == Causal() & Window(before=3, after=3)
    assert WINDOW.plan_of_layers == WINDOW.plan
    heads = Contender(name="x", plan=Plan(default=PerHead(Causal(), Window(before=3, after=3)))).plan_of_layers
    assert heads is not None
    assert heads.default == PerHead(Causal(), Causal() & Window(before=3, after=3)) == made_causal(heads.default)


def test_dense_comes_first_and_the_control_last() -> None:
    config = StudyConfig(data="texts", contenders=(WINDOW,), control=True)
    assert [contender.name for contender in config.everyone] == ["dense", "window", "control"]


def test_a_config_survives_json(tmp_path: Path) -> None:
    mask = tmp_path / "mask.npy"
    np.save(mask, np.ones((4, 4), dtype=bool))
    config = StudyConfig(
        data=tmp_path,
        out=tmp_path / "out",
        contenders=(WINDOW, Contender(name="mask", mask=mask)),
        include=("*.py",),
        seconds=5.0,
    )
    again = StudyConfig.from_dict(json.loads(json.dumps(config.to_dict())))
    assert again == config
    refuse_changes(config.to_dict(), again.to_dict())


def test_changed_options_are_refused_by_name(tmp_path: Path) -> None:
    config = StudyConfig(data=tmp_path, contenders=(WINDOW,))
    other = replace(config, lr=0.5, seed=3)
    with pytest.raises(StudyError, match=r"--lr \(was 0.02, now 0.5\); --seed \(was 0, now 3\). Repeat it as it was, "):
        refuse_changes(config.to_dict(), other.to_dict())
    changed = replace(config, contenders=(contender_from_text("window: Causal() & Window(before=8)"),))
    with pytest.raises(
        StudyError, match=r"--pattern, --plan or --mask \(another plan, mask or schedule under the same name\)"
    ):
        refuse_changes(config.to_dict(), changed.to_dict())
    with pytest.raises(StudyError, match=r"--pattern, --plan or --mask \(was window, now \)"):
        refuse_changes(config.to_dict(), replace(config, contenders=()).to_dict())
    refuse_changes(config.to_dict(), replace(config, checkpoint_seconds=1.0, isolate=False).to_dict())


@pytest.mark.parametrize(("name", "file"), [("tokenizer", "t.json"), ("features", "a.bed")])
def test_a_file_that_was_rewritten_counts_as_changed(tmp_path: Path, name: str, file: str) -> None:
    (tmp_path / file).write_text("one")
    config = StudyConfig(data=tmp_path, **{name: str(tmp_path / file)})
    before = with_digests(config).to_dict()
    refuse_changes(before, with_digests(config).to_dict())
    (tmp_path / file).write_text("two")
    with pytest.raises(
        StudyError, match=rf"options: --{name} \(the file of .*{file} has changed\). Repeat it as it was"
    ):
        refuse_changes(before, with_digests(config).to_dict())
    # a record from before there were digests says nothing of the file
    refuse_changes(config.to_dict(), with_digests(config).to_dict())
    assert StudyConfig.from_dict(before).to_dict() == before


def test_a_mask_that_was_rewritten_counts_as_changed(tmp_path: Path) -> None:
    mask = tmp_path / "mask.npy"
    np.save(mask, np.ones((4, 4), dtype=bool))
    config = StudyConfig(data=tmp_path, contenders=(Contender(name="mask", mask=mask),))
    before = config.to_dict()
    np.save(mask, np.eye(4, dtype=bool))
    with pytest.raises(StudyError, match="another plan, mask or schedule under the same name"):
        refuse_changes(before, config.to_dict())


def test_plan_files_are_read_or_refused(tmp_path: Path) -> None:
    plan = Plan.by_depth({0.0: Causal() & Window(before=7), 0.5: Causal()})
    path = tmp_path / "plan.json"
    path.write_text(plan.to_json())
    assert read_plan(path) == plan
    with pytest.raises(DataError, match=r"--plan .*absent.json cannot be read: No such file or directory"):
        read_plan(tmp_path / "absent.json")
    path.write_text("{}")
    with pytest.raises(PlanError, match=r"--plan .*plan.json: a plan is a JSON object"):
        read_plan(path)
    path.write_bytes(b"\xff\xfe\0")
    with pytest.raises(DataError, match="it is not UTF-8 text"):
        read_plan(path)


def test_patterns_join_a_study_by_their_text() -> None:
    config = with_contenders(StudyConfig(data="texts"), ["Causal() & Window(before=7)", Causal() & Window(before=9)])
    assert [contender.name for contender in config.contenders] == [
        "Causal() & Window(before=7)",
        "Causal() & Window(before=9, after=0)",
    ]


def test_quality_is_measured_on_as_much_as_asked_for_and_there() -> None:
    config = StudyConfig(data="texts", seq_len=100, eval_tokens=250)
    assert [config.num_eval_sequences(available) for available in (1, 2, 9)] == [1, 2, 2]
    assert StudyConfig(data="texts", seq_len=100, eval_tokens=1).num_eval_sequences(9) == 1


def test_the_live_study_is_one_of_the_standard_library() -> None:
    config = live_study(seconds=5.0)
    assert [contender.name for contender in config.everyone] == ["dense", "window + definitions"]
    assert (config.data / "ast.py").is_file()


def test_under_a_time_limit_the_rate_knows_no_end() -> None:
    rates = [rate_share(step, warmup_steps=10, steps=None) for step in range(500)]
    assert max(rates) == 1.0 and rates[0] == 0.1
    assert rates[10:] == sorted(rates[10:], reverse=True)
    assert 0.3 < rates[-1] < 0.4


def test_a_warm_up_longer_than_the_run_ends_with_it() -> None:
    assert rate_share(4, warmup_steps=100, steps=5) == 1.0
    assert rate_share(0, warmup_steps=0, steps=5) == 1.0
