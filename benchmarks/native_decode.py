"""Decoding on the native kernels: bytes per second from memory, long caches, small calls, mixed lengths.

    python benchmarks/native_decode.py [--rounds 7] [--threads 2] [--report FILE]

8 query heads, head_dim 64, float32. Each call of `decode_attention` takes one token of a model's layer; the calls go
through as many layers as hold 1 GB of *visible* keys and values, so that every key comes from memory. What is counted
is what must be read: visible keys and values; with 8 key heads, with 2 that four query heads share each, and with a
batch of 8 such sequences. The machine's bandwidth is the best of two plain reads of 1 GB in the same rounds,
`torch.sum` of one tensor by all threads, and one slice to each of as many threads. The visible set (4,096 keys: the
first 64 and a window) is the same with 8,192 and 131,072 cached keys. Then the latency of one call that reads one key
and of one that reads 4,096 keys which are in the caches, beside a call of an empty operator of torch; and a batch
whose sequences have different lengths beside the same sequences one by one. Rounds are interleaved, figures are
medians. The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from gather_vs_dense import environment

from openwork.ops.decode import decode_attention

HEADS, HEAD_DIM, SEED, GIGABYTE = 8, 64, 0, 1 << 30
FIRST, VISIBLE = 64, 4096
CACHED = (8192, 131_072)
SHAPES = ((1, 8), (1, 2), (8, 2))
"""Sequences and key heads."""
FLOORS = {"bandwidth": 0.7, "long over short": 1.25}
MIXED = (512, 1024, 2048, 4096, 4096, 8192, 16_384, 32_768)


def visible(cached: int, count: int) -> np.ndarray:
    """The first 64 keys and a window that ends with the last: `count` keys."""
    first = min(FIRST, count)
    return np.concatenate([np.arange(first), np.arange(cached - (count - first), cached)])


def caches(batch: int, kv_heads: int, cached: int, layers: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Keys and values of each layer; drawn, for untouched memory is one page that is read again and again."""
    generator = torch.Generator().manual_seed(SEED)
    made = []
    for _ in range(layers):
        both = [torch.empty(batch, kv_heads, cached, HEAD_DIM) for _ in range(2)]
        for one in both:
            # what is not visible is not read, and need not be there
            for part in (one[:, :, :FIRST], one[:, :, cached - VISIBLE :]):
                part.uniform_(-1, 1, generator=generator)
        made.append((both[0], both[1]))
    return made


def token(layers: list[tuple[torch.Tensor, torch.Tensor]], query: torch.Tensor) -> Callable[[], None]:
    """One token through all layers."""
    keys = visible(layers[0][0].shape[2], VISIBLE)

    def run() -> None:
        for key, value in layers:
            decode_attention(query, key, value, [[keys]])

    return run


