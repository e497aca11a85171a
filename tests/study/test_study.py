"""A whole study: what it leaves, when it goes on, and when it refuses."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from openwork.cli.main import main
from openwork.errors import AnnotationError, DataError, StudyError
from openwork.ops.backends.cpu_native import absence
from openwork.patterns import Causal, Window
from openwork.runs import Lock
from openwork.study import Contender, StudyConfig, StudyResult, conduct, contender_from_text, run
from openwork.study.history import require_done
from openwork.study.trainer import Interrupted, Trainer

WINDOW = contender_from_text("window: Causal() & Window(before=7)")
ANNOTATED = contender_from_text("facts: Causal() & (Window(before=7) | Keys('definition') | Linked('use'))")
Tiny = Callable[..., StudyConfig]


@pytest.fixture(scope="module")
def finished(texts: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[StudyResult, list[dict[str, Any]]]:
    """A study of five plans, and the events that it reported."""
    place, events = tmp_path_factory.mktemp("finished"), []
    np.save(place / "mask.npy", np.random.default_rng(0).random((96, 96)) < 0.5)
    config = StudyConfig(
        data=texts,
        out=place / "out",
        contenders=(WINDOW, ANNOTATED, Contender(name="mask", mask=place / "mask.npy")),
        control=True,
        tokenizer="bpe:300",
        model="tiny",
        device="cpu",
        seq_len=96,
        batch_size=2,
        steps=6,
        warmup_steps=2,
        eval_every=3,
        eval_tokens=300,
        isolate=False,
    )
    return run(config, report=events.append), events


def test_every_plan_has_a_row_and_dense_is_first(finished: Any) -> None:
    result, _ = finished
    assert [row.name for row in result.rows] == ["dense", "window", "facts", "mask", "control"]
    dense, window, facts, mask, _ = result.rows
    assert dense.causal_density == 1 and dense.speedup == 1 and dense.step_ideal == 1
    assert dense.backend.startswith("cpu: our native kernels" if absence() is None else "sdpa: torch's")
    assert window.backend == mask.backend == ("cpu" if absence() is None else "gather")
    pairs = sum(min(row + 1, 8) for row in range(96))
    assert window.causal_density == pytest.approx(pairs / (96 * 97 / 2))
    assert window.attention_ideal == pytest.approx(96 * 97 / 2 / pairs)
    assert 1 < window.step_ideal < window.attention_ideal
    assert window.causal_density < facts.causal_density < 1
    assert mask.causal_density == pytest.approx(0.5, abs=0.05)
    for row in result.rows:
        assert row.steps == 6 and row.tokens == 6 * 2 * 96
        assert 0 < row.bits_per_byte < 9 and row.step_ms is not None
        assert row.peak_bytes is None  # the plans share this process


def test_every_plan_started_from_the_same_weights_and_saw_the_same_data(finished: Any) -> None:
    first_losses = {row.losses[0] for row in finished[0].records}
    assert max(first_losses) - min(first_losses) < 0.02


def test_the_record_holds_all_that_is_needed_to_judge(finished: Any) -> None:
    result, _ = finished
    record = json.loads((result.config.out / "record.json").read_text())
    assert len(record["runs"]) == 5 and all(len(entry["step_ms"]) == 6 for entry in record["runs"])
    assert record["environment"]["torch"] and record["environment"]["threads"] >= 1
    assert record["config"]["seed"] == 0 and record["data"]["fingerprint"]
    assert record["held_out"]["gzip_bits_per_byte"] > 0
    assert record["verdict"] == result.verdict.split("\n")
    assert [point[0] for point in record["runs"][0]["held_out_curve"]] == [3, 6]


def test_the_page_stands_alone_and_holds_the_figures(finished: Any) -> None:
    result, _ = finished
    page = (result.config.out / "report.html").read_text()
    assert page.index("Verdict") < page.index("<table") < page.index('<svg role="img"')
    assert not re.search(r"(src|href)=\"(?!data:|#)", page) and "http" not in page.split("<script")[0]
    figures = re.search(r'<script type="application/json" id="figures">(.*?)</script>', page, re.DOTALL)
    assert (
        figures
        and json.loads(figures[1])["runs"] == json.loads((result.config.out / "record.json").read_text())["runs"]
    )
    assert "{{" not in page and "None" not in page.split("<script")[0]


def test_progress_is_told_for_every_run(finished: Any) -> None:
    _, events = finished
    assert [event["name"] for event in events if event["event"] == "run"] == [
        "dense",
        "window",
        "facts",
        "mask",
        "control",
    ]
    assert {"prepare", "step"} <= {event["event"] for event in events}


def test_a_finished_study_is_not_trained_again(finished: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Trainer, "run", None)
    again = run(finished[0].config)
    assert again.records == finished[0].records
    assert again.held_out == finished[0].held_out


def test_a_stopped_study_goes_on_where_it_was(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    config = tiny(contenders=(WINDOW,))
    unbroken = run(replace(config, out=config.out.parent / "unbroken"))
    real, left = Trainer._step, iter(range(8))

    def limited(self: Trainer) -> None:
        if next(left, None) is None:
            raise Interrupted
        real(self)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "_step", limited)
        with pytest.raises(KeyboardInterrupt):
            run(config)
    assert not (config.out / "record.json").exists()
    events: list[dict[str, Any]] = []
    result = run(config, report=events.append)
    assert events[0]["event"] == "resume"
    assert [record.losses for record in result.records] == [record.losses for record in unbroken.records]
    assert [record.sessions for record in result.records] == [1, 2]
    assert [row.bits_per_byte for row in result.rows] == [row.bits_per_byte for row in unbroken.rows]


def test_changed_options_and_changed_data_are_refused_until_fresh(tiny: Tiny, tmp_path: Path) -> None:
    texts = tmp_path / "texts"
    texts.mkdir()
    for number in range(3):
        (texts / f"{number}.txt").write_text(f"text {number}\n" * 50)
    config = tiny(data=texts, steps=1)
    first = run(config)
    with pytest.raises(StudyError, match=r"holds a study with other options: --lr \(was 0.02, now 0.1\)"):
        run(replace(config, lr=0.1))
    (texts / "3.txt").write_text("more\n" * 50)
    with pytest.raises(
        StudyError, match=r"the files in --data .* have changed since the study in .* began; use --fresh"
    ):
        run(config)
    assert json.loads((config.out / "record.json").read_text())["data"] == first.data
    assert run(replace(config, lr=0.1), fresh=True).config.lr == 0.1


def test_two_studies_in_one_place_refuse_each_other(tiny: Tiny) -> None:
    config = tiny()
    config.out.mkdir()
    with Lock(config.out / "lock", holder="x"):
        with pytest.raises(StudyError, match=r"--out .*out is in use by process \d+: wait for it, stop it, or name an"):
            run(config)
    assert [path.name for path in config.out.iterdir()] == ["lock"]


def test_several_seeds_are_several_runs(tiny: Tiny) -> None:
    result = run(tiny(seeds=2, seed=3, steps=2))
    (row,) = result.rows
    assert [record.seed for record in result.records] == [3, 4]
    assert len(set(row.bits_per_byte_seeds)) == 2
    assert row.bits_per_byte == pytest.approx(sum(row.bits_per_byte_seeds) / 2)


def bad_inputs() -> list[Any]:
    def missing_fact(config: StudyConfig, place: Path) -> StudyConfig:
        return replace(config, contenders=(contender_from_text("Causal() & Keys('heading')"),))

    def long_sequence(config: StudyConfig, place: Path) -> StudyConfig:
        return replace(config, seq_len=1 << 20)

    def binary(config: StudyConfig, place: Path) -> StudyConfig:
        (place / "binary").mkdir()
        (place / "binary" / "a").write_bytes(b"\0\1")
        return replace(config, data=place / "binary")

    def empty(config: StudyConfig, place: Path) -> StudyConfig:
        (place / "empty").mkdir()
        return replace(config, data=place / "empty")

    def other_length(config: StudyConfig, place: Path) -> StudyConfig:
        np.save(place / "m.npy", np.ones((64, 64), dtype=bool))
        return replace(config, contenders=(Contender(name="m", mask=place / "m.npy"),))

    def no_tokenizer(config: StudyConfig, place: Path) -> StudyConfig:
        return replace(config, tokenizer=str(place / "absent.json"))

    return [
        pytest.param(missing_fact, AnnotationError, "reads the flag 'heading', which no annotator gives", id="fact"),
        pytest.param(long_sequence, DataError, "--seq-len 1048576 is longer than the training text", id="length"),
        pytest.param(binary, DataError, "holds no text: of 1 files, 1 binary", id="binary"),
        pytest.param(empty, DataError, "holds no file; name a directory", id="empty"),
        pytest.param(other_length, DataError, r"has shape \[64, 64\], but --seq-len is 96", id="mask"),
        pytest.param(no_tokenizer, DataError, "absent.json does not exist", id="tokenizer"),
    ]


@pytest.mark.parametrize(("spoil", "error", "message"), bad_inputs())
def test_bad_input_is_refused_and_nothing_is_written(
    tiny: Tiny, tmp_path: Path, spoil: Any, error: type[Exception], message: str
) -> None:
    config = spoil(tiny(), tmp_path)
    with pytest.raises(error, match=message):
        run(config)
    assert not config.out.exists()


def test_a_device_that_is_not_there_is_refused(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(StudyError, match=r"--device cuda is not available here; there is .*cpu"):
        run(tiny(device="cuda"))


def test_a_place_that_cannot_be_written_is_refused(tiny: Tiny, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(StudyError, match=r"--out .*file cannot be written: .*Name a directory that can"):
        run(tiny(out=tmp_path / "file"))
    with pytest.raises(StudyError, match=r"--out .*below cannot be written: Not a directory"):
        run(tiny(out=tmp_path / "file" / "below"))
    assert (tmp_path / "file").read_text() == "mine"


def test_a_place_with_other_files_is_refused(tiny: Tiny, tmp_path: Path) -> None:
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "letter.txt").write_text("mine")
    for fresh in (False, True):
        with pytest.raises(
            StudyError, match=r"holds other files \(letter.txt, ...\) and no study; name an empty or a new"
        ):
            run(tiny(out=tmp_path / "home"), fresh=fresh)
    assert [path.name for path in (tmp_path / "home").iterdir()] == ["letter.txt"]


def test_fresh_keeps_files_that_are_not_its_own(tiny: Tiny) -> None:
    config = tiny(steps=1)
    run(config)
    (config.out / "notes.txt").write_text("mine")
    run(config, fresh=True)
    assert (config.out / "notes.txt").read_text() == "mine"


def test_a_worker_that_is_killed_is_explained(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(conduct, "_WORKER", "import os; os.kill(os.getpid(), 9)")
    with pytest.raises(
        StudyError, match=r"the process of plan 'dense' \(seed 0\) was killed, most likely for lack of mem"
    ):
        run(tiny(isolate=True))


def test_an_error_in_a_worker_is_the_studys_own(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    words = '{"event": "error", "kind": "DataError", "message": "the words"}'
    monkeypatch.setattr(conduct, "_WORKER", f"print('{words}'); raise SystemExit(2)")
    with pytest.raises(DataError, match="the words"):
        run(tiny(isolate=True))


def test_data_that_changes_while_a_study_is_at_work_is_refused(tiny: Tiny, tmp_path: Path) -> None:
    texts = tmp_path / "texts"
    texts.mkdir()
    for number in range(4):
        (texts / f"{number}.txt").write_text(f"text {number}\n" * 50)

    def change(event: dict[str, Any]) -> None:
        if event["event"] == "run":
            # as many documents, as many bytes
            (texts / "2.txt").write_text("next 2\n" * 50)

    with pytest.raises(StudyError, match=r"the files in --data .*texts changed while the study in .*out was at work"):
        run(tiny(data=texts, isolate=True, steps=1), report=change)


def test_a_study_is_shown_and_compared_without_its_mask_file(
    tiny: Tiny, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mask = tmp_path / "mask.npy"
    np.save(mask, np.eye(96, dtype=bool))
    digest = hashlib.sha256(mask.read_bytes()).hexdigest()
    config = tiny(contenders=(Contender(name="own token", mask=mask),), steps=1)
    assert run(config).config.contenders[0].mask_sha256 == digest
    np.save(mask, np.tri(96, dtype=bool))
    with pytest.raises(StudyError, match="another plan, mask or schedule under the same name"):
        run(config)
    for change in (lambda: None, mask.unlink):
        change()
        assert require_done(config.out).result.to_dict()["config"]["contenders"][0]["mask_sha256"] == digest
        assert main(["runs", "show", str(config.out)]) == 0
        assert f"plan own token: {mask}" in capsys.readouterr().out.replace("\n", "")


def test_a_mask_that_changes_while_a_study_is_at_work_is_refused(tiny: Tiny, tmp_path: Path) -> None:
    mask = tmp_path / "mask.npy"
    np.save(mask, np.eye(96, dtype=bool))

    def change(event: dict[str, Any]) -> None:
        if event["event"] == "run":
            np.save(mask, np.tri(96, dtype=bool))

    with pytest.raises(StudyError, match="another plan, mask or schedule under the same name"):
        run(tiny(contenders=(Contender(name="own token", mask=mask),), steps=1, isolate=True), report=change)


def test_options_may_be_given_without_a_configuration(tiny: Tiny) -> None:
    config = tiny()
    options = {name: getattr(config, name) for name in ("data", "out", "tokenizer", "model", "device", "seq_len")}
    patterns = ["near: Causal() & Window(before=7)", Causal() & Window(before=9)]
    result = run(patterns=patterns, steps=2, batch_size=1, isolate=False, **options)
    assert [row.name for row in result.rows] == ["dense", "near", "Causal() & Window(before=9, after=0)"]
    assert result.config.steps == 2
    assert run(config, steps=1, fresh=True).records[0].steps == 1


def test_waiting_threads_of_a_worker_sleep_unless_told_otherwise(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    script = "import json, os; words = os.environ['OMP_WAIT_POLICY']; "
    script += "print(json.dumps({'event': 'error', 'kind': 'DataError', 'message': words})); raise SystemExit(2)"
    monkeypatch.setattr(conduct, "_WORKER", script)
    for given, expected in ((None, "passive"), ("active", "active")):
        monkeypatch.delenv("OMP_WAIT_POLICY", raising=False)
        if given:
            monkeypatch.setenv("OMP_WAIT_POLICY", given)
        with pytest.raises(DataError, match=expected):
            run(tiny(isolate=True))


def test_a_study_below_its_data_does_not_read_itself(tiny: Tiny, tmp_path: Path) -> None:
    for number in range(4):
        (tmp_path / f"{number}.txt").write_text(f"text {number}\n" * 50)
    config = tiny(data=tmp_path, out=tmp_path / "study", steps=1)
    first = run(config)
    assert run(config).records == first.records
    other = run(replace(config, out=tmp_path / "other"))
    assert other.data["fingerprint"] == first.data["fingerprint"]


def test_a_tokenizer_may_come_from_a_file(finished: Any, tiny: Tiny) -> None:
    path = finished[0].config.out / "tokenizer.json"
    result = run(tiny(tokenizer=str(path), steps=1))
    assert result.vocab_size == finished[0].vocab_size == 301
    assert not (result.config.out / "tokenizer.json").exists()
