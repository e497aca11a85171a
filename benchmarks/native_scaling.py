"""How the native kernels scale from one thread to two, beside a plain multiply-add loop in the same rounds.

    python benchmarks/native_scaling.py [--repeats 7] [--report FILE]

`Causal() & Window(before=511)` and all causal blocks at 8,192 tokens, head_dim 64, float32, 8 heads and 1, forward, and
forward plus backward; the window also at 2,048 tokens, where one head fits into the second-level caches. Beside them
dense attention by torch, and how much faster two threads read memory, which is what no kernel passes. The multiply-add
loop is torch's product of matrices that fit into a core's cache, a loop of its own on each thread: what two threads of
this machine can give at most while nothing is shared. Rounds are interleaved. A speed-up is the time of one thread over
that of two (of the loop: for the same work), by medians; the kernels' is stated over the loop's. The last line is one
JSON object.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import torch
from gather_vs_dense import environment, timed
from native_speed import Case, cases, dense, inputs, sparse

FLOOR = 0.9
SIDE, PRODUCTS = 192, 400


class Loop:
    """Products of small matrices, as many on each thread."""

    def __init__(self) -> None:
        # how many threads a product takes is each thread's own
        self._pool = ThreadPoolExecutor(2, initializer=torch.set_num_threads, initargs=(1,))
        self._matrices = [torch.rand(3, SIDE, SIDE) for _ in range(2)]

    def _products(self, number: int) -> None:
        a, b, out = self._matrices[number]
        for _ in range(PRODUCTS):
            torch.mm(a, b, out=out)

    def __call__(self, threads: int) -> float:
        """Seconds; the work grows with the threads."""
        start = time.perf_counter()
        list(self._pool.map(self._products, range(threads)))
        return time.perf_counter() - start


class Reading:
    """Sums over memory that no cache holds."""

    def __init__(self) -> None:
        self._memory = torch.ones(1 << 28)

    def __call__(self) -> float:
        start = time.perf_counter()
        self._memory.sum()
        return time.perf_counter() - start


def run_of(case: Case, heads: int, backend: str) -> Callable[[], tuple[float, float]]:
    leaves, gradient = inputs(case.length, heads)
    forward = dense(True) if backend == "sdpa" else sparse(case.layout(), backend)
    return lambda: timed(forward, leaves, gradient)


def runs_of() -> dict[tuple[str, int], Callable[[], tuple[float, float]]]:
    """What is timed, by name and heads."""
    groups = cases()
    window, everything = groups["windows"][1], groups["dense"][1]
    timed_cases = [
        (f"{window.name}, 8,192 tokens", window, "cpu"),
        (f"{window.name}, 2,048 tokens", replace(window, length=2048), "cpu"),
        ("all causal blocks, 8,192 tokens", everything, "cpu"),
        ("the same by torch's sdpa", everything, "sdpa"),
    ]
    return {(name, heads): run_of(case, heads, how) for name, case, how in timed_cases for heads in (8, 1)}


def measure(repeats: int) -> tuple[dict[str, float], list[dict[str, object]]]:
    """The speed-up of the loop and of reading memory with two threads, and those of the kernels."""
    runs, loop, reading = runs_of(), Loop(), Reading()
    samples: dict[tuple[str, int, int], list[tuple[float, float]]] = {}
    plain: dict[tuple[str, int], list[float]] = {}
    for turn in range(repeats + 1):
        for threads in (1, 2):
            torch.set_num_threads(1)
            took = {"loop": loop(threads) / threads}
            torch.set_num_threads(threads)
            took["memory"] = reading()
            for (name, heads), run in runs.items():
                sample = run()
                if turn:
                    samples.setdefault((name, heads, threads), []).append(sample)
            for name, seconds in took.items():
                if turn:
                    plain.setdefault((name, threads), []).append(seconds)
    median = statistics.median
    speedups = {name: median(plain[name, 1]) / median(plain[name, 2]) for name in ("loop", "memory")}
    rows: list[dict[str, object]] = []
    for name, heads in runs:
        one, two = (samples[name, heads, threads] for threads in (1, 2))
        forward = median(first for first, _ in one) / median(first for first, _ in two)
        both = median(map(sum, one)) / median(map(sum, two))
        rows.append(
            {
                "pattern": name, "heads": heads, "forward": forward, "both": both,
                "forward_share": forward / speedups["loop"], "both_share": both / speedups["loop"],
            }
        )  # fmt: skip
    return speedups, rows


def table(plain: dict[str, float], rows: list[dict]) -> str:
    lines = [
        f"Two threads do {plain['loop']:.2f} times the plain multiply-add loops of one, and read memory "
        f"{plain['memory']:.2f} times as fast.",
        "",
        "| pattern | heads | speed-up, forward | with backward | over the loop's: forward | with backward | floor |",
        "|" + "---|" * 7,
    ]
    for row in rows:
        lines.append(
            f"| {row['pattern']} | {row['heads']} | {row['forward']:.2f}x | {row['both']:.2f}x "
            f"| **{row['forward_share']:.2f}** | **{row['both_share']:.2f}** | {FLOOR} |"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--report", type=Path, help="also write the table to this Markdown file")
    options = parser.parse_args()
    plain, rows = measure(options.repeats)
    about, text = environment(2), table(plain, rows)
    print(text)
    if options.report:
        facts = "\n".join(f"- {name}: {value}" for name, value in about.items())
        options.report.write_text(f"# From one thread to two\n\n{facts}\n\n{text}\n", encoding="utf-8")
    print(json.dumps({**about, "plain": plain, "scaling": rows}))


if __name__ == "__main__":
    main()
