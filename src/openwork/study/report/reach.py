"""How far information gets in the model of a study: by attention, and by its short convolutions."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from openwork.check import reachability
from openwork.check.reach import Reach
from openwork.patterns import Annotations, Causal, Custom, Pattern, Window
from openwork.plan import Plan
from openwork.study.contender import Contender
from openwork.study.masks import load_mask
from openwork.study.shapes import ModelFacts

__all__ = ["model_reach"]


def model_reach(model: ModelFacts, contender: Contender, length: int, notes: Annotations | None) -> Reach:
    """What reaches what after each attention layer; a short convolution counts as `Window(before=width - 1)`.

    Args:
        model: Its layers, and what its short convolutions bring in ahead of each.
        contender: A plan or a mask.
        length: Number of tokens.
        notes: Facts that the plan reads.
    """
    plan = contender.plan_of_layers
    if plan is None:
        assert contender.mask is not None
        plan = Plan(default=_pattern_of(contender.mask))
    steps: list[Pattern] = []
    ends: list[int] = []
    for layer in range(model.num_layers):
        steps += _mixing(model.mixes[layer])
        steps.append(plan.for_layer(layer, model.num_layers))
        ends.append(len(steps))
    steps += _mixing(model.mixes[-1])
    ends[-1] = len(steps)
    reach = reachability(Plan(default=Causal(), layers=dict(enumerate(steps))), length, len(steps), notes)
    hops = None if reach.hops is None else next(n for n, end in enumerate(ends, start=1) if end >= reach.hops)
    return replace(reach, hops=hops, coverage=tuple(reach.coverage[end - 1] for end in ends))


def _mixing(before: int) -> list[Pattern]:
    return [Causal() & Window(before=before)] if before else []


def _pattern_of(path: Path) -> Pattern:
    """The mask as a pattern; where heads differ, what any of them lets through."""
    mask = load_mask(path)
    mask = mask.any(axis=0) if mask.ndim == 3 else mask
    return Causal() & Custom(lambda q_pos, kv_pos: mask[q_pos, kv_pos], path.name)
