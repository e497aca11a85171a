"""The demo: each act alone and all together, on one page that holds its figures; what is done is kept."""

from __future__ import annotations

import io
import json
import re
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from openwork.cli.main import main
from openwork.errors import StudyError
from openwork.study import StudyConfig
from openwork.study import demo as demo_module
from openwork.study.acts.layer import has_transformers
from openwork.study.acts.page import COMMANDS, commands, demo_verdict
from openwork.study.acts.reach import ReachConfig
from openwork.study.acts.sections import scale_section
from openwork.study.acts.trial import recorded_section, recorded_study_record, recorded_verdict
from openwork.study.demo import DemoConfig, DemoResult, run_demo
from openwork.study.progress import DemoProgress
from openwork.study.recipes import live_study
from openwork.study.report import Code, Figure, Words
from openwork.study.report.study import study_verdict
from openwork.study.result import StudyResult
from openwork.study.verdict import can_tell_quality

REACH = ReachConfig(texts=32, test_texts=16, steps=2, eval_every=1, dim=16)


def small(out: Path, **changes: Any) -> DemoConfig:
    """All acts on a few files of the standard library, in seconds."""
    options = {"max_bytes": 1 << 20, "eval_tokens": 512, "seq_len": 256, "model": "tiny", "isolate": False}
    live = live_study()
    study = StudyConfig(
        data=live.data, contenders=live.contenders, include=("[a-f]*.py",), exclude=live.exclude, steps=2, batch_size=1,
        **options,
    )  # fmt: skip
    return DemoConfig(out=out, lengths=(128, 256), scale_seconds=0.0, reach=REACH, study=study, **changes)


def figures_of(page: Path) -> dict[str, Any]:
    found = re.search(r'<script type="application/json" id="figures">(.*?)</script>', page.read_text(), re.DOTALL)
    assert found is not None
    return json.loads(found[1])


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> DemoResult:
    return run_demo(small(tmp_path_factory.mktemp("demo") / "out"))


def test_all_acts_stand_on_one_page_with_their_figures(done: DemoResult) -> None:
    text = done.page.read_text(encoding="utf-8")
    for title in ("Act 1: See", "Act 2: Reach", "Act 3: Study", "Act 4: Scale", "Go on"):
        assert f">{title}<" in text
    figures = figures_of(done.page)
    assert figures == json.loads(json.dumps(done.to_dict() | {"recorded": recorded_study_record()}))
    assert figures["see"]["example"] in text.replace("<code>", "`").replace("</code>", "`")
    assert "http://" not in text.replace("http://www.w3.org", "") and "https://" not in text
    for _, command in commands():
        assert command in text.replace("&#39;", "'")


def test_the_verdict_says_what_each_act_found(done: DemoResult) -> None:
    words = demo_verdict(done)
    leads = list(dict.fromkeys(word.lead for word in words))
    assert leads == ["See", "Reach", "Study", *(["Recorded study"] if recorded_study_record() else []), "Scale"]
    told = " ".join(word.text for word in words)
    assert done.scale is not None and done.reach is not None and done.study is not None
    assert f"at 256 tokens {done.scale.row('sparse', 256).seconds:.2f} s against" in told
    assert f"{done.scale.speedup(256):.1f}x as fast" in told
    assert all(f"{row.name} {row.accuracy:.2f} ({row.predicted:.2f})" in told for row in done.reach.rows)
    assert "One seed and so short a run say nothing about which learns better" in told
    slower = [n for n in done.scale.lengths if done.scale.speedup(n) <= 1]
    assert ("it did not pay at" in told) == bool(slower)
    if has_transformers():
        dense, sparse = done.scale.layer_row("dense"), done.scale.layer_row("sparse")
        assert f"Llama layer through hf.sparsify, at 256 tokens: {sparse.seconds:.2f} s against" in told
        assert "In a Hugging Face model" in done.page.read_text() and dense.length == 256


def test_without_transformers_the_page_says_how_to_get_the_layer(done: DemoResult) -> None:
    assert done.scale is not None
    section = scale_section(replace(done.scale, layer=()))
    hints = [part.text for part in section.parts if isinstance(part, Words) and "openwork[hf]" in part.text]
    assert hints == [
        "With transformers installed (`pip install 'openwork[hf]'`), this act also measures a whole Llama layer "
        "through `openwork.hf.sparsify`."
    ]


