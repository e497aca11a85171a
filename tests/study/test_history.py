"""Studies on disk: what a list says of them, and two of them side by side."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from openwork.cli.main import main
from openwork.errors import DataError, StudyError
from openwork.ops.backends.cpu_native import absence
from openwork.runs import Lock
from openwork.study import run
from openwork.study.compare import compare_studies
from openwork.study.history import list_studies, read_study, require_done

Change = Callable[[dict[str, Any]], None]


@pytest.fixture(scope="module")
def done(texts: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A real study of two plans with three seeds."""
    out = tmp_path_factory.mktemp("studies") / "first"
    run(
        data=texts,
        out=out,
        tokenizer="bytes",
        model="tiny",
        device="cpu",
        seq_len=96,
        batch_size=2,
        steps=3,
        seeds=3,
        warmup_steps=1,
        eval_tokens=400,
        isolate=False,
        patterns=["window: Causal() & Window(before=7)"],
    )
    return out


@pytest.fixture
def changed(done: Path, tmp_path: Path) -> Callable[[Change], Path]:
    """Makes a copy of the study with its record changed."""

    def make(change: Change) -> Path:
        place = tmp_path / f"copy{len(list(tmp_path.iterdir()))}"
        place.mkdir()
        for name in ("study.json", "record.json"):
            shutil.copy(done / name, place / name)
        content = json.loads((place / "record.json").read_text())
        change(content)
        (place / "record.json").write_text(json.dumps(content))
        return place

    return make


def shift(content: dict[str, Any], by: dict[int, float], name: str = "window") -> None:
    """Adds nats to the runs of one plan, seed by seed."""
    for record in content["runs"]:
        if record["name"] == name:
            record["nats"] += by[record["seed"]]


def outcomes(first: Path, second: Path) -> dict[str, Any]:
    found = compare_studies(require_done(first), require_done(second))
    return {outcome.first: outcome for outcome in found.outcomes}


def test_a_study_that_is_done_is_read_with_its_figures(done: Path) -> None:
    entry = read_study(done)
    assert entry.status == "done" and entry.result is not None
    assert [row.name for row in entry.result.rows] == ["dense", "window"]
    recorded = json.loads((done / "record.json").read_text())
    assert entry.result.verdict.split("\n") == recorded["verdict"]
    assert len(entry.result.records[0].held_out_curve) == 3
    assert entry.to_dict()["bits_per_byte"]["dense"] == recorded["rows"][0]["bits_per_byte"]


def test_a_study_in_progress_and_a_stopped_one_say_how_far_they_are(done: Path, tmp_path: Path) -> None:
    place = tmp_path / "half"
    shutil.copytree(done, place)
    (place / "record.json").unlink()
    (place / "runs" / "1-window-seed2" / "record.json").unlink()
    entry = read_study(place)
    assert (entry.status, entry.note) == ("stopped", "5 of 6 runs done")
    with Lock(place / "lock", holder="x"):
        assert read_study(place).status == "in progress"
    with pytest.raises(StudyError, match="has no figures yet: stopped, 5 of 6 runs done; the command that began it"):
        require_done(place)


@pytest.mark.parametrize(
    ("file", "content", "reason"),
    [
        ("record.json", "{", "record.json is not JSON"),
        ("record.json", "[]", "it is not a record of a study"),
        ("record.json", '{"openwork_study": 99}', "it is not a record of a study in format 1"),
        ("record.json", '{"openwork_study": 1}', "it was changed, or written by another version .*'held_out'"),
        ("study.json", '{"config": {"data": "x", "future_option": 1}}', "'contenders'"),
    ],
)
def test_a_damaged_study_is_named_and_the_others_are_listed(
    done: Path, tmp_path: Path, file: str, content: str, reason: str
) -> None:
    shutil.copytree(done, tmp_path / "whole")
    place = tmp_path / "broken"
    place.mkdir()
    (place / "study.json").write_text("{}")
    (place / file).write_text(content)
    listed = {entry.path.name: entry for entry in list_studies([tmp_path])}
    assert listed["whole"].status == "done" and listed["broken"].status == "damaged"
    with pytest.raises(StudyError, match=f"the study in .*broken is damaged: .*{reason}"):
        require_done(place)


def test_a_record_without_a_run_is_damaged(changed: Callable[[Change], Path]) -> None:
    place = changed(lambda content: content.update(runs=content["runs"][:1]))
    assert read_study(place).note == "record.json: its runs are not those of its plans: it was changed."


def test_a_directory_without_a_study_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="holds no study; name the --out of one"):
        read_study(tmp_path)


