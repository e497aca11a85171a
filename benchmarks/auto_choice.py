"""Backend `cpu` beside `sdpa` on exactly dense and causal layouts: the figures behind `openwork.ops.preference`.

    python benchmarks/auto_choice.py [--seconds 0.3] [--only TEXT]

One thread, seconds of the processor, runs interleaved, ratios of medians: above 1.00 `cpu` is faster. Both are called
through `sparse_attention`, so that what each does before its kernel (repeating keys, copying) is inside. The last line
is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time

import torch
from gather_vs_dense import environment

import openwork as ow
from openwork.ops import sparse_attention

F32, BF16, F16 = torch.float32, torch.bfloat16, torch.float16
CASES = [
    # causal or not, query and key heads, q_len, kv_len, head_dim, dtype
    *[(True, h, h, n, n, 64, F32) for n in (16, 64, 128, 256, 512, 1024, 2048) for h in (1, 8)],
    *[(False, h, h, n, n, 64, F32) for n in (16, 64, 256, 512, 1024, 2048) for h in (1, 8)],
    *[(causal, 4, 4, n, n, d, F32) for causal in (True, False) for d in (16, 32, 128, 256) for n in (64, 512)],
    *[(False, 8, 8, q, 4096, 64, F32) for q in (1, 4, 16, 64)],
    *[(True, 8, 2, n, n, 64, F32) for n in (64, 512)],
    *[(True, 4, 4, n, n, 64, dtype) for dtype in (BF16, F16) for n in (16, 64, 256, 1024)],
    *[(False, 8, 8, 1, 4096, 64, dtype) for dtype in (BF16, F16)],
]


def name_of(case: tuple) -> str:
    causal, q_heads, kv_heads, q_len, kv_len, head_dim, dtype = case
    what = f"{'causal' if causal else 'dense'} {q_len}x{kv_len}, {q_heads}/{kv_heads} heads, head_dim {head_dim}"
    return f"{what}, {str(dtype).removeprefix('torch.')}"


def measure(case: tuple, seconds: float) -> dict[str, object]:
    causal, q_heads, kv_heads, q_len, kv_len, head_dim, dtype = case
    torch.manual_seed(0)
    layout = ow.compile_layout(ow.Causal() if causal else ow.Dense(), q_len=q_len, kv_len=kv_len)
    leaves = [
        torch.randn(1, heads, length, head_dim).to(dtype).requires_grad_()
        for heads, length in ((q_heads, q_len), (kv_heads, kv_len), (kv_heads, kv_len))
    ]
    gradient = torch.randn(1, q_heads, q_len, head_dim).to(dtype)

    def once(name: str) -> tuple[float, float, float]:
        start = time.process_time()
        output = sparse_attention(*leaves, layout, backend=name).output
        middle = time.process_time()
        torch.autograd.grad(output, leaves, gradient)
        end = time.process_time()
        with torch.no_grad():
            sparse_attention(*leaves, layout, backend=name)
        return middle - start, end - start, time.process_time() - end

    samples: dict[str, list[tuple[float, float, float]]] = {"sdpa": [], "cpu": []}
    for name in samples:
        once(name)
    until, turns = time.monotonic() + seconds, 0
    while turns < 5 or time.monotonic() < until:
        for name in sorted(samples, reverse=bool(turns % 2)):
            samples[name].append(once(name))
        turns += 1
    medians = {
        name: [statistics.median(column) for column in zip(*rows, strict=True)] for name, rows in samples.items()
    }
    keys = ("forward", "with_backward", "without_gradients")
    ratios = {key: medians["sdpa"][at] / medians["cpu"][at] for at, key in enumerate(keys)}
    return {"case": name_of(case), "rounds": turns, **ratios, "seconds": medians}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=0.3, help="for each case, and at least five rounds")
    parser.add_argument("--only", default="", help="cases whose name holds this text")
    options = parser.parse_args()
    torch.set_num_threads(1)
    rows = []
    for case in CASES:
        if options.only in name_of(case):
            rows.append(row := measure(case, options.seconds))
            ratios = [f"{row[key]:5.2f}x" for key in ("without_gradients", "forward", "with_backward")]
            print(f"{row['case']:<55} {' '.join(ratios)}", file=sys.stderr, flush=True)
    print(json.dumps({"environment": environment(1), "rows": rows}))


if __name__ == "__main__":
    main()
