"""Rounds in which each way to compute something runs once: its times, and the memory that it needs."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import NamedTuple

import torch

from openwork.measure import PeakMemory, release_free_memory

__all__ = ["Passes", "interleaved"]


class Passes(NamedTuple):
    """What was measured of one way.

    Attributes:
        samples_s: Time of each pass, in seconds.
        extra: Most memory of each pass beyond what was there before it, in bytes; empty where the system does not tell.
    """

    samples_s: list[float]
    extra: list[int]


def interleaved(
    ways: Mapping[str, Callable[[], object]],
    *,
    rounds: int,
    until: float,
    device: str = "cpu",
    before: Callable[[int, str], None] = lambda done, name: None,
) -> dict[str, Passes]:
    """Runs each way once in every round, so that what else the machine does meets all of them.

    Args:
        ways: Name to what is timed.
        rounds: Most rounds.
        until: Time of `time.monotonic` after which no further round begins; there is at least one.
        device: Where it is computed.
        before: Told before each pass how many are done, and which comes next.
    """
    found = {name: Passes([], []) for name in ways}
    for turn in range(rounds):
        if turn and time.monotonic() > until:
            break
        for place, (name, compute) in enumerate(ways.items()):
            before(turn * len(ways) + place, name)
            # what an earlier pass freed is given back first, or this one would take it and count nothing
            release_free_memory()
            with PeakMemory(device) as memory:
                held = memory.start_bytes or _allocated(device)
                started = time.perf_counter()
                compute()
                if device == "cuda":
                    torch.cuda.synchronize()
                found[name].samples_s.append(time.perf_counter() - started)
            if memory.peak_bytes is not None:
                found[name].extra.append(max(0, memory.peak_bytes - held))
    return found


def _allocated(device: str) -> int:
    return int(torch.cuda.memory_allocated()) if device == "cuda" else 0