def test_a_study_does_not_differ_from_itself(done: Path) -> None:
    found = compare_studies(require_done(done), require_done(done))
    assert not found.differences and not found.not_comparable and not found.only_first
    for outcome in found.outcomes:
        assert outcome.same_plan and outcome.paired and outcome.quality == "within noise" and outcome.steps_overlap


def test_a_difference_is_noise_or_not_by_its_pairs(done: Path, changed: Callable[[Change], Path]) -> None:
    noisy = changed(lambda content: shift(content, {0: 40.0, 1: -30.0, 2: 10.0}))
    worse = changed(lambda content: shift(content, {0: 40.0, 1: 41.0, 2: 42.0}))
    assert outcomes(done, noisy)["window"].quality == "within noise"
    assert outcomes(done, worse)["window"].quality == "worse"
    assert outcomes(worse, done)["window"].quality == "better"
    assert outcomes(done, worse)["dense"].quality == "within noise"


def test_other_seeds_are_no_pairs(done: Path, changed: Callable[[Change], Path]) -> None:
    def later(content: dict[str, Any]) -> None:
        content["config"]["seed"] = 5
        for record in content["runs"]:
            record["seed"] += 5

    found = outcomes(done, changed(later))["window"]
    assert not found.paired and found.interval is not None and found.quality == "within noise"


def test_one_seed_knows_no_noise(done: Path, changed: Callable[[Change], Path]) -> None:
    def single(content: dict[str, Any]) -> None:
        content["config"]["seeds"] = 1
        content["runs"] = [record for record in content["runs"] if record["seed"] == 0]

    found = outcomes(done, changed(single))["window"]
    assert found.interval is None and found.quality == "one seed" and found.bits_per_byte is not None


def test_other_data_is_not_compared(done: Path, changed: Callable[[Change], Path]) -> None:
    place = changed(lambda content: content["data"].update(fingerprint="other"))
    found = compare_studies(require_done(done), require_done(place))
    assert found.not_comparable == (
        "quality: the studies read different data, so bits per byte and perplexity are of different text",
    )
    assert all(o.bits_per_byte is None and o.perplexity is None and o.step_ms for o in found.outcomes)
    assert found.outcomes[0].quality == "not comparable"
    assert [difference.what for difference in found.differences] == ["data fingerprint"]


def test_another_tokenizer_leaves_bits_per_byte(done: Path, changed: Callable[[Change], Path]) -> None:
    def other(content: dict[str, Any]) -> None:
        content["config"]["tokenizer"] = "bpe"
        content["vocab_size"] = 2048

    found = compare_studies(require_done(done), require_done(changed(other)))
    assert any(reason.startswith("perplexity: the tokenizers differ") for reason in found.not_comparable)
    assert found.outcomes[0].bits_per_byte is not None and found.outcomes[0].perplexity is None
    assert not found.outcomes[0].paired


def test_another_machine_leaves_quality_and_no_speed(done: Path, changed: Callable[[Change], Path]) -> None:
    place = changed(lambda content: content["environment"].update(processor="another", threads=64))
    found = compare_studies(require_done(done), require_done(place))
    assert "speed: processor and threads differ, so a step is not the same work or machine" in found.not_comparable
    assert found.outcomes[0].step_ms is None and found.outcomes[0].bits_per_byte is not None


def test_the_only_plan_that_is_left_on_both_sides_is_set_side_by_side(
    done: Path, changed: Callable[[Change], Path]
) -> None:
    def renamed(content: dict[str, Any]) -> None:
        content["config"]["contenders"][0] = {
            "name": "wide",
            "plan": {"openwork_plan": 1, "default": "Causal() & Window(before=31)"},
        }
        for record in content["runs"]:
            record["name"] = record["name"].replace("window", "wide")

    found = compare_studies(require_done(done), require_done(changed(renamed)))
    assert [(o.first, o.second, o.same_plan) for o in found.outcomes] == [
        ("dense", "dense", True),
        ("window", "wide", False),
    ]
    assert [(d.what, d.first) for d in found.differences] == [
        ("plan window", "Causal() & Window(before=7, after=0)"),
        ("plan wide", "not in it"),
    ]


