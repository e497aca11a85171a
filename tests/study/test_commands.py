"""`openwork study` and `openwork demo`: options reach the study, and bad input is one line and a code."""

from __future__ import annotations

import json
import re
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from openwork.cli.main import main
from openwork.patterns import Causal, Window
from openwork.plan import Plan
from openwork.study import StudyConfig
from openwork.study.acts.page import COMMANDS
from openwork.study.config import option


@pytest.fixture
def in_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs share this process: starting others takes seconds."""
    default = StudyConfig.__init__

    def init(self: StudyConfig, **options: Any) -> None:
        default(self, **({"isolate": False} | options))

    monkeypatch.setattr(StudyConfig, "__init__", init)


TINY = "--tokenizer bytes --model tiny --seq-len 96 --batch-size 2 --steps 3 --device cpu".split()


def test_options_and_plans_of_each_kind_reach_the_study(
    texts: Path, tmp_path: Path, in_process: None, capsys: pytest.CaptureFixture[str]
) -> None:
    np.save(tmp_path / "mine.npy", np.ones((96, 96), dtype=bool))
    plan = Plan.by_depth({0.0: Causal() & Window(before=7), 0.5: Causal()})
    (tmp_path / "deep.json").write_text(plan.to_json())
    arguments = ["study", "--data", str(texts), "--out", str(tmp_path / "out"), *TINY, "--json"]
    arguments += ["--pattern", "Causal() & Window(before=7)", "--pattern", "wide: Causal() & Window(before=31)"]
    arguments += ["--plan", str(tmp_path / "deep.json"), "--mask", str(tmp_path / "mine.npy")]
    arguments += ["--matrix-lr", "0.03", "--clip-norm", "2", "--accumulate", "2", "--checkpointing"]
    arguments += ["--lr", "0.001", "--seed", "5", "--dense-steps", "1", "--include", "*.py"]
    assert main(arguments) == 0
    output = capsys.readouterr()
    result = json.loads(output.out.splitlines()[-1])
    assert [row["name"] for row in result["rows"]] == ["dense", "Causal() & Window(before=7)", "wide", "deep", "mine"]
    asked = {"lr": 0.001, "seed": 5, "dense_steps": 1, "seq_len": 96, "include": ["*.py"]}
    asked |= {"matrix_lr": 0.03, "clip_norm": 2.0, "accumulate": 2, "checkpointing": True, "optimizer": "muon"}
    assert {name: result["config"][name] for name in asked} == asked
    assert Path(result["page"]).is_file() and result["verdict"]
    assert main(arguments) == 0
    assert "Going on with the study" in capsys.readouterr().err
    assert main([*arguments, "--lr", "0.5"]) == 2
    assert "error: " in (error := capsys.readouterr().err) and "--lr (was 0.001, now 0.5)" in error.replace("\n", " ")


def test_words_are_printed_where_json_is_not_asked_for(
    texts: Path, tmp_path: Path, in_process: None, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["study", "--data", str(texts), "--out", str(tmp_path / "out"), *TINY]) == 0
    words = capsys.readouterr().out
    assert "bits/byte" in words and "Dense attention" in words and "report.html" in words


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--pattern", "Windw(before=3)"], "unknown pattern 'Windw'; did you mean 'Window'?"),
        (["--pattern", "Causal() & Keys('heading')"], "the plan reads the flag 'heading', which no annotator gives"),
        (["--plan", "absent.json"], "--plan absent.json cannot be read: No such file or directory"),
        (["--mask", "absent.npy"], "absent.npy does not exist"),
        (["--seq-len", "9999999"], "--seq-len 9999999 is longer than the training text"),
        (["--seq-len", "99999999"], "a step of --batch-size 2 times --seq-len 99999999 is 199,999,998 tokens; at most"),
        (["--device", "tpu"], "--device must be one of auto, cpu, cuda, mps; got 'tpu'"),
        (["--tokenizer", "words"], "--tokenizer must be bytes, bpe, bpe:VOCABULARY, the path"),
        (["--model", "huge"], "--model must be one of tiny, small, base, FILE.py:FUNCTION"),
        (["--model", "absent.py:make"], "--model absent.py:make: absent.py does not exist."),
        (["--steps", "none"], "Invalid value for '--steps'"),
        (["--data", "nowhere"], "--data nowhere does not exist"),
        (["--out", "/dev/null/x"], "--out /dev/null/x cannot be written: Not a directory"),
    ],
)
def test_bad_input_is_one_line_and_a_code(
    texts: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["study", "--data", str(texts), *TINY, *arguments]) == 2
    output = capsys.readouterr()
    lines = [line for line in output.err.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1 and message in lines[0]
    assert "Traceback" not in output.err and output.out == ""
    assert list(tmp_path.iterdir()) == []


def test_a_loss_that_is_no_number_is_one_line_and_a_code(
    texts: Path, tmp_path: Path, in_process: None, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["study", "--data", str(texts), "--out", str(tmp_path / "out"), *TINY, "--steps", "30", "--lr", "1e30"]
    assert main(arguments) == 2
    errors = capsys.readouterr().err
    assert "error: the " in errors and "Start anew with --fresh and a lower --lr" in errors
    assert not (tmp_path / "out" / "record.json").exists()


def test_an_interruption_says_how_to_go_on(
    texts: Path,
    tmp_path: Path,
    in_process: None,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def interrupt(*ignored: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("openwork.study.trainer.Trainer._step", interrupt)
    assert main(["study", "--data", str(texts), "--out", str(tmp_path / "out"), *TINY]) == 130
    assert "Stopped. The same command goes on from here" in capsys.readouterr().err


FLAGS = {
    "study": "--data --pattern --plan --mask --schedule --dense-steps --seq-len --batch-size --accumulate "
    "--checkpointing --optimizer --lr --matrix-lr --clip-norm --tokenizer --steps --seconds --eval-every "
    "--seed --seeds --control --model --tune --metric --device --dtype --include --exclude --max-bytes --features "
    "--watts --gco2-per-kwh --pue --memory-gb --out --fresh --json",
    "demo": "--act --seconds --seed --out --fresh --json",
}


@pytest.mark.parametrize("command", FLAGS)
def test_the_options_of_a_command_are_these(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([command, "--help"]) == 0
    found = re.findall(r"^ +(--[a-z0-9-]+)", capsys.readouterr().out, re.MULTILINE)
    assert sorted(found) == sorted(FLAGS[command].split())


def test_the_commands_that_the_demo_hands_over_are_there(
    texts: Path, tmp_path: Path, in_process: None, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "mine.py").write_text(
        "from openwork.nn import Decoder, DecoderConfig\n\n"
        "def make(vocab_size):\n"
        "    return Decoder(DecoderConfig(vocab_size=vocab_size, dim=32, q_heads=2, kv_heads=1, mlp_dim=32))\n"
    )
    np.save(tmp_path / "mine.npy", np.tri(8, dtype=bool))
    given = {"DIRECTORY": texts, "FILE.py:FUNCTION": tmp_path / "mine.py:make", "FILE.npy": tmp_path / "mine.npy"}
    for _, command in COMMANDS:
        program, *words = command.split()
        assert program == "openwork"
        arguments = [str(given.get(word, word)) for word in words]
        if words[0] == "study":
            tiny = [word for word in TINY if word not in ("--model", "tiny")]
            arguments += [*tiny, "--steps", "1", "--out", str(tmp_path / f"out{len(words)}")]
        assert main(arguments) == 0, capsys.readouterr().err
    assert "FILE.py:FUNCTION" in help_of("study", capsys)


def help_of(command: str, capsys: pytest.CaptureFixture[str]) -> str:
    capsys.readouterr()
    assert main([command, "--help"]) == 0
    return capsys.readouterr().out


def test_every_option_is_a_field_of_the_configuration() -> None:
    options = set(FLAGS["study"].split()) - {"--pattern", "--plan", "--mask", "--schedule", "--fresh", "--json"}
    assert options <= {option(field.name) for field in fields(StudyConfig)}
