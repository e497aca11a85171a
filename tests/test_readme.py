"""The README's code and commands, executed."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from openwork.cli.main import main

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
COMMANDS = re.findall(r"^\$ (.*?)(?:\s+#.*)?$", README, flags=re.MULTILINE)


def blocks(language: str) -> list[str]:
    """The fenced blocks of a language."""
    return re.findall(rf"```{language}\n(.*?)```", README, flags=re.DOTALL)


def test_it_opens_with_a_sentence_a_picture_the_commands_and_the_code() -> None:
    places = [README.index(text) for text in ("\n\nSay which", "<img", "make demo", "```python", "## The tree")]
    assert places == sorted(places)
    picture = re.search(r'<img src="([^"]+)"', README).group(1)
    assert (ROOT / picture).read_bytes().startswith(b"\x89PNG")


@pytest.mark.slow
def test_the_python_runs_on_a_laptop(tmp_path) -> None:
    (code,) = blocks("python")
    assert len([line for line in code.splitlines() if line.strip()]) <= 20
    run = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stderr
    assert run.stdout.startswith("<BlockLayout 8,192 queries x 8,192 keys")
    dense, sparse = (
        float(re.search(rf"^{name}: forward and backward in ([\d.]+) s$", run.stdout, flags=re.MULTILINE).group(1))
        for name in ("dense", "sparse")
    )
    assert 0 < sparse < 60 and 0 < dense < 60


@pytest.mark.parametrize("command", [c for c in COMMANDS if c.startswith("openwork ")])
def test_the_command_works(command, capsys, monkeypatch) -> None:
    monkeypatch.chdir(ROOT)
    assert main(shlex.split(command)[1:]) == 0
    out, err = capsys.readouterr()
    assert out
    assert not err


@pytest.mark.parametrize("command", [c for c in COMMANDS if c.startswith("make ")])
def test_make_knows_the_target(command) -> None:
    subprocess.run([*shlex.split(command), "--dry-run"], cwd=ROOT, check=True, stdout=subprocess.DEVNULL)


def test_every_command_is_one_that_a_test_runs() -> None:
    assert len(COMMANDS) >= 5
    assert not [command for command in COMMANDS if command.split()[0] not in {"openwork", "make"}]
