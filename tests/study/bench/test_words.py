"""Verdicts: what is said of figures that are made up, so that each sentence is met."""

from __future__ import annotations

import io
from dataclasses import replace

import pytest

from openwork.study.bench import BenchResult, BenchRow
from openwork.study.bench.config import DENSE, MASK, SPARSE
from openwork.study.bench.gradients import GradientCheck
from openwork.study.bench.words import bench_legend, bench_tables, bench_title, verdict

CHECK = GradientCheck(
    plan="w", seq_len=512, finite=True, equal=True, error=2e-7, own_error=1e-7, parameter="a.weight",
    largest_finite=True, largest_difference=3e-7,
)  # fmt: skip


def row(way: str, *samples: float, useful: float = 1e9, **changes) -> BenchRow:
    given = {
        "way": way, "plan": "" if way == DENSE else "w", "seq_len": 8192, "batch_size": 1, "backend": "b",
        "useful_flops": useful, "executed_flops": useful, "other_flops": 2e9, "held_bytes": 1 << 20,
        "theory_bytes": 90 << 20, "compile_s": 0.01, "samples_s": samples, "extra_bytes": 100 << 20,
    }  # fmt: skip
    return BenchRow(**{**given, **changes})


def result(*rows: BenchRow, checks=(CHECK,)) -> BenchResult:
    return BenchResult(
        model="M", weights="random", num_parameters=29_000_000, num_layers=8, causal=True, forward_only=False,
        plans={"w": "Plan(default=Window(before=1, after=0))"}, rows=rows, checks=checks, memory_meaning="m",
        theory_meaning="t", eager_bytes={"8192 x 1": 2_000_000_000}, environment={},
    )  # fmt: skip


def measured(sparse: tuple[float, ...], **changes) -> BenchResult:
    return result(row(DENSE, 4.0, 4.0, 4.0, useful=8e9), row(MASK, 6.0, 6.0, 6.0), row(SPARSE, *sparse, **changes))


def test_a_faster_plan_is_said_to_be_faster() -> None:
    text = verdict(measured((2.0, 2.5, 1.6), extra_bytes=150 << 20))
    assert text[0] == (
        "w at 8,192 tokens, batch 1: sparse is faster: a step takes 2.00 s against 4.00 s dense, 2.00x (by rounds 1.68 "
        "to 2.40). Its FLOPs would allow 3.33x for the whole step, 8.0x for attention alone. The same pairs as a mask "
        "take 6.00 s, 3.00x as long. Memory of a step is 150 MiB (100 MiB dense and 100 MiB with the mask, whose 1 MiB "
        "come on top), 50% more than dense; attention that keeps all scores would keep 1,907 MiB of probabilities."
    )
    assert text[1] == (
        "At 8,192 tokens attention is 80% of the dense step's FLOPs, so no pattern can make a step more than 5.00x as "
        "fast by FLOPs; at twice the length the share is 89%."
    )
    assert text[2] == (
        "w: gradients are finite and equal to the reference's: largest error 2.0e-07 of a parameter's gradient "
        "(a.weight) against float64, where the same pairs as a mask have 1.0e-07, on 512 tokens; in the largest run "
        "they differ from the mask's by 3.0e-07 of their norm."
    )


@pytest.mark.parametrize(
    ("sparse", "words"),
    [
        ((5.0, 5.0, 6.0), "sparse does not pay here, dense attention is faster"),
        ((3.0, 4.0, 5.0), "sparse and dense cannot be told apart in these rounds"),
        ((1.0,), "1 round cannot judge"),
        ((1.0, 1.0), "2 rounds cannot judge"),
    ],
)
def test_what_noise_allows_is_said(sparse, words) -> None:
    assert f"batch 1: {words}: a step" in verdict(measured(sparse))[0]


def test_equal_memory_is_called_equal() -> None:
    assert "come on top), as dense;" in verdict(measured((2.0, 2.0, 2.0)))[0]
    assert "20% less than dense" in verdict(measured((2.0, 2.0, 2.0), extra_bytes=80 << 20))[0]


def test_a_mask_that_did_not_run_says_why() -> None:
    skipped = row(MASK, skipped="needs about 5.0 GB, and 4.0 GB are free")
    text = verdict(result(row(DENSE, 4.0, 4.0, 4.0, useful=8e9), skipped, row(SPARSE, 2.0, 2.0, 2.0)))[0]
    assert "As a mask it needs about 5.0 GB, and 4.0 GB are free." in text


def test_wrong_gradients_forbid_training() -> None:
    wrong = replace(CHECK, equal=False)
    last = verdict(result(row(DENSE, 1.0), row(MASK, 1.0), row(SPARSE, 1.0), checks=(wrong,)))[-1]
    assert last.startswith("w: gradients are NOT those of the reference: largest error 2.0e-07")
    assert last.endswith("Do not train with it.")
    assert not result(checks=(wrong,)).passed and not result(checks=(replace(CHECK, largest_finite=False),)).passed


def test_generation_is_told_beside_dense() -> None:
    times = {"first_token_s": (2.0,), "token_s": (0.02, 0.04, 0.03)}
    text = verdict(
        result(
            row(DENSE, 4.0, useful=8e9, first_token_s=(4.0,), token_s=(0.06,)),
            row(MASK, 1.0),
            row(SPARSE, 1.0, **times),
        )
    )[1]
    assert text == (
        "w generating after 8,192 tokens, batch 1: first token 2.00 s against 4.00 s dense, each later one 30.0 ms "
        "against 60.0 ms."
    )


def test_the_table_fits_a_terminal() -> None:
    from rich.console import Console

    console = Console(width=80, record=True, file=io.StringIO())
    whole = measured((2.0, 2.5, 1.6))
    for table in bench_tables(whole):
        console.print(table)
    lines = console.export_text().splitlines()
    assert max(map(len, lines)) <= 80
    step = next(line for line in lines if line.strip().startswith("step"))
    assert step.split() == ["step", "4.00", "s", "6.00", "s", "2.00", "s"]
    assert any("1.68 s - 2.40 s" in line for line in lines)
    assert bench_title(whole).startswith("M: 29.0 M parameters, weights random, 8 attention layers. A step is forward")
    assert any("the backward pass counts 2.5 times" in line for line in bench_legend(whole))
