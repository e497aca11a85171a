"""`openwork demo`: the main job on source code that every machine has."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

__all__ = ["demo"]


def demo(
    seconds: Annotated[float, typer.Option(help="Training seconds of each plan.")] = 55.0,
    out: Annotated[Path, typer.Option(help="Directory for record and report.")] = Path("openwork-demo"),
    fresh: Annotated[bool, typer.Option("--fresh", help="Remove an earlier demo in --out first.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object as the last line.")] = False,
) -> None:
    """Train a small model on Python's standard library under three plans, and say what sparse attention saved.

    Dense attention, a window, and the window plus the definitions that the code uses. Under five minutes on two
    cores; stop it whenever you like, the same command goes on where it was.
    """
    from openwork.cli.study import conduct
    from openwork.study.recipes import standard_library

    config = standard_library(seconds=seconds, out=out)
    if not as_json:
        typer.echo(f"Python's standard library in {config.data}: three plans, {config.seconds:g} s of training each.")
    conduct(
        config,
        fresh=fresh,
        as_json=as_json,
        ending=lambda result: [
            "",
            "Your own data:  openwork study --data DIRECTORY --pattern 'Causal() & Window(before=255)'",
            "Your own mask:  openwork study --data DIRECTORY --mask FILE.npy",
        ],
    )
