"""`openwork runs`: the studies on disk, one of them in full, or two of them side by side."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from rich.console import Console

    from openwork.study.compare import Comparison, Outcome
    from openwork.study.history import StudyEntry

__all__ = ["app"]

app = typer.Typer(
    name="runs",
    invoke_without_command=True,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.callback()
def _root(context: typer.Context) -> None:
    """List the studies on disk, show one, compare two."""
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())


_Json = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]


def _console() -> Console:
    from rich.console import Console

    return Console(highlight=False, markup=False)


@app.command("list")
def list_(
    places: Annotated[
        list[Path] | None, typer.Argument(help="Studies, or directories to search. [default: the working directory]")
    ] = None,
    as_json: _Json = False,
) -> None:
    """List the studies at these places or below them, the latest first: done, in progress, stopped or damaged."""
    from openwork.study.history import list_studies

    entries = list_studies(places or ())
    if as_json:
        typer.echo(json.dumps({"studies": [entry.to_dict() for entry in entries]}))
        return
    if not entries:
        where = ", ".join(map(str, places)) if places else "the working directory"
        typer.echo(f"no study at or below {where}; `openwork study` makes one in its --out.")
        return
    for entry in entries:
        for line in _lines(entry):
            typer.echo(line)


def _lines(entry: StudyEntry) -> list[str]:
    content = entry.to_dict()
    first = [content["path"], entry.status, entry.changed.strftime("%Y-%m-%d %H:%M UTC"), _budget(content)]
    qualities = ", ".join(f"{name} {bpb:.3f}" for name, bpb in content["bits_per_byte"].items())
    second = [
        entry.note,
        f"bits per byte: {qualities}"
        if qualities
        else f"plans: {', '.join(content['plans'])}" * bool(content["plans"]),
        f"data: {content['data']}" if content["data"] else "",
    ]
    return ["  ".join(filter(None, first)), "    " + "; ".join(filter(None, second))]


def _budget(content: dict[str, Any]) -> str:
    if content["seeds"] is None:
        return ""
    steps = f"{content['steps']:,} steps" if content["steps"] is not None else ""
    seconds = f"{content['seconds']:g} s" if content["seconds"] is not None else ""
    seeds = f" x {content['seeds']} seeds" if content["seeds"] > 1 else ""
    return " or ".join(filter(None, (steps, seconds))) + seeds + f", {content['seq_len']:,} tokens"


@app.command("show")
def show(
    study: Annotated[Path, typer.Argument(help="Directory of a study.")],
    as_json: _Json = False,
) -> None:
    """Show a study: its options, where it ran, its figures and its verdict, made anew from its raw samples."""
    from openwork.study.history import DAMAGED, read_study, require_done
    from openwork.study.table import rich_table

    entry = read_study(study)
    if entry.status == DAMAGED:
        require_done(study)
    result = entry.result
    if as_json:
        content = entry.to_dict() | (result.summary() if result is not None else {})
        typer.echo(json.dumps(content))
        return
    console = _console()
    console.print(f"{entry.path}: {entry.status}, {entry.changed:%Y-%m-%d %H:%M} UTC" + _more(entry.note))
    config = entry.config
    assert config is not None
    options = {name: value for name, value in config.to_dict().items() if name != "contenders" and value is not None}
    console.print("options: " + ", ".join(f"{name}={value}" for name, value in options.items()))
    if result is None:
        console.print(f"plans: {', '.join(contender.name for contender in config.everyone)}")
        return
    known = {name: value for name, value in result.environment.items() if value is not None}
    console.print("ran with: " + ", ".join(f"{name} {value}" for name, value in known.items()))
    code = sorted({version for record in result.records for version in record.code})
    if len(code) > 1:
        console.print(f"note: the code changed between sessions: {'; '.join(code)}")
    for row in result.rows:
        console.print(f"plan {row.name}: {row.pattern}")
    console.print(rich_table(result))
    for sentence in result.verdict.split("\n"):
        console.print(sentence)


def _more(note: str) -> str:
    return f", {note}" if note else ""


@app.command("compare")
def compare(
    first: Annotated[Path, typer.Argument(help="Directory of a study that is done.")],
    second: Annotated[Path, typer.Argument(help="Directory of another.")],
    as_json: _Json = False,
) -> None:
    """Compare two studies: what differs in plans, options, data, code and machine, and in what came out.

    Figures that say nothing side by side (other text, another tokenizer, another machine) are named and left out.
    """
    from openwork.study.compare import compare_studies
    from openwork.study.history import require_done

    found = compare_studies(require_done(first), require_done(second))
    if as_json:
        typer.echo(json.dumps({"first": str(first), "second": str(second)} | found.to_dict()))
        return
    _print(found, first, second)


def _print(found: Comparison, first: Path, second: Path) -> None:
    from rich.table import Table

    console = _console()
    console.print(f"A: {first}\nB: {second}\n")
    if found.differences:
        table = Table(box=None, pad_edge=False, title="What differs", title_justify="left")
        for name in ("", "A", "B"):
            table.add_column(name, overflow="fold")
        for difference in found.differences:
            table.add_row(difference.what, difference.first, difference.second)
        console.print(table)
    else:
        console.print("Nothing differs in options, plans, data, code and machine.")
    console.print("\nWhat came out")
    for outcome in found.outcomes:
        console.print(f"{_title(outcome)}: {'; '.join(_words(outcome))}.")
    for side, names in (("A", found.only_first), ("B", found.only_second)):
        if names:
            console.print(f"only in {side}: {', '.join(names)}.")
    for reason in found.not_comparable:
        console.print(f"not comparable - {reason}.")


def _title(outcome: Outcome) -> str:
    if outcome.first == outcome.second:
        return outcome.first if outcome.same_plan else f"{outcome.first} (another plan in B)"
    return f"{outcome.first} in A, {outcome.second} in B" + (" (the same plan)" if outcome.same_plan else "")


def _words(outcome: Outcome) -> list[str]:
    from openwork.study.details import interval_words

    words = []
    if outcome.bits_per_byte is not None:
        a, b = outcome.bits_per_byte
        noise = interval_words(outcome.interval)
        if outcome.interval is not None:
            noise += ", paired by seed" if outcome.paired else ", seeds not paired"
        words.append(f"bits per byte {a:.3f} -> {b:.3f} ({noise})")
    if outcome.perplexity is not None:
        words.append("perplexity {:.4g} -> {:.4g}".format(*outcome.perplexity))
    if outcome.step_ms is not None:
        a, b = outcome.step_ms
        spread = ", within the spread of the steps" if outcome.steps_overlap else ""
        words.append(f"step {a:,.0f} ms -> {b:,.0f} ms ({a / b:.2f}x as fast{spread})")
    if outcome.peak_bytes is not None:
        a, b = (peak / 2**20 for peak in outcome.peak_bytes)
        words.append(f"memory {a:,.0f} MiB -> {b:,.0f} MiB ({100 * (b / a - 1):+.0f} %)")
    return words or ["no figure is comparable"]
