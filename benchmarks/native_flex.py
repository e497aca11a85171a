"""The native kernels against FlexAttention compiled for the CPU, forward, the same windows.

    python benchmarks/native_flex.py [--repeats 5] [--threads 2] [--report FILE]

Batch 1, head_dim 64, float32; 8 heads up to 16,384 tokens and 2 beyond. FlexAttention is torch's own, compiled by
inductor with static shapes, its `BlockMask` made by `create_block_mask` from the window's formula in blocks of torch's
default size and of 64; its backward pass is refused on CPU. Compiling and making masks is not inside the time. Rounds
are interleaved, ratios are those of medians; outputs are compared before. The last line is one JSON object.
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
from native_speed import cases, dense, inputs, sparse
from torch.nn.attention.flex_attention import create_block_mask, flex_attention

FLOOR = 2.0
BLOCKS = (128, 64)


def flex(length: int, keys: int, block: int) -> Callable[..., torch.Tensor]:
    """FlexAttention with a causal window of so many keys."""

    def seen(b: torch.Tensor, h: torch.Tensor, q: torch.Tensor, k: torch.Tensor) -> torch.Tensor:
        return (q >= k) & (q - k < keys)

    mask = create_block_mask(seen, None, None, length, length, device="cpu", BLOCK_SIZE=block)
    compiled = torch.compile(flex_attention, dynamic=False, fullgraph=True)
    return lambda q, k, v: compiled(q, k, v, block_mask=mask)


def compare(case, keys: int, repeats: int) -> dict[str, object]:
    """Interleaved forward passes at one length."""
    leaves, _ = inputs(case.length, case.heads)
    leaves = [leaf.detach() for leaf in leaves]
    layout = case.layout()
    runs = {"dense": dense(True), "cpu": sparse(layout, "cpu")}
    runs |= {f"flex {block}": flex(case.length, keys, block) for block in BLOCKS}
    with torch.no_grad():
        torch._dynamo.reset()
        own = runs["cpu"](*leaves)
        for block in BLOCKS:
            torch.testing.assert_close(runs[f"flex {block}"](*leaves), own, rtol=1e-3, atol=1e-4)
        samples: dict[str, list[float]] = {name: [] for name in runs}
        for turn in range(repeats + 1):
            for name, run in runs.items():
                start = time.perf_counter()
                run(*leaves)
                if turn:
                    samples[name].append(time.perf_counter() - start)
    medians = {name: statistics.median(own) for name, own in samples.items()}
    best = min((f"flex {block}" for block in BLOCKS), key=medians.__getitem__)
    return {
        "pattern": case.name, "length": case.length, "heads": case.heads, "seconds": medians, "samples": samples,
        "best_flex": best, "ratio": medians[best] / medians["cpu"], "floor": FLOOR,
    }  # fmt: skip


def table(rows: list[dict]) -> str:
    lines = [
        "| pattern | tokens, heads | cpu | flex, blocks of 128 | of 64 | dense sdpa | best flex over cpu | floor |",
        "|" + "---|" * 8,
    ]
    for row in rows:
        times = " | ".join(f"{1e3 * row['seconds'][name]:.0f} ms" for name in ("cpu", "flex 128", "flex 64", "dense"))
        lines.append(
            f"| {row['pattern']} | {row['length']:,}, {row['heads']} | {times} | **{row['ratio']:.2f}x** "
            f"| {row['floor']:.1f}x |"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--report", type=Path, help="also write the table to this Markdown file")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    rows = []
    for case in cases()["windows"]:
        rows.append(compare(case, int(case.name.split()[1]) + 1, options.repeats))
        print(table(rows[-1:]).splitlines()[-1], flush=True)
    about = environment(options.threads)
    if options.report:
        facts = "\n".join(f"- {name}: {value}" for name, value in about.items())
        text = f"# The native kernels against FlexAttention\n\n{facts}\n\n{table(rows)}\n"
        options.report.write_text(text, encoding="utf-8")
    print(json.dumps({**about, "windows": rows}))


if __name__ == "__main__":
    main()
