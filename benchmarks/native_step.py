"""Whole training steps of a decoder on the native kernels against the best dense path, in the same process.

    python benchmarks/native_step.py [--dims 256,512] [--lengths 8192,16384] [--rounds 5] [--threads 2] [--eager]
                                     [--report FILE]

`openwork.nn.Decoder`: 4 layers, heads of 64 channels, SwiGLU of 8/3 (up to the next multiple of 64), byte vocabulary,
batch 1, float32; a step is forward, backward, clipping and AdamW. Forward and backward are compiled by torch.compile,
every way alike, or else norms, rotations and gates take a fifth of the sparse step; `--eager` leaves that out. The
native ways are one graph each; `scaled_dot_product_attention` stays beside its graph, as everywhere in `openwork.nn`.
Dense is causal attention by torch's `scaled_dot_product_attention` and by the native kernels; the faster one is the
baseline. Sparse is `Causal() & Window(before=511)`, layouts compiled before. Runs are interleaved: each round takes
one step each way, and ratios are those of medians. Beside them the ideal of attention alone (causal pairs over allowed
pairs) and what Amdahl's law allows the step: attention's share of the baseline's step is measured in the same rounds,
and shrinks by the ideal. The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
from gather_vs_dense import environment

import openwork as ow
from openwork.nn import Decoder, DecoderConfig
from openwork.ops import prepare, sparse_attention

LAYERS, HEAD_DIM, VOCABULARY, SEED = 4, 64, 256, 0
DENSE, SPARSE = ow.Causal(), ow.Causal() & ow.Window(before=511)
WAYS = {"dense sdpa": (DENSE, "sdpa"), "dense cpu": (DENSE, "cpu"), "sparse cpu": (SPARSE, "cpu")}
FLOORS = {(256, 8192): 2.5, (256, 16384): 4.0}


def step_of(dim: int, length: int, pattern: ow.Pattern, backend: str, compiled: bool) -> Callable[[], None]:
    """One training step, each way with weights and an optimizer of its own."""
    torch.manual_seed(SEED)
    heads = dim // HEAD_DIM
    hidden = -(-8 * dim // (3 * 64)) * 64
    model = Decoder(
        DecoderConfig(vocab_size=VOCABULARY, dim=dim, num_layers=LAYERS, q_heads=heads, kv_heads=heads, mlp_dim=hidden),
        pattern,
    )
    model.set_backend(backend)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
    layouts = model.prepare(length)
    losses = model.token_losses
    if compiled:
        losses = torch.compile(losses, fullgraph=backend == "cpu")
        layouts = [prepare(layout) for layout in layouts] if backend == "cpu" else layouts
    tokens = torch.randint(VOCABULARY, (1, length + 1))

    def step() -> None:
        losses(tokens[:, :-1], tokens[:, 1:], layouts).mean().backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()

    return step


def attention_of(dim: int, length: int, backend: str) -> Callable[[], None]:
    """Dense attention of all layers, forward and backward, without what surrounds it."""
    torch.manual_seed(SEED)
    shape = (1, dim // HEAD_DIM, length, HEAD_DIM)
    leaves = [torch.randn(shape, requires_grad=True) for _ in range(3)]
    gradient = torch.randn(shape)
    layout = ow.compile_layout(DENSE, q_len=length, kv_len=length)

    def run() -> None:
        for _ in range(LAYERS):
            torch.autograd.grad(sparse_attention(*leaves, layout, backend=backend).output, leaves, gradient)

    return run


def seconds(run: Callable[[], None], clock: Callable[[], float]) -> float:
    start = clock()
    run()
    return clock() - start


def compare(dim: int, length: int, rounds: int, clock: Callable[[], float], compiled: bool) -> dict[str, object]:
    """Interleaved steps of one size; a first round is not counted."""
    torch._dynamo.reset()
    runs = {name: step_of(dim, length, *way, compiled) for name, way in WAYS.items()}
    runs |= {f"attention {backend}": attention_of(dim, length, backend) for backend in ("sdpa", "cpu")}
    samples: dict[str, list[float]] = {name: [] for name in runs}
    for turn in range(rounds + 1):
        for name, run in runs.items():
            taken = seconds(run, clock)
            if turn:
                samples[name].append(taken)
    medians = {name: statistics.median(own) for name, own in samples.items()}
    baseline = min(("dense sdpa", "dense cpu"), key=medians.__getitem__)
    layout = ow.compile_layout(SPARSE, q_len=length, kv_len=length)
    ideal = (length + 1) / 2 / length / layout.density
    share = min(1.0, medians[baseline.replace("dense", "attention")] / medians[baseline])
    return {
        "dim": dim,
        "length": length,
        "seconds": medians,
        "samples": samples,
        "baseline": baseline,
        "ratio": medians[baseline] / medians["sparse cpu"],
        "ratio_sdpa": medians["dense sdpa"] / medians["sparse cpu"],
        "ideal": ideal,
        "attention_share": share,
        "amdahl": 1 / (1 - share + share / ideal),
        "floor": FLOORS.get((dim, length)),
    }


def table(rows: list[dict[str, object]]) -> str:
    lines = [
        "| width | tokens | sparse step | against the best dense (which) | floor | against sdpa | Amdahl allows "
        "| attention's share | ideal of attention |",
        "|" + "---|" * 9,
    ]
    for row in rows:
        floor = "" if row["floor"] is None else f"{row['floor']:.1f}x"
        lines.append(
            f"| {row['dim']} | {row['length']:,} | {row['seconds']['sparse cpu']:.2f} s | **{row['ratio']:.2f}x** "
            f"({row['baseline']}) | {floor} | {row['ratio_sdpa']:.2f}x | {row['amdahl']:.2f}x "
            f"| {row['attention_share']:.0%} | {row['ideal']:.2f}x |"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dims", default="256,512", help="widths, comma-separated multiples of 64")
    parser.add_argument("--lengths", default="8192,16384", help="tokens, comma-separated")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--eager", action="store_true", help="without torch.compile")
    parser.add_argument("--processor", action="store_true", help="seconds of the processor, for a machine that is busy")
    parser.add_argument("--report", type=Path, help="also write the table to this Markdown file")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    clock = time.process_time if options.processor else time.perf_counter
    about = {**environment(options.threads), "clock": clock.__name__, "compiled": not options.eager}
    rows = []
    for dim in map(int, options.dims.split(",")):
        for length in map(int, options.lengths.split(",")):
            rows.append(compare(dim, length, options.rounds, clock, not options.eager))
            print(table(rows[-1:]).splitlines()[-1], flush=True)
    if options.report:
        facts = "\n".join(f"- {name}: {value}" for name, value in about.items())
        text = f"# Training steps on the native kernels\n\n{facts}\n\n{table(rows)}\n"
        options.report.write_text(text, encoding="utf-8")
    print(json.dumps({**about, "steps": rows}))


if __name__ == "__main__":
    main()
