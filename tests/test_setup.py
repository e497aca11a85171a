"""What `make` does before it does anything else."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def setup_env() -> ModuleType:
    spec = importlib.util.spec_from_file_location("setup_env", ROOT / "scripts" / "setup_env.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def find_python(**environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["sh", "scripts/python.sh"],
        cwd=ROOT,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_python_that_is_named_is_taken() -> None:
    assert find_python(PYTHON=sys.executable).stdout.strip() == sys.executable


@pytest.mark.parametrize("name", ["false", "no-such-python"])
def test_a_python_that_will_not_do_is_refused_with_the_way_out(name) -> None:
    found = find_python(PYTHON=name)
    assert (found.returncode, found.stdout) == (1, "")
    assert found.stderr.startswith(
        f"error: no Python 3.11, 3.12 or 3.13 with the venv module was found as PYTHON={name}"
    )
    assert "apt install python3 python3-venv" in found.stderr


def test_an_environment_that_is_ready_is_left_alone(setup_env, tmp_path, capsys, monkeypatch) -> None:
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "python").touch()
    monkeypatch.setattr(setup_env, "run_quietly", lambda command, log, started: commands.append(command))
    monkeypatch.setattr(sys, "argv", ["setup_env.py", "--venv", str(tmp_path)])
    commands: list[list[str]] = []
    setup_env.main()
    assert [command[1:3] for command in commands] == [["-m", "venv"], ["-m", "pip"]]
    assert "ready after" in capsys.readouterr().out
    setup_env.main()
    assert len(commands) == 2
    assert capsys.readouterr().out == ""


def test_other_versions_make_the_environment_anew(setup_env, tmp_path, monkeypatch) -> None:
    (tmp_path / "csrc").mkdir()
    for name in ("pyproject.toml", "constraints.txt", "csrc/CMakeLists.txt", "csrc/pool.cpp"):
        (tmp_path / name).write_text((ROOT / name).read_text())
    monkeypatch.setattr(setup_env, "ROOT", tmp_path)
    before = setup_env.fingerprint(tmp_path, [])
    assert setup_env.fingerprint(tmp_path, []) == before
    assert setup_env.fingerprint(tmp_path, ["torch"]) != before
    for name in ("constraints.txt", "csrc/pool.cpp"):
        kept = (tmp_path / name).read_text()
        (tmp_path / name).write_text(kept + "\n")
        assert setup_env.fingerprint(tmp_path, []) != before
        (tmp_path / name).write_text(kept)


def test_a_failed_set_up_ends_in_its_errors_and_where_the_rest_is(setup_env, tmp_path, capsys) -> None:
    log = tmp_path / "setup.log"
    script = "print('Collecting x'); print('ERROR: No matching distribution found for x'); raise SystemExit(3)"
    with pytest.raises(SystemExit, match=r"the set-up failed with status 3; all of its output is in .*setup\.log"):
        setup_env.run_quietly([sys.executable, "-c", script], log, 0.0)
    assert capsys.readouterr().err == "ERROR: No matching distribution found for x\n"


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("Collecting torch>=2.11", "looking for torch>=2.11"),
        ("  Downloading some/where/numpy-2.4.6-cp311.whl (16 MB)", "downloading numpy"),
        ("Installing collected packages: a, b, c", "unpacking 3 packages"),
        ("anything else", "starting"),
    ],
)
def test_progress_is_said_in_a_few_words(setup_env, line, words) -> None:
    assert setup_env.last_step([line, "  noise"]) == words
