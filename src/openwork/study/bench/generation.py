"""How long a model takes to its first token, and to each later one."""

from __future__ import annotations

import time

import torch

from openwork.study.bench.subject import BenchModel, Inputs, Way

__all__ = ["time_generation"]


def time_generation(model: BenchModel, way: Way, inputs: Inputs, new_tokens: int) -> tuple[float, list[float]]:
    """Seconds from the prompt to the first token, and of each later token; greedy."""
    moments: list[float] = []

    def seen() -> None:
        if next(way.module.parameters()).is_cuda:
            torch.cuda.synchronize()
        moments.append(time.perf_counter())

    started = time.perf_counter()
    with torch.no_grad():
        model.generate(way, inputs, new_tokens, seen)
    times = [after - before for before, after in zip([started, *moments], moments, strict=False)]
    return times[0], times[1:]
