"""What a micro-run's figures mean, in a table and in sentences."""

from __future__ import annotations

from collections.abc import Iterator
from statistics import median
from typing import Any

from openwork.study.bench.config import DENSE, EAGER, MASK, SPARSE
from openwork.study.bench.gradients import GradientCheck
from openwork.study.bench.result import BenchResult, BenchRow

__all__ = ["bench_legend", "bench_tables", "bench_title", "verdict"]

_CLOSE = 3
"""Rounds below which a spread says nothing."""
_NOTICEABLE = 0.02
"""Difference of memory, as a share, that is worth a word."""


def bench_tables(result: BenchResult) -> list[Any]:
    """One table for each run, for a terminal: one column for each way, for ways are few and figures are many."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    tables = []
    for seq_len, batch_size in result.runs:
        table = Table(title=f"{seq_len:,} tokens, batch {batch_size}", title_justify="left", box=SIMPLE_HEAD)
        rows = [row for row in result.rows if (row.seq_len, row.batch_size) == (seq_len, batch_size)]
        table.add_column("")
        for row in rows:
            several = len(result.plans) > 1 and row.plan
            table.add_column(f"{row.plan}: {row.way}" if several else row.way, overflow="fold")
        for name, *cells in _lines(result, rows):
            table.add_row(name, *cells)
        tables.append(table)
    return tables


def _lines(result: BenchResult, rows: list[BenchRow]) -> Iterator[list[str]]:
    """Name and cells of each line of a table."""
    dense = rows[0]
    yield ["step", *(f"not run: {r.skipped}" if r.times is None else _seconds(r.seconds) for r in rows)]
    yield ["10th to 90th %", *map(_range, rows)]
    yield [
        "over dense",
        *(_times(dense.seconds / r.seconds if r.samples_s and dense.samples_s else None) for r in rows),
    ]
    yield ["ideal, step", *(_times(result.step_ideal(r) if r.way == SPARSE else None) for r in rows)]
    yield ["its attention", *(_times(result.attention_ideal(r) if r.way == SPARSE else None) for r in rows)]
    yield ["memory", *(_mebibytes(r.extra_bytes) for r in rows)]
    yield ["memory, theory", *(_mebibytes(r.theory_bytes) for r in rows)]
    yield ["useful GFLOPs", *(f"{r.useful_flops / 1e9:,.1f}" for r in rows)]
    yield ["executed GFLOPs", *(f"{r.executed_flops / 1e9:,.1f}" for r in rows)]
    if any(row.first_token_s for row in rows):
        yield ["first token", *(_seconds(median(r.first_token_s)) if r.first_token_s else "-" for r in rows)]
        yield ["each later token", *(_seconds(median(r.token_s)) if r.token_s else "-" for r in rows)]
    yield ["layouts or mask", *(_seconds(r.compile_s) if r.way != DENSE else "-" for r in rows)]
    yield ["backend", *(r.backend for r in rows)]


def _range(row: BenchRow) -> str:
    return "-" if row.times is None else f"{_seconds(row.times.low)} - {_seconds(row.times.high)}"


def _times(ratio: float | None) -> str:
    return "-" if ratio is None else f"{ratio:.2f}x"


def bench_title(result: BenchResult) -> str:
    """What was measured."""
    step = "a forward pass without gradients" if result.forward_only else "forward and backward, dropout off"
    parameters = f"{result.num_parameters / 1e6:,.1f} M parameters, weights {result.weights}"
    return f"{result.model}: {parameters}, {result.num_layers} attention layers. A step is {step}."


def bench_legend(result: BenchResult) -> list[str]:
    """How the tables are to be read."""
    return [
        "Step: median of rounds in which each way runs once. Ideal: FLOPs of the dense step, "
        "or of its attention, over those that the allowed pairs need.",
        f"Memory: {result.memory_meaning}. Theory: {result.theory_meaning}.",
        "Useful, executed: FLOPs of attention's allowed pairs, and of what is computed for them"
        + ("." if result.forward_only else "; the backward pass counts 2.5 times the forward pass."),
    ]


def verdict(result: BenchResult) -> list[str]:
    """The verdict in sentences: for each plan whether it pays here, and whether it may be trained."""
    lines = []
    for plan in result.plans:
        lines += [_pays(result, plan, seq_len, batch_size) for seq_len, batch_size in result.runs]
    lines += [_generation(result, row) for row in result.rows if row.way == SPARSE and row.token_s]
    lines += [_limit(result, seq_len, batch_size) for seq_len, batch_size in result.runs[-1:]]
    lines += [_gradients(check, result) for check in result.checks]
    return [line for line in lines if line]


def _pays(result: BenchResult, plan: str, seq_len: int, batch_size: int) -> str:
    row = result.row(SPARSE, plan, seq_len, batch_size)
    dense = result.row(DENSE, "", seq_len, batch_size)
    place = f"{plan} at {seq_len:,} tokens, batch {batch_size}"
    ratio = result.speedup(row)
    if ratio is None:
        left_out = row if row.skipped else dense
        return f"{place}: not measured; the {left_out.way} step {left_out.skipped}."
    gain = dense.seconds / row.seconds
    parts = [
        f"{place}: {_judged(gain, ratio.low, ratio.high, ratio.num_samples)}: a step takes {_seconds(row.seconds)} "
        f"against {_seconds(dense.seconds)} dense, {gain:.2f}x (by rounds {ratio.low:.2f} to {ratio.high:.2f}). Its "
        f"FLOPs would allow {result.step_ideal(row):.2f}x for the whole step, {result.attention_ideal(row):.1f}x for "
        "attention alone."
    ]
    mask = result.row(MASK, plan, seq_len, batch_size)
    if mask.samples_s:
        parts.append(
            f"The same pairs as a mask take {_seconds(mask.seconds)}, {mask.seconds / row.seconds:.2f}x as long."
        )
    elif mask.skipped:
        parts.append(f"As a mask it {mask.skipped}.")
    parts += [_eager(other, row) for other in result.rows if _same(other, row) and other.way == EAGER]
    parts.append(_memory(result, row, dense, mask))
    return " ".join(part for part in parts if part)


def _same(row: BenchRow, other: BenchRow) -> bool:
    return (row.plan, row.seq_len, row.batch_size) == (other.plan, other.seq_len, other.batch_size)


def _eager(eager: BenchRow, row: BenchRow) -> str:
    if not eager.samples_s:
        return f"Attention that keeps its scores {eager.skipped}."
    return (
        f"With attention that keeps its scores, {_seconds(eager.seconds)}, {eager.seconds / row.seconds:.2f}x as long."
    )


def _judged(gain: float, low: float, high: float, rounds: int) -> str:
    if rounds < _CLOSE:
        return f"{rounds} round{'' if rounds == 1 else 's'} cannot judge"
    if low > 1:
        return "sparse is faster"
    if high < 1:
        return "sparse does not pay here, dense attention is faster"
    return "sparse and dense cannot be told apart in these rounds"


def _memory(result: BenchResult, row: BenchRow, dense: BenchRow, mask: BenchRow) -> str:
    if row.extra_bytes is None or not dense.extra_bytes:
        return ""
    others = [f"{_mebibytes(dense.extra_bytes)} dense"]
    if mask.extra_bytes is not None:
        others.append(f"{_mebibytes(mask.extra_bytes)} with the mask, whose {_mebibytes(mask.held_bytes)} come on top")
    change = row.extra_bytes / dense.extra_bytes - 1
    word = "as dense"
    if abs(change) >= _NOTICEABLE:
        word = f"{abs(change):.0%} {'more' if change > 0 else 'less'} than dense"
    eager = result.eager_bytes[f"{row.seq_len} x {row.batch_size}"]
    return (
        f"Memory of a step is {_mebibytes(row.extra_bytes)} ({' and '.join(others)}), {word}; attention that keeps all "
        f"scores would keep {_mebibytes(eager)} of probabilities."
    )


def _generation(result: BenchResult, row: BenchRow) -> str:
    dense = result.row(DENSE, "", row.seq_len, row.batch_size)
    if not dense.token_s:
        return ""
    first, each = median(row.first_token_s), median(row.token_s)
    return (
        f"{row.plan} generating after {row.seq_len:,} tokens, batch {row.batch_size}: first token {_seconds(first)} "
        f"against {_seconds(median(dense.first_token_s))} dense, each later one {_seconds(each)} against "
        f"{_seconds(median(dense.token_s))}."
    )


def _limit(result: BenchResult, seq_len: int, batch_size: int) -> str:
    """What no pattern can exceed: the rest of the model stays."""
    dense = result.row(DENSE, "", seq_len, batch_size)
    share = dense.useful_flops / dense.flops
    most = dense.flops / max(1.0, dense.other_flops)
    return (
        f"At {seq_len:,} tokens attention is {share:.0%} of the dense step's FLOPs, so no pattern can make a step more "
        f"than {most:.2f}x as fast by FLOPs; at twice the length the share is "
        f"{2 * dense.useful_flops / (2 * dense.useful_flops + dense.other_flops):.0%}."
    )


def _gradients(check: GradientCheck, result: BenchResult) -> str:
    if not check.finite or not check.largest_finite:
        return f"{check.plan}: gradients are NOT finite. Do not train with it."
    figures = (
        f"largest error {check.error:.1e} of a parameter's gradient ({check.parameter}) against float64, where the "
        f"same pairs as a mask have {check.own_error:.1e}, on {check.seq_len:,} tokens"
    )
    if not check.equal:
        return f"{check.plan}: gradients are NOT those of the reference: {figures}. Do not train with it."
    full = ""
    if check.largest_difference is not None:
        full = f"; in the largest run they differ from the mask's by {check.largest_difference:.1e} of their norm"
    return f"{check.plan}: gradients are finite and equal to the reference's: {figures}{full}."


def _seconds(seconds: float) -> str:
    if seconds >= 1:
        return f"{seconds:,.2f} s"
    return f"{1000 * seconds:,.0f} ms" if seconds >= 0.1 else f"{1000 * seconds:,.1f} ms"


def _mebibytes(count: int | None) -> str:
    return "-" if count is None else f"{count / 2**20:,.0f} MiB"
