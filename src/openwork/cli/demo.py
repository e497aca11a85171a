"""`openwork demo`: four acts on source code that every machine has."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from openwork.study.demo import DemoResult

__all__ = ["demo"]


def demo(
    act: Annotated[
        list[int] | None,
        typer.Option(help="Only this act: 1 see, 2 reach, 3 study, 4 scale. Repeatable. [default: all]"),
    ] = None,
    seconds: Annotated[float, typer.Option(help="Training seconds of each plan of act 3.")] = 60.0,
    seed: Annotated[int, typer.Option(min=0, help="First weights, texts and order of acts 2 and 3.")] = 0,
    out: Annotated[Path, typer.Option(help="Directory for records and the page.")] = Path("openwork-demo"),
    fresh: Annotated[bool, typer.Option("--fresh", help="Remove an earlier demo in --out first.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object as the last line.")] = False,
) -> None:
    """See a pattern over real code, know what it reaches, train under it, and measure what it saves.

    Four acts on Python's standard library, on one page. Under five minutes on two cores. Stop it whenever you like: the
    same command goes on with the act that it was in, and within the study where it was.
    """
    from rich.console import Console

    from openwork.study.demo import DemoConfig, run_demo
    from openwork.study.progress import DemoProgress

    config = DemoConfig(out=out, acts=tuple(act or ()), seconds=seconds, seed=seed)
    errors = Console(stderr=True)
    try:
        with DemoProgress(config.live, errors) as progress:
            result = run_demo(config, fresh=fresh, report=progress)
            progress.finish()
    except KeyboardInterrupt:
        errors.print(f"Stopped. The same command goes on from here; what is done is in {config.out}.")
        raise
    if as_json:
        typer.echo(json.dumps(_summary(result)))
        return
    _print(result)


def _print(result: DemoResult) -> None:
    from rich.console import Console

    from openwork.study.acts.page import commands, demo_verdict

    console = Console()
    for words in demo_verdict(result):
        console.print(f"{words.lead}: {words.text}", highlight=False, markup=False)
    console.print()
    width = max(len(name) for name, _ in commands())
    for name, command in commands():
        console.print(f"{name + ':':{width + 1}}  {command}", highlight=False, markup=False, soft_wrap=True)
    console.print(f"Report: {result.page.absolute()}", highlight=False, markup=False, soft_wrap=True)


def _summary(result: DemoResult) -> dict[str, object]:
    content = result.to_dict()
    if result.study is not None:
        content["study"] = result.study.summary()
    return content | {"page": str(result.page), "seconds": result.seconds}
