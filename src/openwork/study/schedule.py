"""The learning rate as a function of the step alone, so that a resumed run and an unbroken one agree."""

from __future__ import annotations

import math

__all__ = ["rate_share"]

_FLOOR = 0.1
_SLOWNESS = 5


def rate_share(step: int, *, warmup_steps: int, steps: int | None) -> float:
    """Share of the highest learning rate at optimizer step `step`, counted from 0.

    It rises linearly over the warm-up. With a known number of steps it then falls along a half cosine to a tenth.
    Under a time limit nobody knows how many steps there will be, so it falls with the square root of the step, from
    five warm-ups on: what it is at a step depends on no clock.

    Examples:
        >>> [round(rate_share(step, warmup_steps=10, steps=110), 3) for step in (0, 4, 9, 10, 60, 110)]
        [0.1, 0.5, 1.0, 1.0, 0.55, 0.1]
        >>> [round(rate_share(step, warmup_steps=10, steps=None), 3) for step in (9, 49, 199)]
        [1.0, 1.0, 0.5]
    """
    warmup_steps = warmup_steps if steps is None else min(warmup_steps, steps)
    if step < warmup_steps:
        return (step + 1) / warmup_steps
    if steps is None:
        return min(1.0, math.sqrt(max(1, _SLOWNESS * warmup_steps) / (step + 1)))
    done = min(1.0, (step - warmup_steps) / max(1, steps - warmup_steps))
    return _FLOOR + (1 - _FLOOR) * (1 + math.cos(math.pi * done)) / 2
