"""What sparsity saves in whole models of Hugging Face transformers: a training step and a prefill, dense and sparse.

    python benchmarks/model_steps.py [--models decoder,encoder] [--passes training,prefill] [--lengths 4096,8192,16384]
                                     [--rounds 5] [--threads 2] [--backend gather] [--seconds S] [--report FILE]

The decoder is a Llama of width 512 with 8 layers (29 M parameters), the encoder a BERT of the same width and depth,
both with random weights, batch 1, float32. The pattern is a window of 511 keys before the query, and in the encoder
511 after it, too. What is compared: the model as it is (dense causal, or full), the pattern as a mask to
`scaled_dot_product_attention` and to attention that keeps its scores (where both fit into memory), and the sparsified
model. It is `openwork bench` with these models: rounds are interleaved, layouts are compiled before. Beside wall-clock
times stand those of the processor, which other work changes less. `--report` appends to a Markdown file; the last line
is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
from pathlib import Path

import torch

from openwork.study.bench import BenchConfig, BenchResult, BenchRow, run_bench
from openwork.study.bench.config import DENSE, EAGER, MASK, SPARSE
from openwork.study.contender import contender_from_text

SIZES = {
    "decoder": {
        "model_type": "llama", "architectures": ["LlamaForCausalLM"], "vocab_size": 8192, "hidden_size": 512,
        "num_hidden_layers": 8, "num_attention_heads": 8, "num_key_value_heads": 8, "intermediate_size": 1376,
        "tie_word_embeddings": True, "max_position_embeddings": 32768, "bos_token_id": 1, "eos_token_id": 2,
    },
    "encoder": {
        "model_type": "bert", "architectures": ["BertForMaskedLM"], "vocab_size": 8192, "hidden_size": 512,
        "num_hidden_layers": 8, "num_attention_heads": 8, "intermediate_size": 2048,
        "max_position_embeddings": 32768, "pad_token_id": 0,
    },
}  # fmt: skip
PATTERNS = {"decoder": "window: Causal() & Window(before=511)", "encoder": "window: Window(before=511, after=511)"}
WAYS = (DENSE, MASK, EAGER, SPARSE)
FLOORS = {("decoder", "training", 8192): {DENSE: 1.4, MASK: 2.2}}
"""What the sparsified step must be faster than, with `gather`."""


def measure(model: str, passes: str, length: int, options: argparse.Namespace) -> BenchResult:
    """One model at one length, all ways interleaved."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "config.json"
        path.write_text(json.dumps(SIZES[model]), encoding="utf-8")
        config = BenchConfig(
            model=str(path),
            contenders=(contender_from_text(PATTERNS[model]),),
            seq_lens=(length,),
            steps=options.rounds,
            seconds=options.seconds,
            forward_only=passes == "prefill",
            eager=True,
            backend=options.backend,
        )
        return run_bench(
            config, lambda done, total, what: print(f"\r{done}/{total} {what:60}", end="", file=sys.stderr)
        )


def row_of(result: BenchResult, way: str) -> BenchRow:
    return next(row for row in result.rows if row.way == way)


def ratios(result: BenchResult, over: str) -> dict[str, object] | None:
    """Time of another way over that of the sparsified model: medians, the range over rounds, processor time."""
    other, own = row_of(result, over), row_of(result, SPARSE)
    if not other.samples_s or not own.samples_s:
        return None
    per_round = [theirs / mine for theirs, mine in zip(other.samples_s, own.samples_s, strict=True)]
    return {
        "wall": other.seconds / own.seconds,
        "range": [min(per_round), max(per_round)],
        "processor": statistics.median(other.processor_s) / statistics.median(own.processor_s),
    }


def figures(model: str, passes: str, length: int, result: BenchResult) -> dict[str, object]:
    """What is reported of one model at one length."""
    sparse = row_of(result, SPARSE)
    return {
        "model": model,
        "passes": passes,
        "length": length,
        "parameters": result.num_parameters,
        "ideal_step": result.step_ideal(sparse),
        "ideal_attention": result.attention_ideal(sparse),
        "floors": FLOORS.get((model, passes, length)),
        "ratios": {over: ratios(result, over) for over in WAYS if over != SPARSE},
        "gradients": [check.to_dict() for check in result.checks],
        "eager_bytes": next(iter(result.eager_bytes.values())),
        "rows": [
            {
                "way": row.way, "backend": row.backend, "samples_s": row.samples_s, "processor_s": row.processor_s,
                "extra_bytes": row.extra_bytes, "theory_bytes": row.theory_bytes, "held_bytes": row.held_bytes,
                "compile_s": row.compile_s, "skipped": row.skipped,
            }
            for row in result.rows
        ],
    }  # fmt: skip


def table(rows: list[dict]) -> str:
    """All figures as Markdown."""
    lines = [
        "| model, pass | tokens | way | wall | processor | memory | theory | over sparse: wall (range) | processor "
        "| floor |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for found in rows:
        for row in found["rows"]:
            ratio = found["ratios"].get(row["way"])
            floor = (found["floors"] or {}).get(row["way"])
            if row["samples_s"]:
                times = f"{statistics.median(row['samples_s']):.2f} s | {statistics.median(row['processor_s']):.2f} s"
                memory = "-" if row["extra_bytes"] is None else f"{row['extra_bytes'] / 2**20:,.0f} MiB"
            else:
                times, memory = "not run | -", row["skipped"]
            beside = "| - | -"
            if ratio:
                low, high = ratio["range"]
                beside = f"| **{ratio['wall']:.2f}x** ({low:.2f}-{high:.2f}) | {ratio['processor']:.2f}x"
            lines.append(
                f"| {found['model']}, {found['passes']} | {found['length']:,} | {row['way']} ({row['backend']}) "
                f"| {times} | {memory} | {row['theory_bytes'] / 2**20:,.0f} MiB {beside} "
                f"| {f'{floor}x' if floor else ''} |"
            )
    lines += ["", "| model, pass | tokens | ideal, whole step | ideal, attention |", "|---|---|---|---|"]
    for found in rows:
        lines.append(
            f"| {found['model']}, {found['passes']} | {found['length']:,} | {found['ideal_step']:.2f}x "
            f"| {found['ideal_attention']:.2f}x |"
        )
    return "\n".join(lines)


def main() -> None:
    """Every model, pass and length that was asked for, one after the other."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", default="decoder,encoder")
    parser.add_argument("--passes", default="training,prefill")
    parser.add_argument("--lengths", default="4096,8192,16384")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, help="begin no further round of one length after so many seconds")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--backend", default="gather")
    parser.add_argument("--report", type=Path, help="also append the tables to this Markdown file")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    load = os.getloadavg()[0]
    rows, about = [], {}
    for model in options.models.split(","):
        for passes in options.passes.split(","):
            for length in map(int, options.lengths.split(",")):
                result = measure(model, passes, length, options)
                rows.append(figures(model, passes, length, result))
                about = dict(result.environment)
                print(f"\r{'':75}\r", end="", file=sys.stderr)
                print(table(rows[-1:]), flush=True)
                if not result.passed:
                    sys.exit(f"error: the gradients of the {model} are wrong, so nothing more is measured.")
    about |= {"load_before": load, "load_after": os.getloadavg()[0], "rounds": options.rounds}
    if options.report:
        facts = "\n".join(f"- {name}: {value}" for name, value in about.items())
        with options.report.open("a", encoding="utf-8") as report:
            report.write(f"\n{facts}\n\n{table(rows)}\n")
    print(json.dumps({**about, "results": rows}))


if __name__ == "__main__":
    main()
