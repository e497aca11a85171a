"""The `gather` backend against dense causal attention in the same process, forward plus backward.

    python benchmarks/gather_vs_dense.py [--lengths 8192,16384] [--repeats 7] [--threads 2] [--report FILE]

Batch 1, 8 heads, head_dim 64, float32. Dense is `scaled_dot_product_attention(is_causal=True)`. Runs are interleaved:
each round times dense once and every pattern once, and a ratio is that of medians. Gathering, reordering and merging
are inside the time; compiling the layout is not, and is stated. `python -m benchmarks` runs the tests first. Beside
each figure stand the ideal (causal pairs over allowed pairs) and the block ideal (over executed pairs). Then the extra
memory of gather at 32,768 tokens, in processes of their own. The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import resource
import statistics
import subprocess
import sys
import sysconfig
import time
from pathlib import Path

import numpy as np
import torch

import openwork as ow
from openwork.annotate import python_source
from openwork.ops import explain, sparse_attention

ROOT = Path(__file__).resolve().parent.parent
BATCH, HEADS, HEAD_DIM, SEED = 1, 8, 64, 0
MEMORY_LENGTHS = (8192, 16384, 32768)
SOURCE = "_pydecimal.py"
WINDOW, FIXED, DEFINITIONS = "window 511", "fixed (128, c=8)", f"definitions, links and window 255 over {SOURCE}"
FLOORS = {(WINDOW, 8192): 2.7, (WINDOW, 16384): 5.0, (FIXED, 8192): 2.0, (DEFINITIONS, 8192): 2.0}


def patterns() -> dict[str, ow.Pattern]:
    """What is measured, by name."""
    causal = ow.Causal()
    return {
        WINDOW: causal & ow.Window(before=511),
        FIXED: causal & (ow.Chunk(128) | ow.Summary(128, 8)),
        DEFINITIONS: causal & (ow.Window(before=255) | ow.Keys("definition") | ow.Linked("use")),
    }


def source_annotations(length: int) -> ow.Annotations:
    """Definitions and uses in the first `length` tokens (words, marks and spaces) of a file of the standard library."""
    text = (Path(sysconfig.get_paths()["stdlib"]) / SOURCE).read_text(encoding="utf-8")
    offsets = np.array([token.span() for token in re.finditer(r"\w+|[^\w\s]|\s+", text)][:length])
    if len(offsets) < length:
        sys.exit(f"{SOURCE} has {len(offsets)} tokens, fewer than {length}")
    return python_source(text, offsets)


def compiled(length: int) -> dict[str, tuple[ow.BlockLayout, float]]:
    """Layouts and the seconds that compiling took."""
    notes = source_annotations(length)
    made = {}
    for name, pattern in patterns().items():
        start = time.perf_counter()
        layout = ow.compile_layout(pattern, q_len=length, kv_len=length, annotations=notes)
        made[name] = layout, time.perf_counter() - start
    return made


def inputs(length: int) -> tuple[list[torch.Tensor], torch.Tensor]:
    """Query, key and value with gradients, and the gradient that reaches the output."""
    torch.manual_seed(SEED)
    shape = (BATCH, HEADS, length, HEAD_DIM)
    return [torch.randn(shape, requires_grad=True) for _ in range(3)], torch.randn(shape)


def timed(forward, leaves: list[torch.Tensor], gradient: torch.Tensor, clock=time.perf_counter) -> tuple[float, float]:
    """Seconds of the forward and the backward pass, by `clock`."""
    start = clock()
    output = forward(*leaves)
    middle = clock()
    torch.autograd.grad(output, leaves, gradient)
    return middle - start, clock() - middle


def dense(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.scaled_dot_product_attention(query, key, value, is_causal=True)


def compare(length: int, repeats: int, clock=time.perf_counter) -> list[dict[str, object]]:
    """Interleaved timings of dense and every pattern at one length."""
    leaves, gradient = inputs(length)
    layouts = compiled(length)
    runs = {"dense": dense}
    for name, (layout, _) in layouts.items():
        runs[name] = lambda q, k, v, layout=layout: sparse_attention(q, k, v, layout, backend="gather").output
    first = {name: sum(timed(forward, leaves, gradient, clock)) for name, forward in runs.items()}
    samples: dict[str, list[tuple[float, float]]] = {name: [] for name in runs}
    for _ in range(repeats):
        for name, forward in runs.items():
            samples[name].append(timed(forward, leaves, gradient, clock))
    dense_s = statistics.median(sum(sample) for sample in samples["dense"])
    rows = []
    for name, (layout, compile_s) in layouts.items():
        told = explain(*leaves, layout, backend="gather")
        seconds = [sum(sample) for sample in samples[name]]
        per_round = [sum(one) / sum(own) for one, own in zip(samples["dense"], samples[name], strict=True)]
        rows.append(
            {
                "pattern": name,
                "length": length,
                "dense_s": dense_s,
                "gather_s": statistics.median(seconds),
                "ratio": dense_s / statistics.median(seconds),
                "ratio_range": [min(per_round), max(per_round)],
                "ideal": told.ideal,
                "block_ideal": told.block_ideal,
                "density": layout.density,
                "executed_over_useful": layout.executed_over_useful,
                "floor": FLOORS.get((name, length)),
                "compile_s": compile_s,
                "first_call_s": first[name],
                "forward_backward_s": samples[name],
                "dense_forward_backward_s": samples["dense"],
            }
        )
    return rows


def extra_memory(name: str, length: int) -> dict[str, object]:
    """Most memory of one forward and backward pass beyond its inputs; meant for a process of its own."""
    torch.set_num_threads(1)
    leaves, gradient = inputs(length)
    if name == "dense":
        forward = dense
    else:
        layout, _ = compiled(length)[name]
        forward = lambda q, k, v: sparse_attention(q, k, v, layout, backend="gather").output  # noqa: E731
    small = [x.detach()[:, :, :256].clone().requires_grad_() for x in leaves]
    timed(dense, small, gradient[:, :, :256])
    before = peak_bytes()
    timed(forward, leaves, gradient)
    return {"pattern": name, "length": length, "extra_mib": (peak_bytes() - before) / 2**20}


def peak_bytes() -> int:
    """Most memory that this process has held."""
    status = Path("/proc/self/status")
    if status.exists():
        line = next(line for line in status.read_text(encoding="ascii").splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def memory() -> list[dict[str, object]]:
    """`extra_memory` of every pattern and of dense, each in a process of its own."""
    rows = []
    for name in ("dense", *patterns()):
        for length in MEMORY_LENGTHS:
            command = [sys.executable, __file__, "--memory", name, "--lengths", str(length)]
            output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
            rows.append(json.loads(output.splitlines()[-1]))
    return rows


def environment(threads: int) -> dict[str, object]:
    """Where this ran."""
    git = ["git", "-C", str(ROOT)]
    commit = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True).stdout.strip()
    dirty = subprocess.run([*git, "status", "--porcelain"], capture_output=True, text=True).stdout.strip()
    return {
        "commit": commit + ("-dirty" if dirty else ""),
        "torch": torch.__version__,
        "numpy": np.__version__,
        "python": platform.python_version(),
        "machine": platform.machine(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "threads": threads,
        "load_before": os.getloadavg()[0],
        "seed": SEED,
        "config": {"batch": BATCH, "heads": HEADS, "head_dim": HEAD_DIM, "dtype": "float32"},
    }


def table(rows: list[dict[str, object]], used: list[dict[str, object]]) -> str:
    """Both results as Markdown."""
    lines = [
        "| pattern | tokens | dense | gather | ratio | range | floor | ideal | block ideal |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        low, high = row["ratio_range"]
        floor = f"{row['floor']}x" if row["floor"] else ""
        lines.append(
            f"| {row['pattern']} | {row['length']:,} | {row['dense_s']:.3f} s | {row['gather_s']:.3f} s "
            f"| **{row['ratio']:.2f}x** | {low:.2f}-{high:.2f} | {floor} | {row['ideal']:.2f}x "
            f"| {row['block_ideal']:.2f}x |"
        )
    lines += ["", "| extra memory, MiB | " + " | ".join(f"{n:,} tokens" for n in MEMORY_LENGTHS) + " |"]
    lines.append("|---" * (1 + len(MEMORY_LENGTHS)) + "|")
    for name in dict.fromkeys(row["pattern"] for row in used):
        cells = [f"{row['extra_mib']:.0f}" for row in used if row["pattern"] == name]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    """Timings, then memory."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lengths", default="8192,16384")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--processor", action="store_true", help="seconds of the processor, for a machine that is busy")
    parser.add_argument("--report", type=Path, help="also write the tables to this Markdown file")
    parser.add_argument("--memory", metavar="PATTERN", help=argparse.SUPPRESS)
    options = parser.parse_args()
    lengths = [int(length) for length in options.lengths.split(",")]
    if options.memory:
        print(json.dumps(extra_memory(options.memory, lengths[0])))
        return
    torch.set_num_threads(options.threads)
    clock = time.process_time if options.processor else time.perf_counter
    about = {**environment(options.threads), "clock": clock.__name__}
    rows = [row for length in lengths for row in compare(length, options.repeats, clock)]
    used = memory()
    text = table(rows, used)
    print(text)
    if options.report:
        facts = "\n".join(f"- {name}: {value}" for name, value in about.items())
        options.report.write_text(f"# gather against dense causal attention\n\n{facts}\n\n{text}\n", encoding="utf-8")
    print(json.dumps({**about, "speed": rows, "memory": used}))


if __name__ == "__main__":
    main()
