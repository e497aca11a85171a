"""How far information gets: which pairs of tokens are connected after each layer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from openwork.check.layers import Layers, layers_of
from openwork.check.links import TextLink, WatchedLinks
from openwork.check.walk import Progress, walk
from openwork.errors import ArgumentError
from openwork.layout.data import BlockLayout
from openwork.patterns.annotations import Annotations
from openwork.patterns.base import Pattern
from openwork.plan import Plan

__all__ = ["Reach", "predicted_accuracy", "reach_and_hops", "reachability"]


@dataclass(frozen=True)
class Reach:
    """How many layers connect which pairs.

    Attributes:
        hops: Layers until every pair is connected; `None` if they are not after all layers that were looked at.
        coverage: Share of pairs connected after each layer, a fraction. It never falls: a token keeps what it has.
        causal: Whether pairs are those with `k <= q`, because no layer looks ahead; else they are all pairs.
        settled: Whether more layers of the same patterns would add nothing.
    """

    hops: int | None
    coverage: tuple[float, ...]
    causal: bool = True
    settled: bool = False

    def after(self, layers: int) -> float:
        """Share of pairs connected after so many layers; after 0 each token has itself alone."""
        if not 1 <= layers <= len(self.coverage):
            raise ArgumentError(f"layers must be 1 to {len(self.coverage)}, as far as was looked; got {layers}.")
        return self.coverage[layers - 1]

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "hops": self.hops,
            "coverage": list(self.coverage),
            "causal": self.causal,
            "settled": self.settled,
        }


def reachability(
    subject: Pattern | Plan | BlockLayout,
    length: int | None = None,
    layers: int = 64,
    annotations: Annotations | None = None,
    *,
    progress: Progress | None = None,
) -> Reach:
    """What reaches what in 1, 2, ... layers; exact, by sets of keys.

    After a layer a query holds what it held (the residual connection) and what the keys that it sees held. A layer
    whose heads differ lets through what any of its heads does.

    Args:
        subject: A pattern, a plan (each layer its own pattern) or a layout.
        length: Number of tokens; may be left out of a layout.
        layers: Layers to look at; of a plan, the layers of its model.
        annotations: Facts about the tokens.
        progress: Called with the share of the work that is done, 0 to 1.

    Raises:
        ArgumentError: `subject`, `length` or `layers` is none.
        AnnotationError: A pattern reads an annotation that is missing or of another length.

    Examples:
        >>> import openwork as ow
        >>> reachability(ow.Causal() & ow.Window(before=2), 7, layers=4)
        Reach(hops=3, coverage=(0.6428..., 0.8928..., 1.0, 1.0), causal=True, settled=True)
        >>> reachability(ow.Chunk(4), 8).hops is None
        True
    """
    return reach_and_hops(layers_of(subject, length, layers, annotations), None, progress)[0]


def reach_and_hops(
    model: Layers, links: Sequence[TextLink] | None, progress: Progress | None = None
) -> tuple[Reach, tuple[TextLink, ...] | None]:
    """The reach of layers, and the links with the layers that each takes, in one walk."""
    length = model.length
    total = length * (length + 1) // 2 if model.causal else length * length
    watch = WatchedLinks(links or (), length)
    result = walk(
        model.runs,
        model.order,
        length,
        np.arange(length),
        causal=model.causal,
        watch=(watch.queries, watch.keys),
        progress=progress,
    )
    full = np.flatnonzero(result.connected == total)
    coverage = tuple((result.connected / total).tolist())
    reach = Reach(int(full[0]) + 1 if len(full) else None, coverage, model.causal, result.settled)
    return reach, None if links is None else watch.with_hops(result.hops)


def predicted_accuracy(reached_share: float, num_choices: int) -> float:
    """How often a lookup can succeed at best: what is reached is found, the rest is guessed.

    `f + (1 - f) / V`, for a share `f` of lookups whose answer can be reached, among `V` equally likely answers.

    Args:
        reached_share: Share of the lookups that are reached, 0 to 1.
        num_choices: Possible answers, 1 or more.

    Raises:
        ArgumentError: A value is out of range.

    Examples:
        >>> predicted_accuracy(0.5, 16)
        0.53125
    """
    if not 0 <= reached_share <= 1:
        raise ArgumentError(f"reached_share is a fraction, 0 to 1; got {reached_share!r}.")
    if num_choices < 1:
        raise ArgumentError(f"num_choices must be 1 or more; got {num_choices!r}.")
    return reached_share + (1 - reached_share) / num_choices
