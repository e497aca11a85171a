"""`openwork bench` from the command line: words or JSON, exit codes, one line for bad input."""

from __future__ import annotations

import json

import pytest

import openwork as ow
from openwork.cli.main import main
from openwork.study.bench.gradients import GradientCheck

SMALL = ["bench", "tiny", "--seq-len", "64", "--steps", "1", "--batch-size", "1,2"]


def test_it_prints_tables_and_a_verdict(capsys) -> None:
    assert main([*SMALL, "--pattern", "near: Causal() & Window(before=7)"]) == 0
    printed, errors = capsys.readouterr()
    assert errors == ""
    assert "64 tokens, batch 1" in printed and "64 tokens, batch 2" in printed
    words = " ".join(printed.split())
    assert "near at 64 tokens, batch 2: 1 round cannot judge: a step takes" in words
    assert "near: gradients are finite and equal to the reference's" in words


def test_json_is_the_last_line(capsys, tmp_path) -> None:
    (tmp_path / "mine.json").write_text(ow.Plan(default=ow.Causal() & ow.Window(before=7)).to_json())
    assert main([*SMALL, "--plan", str(tmp_path / "mine.json"), "--json"]) == 0
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert found["passed"] and found["plans"] == {"mine": "Plan(default=Causal() & Window(before=7, after=0))"}
    assert [row["batch_size"] for row in found["rows"]] == [1, 1, 1, 2, 2, 2]


def test_wrong_gradients_give_another_exit_code(capsys, monkeypatch) -> None:
    monkeypatch.setattr(GradientCheck, "passed", property(lambda check: False))
    assert main([*SMALL, "--pattern", "Causal() & Window(before=7)", "--json"]) == 1
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["passed"] is False


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "nothing to compare with dense attention"),
        (["--pattern", "Window(before=)"], "Window(before=)"),
        (["--pattern", "Causal()", "--batch-size", "1,x"], "--batch-size takes whole numbers with commas between them"),
        (["--plan", "absent.json"], "absent.json"),
        (["--pattern", "Causal()", "--backend", "fast"], "backend='fast' is not one of auto"),
    ],
)
def test_bad_input_ends_in_one_line(capsys, arguments, message) -> None:
    assert main(["bench", "tiny", *arguments]) == 2
    error = capsys.readouterr().err.strip().splitlines()
    assert len(error) == 1 and error[0].startswith("error: ") and message in error[0]