def test_what_is_done_is_not_done_again(
    done: DemoResult, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(*arguments: Any, **named: Any) -> None:
        raise AssertionError("done again")

    monkeypatch.setattr(demo_module, "measure_reach", refuse)
    monkeypatch.setattr(demo_module, "measure_scale", refuse)
    before = done.page.read_bytes()
    again = run_demo(done.config)
    assert again.to_dict() == done.to_dict()
    assert done.page.read_bytes() == before
    with pytest.raises(AssertionError, match="done again"):
        run_demo(replace(done.config, acts=(2,), reach=replace(REACH, steps=1)))


def test_a_recorded_study_is_shown_with_its_date_and_its_command(done: DemoResult) -> None:
    assert done.study is not None
    record = {"date": "2001-02-03", "machine": "a machine", "command": "make it", "result": done.study.to_dict()}
    (section,) = recorded_section(json.loads(json.dumps(record)))
    assert "2001-02-03" in section.lead and "a machine" in section.lead and "equal seconds" in section.lead
    assert [part.text for part in section.parts if isinstance(part, Code)] == ["make it"]
    assert set(study_verdict(done.study)) <= {part for part in section.parts if isinstance(part, Words)}
    (sentence,) = recorded_verdict(record)
    assert (
        sentence.startswith("on 2001-02-03, 1 seeds")
        and "not distinguishable at this budget, for no control" in sentence
    )
    assert sum(isinstance(part, Figure) for part in section.parts) == 2
    assert recorded_section(None) == []


def test_the_package_carries_a_study_that_can_judge() -> None:
    record = recorded_study_record()
    assert record is not None
    study = StudyResult.from_dict(record["result"])
    assert [row.name for row in study.rows] == ["dense", "window + definitions", "dense first", "control"]
    assert study.config.seeds == 3 and study.config.control and study.config.seconds is None
    assert Counter(done.name for done in study.records) == dict.fromkeys(
        ("dense", "window + definitions", "dense first", "control"), 3
    )
    assert can_tell_quality(study) == (True, "")
    assert study.config.contenders[1].schedule is not None
    assert record["command"].startswith("python benchmarks/recorded_study.py")
    assert not re.search(r'"/?(home|root|tmp|usr|opt|Users)/', json.dumps(record))


def test_commands_can_be_typed_where_openwork_is_on_no_path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.which", lambda name: "somewhere")
    assert commands() == COMMANDS
    monkeypatch.setattr("shutil.which", lambda name: None)
    monkeypatch.setattr(sys, "executable", str(Path.cwd() / ".venv" / "bin" / "python"))
    assert commands()[0] == ("Your data", ".venv/bin/python -m openwork study --data DIRECTORY")


def test_another_seed_draws_other_texts_and_another_version_does_not_show_old_figures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = small(tmp_path / "out", acts=(2,))
    first = run_demo(config)
    assert config.live.seed == 0 and replace(config, seed=3).live.seed == 3
    other = run_demo(replace(config, seed=3))
    assert first.reach is not None and other.reach is not None and first.reach.example != other.reach.example
    monkeypatch.setattr(demo_module, "environment", lambda device: {"openwork": "another"})
    monkeypatch.setattr(demo_module, "measure_reach", lambda *arguments, **named: other.reach)
    assert run_demo(config).reach == other.reach


def test_where_there_is_no_terminal_each_act_has_a_line(tmp_path: Path) -> None:
    out = io.StringIO()
    config = small(tmp_path / "out", acts=(1,))
    with DemoProgress(config.live, Console(file=out, force_terminal=False, width=100)) as progress:
        run_demo(config, report=progress)
        told = out.getvalue().splitlines()
    assert told == ["reading Python's standard library", "act 1: a pattern over a real file"]


def test_an_act_runs_alone(tmp_path: Path) -> None:
    result = run_demo(small(tmp_path / "one", acts=(1,)))
    assert result.seen is not None and result.reach is None and result.study is None and result.scale is None
    text = result.page.read_text(encoding="utf-8")
    assert ">Act 1: See<" in text and ">Act 2" not in text and ">Act 4" not in text


def test_acts_that_are_none_and_directories_of_others_are_refused(tmp_path: Path) -> None:
    with pytest.raises(StudyError, match="--act must be one of 1, 2, 3, 4; got 5"):
        DemoConfig(acts=(5,))
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(StudyError, match=r"holds other files \(mine.txt, ...\) and no demo"):
        run_demo(small(tmp_path))
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]
    with pytest.raises(StudyError, match="cannot be written"):
        run_demo(small(tmp_path / "mine.txt" / "below"))


def test_fresh_removes_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = small(tmp_path / "out", acts=(4,))
    run_demo(config)
    calls: list[int] = []
    measure = demo_module.measure_scale

    def count(*arguments: Any, **named: Any) -> Any:
        calls.append(1)
        return measure(*arguments, **named)

    monkeypatch.setattr(demo_module, "measure_scale", count)
    run_demo(config)
    assert calls == []
    run_demo(config, fresh=True)
    assert calls == [1]


def test_the_command_prints_its_verdict_and_the_way_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    made: Callable[..., DemoConfig] = demo_module.DemoConfig
    monkeypatch.setattr(demo_module, "DemoConfig", lambda **options: made(**(vars(small(tmp_path)) | options)))
    assert main(["demo", "--act", "1", "--out", str(tmp_path / "out")]) == 0
    printed = capsys.readouterr().out
    assert printed.startswith("See: ") and "Report: " in printed
    assert all(command in printed for _, command in commands())
    assert main(["demo", "--act", "1", "--out", str(tmp_path / "out"), "--json"]) == 0
    content = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert content["see"]["file"] and content["reach"] is None and Path(content["page"]).is_file()
    assert main(["demo", "--act", "9"]) == 2
    assert "--act must be one of" in capsys.readouterr().err
