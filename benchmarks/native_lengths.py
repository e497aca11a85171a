"""Whether scattered patterns keep their share of the ideal from 8,192 to 32,768 tokens, and what small pages cost.

    python benchmarks/native_lengths.py [--rounds 12] [--threads 2]
    THP_MEM_ALLOC_ENABLE=1 python benchmarks/native_lengths.py      # torch's own memory in pages of 2 MB

A window of 255 keys with 1 % scattered ones, and `Dilated`, head_dim 64, float32, at 8,192 tokens (8 heads) and 32,768
(2 heads and 8), in turn in one process. What is reported is GFLOP/s of useful work, those of the pairs that the pattern
allows: the same rate at both lengths is the same share of the ideal. Figures are medians.
"""

from __future__ import annotations

import argparse
import statistics

import torch
from gather_vs_dense import timed
from native_speed import cases, inputs, sparse

HEADS = {8192: (8,), 32_768: (2, 8)}
FORWARD, BACKWARD = 4, 10
"""FLOPs of a pair, times head_dim."""


def main() -> None:
    """Every pattern, length and number of heads in turn."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    groups = cases()
    chosen = [case for case in groups["scattered"] + groups["long"] if case.name.startswith(("dilated", "window"))]
    runs = []
    for case in chosen:
        layout = case.layout()
        for heads in HEADS[case.length]:
            leaves, gradient = inputs(case.length, heads)
            flops = layout.density * case.length**2 * heads * leaves[0].shape[-1]
            runs.append((f"{case.name} | {case.length:,}, {heads}", flops, sparse(layout, "cpu"), leaves, gradient))
    samples: dict[str, list[tuple[float, float]]] = {name: [] for name, *_ in runs}
    for turn in range(options.rounds + 1):
        for name, _, run, leaves, gradient in runs:
            sample = timed(run, leaves, gradient)
            if turn:
                samples[name].append(sample)
    print("| pattern | tokens, heads | forward, useful GFLOP/s | backward |\n|---|---|---|---|")
    for name, flops, *_ in runs:
        forward, backward = (statistics.median(times) for times in zip(*samples[name], strict=True))
        print(f"| {name} | {FORWARD * flops / forward / 1e9:.0f} | {BACKWARD * flops / backward / 1e9:.0f} |")


if __name__ == "__main__":
    main()