def reads(threads: int) -> dict[str, Callable[[], None]]:
    """Plain reads of 1 GB."""
    memory = torch.ones(GIGABYTE // 4)
    pool = ThreadPoolExecutor(threads)
    slices = memory.chunk(4 * threads)

    def apart() -> None:
        list(pool.map(torch.sum, slices))

    return {"torch.sum": lambda: memory.sum(), "torch.sum of slices": apart}


def medians(runs: dict[str, Callable[[], object]], rounds: int, repeats: int = 1) -> dict[str, float]:
    """Seconds of one run, by name; a first round is not counted."""
    samples: dict[str, list[float]] = {name: [] for name in runs}
    for turn in range(rounds + 1):
        for name, run in runs.items():
            start = time.perf_counter()
            for _ in range(repeats):
                run()
            if turn:
                samples[name].append((time.perf_counter() - start) / repeats)
    return {name: statistics.median(own) for name, own in samples.items()}


def bandwidth(batch: int, kv_heads: int, rounds: int, threads: int) -> dict[str, object]:
    """Bytes per second of decoding with short and long caches, beside plain reads."""
    bytes_read = 2 * VISIBLE * batch * kv_heads * HEAD_DIM * 4
    layers = -(-GIGABYTE // bytes_read)
    query = torch.rand(batch, HEADS, 1, HEAD_DIM)
    with torch.inference_mode():
        runs: dict[str, Callable[[], object]] = dict(reads(threads))
        runs |= {str(cached): token(caches(batch, kv_heads, cached, layers), query) for cached in CACHED}
        found = medians(runs, rounds)
    rate = max(GIGABYTE / found[name] for name in reads(threads))
    own = {cached: layers * bytes_read / found[str(cached)] for cached in CACHED}
    return {
        "batch": batch,
        "kv_heads": kv_heads,
        "layers": layers,
        "read_gb_s": rate / 1e9,
        "decode_gb_s": {cached: value / 1e9 for cached, value in own.items()},
        "share": {cached: value / rate for cached, value in own.items()},
        "ms_per_call": {cached: 1e3 * found[str(cached)] / layers for cached in CACHED},
        "long_over_short": found[str(CACHED[1])] / found[str(CACHED[0])],
    }


def latency(rounds: int) -> dict[str, float]:
    """Microseconds of a call: an empty operator, one visible key, a visible set that lies in the caches."""
    query, key = torch.rand(1, HEADS, 1, HEAD_DIM), torch.rand(1, HEADS, CACHED[0], HEAD_DIM)
    few, many, nothing = [[visible(CACHED[0], 1)]], [[visible(CACHED[0], VISIBLE)]], torch.empty(0)
    dense_key = key[:, :, :VISIBLE].contiguous()
    with torch.inference_mode():
        found = medians(
            {
                "empty operator": lambda: torch.neg(nothing),
                "one visible key": lambda: decode_attention(query, key, key, few),
                "4,096 visible keys of 8,192": lambda: decode_attention(query, key, key, many),
                "sdpa over 4,096 keys": lambda: torch.nn.functional.scaled_dot_product_attention(
                    query, dense_key, dense_key
                ),
            },
            rounds,
            repeats=50,
        )
    return {name: 1e6 * seconds for name, seconds in found.items()}


def mixed(rounds: int) -> dict[str, object]:
    """Sequences of different lengths in one batch, beside each alone and beside a padded batch of sdpa."""
    longest, batch = max(MIXED), len(MIXED)
    query, key, value = torch.rand(batch, HEADS, 1, HEAD_DIM), *torch.rand(2, batch, HEADS, longest, HEAD_DIM)
    lists = [[np.arange(length)] for length in MIXED]
    mask = (torch.arange(longest) < torch.tensor(MIXED)[:, None])[:, None, None]

    def apart() -> None:
        for number, own in enumerate(lists):
            one = slice(number, number + 1)
            decode_attention(query[one], key[one], value[one], [own])

    with torch.inference_mode():
        together = decode_attention(query, key, value, lists).output
        padded = torch.nn.functional.scaled_dot_product_attention(query, key, value, attn_mask=mask)
        torch.testing.assert_close(together, padded, rtol=1e-4, atol=1e-5)
        found = medians(
            {
                "one batch": lambda: decode_attention(query, key, value, lists),
                "one by one": apart,
                "sdpa, padded": lambda: torch.nn.functional.scaled_dot_product_attention(
                    query, key, value, attn_mask=mask
                ),
            },
            rounds,
        )
    read = 2 * sum(MIXED) * HEADS * HEAD_DIM * 4
    return {
        "lengths": MIXED,
        "ms": {name: 1e3 * s for name, s in found.items()},
        "gb_s": read / found["one batch"] / 1e9,
    }


def text_of(speeds: list[dict], small: dict[str, float], batch: dict) -> str:
    """All figures as Markdown."""
    lines = [
        "| sequences | key heads | layers | plain read | 8,192 cached keys | 131,072 cached keys "
        f"| share of the read (floor {FLOORS['bandwidth']}) | long over short (at most {FLOORS['long over short']}) "
        "| a call, ms |",
        "|" + "---|" * 9,
    ]
    for row in speeds:
        short, long = (row["decode_gb_s"][cached] for cached in CACHED)
        shares = ", ".join(f"**{row['share'][cached]:.2f}**" for cached in CACHED)
        calls = ", ".join(f"{row['ms_per_call'][cached]:.2f}" for cached in CACHED)
        lines.append(
            f"| {row['batch']} | {row['kv_heads']} | {row['layers']} | {row['read_gb_s']:.1f} GB/s | {short:.1f} GB/s "
            f"| {long:.1f} GB/s | {shares} | **{row['long_over_short']:.2f}** | {calls} |"
        )
    lines += ["", "| a call, batch 1 | microseconds |", "|---|---|"]
    lines += [
        f"| {name} | {value:.0f} |" if value > 10 else f"| {name} | {value:.1f} |" for name, value in small.items()
    ]
    times = ", ".join(f"{name} {value:.1f} ms" for name, value in batch["ms"].items())
    lengths = ", ".join(f"{length:,}" for length in batch["lengths"])
    lines += ["", f"Sequences of {lengths} keys: {times}; one batch reads {batch['gb_s']:.1f} GB/s of what is there."]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--report", type=Path, help="also write the tables to this Markdown file")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    speeds = [bandwidth(*shape, options.rounds, options.threads) for shape in SHAPES]
    small, batch = latency(options.rounds), mixed(options.rounds)
    about, text = environment(options.threads), text_of(speeds, small, batch)
    print(text)
    if options.report:
        facts = "\n".join(f"- {name}: {value}" for name, value in about.items())
        options.report.write_text(f"# Decoding on the native kernels\n\n{facts}\n\n{text}\n", encoding="utf-8")
    print(json.dumps({**about, "bandwidth": speeds, "latency_us": small, "mixed": batch}))


if __name__ == "__main__":
    main()
