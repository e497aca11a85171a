"""The native kernels (backend `cpu`) against dense attention in the same process: forward, and forward plus backward.

    python benchmarks/native_speed.py [--cases NAME,...] [--repeats 5] [--threads 1] [--processor] [--report FILE]

Batch 1, head_dim 64, float32; 8 heads up to 16,384 tokens and 2 beyond, as the table says. Dense is
`scaled_dot_product_attention(is_causal=True)`, without causality where the pattern looks ahead. Runs are interleaved:
each round times dense, ours, gather and torch's 2048-cubed product once, and ratios are those of medians. Packing,
reordering and merging are inside the time; compiling the layout is not. Beside each figure stand the ideal (dense pairs
over allowed ones), the block ideal (over executed ones) and executed GFLOP/s as a share of torch's product. Then
bfloat16 against float32, and the extra memory at 65,536 tokens, in processes of their own. `--processor` counts seconds
of the processor (with one thread), for a machine that is busy. The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import sysconfig
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from gather_vs_dense import environment, peak_bytes, timed

import openwork as ow
from openwork.annotate import python_source
from openwork.errors import AnnotationWarning
from openwork.ops import explain, sparse_attention

HEAD_DIM, SEED, PRODUCT = 64, 0, 2048
CAUSAL = ow.Causal()
FILES = ("_pydecimal", "typing", "argparse", "inspect", "tarfile", "subprocess", "turtle", "doctest", "pydoc", "ssl")


@dataclass(frozen=True)
class Case:
    """One pattern at one length. `floors`: forward, and with backward; of the block ideal, or times dense."""

    name: str
    length: int
    pattern: ow.Pattern
    floors: tuple[float, float] = (0.0, 0.0)
    of_block_ideal: bool = False
    file: str | None = None
    causal: bool = True

    @property
    def heads(self) -> int:
        return 8 if self.length <= 16384 else 2

    def layout(self) -> ow.BlockLayout:
        return ow.compile_layout(
            self.pattern, q_len=self.length, kv_len=self.length, annotations=annotations(self.length, self.file)
        )


def annotations(length: int, file: str | None) -> ow.Annotations:
    """1 % of scattered keys; or the definitions and uses of a file of the standard library, by characters of four."""
    if file is None:
        return ow.Annotations(length=length, flags={"scattered": np.random.default_rng(SEED).random(length) < 0.01})
    text = (Path(sysconfig.get_paths()["stdlib"]) / f"{file}.py").read_text(encoding="utf-8")
    starts = np.arange(0, len(text), 4)[:length]
    offsets = np.stack([starts, np.minimum(starts + 4, len(text))], axis=1)
    if len(offsets) < length:
        sys.exit(f"{file}.py is shorter than {4 * length} characters")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", AnnotationWarning)
        return python_source(text[: 4 * length], offsets)


def window(length: int, keys: int, floors: tuple[float, float]) -> Case:
    return Case(f"window {keys - 1}", length, CAUSAL & ow.Window(before=keys - 1), floors, of_block_ideal=True)


def scattered(length: int) -> list[Case]:
    return [
        Case("strided (128)", length, CAUSAL & (ow.Window(before=127) | ow.Strided(128)), (7, 5)),
        Case("fixed (128, c=8)", length, CAUSAL & (ow.Chunk(128) | ow.Summary(128, 8)), (5, 4)),
        Case("window 255, 1 % keys", length, CAUSAL & (ow.Window(before=255) | ow.Keys("scattered")), (5, 4)),
        Case("dilated (2047, step 4)", length, CAUSAL & ow.Dilated(before=2047, step=4), (5, 4)),
    ]


def cases() -> dict[str, list[Case]]:
    """What is measured, by group."""
    definitions = CAUSAL & (ow.Window(before=255) | ow.Keys("definition") | ow.Linked("use"))
    return {
        "windows": [
            window(4096, 256, (0.9, 0.85)),
            window(8192, 512, (1.0, 0.9)),
            window(16384, 512, (1.0, 0.9)),
            window(32768, 1024, (1.0, 0.9)),
        ],
        "dense": [Case("causal, all blocks", n, CAUSAL, (1.0, 1 / 1.05), of_block_ideal=True) for n in (4096, 8192)],
        "scattered": [
            *scattered(8192),
            Case("NATTEN 64x128 k=13", 8192, ow.Grid((64, 128), (13, 13), causal=False), (6, 5), causal=False),
        ],
        "python": [Case(f"definitions, links: {file}.py", 8192, definitions, (4, 3), file=file) for file in FILES],
        "long": scattered(32768),
    }


def inputs(length: int, heads: int, dtype: torch.dtype = torch.float32) -> tuple[list[torch.Tensor], torch.Tensor]:
    torch.manual_seed(SEED)
    shape = (1, heads, length, HEAD_DIM)
    return [torch.randn(shape, dtype=dtype, requires_grad=True) for _ in range(3)], torch.randn(shape, dtype=dtype)


def dense(causal: bool) -> Callable[..., torch.Tensor]:
    return lambda q, k, v: torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=causal)


def sparse(layout: ow.BlockLayout, backend: str) -> Callable[..., torch.Tensor]:
    return lambda q, k, v: sparse_attention(q, k, v, layout, backend=backend).output


def product_rate(clock: Callable[[], float]) -> float:
    """FLOP/s of one product of torch."""
    a = torch.ones(PRODUCT, PRODUCT)
    start = clock()
    torch.mm(a, a)
    return 2 * PRODUCT**3 / (clock() - start)


def compare(case: Case, repeats: int, clock: Callable[[], float], with_gather: bool) -> dict[str, object]:
    """Interleaved timings of one case."""
    leaves, gradient = inputs(case.length, case.heads)
    layout = case.layout()
    runs = {"dense": dense(case.causal), "cpu": sparse(layout, "cpu")}
    if with_gather:
        runs["gather"] = sparse(layout, "gather")
    for name, forward in runs.items():
        if name != "dense":
            timed(forward, leaves, gradient, clock)
    samples: dict[str, list[tuple[float, float]]] = {name: [] for name in runs}
    rates = []
    for _ in range(repeats):
        for name, forward in runs.items():
            samples[name].append(timed(forward, leaves, gradient, clock))
        rates.append(product_rate(clock))
    forward_s = {name: statistics.median(one for one, _ in own) for name, own in samples.items()}
    both_s = {name: statistics.median(sum(one) for one in own) for name, own in samples.items()}
    told = explain(*leaves, layout, backend="cpu")
    rate = statistics.median(rates)
    backward_s = both_s["cpu"] - forward_s["cpu"]
    row: dict[str, object] = {
        "pattern": case.name,
        "length": case.length,
        "heads": case.heads,
        "parts": len(layout.planes[0].parts),
        "ideal": told.ideal,
        "block_ideal": told.block_ideal,
        "executed_over_useful": layout.executed_over_useful,
        "forward_s": forward_s,
        "both_s": both_s,
        "forward_ratio": forward_s["dense"] / forward_s["cpu"],
        "both_ratio": both_s["dense"] / both_s["cpu"],
        "forward_share": told.executed_flops / forward_s["cpu"] / rate,
        "backward_share": 2.5 * told.executed_flops / backward_s / rate,
        "dense_forward_share": told.dense_flops / forward_s["dense"] / rate,
        "product_gflops": rate / 1e9,
        "samples": samples,
        "floors": [floor * (told.block_ideal if case.of_block_ideal else 1.0) for floor in case.floors],
    }
    return row


def half_precision(case: Case, repeats: int, clock: Callable[[], float]) -> dict[str, float]:
    """Time in bfloat16 over time in float32."""
    layout = case.layout()
    both = {dtype: inputs(case.length, case.heads, dtype) for dtype in (torch.float32, torch.bfloat16)}
    samples: dict[torch.dtype, list[tuple[float, float]]] = {dtype: [] for dtype in both}
    for turn in range(repeats + 1):
        for dtype, (leaves, gradient) in both.items():
            sample = timed(sparse(layout, "cpu"), leaves, gradient, clock)
            if turn:
                samples[dtype].append(sample)
    wide, half = (samples[dtype] for dtype in both)
    median = statistics.median
    return {
        "forward": median(one for one, _ in half) / median(one for one, _ in wide),
        "both": median(sum(one) for one in half) / median(sum(one) for one in wide),
    }


MEMORY = {"window 511": CAUSAL & ow.Window(before=511), "strided (128)": scattered(1)[0].pattern}


def extra_memory(name: str, length: int, with_backward: bool) -> dict[str, object]:
    """Most memory beyond inputs, outputs and lse (and gradients), over that of query, key and value."""
    torch.set_num_threads(1)
    leaves, gradient = inputs(length, 8)
    layout = ow.compile_layout(MEMORY[name], q_len=length, kv_len=length)
    small = ow.compile_layout(MEMORY[name], q_len=256, kv_len=256)
    timed(sparse(small, "cpu"), [x.detach()[:, :, :256].clone().requires_grad_() for x in leaves], gradient[:, :, :256])
    from openwork.ops.backends.cpu_lower import lower

    lower(layout)
    before = peak_bytes()
    size = leaves[0].nbytes
    if with_backward:
        timed(sparse(layout, "cpu"), leaves, gradient)
        results = 4 * size + size // HEAD_DIM
    else:
        with torch.no_grad():
            sparse_attention(*leaves, layout, backend="cpu")
        results = size + size // HEAD_DIM
    return {
        "pattern": name,
        "length": length,
        "backward": with_backward,
        "extra_over_qkv": (peak_bytes() - before - results) / (3 * size),
    }


def memory() -> list[dict[str, object]]:
    rows = []
    for name in MEMORY:
        for way in ("forward", "backward"):
            command = [sys.executable, __file__, "--memory", name, way]
            output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
            rows.append(json.loads(output.splitlines()[-1]))
    return rows


def table(rows: list[dict[str, object]]) -> str:
    lines = [
        "| pattern | tokens, heads | forward | floor | with backward | floor | ideal | block ideal | executed / useful "
        "| share of product: forward, backward (dense) | gather / cpu: forward, both |",
        "|" + "---|" * 11,
    ]
    for row in rows:
        times = [row[key] for key in ("forward_s", "both_s")]
        beside = [f"{one['gather'] / one['cpu']:.1f}x" if "gather" in one else "" for one in times]
        floors = row["floors"]
        lines.append(
            f"| {row['pattern']} | {row['length']:,}, {row['heads']} | **{row['forward_ratio']:.2f}x** "
            f"| {floors[0]:.1f}x | **{row['both_ratio']:.2f}x** | {floors[1]:.1f}x "
            f"| {row['ideal']:.2f}x | {row['block_ideal']:.2f}x "
            f"| {row['executed_over_useful']:.2f} | {row['forward_share']:.0%}, {row['backward_share']:.0%} "
            f"({row['dense_forward_share']:.0%}) | {', '.join(beside)} |"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", default=",".join(cases()), help="groups, comma-separated")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--processor", action="store_true", help="seconds of the processor, for a machine that is busy")
    parser.add_argument("--report", type=Path, help="also write the tables to this Markdown file")
    parser.add_argument("--memory", nargs=2, metavar=("PATTERN", "WAY"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.memory:
        print(json.dumps(extra_memory(options.memory[0], 65536, options.memory[1] == "backward")))
        return
    torch.set_num_threads(options.threads)
    clock = time.process_time if options.processor else time.perf_counter
    about = {**environment(options.threads), "clock": clock.__name__}
    rows = []
    for group in options.cases.split(","):
        for case in cases()[group]:
            rows.append(compare(case, options.repeats, clock, with_gather=case.length <= 8192))
            print(table(rows[-1:]).splitlines()[-1], flush=True)
    half = half_precision(cases()["windows"][1], options.repeats, clock)
    used = memory()
    python = [row for row in rows if str(row["pattern"]).startswith("definitions")]
    lines = [table(rows), ""]
    if python:
        medians = [statistics.median(row[key] for row in python) for key in ("forward_ratio", "both_ratio", "ideal")]
        lines.append("Python files, median: {:.2f}x forward, {:.2f}x with backward, ideal {:.2f}x.".format(*medians))
    lines.append(f"bfloat16 over float32, window 511 at 8,192: {half['forward']:.2f} forward, {half['both']:.2f} both.")
    lines += [
        f"Extra memory at 65,536 tokens, {row['pattern']}, {'with backward' if row['backward'] else 'forward'}: "
        f"{row['extra_over_qkv']:.2f} of query, key and value."
        for row in used
    ]
    text = "\n".join(lines)
    print(text)
    if options.report:
        facts = "\n".join(f"- {name}: {value}" for name, value in about.items())
        options.report.write_text(
            f"# The native kernels against dense attention\n\n{facts}\n\n{text}\n", encoding="utf-8"
        )
    print(json.dumps({**about, "speed": rows, "bfloat16": half, "memory": used}))


if __name__ == "__main__":
    main()
