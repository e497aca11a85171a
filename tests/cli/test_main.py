"""The frame: help names what works, and every failure is one line and an exit code."""

from __future__ import annotations

import errno
import subprocess
import sys

import pytest
import typer

from openwork import __version__
from openwork.cli import main as frame
from openwork.errors import LayoutError


@pytest.fixture
def raising(monkeypatch: pytest.MonkeyPatch):
    """A command line whose only command raises what it is given."""

    def replace(error: BaseException) -> None:
        app = typer.Typer()

        @app.command()
        def fail() -> None:
            raise error

        monkeypatch.setattr(frame, "app", app)

    return replace


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (LayoutError("layout was compiled for q_len=8."), "error: layout was compiled for q_len=8.\n"),
        (FileNotFoundError(errno.ENOENT, "No such file", "a.py"), "error: a.py: no such file.\n"),
        (PermissionError(errno.EACCES, "Permission denied", "out"), "error: out: permission denied.\n"),
        (OSError(errno.ENOSPC, "No space left", "run/x"), "error: run/x: no space is left on the device.\n"),
    ],
)
def test_what_a_caller_caused_is_one_line(raising, capsys, error, line) -> None:
    raising(error)
    assert frame.main([]) == 2
    assert capsys.readouterr() == ("", line)


def test_our_own_bug_keeps_its_traceback(raising) -> None:
    raising(ZeroDivisionError("ours"))
    with pytest.raises(ZeroDivisionError, match="ours"):
        frame.main([])


def test_ctrl_c_exits_with_130(raising, capsys) -> None:
    raising(KeyboardInterrupt())
    assert frame.main([]) == 130
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["shw"], "No such command 'shw'"),
        (["show", "Causal()", "--lenth", "8"], "No such option: --lenth"),
        (["show", "Causal()", "--length", "eight"], "Invalid value for '--length'"),
    ],
)
def test_a_mistyped_command_line_is_one_line(capsys, arguments, line) -> None:
    assert frame.main(arguments) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("error: ")
    assert line in err
    assert err.count("\n") == 1


def test_a_refused_study_is_one_line_too(capsys) -> None:
    assert frame.main(["study", "--data", "no-such-directory"]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("error: --data no-such-directory does not exist")
    assert err.count("\n") == 1


def test_version(capsys) -> None:
    assert frame.main(["--version"]) == 0
    assert capsys.readouterr().out == f"openwork {__version__}\n"


def test_every_command_that_help_names_has_help_and_json(capsys) -> None:
    assert frame.main(["--help"]) == 0
    listed = capsys.readouterr().out.split("Commands:")[1]
    names = [line.split()[0] for line in listed.splitlines() if line.startswith("  ") and line[2] != " "]
    groups = {group.typer_instance.info.name: group.typer_instance for group in frame.app.registered_groups}
    assert set(names) == {command.name for command in frame.app.registered_commands} | set(groups)
    for name in names:
        for command in groups[name].registered_commands if name in groups else [None]:
            assert frame.main([name, *([command.name] if command else []), "--help"]) == 0
            assert "--json" in capsys.readouterr().out


def test_without_a_command_it_prints_its_help(capsys) -> None:
    assert frame.main([]) == 0
    assert "Commands:" in capsys.readouterr().out


def test_a_reader_that_leaves_early_hears_no_complaint() -> None:
    command = f"{sys.executable} -m openwork show 'Causal()' --length 64 | head -n 1"
    run = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=True)
    assert run.stderr == ""
    assert run.stdout == "Causal()\n"
