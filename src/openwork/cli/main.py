"""The `openwork` command line: its commands, and how errors end."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Sequence
from typing import Annotated

import typer
from typer.exceptions import Abort, TyperException

from openwork import __version__
from openwork.cli import bench, check, demo, doctor, runs, show, study
from openwork.errors import OpenworkError

__all__ = ["app", "main"]

INTERRUPTED = 130
USAGE = 2

app = typer.Typer(
    name="openwork",
    invoke_without_command=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command("demo")(demo.demo)
app.command("show")(show.show)
app.command("check")(check.check)
app.command("bench")(bench.bench)
app.command("study")(study.study)
app.add_typer(runs.app)
app.command("doctor")(doctor.doctor)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"openwork {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    context: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and leave.")
    ] = False,
) -> None:
    """Sparse attention, described once: draw it, check it, train it beside a dense baseline."""
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and give its exit code: 0 done, 2 what the caller can mend, 130 interrupted.

    Whatever a caller can cause ends in one line on stderr; anything else is our bug and shows its traceback.

    Args:
        arguments: What follows `openwork`. Defaults to the process's own.
    """
    try:
        code = app(args=arguments, prog_name="openwork", standalone_mode=False)
        sys.stdout.flush()
        return code if isinstance(code, int) else 0
    except (KeyboardInterrupt, Abort):
        return INTERRUPTED
    except TyperException as error:
        message = error.format_message()
        return _fail(message) if message else USAGE
    except BrokenPipeError:
        # the reader of a pipe has left (`| head`): silence, as typer has it; Python would complain again at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OpenworkError as error:
        return _fail(str(error))
    except OSError as error:
        return _fail(_explain(error))


def _fail(message: str) -> int:
    print(f"error: {message}", file=sys.stderr)
    return USAGE


def _explain(error: OSError) -> str:
    """An operating system's refusal in a caller's words."""
    where = error.filename2 or error.filename
    reason = (error.strerror or str(error)).lower()
    if error.errno == errno.ENOSPC:
        reason = "no space is left on the device"
    return f"{where}: {reason}." if where else f"{reason}."


if __name__ == "__main__":
    sys.exit(main())
