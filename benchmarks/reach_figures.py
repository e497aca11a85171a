"""What reachability costs: 64 layers at 16,384 tokens, for patterns of the zoo, against the floor of 10 s on 2 cores.

    python benchmarks/reach_figures.py [--report FILE]

Prints a table, and one JSON object as the last line. Reach is compared with boolean matrix powers at 512 tokens first:
figures of wrong answers are not reported.
"""

from __future__ import annotations

import argparse
import inspect
import json
import os
import platform
import sys
import time
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import _pydecimal

import numpy as np

import openwork as ow
from openwork.annotate import byte_offsets, python_source
from openwork.check import reachability
from openwork.patterns import zoo

TOKENS, LAYERS, SMALL, FLOOR_S = 16_384, 64, 512, 10.0
CAUSAL = ow.Causal()
PATTERNS = {
    "window 255": CAUSAL & ow.Window(before=255),
    "window 31": CAUSAL & ow.Window(before=31),
    "Sparse Transformer strided": zoo.sparse_transformer_strided(),
    "Sparse Transformer fixed": zoo.sparse_transformer_fixed(),
    "BigBird, causal": zoo.bigbird_causal(),
    "BigBird ITC, both ways": zoo.bigbird_itc(TOKENS // 64),
    "headings (policy documents)": zoo.policy_documents(),
    "LongNet": zoo.longnet(),
    "PowerAttention": zoo.power_attention(),
    "LogSparse": zoo.log_sparse(),
    "source code": zoo.source_code(),
    "Mistral": zoo.mistral(),
    "NATTEN 128x128, both ways": zoo.natten_2d(128, 128),
    "dense causal": CAUSAL,
    "one random key in a hundred": CAUSAL
    & ow.Custom(lambda q, k: (q * 40_503 + k * 30_011) % 9_973 < 100, "scattered"),
}


def facts(length: int) -> ow.Annotations:
    """A real source file's definitions and uses, and headings on 1 % of the tokens."""
    text = inspect.getsource(_pydecimal)[:length]
    headings = np.zeros(length, dtype=bool)
    headings[np.random.default_rng(0).choice(length, length // 100, replace=False)] = True
    return python_source(text, byte_offsets(text)).merged(ow.Annotations(length, flags={"heading": headings}))


def small_facts(length: int) -> ow.Annotations:
    """The same names on a few tokens, scattered: 512 bytes of a real file define too little."""
    rng = np.random.default_rng(1)
    links = [[query, query + 5, query - 200, query - 190] for query in (230, 333, 480)]
    flags = {name: rng.random(length) < 0.02 for name in ("definition", "heading")}
    return ow.Annotations(length, flags=flags, links={"use": links})


def differs(pattern: ow.Pattern, notes: ow.Annotations) -> bool:
    """Whether reach is not that of matrix powers."""
    allowed = ow.bind(pattern, q_len=SMALL, kv_len=SMALL, annotations=notes).to_dense()[0, 0] | np.eye(
        SMALL, dtype=bool
    )
    reach = reachability(pattern, SMALL, 12, notes)
    total = SMALL * (SMALL + 1) // 2 if reach.causal else SMALL * SMALL
    held = np.eye(SMALL, dtype=np.float32)
    for share in reach.coverage:
        held = (allowed.astype(np.float32) @ held > 0).astype(np.float32)
        if abs(share - held.sum() / total) > 1e-12:
            return True
    return False


def measure() -> list[dict[str, object]]:
    """Seconds and answers of every pattern."""
    rows = []
    notes, small = facts(TOKENS), small_facts(SMALL)
    for name, pattern in PATTERNS.items():
        here = zoo.natten_2d(16, 32) if "NATTEN" in name else zoo.bigbird_itc(8) if "ITC" in name else pattern
        if differs(here, small):
            raise SystemExit(f"error: {name}: reach is not that of matrix powers, so nothing is measured.")
        start, cpu = time.perf_counter(), time.process_time()
        reach = reachability(pattern, TOKENS, LAYERS, notes)
        rows.append(
            {
                "pattern": name,
                "seconds": round(time.perf_counter() - start, 2),
                "cpu_seconds": round(time.process_time() - cpu, 2),
                "hops": reach.hops,
                "after_1": round(reach.after(1), 4),
                "after_2": round(reach.after(2), 4),
                "after_all": round(reach.coverage[-1], 4),
            }
        )
        print(row_text(rows[-1]), flush=True)
    return rows


def row_text(row: dict[str, object]) -> str:
    hops = "-" if row["hops"] is None else row["hops"]
    return (
        f"| {row['pattern']} | {row['seconds']} s | {row['cpu_seconds']} s | {hops} | {row['after_1']} | "
        f"{row['after_2']} | {row['after_all']} |"
    )


HEAD = "| pattern | wall | processor | hops | after 1 layer | after 2 | after 64 |\n|---|---|---|---|---|---|---|"


def report_text(rows: list[dict[str, object]], conditions: dict[str, object]) -> str:
    """The page that --report writes."""
    table = "\n".join(map(row_text, rows))
    listed = "\n".join(f"- {name}: {value}" for name, value in conditions.items())
    return (
        f"# Reach through {LAYERS} layers at {TOKENS:,} tokens, {time.strftime('%Y-%m-%d')}\n\n"
        "`python benchmarks/reach_figures.py`: wall time is that of one call, layout included; processor seconds are\n"
        f"those of all threads. The floor is {FLOOR_S:g} s on 2 cores. Every pattern was compared with boolean matrix\n"
        f"powers at {SMALL} tokens first. Shares are of pairs with `k <= q`, of all pairs where a pattern looks both\n"
        "ways. Wall-clock seconds of a machine that does other work (see the load) are too many;\n"
        "the processor's seconds are not.\n\n"
        f"{listed}\n\n{HEAD}\n{table}\n"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--report", type=Path, help="also write a page")
    options = parser.parse_args()
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
    from benchmarks.__main__ import commit

    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
    conditions = {
        "commit": commit(),
        "python": platform.python_version(),
        "numpy": np.__version__,
        "machine": platform.machine(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "load_before": load,
    }
    print(HEAD)
    rows = measure()
    if options.report is not None:
        options.report.write_text(report_text(rows, conditions), encoding="utf-8")
    print(json.dumps({"tokens": TOKENS, "layers": LAYERS, "floor_s": FLOOR_S, "rows": rows, "conditions": conditions}))


if __name__ == "__main__":
    main()