def test_plans_are_told_apart_by_their_schedules(done: Path, changed: Callable[[Change], Path]) -> None:
    dense_first = "DenseThenSparse(steps=2)"

    def scheduled(content: dict[str, Any]) -> None:
        content["config"]["contenders"][0]["schedule"] = dense_first

    def both(content: dict[str, Any]) -> None:
        (window,) = content["config"]["contenders"]
        # before the one without a schedule: the same pattern comes first
        content["config"]["contenders"] = [{**window, "name": "dense first", "schedule": dense_first}, window]
        runs = [record for record in content["runs"] if record["name"] == "window"]
        content["runs"] += [{**record, "name": "dense first"} for record in runs]

    def renamed(content: dict[str, Any]) -> None:
        content["config"]["contenders"][0]["name"] = "local"
        for record in content["runs"]:
            record["name"] = record["name"].replace("window", "local")

    found = compare_studies(require_done(done), require_done(changed(scheduled)))
    assert [outcome.same_plan for outcome in found.outcomes] == [True, False]
    pattern = "Causal() & Window(before=7, after=0)"
    (difference,) = found.differences
    assert (difference.what, difference.first) == ("plan window", pattern)
    assert difference.second == f"{pattern}, by {dense_first}"
    found = compare_studies(require_done(changed(renamed)), require_done(changed(both)))
    assert [(o.first, o.second, o.same_plan) for o in found.outcomes[1:]] == [("local", "window", True)]
    assert found.only_second == ("dense first",)


def test_masks_are_told_apart_by_their_content(done: Path, changed: Callable[[Change], Path]) -> None:
    def masked(path: str, digest: str) -> Path:
        entry = {"name": "window", "mask": path, "mask_sha256": digest * 64}
        return changed(lambda content: content["config"].update(contenders=[entry]))

    first = masked("gone/mask.npy", "1")
    found = compare_studies(require_done(first), require_done(masked("gone/mask.npy", "2")))
    assert [outcome.same_plan for outcome in found.outcomes] == [True, False]
    assert [(d.what, d.first, d.second) for d in found.differences] == [
        ("plan window", f"gone/mask.npy (SHA-256 {'1' * 12})", f"gone/mask.npy (SHA-256 {'2' * 12})")
    ]
    found = compare_studies(require_done(first), require_done(masked("moved/mask.npy", "1")))
    assert found.outcomes[1].same_plan and not found.differences


def test_options_from_before_they_existed_are_called_not_recorded(
    done: Path, changed: Callable[[Change], Path]
) -> None:
    place = changed(lambda content: content["config"].pop("optimizer"))
    (difference,) = compare_studies(require_done(done), require_done(place)).differences
    assert (difference.what, difference.second) == ("optimizer", "not recorded")


def test_the_commands_print_it(
    done: Path, changed: Callable[[Change], Path], capsys: pytest.CaptureFixture[str]
) -> None:
    worse = changed(lambda content: shift(content, {0: 40.0, 1: 41.0, 2: 42.0}))
    assert main(["runs", "list", str(done.parent), "--json"]) == 0
    (listed,) = json.loads(capsys.readouterr().out)["studies"]
    assert (listed["status"], listed["plans"], listed["seeds"]) == ("done", ["dense", "window"], 3)
    assert main(["runs", "list", str(done.parent)]) == 0
    first, second = capsys.readouterr().out.splitlines()
    assert first.startswith(f"{done}  done  20") and first.endswith("  3 steps x 3 seeds, 96 tokens")
    assert second.startswith("    bits per byte: dense ") and "; data: " in second
    assert main(["runs", "show", str(done)]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    ran = "cpu" if absence() is None else "sdpa"
    assert f"Dense attention ({ran}:" in shown and "seq_len=96" in shown and "plan window: Causal() & Window" in shown
    assert main(["runs", "compare", str(done), str(worse)]) == 0
    compared = " ".join(capsys.readouterr().out.split())
    assert "Nothing differs in options, plans, data, code and machine." in compared
    assert "n = 3, paired by seed)" in compared and "window: bits per byte" in compared
    assert "(no difference, paired by seed)" in compared
    assert main(["runs", "compare", str(done), str(worse), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["outcomes"][1]["quality"] == "worse"


def test_a_study_whose_code_changed_says_so(
    done: Path, changed: Callable[[Change], Path], capsys: pytest.CaptureFixture[str]
) -> None:
    place = changed(lambda content: content["runs"][-1].update(code=["openwork 9", "openwork 10"]))
    assert main(["runs", "show", str(place)]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "the code changed between sessions: openwork 0" in shown and "; openwork 10; openwork 9 plan dense" in shown
    assert main(["runs", "show", str(done)]) == 0
    assert "the code changed" not in capsys.readouterr().out


def test_without_a_command_it_prints_its_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["runs"]) == 0
    out, err = capsys.readouterr()
    assert "Usage: openwork runs" in out and "compare" in out and not err


def test_the_commands_refuse_in_one_line(done: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in (["show", str(tmp_path)], ["compare", str(done), str(tmp_path)], ["list", str(tmp_path / "no")]):
        assert main(["runs", *arguments]) == 2
        out, err = capsys.readouterr()
        assert out == "" and err.startswith("error: ") and err.count("\n") == 1
    assert main(["runs", "list", str(tmp_path)]) == 0
    assert "no study at or below" in capsys.readouterr().out
