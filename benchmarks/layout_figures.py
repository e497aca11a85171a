"""What compiling layouts costs and saves: executed over useful pairs, and a million tokens on one core.

    python benchmarks/layout_figures.py [--report FILE]

Prints two tables as Markdown, and one JSON object as the last line. Wall-clock seconds of a machine that does other
work are too many; the processor's seconds beside them are not.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np

import openwork as ow

ROOT = Path(__file__).resolve().parent.parent
CAUSAL = ow.Causal()
LENGTH = 8192
MILLION = 1 << 20

SAVED = {
    "Sparse Transformer strided (128)": (CAUSAL & (ow.Window(before=127) | ow.Strided(128)), 1.7),
    "Sparse Transformer fixed (128, c=8)": (CAUSAL & (ow.Chunk(128) | ow.Summary(128, 8)), 1.3),
    "window 255 plus 1 % scattered keys": (CAUSAL & (ow.Window(before=255) | ow.Keys("flag")), 1.5),
    "dilated (2,047, step 4)": (CAUSAL & ow.Dilated(before=2047, step=4), 1.2),
    "64 scattered labels": (CAUSAL & ow.Same("label"), 2.6),
    "NATTEN 64x128 k=13": (ow.Grid((64, 128), (13, 13)), 3.1),
}
LONG = {
    "window 255, 2,000 headings, first 4 keys": CAUSAL & (ow.Window(before=255) | ow.Keys("flag") | ow.First(keys=4)),
    "Sparse Transformer strided (128)": CAUSAL & (ow.Window(before=127) | ow.Strided(128)),
    "Sparse Transformer strided (1,024)": CAUSAL & (ow.Window(before=1023) | ow.Strided(1024)),
    "dense causal": CAUSAL,
}


def notes(length: int, flagged: int) -> ow.Annotations:
    """Scattered flags and labels, the same in every run."""
    rng = np.random.default_rng(0)
    flags = np.zeros(length, dtype=bool)
    flags[rng.choice(length, flagged, replace=False)] = True
    return ow.Annotations(length=length, flags={"flag": flags}, labels={"label": rng.integers(0, 64, length)})


def saved() -> list[dict[str, object]]:
    """Executed over useful pairs at 8,192 tokens in 64x64 blocks: parts, and plain blocks counted from the mask."""
    rows = []
    annotations = notes(LENGTH, LENGTH // 100)
    for name, (pattern, most) in SAVED.items():
        layout = ow.compile_layout(pattern, q_len=LENGTH, kv_len=LENGTH, annotations=annotations)
        mask = ow.bind(pattern, q_len=LENGTH, kv_len=LENGTH, annotations=annotations).to_dense()[0, 0]
        plain = ow.BlockLayout.from_mask(mask)
        rows.append(
            {
                "pattern": name,
                "plain": round(plain.executed_over_useful, 2),
                "parts": round(layout.executed_over_useful, 2),
                "at most": most,
                "names": layout.planes[0].names,
            }
        )
    return rows


def peak_kb() -> int:
    """Most memory that this process has held, in kB; `getrusage` would count its parent's."""
    with open("/proc/self/status", encoding="ascii") as status:
        return int(next(line for line in status if line.startswith("VmHWM")).split()[1])


def measure_long(name: str, repeats: int) -> dict[str, object]:
    """Seconds and memory of one compilation at 1,048,576 tokens; run in a process of its own."""
    annotations = notes(MILLION, 2000)
    ow.compile_layout(LONG[name], q_len=256, kv_len=256, annotations=annotations.prefix(256))
    before = peak_kb()
    seconds, cpu_seconds = [], []
    for _ in range(repeats):
        start, cpu_start = time.perf_counter(), time.process_time()
        layout = ow.compile_layout(LONG[name], q_len=MILLION, kv_len=MILLION, annotations=annotations)
        seconds.append(time.perf_counter() - start)
        cpu_seconds.append(time.process_time() - cpu_start)
    after = peak_kb()
    return {
        "pattern": name,
        "first_s": round(seconds[0], 3),
        "median_s": round(statistics.median(seconds), 3),
        "median_cpu_s": round(statistics.median(cpu_seconds), 3),
        "seconds": [round(value, 3) for value in seconds],
        "added_mb": round((after - before) / 1e3, 1),
        "layout_mb": round(layout.nbytes / 1e6, 1),
        "executed_over_useful": round(layout.executed_over_useful, 2),
    }


def environment() -> dict[str, object]:
    """Where this ran."""
    git = ["git", "-C", str(ROOT)]
    commit = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True).stdout.strip()
    dirty = subprocess.run([*git, "status", "--porcelain"], capture_output=True, text=True).stdout.strip()
    return {
        "commit": commit + ("-dirty" if dirty else ""),
        "numpy": np.__version__,
        "python": platform.python_version(),
        "machine": platform.machine(),
        "load_before": os.getloadavg()[0],
    }


def tables(rows: list[dict[str, object]], long: list[dict[str, object]]) -> str:
    """Both results as Markdown."""
    lines = [
        f"Executed over useful pairs, {LENGTH:,} tokens, 64x64 blocks:",
        "",
        "| pattern | plain blocks | parts | at most | parts are |",
        "|---|---|---|---|---|",
    ]
    for row in rows:
        names = "; ".join(row["names"]).replace("|", "\\|")
        lines.append(f"| {row['pattern']} | {row['plain']} | **{row['parts']}** | {row['at most']} | {names} |")
    lines += [
        "",
        f"{MILLION:,} tokens, one core, each in a process of its own:",
        "",
        "| pattern | first | median | processor, median | memory added | layout | executed over useful |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in long:
        lines.append(
            f"| {row['pattern']} | {row['first_s']} s | **{row['median_s']} s** | {row['median_cpu_s']} s "
            f"| {row['added_mb']} MB | {row['layout_mb']} MB | {row['executed_over_useful']} |"
        )
    return "\n".join(lines)


def main() -> None:
    """Prints both tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--report", type=Path, help="also write the tables to this Markdown file")
    parser.add_argument("--long", metavar="PATTERN", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.long:
        if hasattr(os, "sched_setaffinity"):
            os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
        print(json.dumps(measure_long(options.long, 5)))
        return
    about = environment()
    rows, long = saved(), []
    for name in LONG:
        command = [sys.executable, __file__, "--long", name]
        output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        long.append(json.loads(output.splitlines()[-1]))
    text = tables(rows, long)
    print(text)
    if options.report:
        facts = "\n".join(f"- {name}: {value}" for name, value in about.items())
        options.report.write_text(f"# Layouts: what parts save and cost\n\n{facts}\n\n{text}\n", encoding="utf-8")
    print(json.dumps({**about, "saved": rows, "long": long}))


if __name__ == "__main__":
    main()
