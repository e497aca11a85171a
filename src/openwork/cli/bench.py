"""`openwork bench`: what one step of a model costs dense, with a mask, and sparse, before anything is trained."""

from __future__ import annotations

import json
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from openwork.study.bench import BenchResult

__all__ = ["bench"]

FAILED = 1


def bench(
    model: Annotated[
        str,
        typer.Argument(
            help="Folder of a transformers model, its config.json alone (random weights), FILE.py:FUNCTION or "
            "package.module:FUNCTION, or tiny, small, base."
        ),
    ],
    pattern: Annotated[
        list[str] | None,
        typer.Option(help='A plan as pattern text, "Causal() & Window(before=255)" or "name: PATTERN". Repeatable.'),
    ] = None,
    plan: Annotated[list[Path] | None, typer.Option(help="A plan as Plan.to_json writes it. Repeatable.")] = None,
    seq_len: Annotated[
        str | None, typer.Option(help="Tokens of each sequence; several with commas. [default: 2048, or the model's]")
    ] = None,
    batch_size: Annotated[str, typer.Option(help="Sequences in a step; several with commas, 1,2,8.")] = "1",
    steps: Annotated[int, typer.Option(help="Timed rounds; a round runs each way once.")] = 30,
    seconds: Annotated[
        float | None, typer.Option(help="Begin no further round of a run after so many seconds. [default: no limit]")
    ] = None,
    forward_only: Annotated[
        bool, typer.Option("--forward-only", help="Time a forward pass without gradients, as a prefill is.")
    ] = False,
    eager: Annotated[
        bool, typer.Option("--eager", help="Also measure attention that keeps its scores, with the mask.")
    ] = False,
    generate: Annotated[
        int, typer.Option(help="Also generate so many tokens after a prompt of --seq-len: first token, per token.")
    ] = 0,
    backend: Annotated[str, typer.Option(help="Backend of sparse attention.")] = "auto",
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "cpu",
    dtype: Annotated[str, typer.Option(help="float32 or bfloat16, of weights and computation.")] = "float32",
    seed: Annotated[int, typer.Option(min=0, help="Random weights and tokens.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object as the last line.")] = False,
) -> None:
    """Measure a step of a model dense, with the plan as a mask, and sparse: time, memory, FLOPs, gradients; a verdict.

    Rounds are interleaved, so that what else the machine does meets all ways. Exits with 1 where gradients are not
    finite or not those of the reference, with 2 on bad input.
    """
    from openwork.plan import read_plan
    from openwork.study.bench import BenchConfig, run_bench
    from openwork.study.bench.config import parse_numbers
    from openwork.study.contender import Contender, contender_from_text
    from openwork.study.environment import resolve_device

    config = BenchConfig(
        model=model,
        contenders=(
            *map(contender_from_text, pattern or []),
            *(Contender(name=path.stem, plan=read_plan(path)) for path in plan or []),
        ),
        seq_lens=() if seq_len is None else parse_numbers("--seq-len", seq_len),
        batch_sizes=parse_numbers("--batch-size", batch_size),
        steps=steps,
        seconds=seconds,
        forward_only=forward_only,
        eager=eager,
        new_tokens=generate,
        backend=backend,
        device=resolve_device(device),
        dtype=dtype,
        seed=seed,
    )
    with _Bar() as bar:
        result = run_bench(config, bar)
    if as_json:
        typer.echo(json.dumps(result.to_dict()))
    else:
        _print(result)
    if not result.passed:
        raise typer.Exit(FAILED)


def _print(result: BenchResult) -> None:
    from rich.console import Console

    from openwork.study.bench.words import bench_legend, bench_tables, bench_title, verdict

    console = Console()
    console.print(bench_title(result), highlight=False, markup=False)
    for table in bench_tables(result):
        console.print(table)
    for line in (*bench_legend(result), "", *verdict(result)):
        console.print(line, highlight=False, markup=False)


class _Bar:
    """Progress on stderr, where it is a terminal."""

    def __enter__(self) -> _Bar:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

        columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn(), TimeRemainingColumn())
        console = Console(stderr=True)
        # what is no terminal would keep an empty line of it
        self._progress = Progress(*columns, console=console, transient=True, disable=not console.is_terminal)
        self._task = self._progress.add_task("reading the model", total=None)
        self._progress.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._progress.stop()

    def __call__(self, done: int, total: int, what: str) -> None:
        self._progress.update(self._task, completed=done, total=total, description=what)
