"""`openwork study`: train one model under several plans and say what each saved and cost."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from openwork.study import Contender, StudyConfig, StudyResult

__all__ = ["conduct", "study"]


def study(
    data: Annotated[Path, typer.Option(help="Directory of files to train and judge on, or one file.")],
    pattern: Annotated[
        list[str] | None,
        typer.Option(help='A plan as pattern text, "Causal() & Window(before=255)" or "name: PATTERN". Repeatable.'),
    ] = None,
    plan: Annotated[list[Path] | None, typer.Option(help="A plan as Plan.to_json writes it. Repeatable.")] = None,
    mask: Annotated[
        list[Path] | None, typer.Option(help="A boolean mask for --seq-len tokens, .npy or .pt. Repeatable.")
    ] = None,
    schedule: Annotated[
        list[str] | None,
        typer.Option(help='From step to plan, "Shrink(end_step=200)" for all or "name: SCHEDULE". Repeatable.'),
    ] = None,
    dense_steps: Annotated[
        int | None, typer.Option(help="First steps that are dense, without --schedule. [default: 0]")
    ] = None,
    seq_len: Annotated[int | None, typer.Option(help="Tokens of each sequence. [default: 1024]")] = None,
    batch_size: Annotated[int | None, typer.Option(help="Sequences in a step. [default: 4]")] = None,
    accumulate: Annotated[
        int | None, typer.Option(help="Parts that a step is computed in, for less memory. [default: 1]")
    ] = None,
    checkpointing: Annotated[
        bool | None, typer.Option("--checkpointing", help="Compute blocks again backwards, for less memory.")
    ] = None,
    optimizer: Annotated[
        str | None,
        typer.Option(help="muon (for matrices, AdamW for the rest) or adamw. [default: muon; with --tune adamw]"),
    ] = None,
    lr: Annotated[
        float | None,
        typer.Option(help="Highest learning rate of AdamW. [default: 0.02; with adamw 0.004; to tune 5e-5 to 5e-4]"),
    ] = None,
    matrix_lr: Annotated[float | None, typer.Option(help="Highest learning rate of Muon. [default: 0.02]")] = None,
    clip_norm: Annotated[float | None, typer.Option(help="Largest norm of the gradients. [default: 1]")] = None,
    tokenizer: Annotated[
        str | None,
        typer.Option(
            help="bytes, bpe, bpe:VOCABULARY (trained on the data), a tokenizer.json, or model. [default: bpe]"
        ),
    ] = None,
    steps: Annotated[int | None, typer.Option(help="Steps of each run. [default: 300, without --seconds]")] = None,
    seconds: Annotated[float | None, typer.Option(help="Training seconds of each run.")] = None,
    eval_every: Annotated[int | None, typer.Option(help="Steps between measurements. [default: 8 in a run]")] = None,
    seed: Annotated[int | None, typer.Option(help="First weights and order of the data. [default: 0]")] = None,
    seeds: Annotated[int | None, typer.Option(help="Train each plan with so many seeds. [default: 1]")] = None,
    control: Annotated[
        bool | None, typer.Option("--control", help="Also train Causal() & Window(before=31), which must lose.")
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(
            help="tiny, small, base; FILE.py:FUNCTION of your own, called with vocab_size; the folder of a "
            "Hugging Face checkpoint, with --tune; or a config.json, for random weights. [default: small]"
        ),
    ] = None,
    tune: Annotated[
        str | None, typer.Option(help="What of a checkpoint to tune: all, attention, or lora (adapters on attention).")
    ] = None,
    metric: Annotated[
        str | None,
        typer.Option(help="FILE.py:FUNCTION or module:FUNCTION, called with a checkpoint's model and its tokenizer."),
    ] = None,
    device: Annotated[str | None, typer.Option(help="auto, cpu, cuda or mps. [default: auto]")] = None,
    dtype: Annotated[str | None, typer.Option(help="float32 or bfloat16. [default: float32]")] = None,
    include: Annotated[
        list[str] | None, typer.Option(help='Names of files to read, such as "*.py". Repeatable. [default: all text]')
    ] = None,
    exclude: Annotated[
        list[str] | None, typer.Option(help="Names of files or directories to leave out. Repeatable.")
    ] = None,
    watts: Annotated[
        float | None, typer.Option(help="What the device draws, for estimated energy. [default: stated by device]")
    ] = None,
    gco2_per_kwh: Annotated[
        float | None, typer.Option(help="Grams of CO2e per kWh of your electricity. [default: 475, the world's mean]")
    ] = None,
    pue: Annotated[float | None, typer.Option(help="A data centre's power over its computers'. [default: 1]")] = None,
    memory_gb: Annotated[
        float | None, typer.Option(help="Memory that batches have to fit into, in GB. [default: the device's]")
    ] = None,
    max_bytes: Annotated[int | None, typer.Option(help="Most bytes of text to read. [default: 256 MB]")] = None,
    features: Annotated[
        Path | None, typer.Option(help="GFF3 or BED file: flags on FASTA sequences, known beforehand.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Directory for checkpoints, record and report. [default: openwork-study]")
    ] = None,
    fresh: Annotated[bool, typer.Option("--fresh", help="Remove an earlier study in --out first.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object as the last line.")] = False,
) -> None:
    """Train one model under several plans, dense attention always among them, and say what was saved and what it cost.

    Stop it whenever you like: the same command goes on where it was.
    """
    from openwork.study import StudyConfig, with_schedules

    given: dict[str, Any] = {
        "dense_steps": dense_steps,
        "seq_len": seq_len,
        "batch_size": batch_size,
        "accumulate": accumulate,
        "checkpointing": checkpointing,
        "optimizer": optimizer,
        "lr": lr,
        "matrix_lr": matrix_lr,
        "clip_norm": clip_norm,
        "tokenizer": tokenizer,
        "steps": steps,
        "seconds": seconds,
        "eval_every": eval_every,
        "seed": seed,
        "seeds": seeds,
        "control": control,
        "model": model,
        "tune": tune,
        "metric": metric,
        "device": device,
        "dtype": dtype,
        "include": tuple(include or ()),
        "exclude": tuple(exclude or ()),
        "watts": watts,
        "gco2_per_kwh": gco2_per_kwh,
        "pue": pue,
        "memory_gb": memory_gb,
        "max_bytes": max_bytes,
        "features": features,
        "out": out,
    }
    chosen = {name: value for name, value in given.items() if value is not None}
    contenders = with_schedules(_contenders(pattern or [], plan or [], mask or []), schedule or [])
    conduct(StudyConfig(data=data, contenders=contenders, **chosen), fresh=fresh, as_json=as_json, propose=True)


def _contenders(patterns: list[str], plans: list[Path], masks: list[Path]) -> tuple[Contender, ...]:
    from openwork.study import Contender, contender_from_text, read_plan

    return (
        *map(contender_from_text, patterns),
        *(Contender(name=path.stem, plan=read_plan(path)) for path in plans),
        *(Contender(name=path.stem, mask=path.absolute()) for path in masks),
    )


def conduct(
    config: StudyConfig,
    *,
    fresh: bool,
    as_json: bool,
    propose: bool = False,
    ending: Callable[[StudyResult], list[str]] = lambda result: [],
) -> None:
    """Runs the study with progress on stderr, then prints the table and the verdict, or one line of JSON.

    Args:
        config: The study.
        fresh: Remove an earlier one first.
        as_json: One line of JSON instead of words.
        propose: Where no plan is given, compare those that are proposed for this kind of data.
        ending: Lines to print after the verdict.
    """
    from rich.console import Console

    from openwork.study import run
    from openwork.study.folder import StudyFolder
    from openwork.study.progress import StudyProgress
    from openwork.study.table import rich_table

    errors = Console(stderr=True)
    try:
        with StudyProgress(config, errors) as progress:
            result = run(config, fresh=fresh, propose=propose, report=progress)
            progress.finish()
    except KeyboardInterrupt:
        errors.print(f"Stopped. The same command goes on from here; what is done is in {config.out}.")
        raise
    page = StudyFolder(config.out).page
    if as_json:
        typer.echo(json.dumps(result.summary() | {"page": str(page)}))
        return
    console = Console()
    console.print(rich_table(result))
    for sentence in (*result.verdict.split("\n"), *ending(result)):
        console.print(sentence, highlight=False, markup=False)
    console.print(f"Report: {page.absolute()}", highlight=False, markup=False, soft_wrap=True)
