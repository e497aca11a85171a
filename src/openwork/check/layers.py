"""What is checked: a pattern, a plan or a layout, as the layout of each layer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from openwork.check.pairs import FUTURE, count_pairs
from openwork.check.runs import PartRuns, plane_runs
from openwork.errors import ArgumentError, LayoutError
from openwork.layout.compile import compile_layout
from openwork.layout.data import BlockLayout, Plane
from openwork.patterns.annotations import Annotations, IntArray
from openwork.patterns.base import Pattern, PerHead
from openwork.plan import Plan

__all__ = ["Layers", "layers_of"]

MOST_LAYERS = 4096


@dataclass(frozen=True, eq=False)
class Layers:
    """The layouts of a model's layers.

    Attributes:
        layouts: The distinct ones.
        names: The text of each pattern.
        order: For each layer, from 0, the number of its layout.
        length: Tokens of the sequence.
        annotations: Facts about them, where there are any.
    """

    layouts: tuple[BlockLayout, ...]
    names: tuple[str, ...]
    order: tuple[int, ...]
    length: int
    annotations: Annotations | None

    def layers_with(self, number: int) -> tuple[int, ...]:
        """The layers that use layout `number`."""
        return tuple(layer for layer, which in enumerate(self.order) if which == number)

    @property
    def used(self) -> tuple[int, ...]:
        """Numbers of the layouts in the order in which layers first use them."""
        return tuple(dict.fromkeys(self.order))

    def planes(self, number: int) -> Mapping[Plane, tuple[int, ...]]:
        """The planes of layout `number`, each with the heads that use it."""
        layout = self.layouts[number]
        heads: dict[Plane, tuple[int, ...]] = {}
        for head, which in enumerate(layout.index[0]):
            plane = layout.planes[which]
            heads[plane] = (*heads.get(plane, ()), head)
        return heads

    def positions(self, number: int) -> tuple[IntArray, IntArray]:
        """Positions of the queries and of the keys of layout `number`, int64 `[length]`."""
        layout = self.layouts[number]
        q, k = layout.q_positions, layout.kv_positions
        default_q = np.arange(layout.q_start, layout.q_start + layout.q_len, dtype=np.int64)
        default_k = np.arange(layout.kv_len, dtype=np.int64)
        return default_q if q is None else q[0], default_k if k is None else k[0]

    @cached_property
    def causal(self) -> bool:
        """Whether no layer lets a query see a later key."""
        return not any(
            count_pairs(plane, FUTURE, *self.positions(number)).any()
            for number in self.used
            for plane in self.planes(number)
        )

    @cached_property
    def runs(self) -> tuple[tuple[PartRuns, ...], ...]:
        """For each layout the parts of all its heads, as runs."""
        return tuple(
            tuple(part for plane in self.planes(number) for part in plane_runs(plane))
            for number in range(len(self.layouts))
        )


def layers_of(
    subject: Pattern | Plan | BlockLayout,
    length: int | None,
    layers: int,
    annotations: Annotations | None = None,
) -> Layers:
    """The layouts of `layers` layers.

    Args:
        subject: A pattern or a layout that every layer uses, or a plan.
        length: Number of tokens; may be left out of a layout.
        layers: Number of layers.
        annotations: Facts about the tokens.

    Raises:
        ArgumentError: `subject` is none of the three, or `layers` or `length` is out of range.
        LayoutError: The layout has several sequences, or other lengths.
        PlanError: The plan names a layer that there is not.
    """
    if isinstance(layers, bool) or not isinstance(layers, int) or not 1 <= layers <= MOST_LAYERS:
        raise ArgumentError(f"layers must be 1 to {MOST_LAYERS}; got {layers!r}.")
    if isinstance(subject, BlockLayout):
        return _of_layout(subject, length, layers, annotations)
    if not isinstance(subject, Pattern | Plan):
        raise ArgumentError(
            f"a check takes a pattern, a plan or a layout; got {type(subject).__name__}. Read text with "
            "parse_pattern; a boolean tensor is a layout: BlockLayout.from_mask(mask)."
        )
    if isinstance(length, bool) or not isinstance(length, int) or length < 1:
        raise ArgumentError(f"length must be 1 or more tokens; got {length!r}.")
    plan = Plan.of(subject)
    patterns = [_without_copies(plan.for_layer(layer, layers)) for layer in range(layers)]
    distinct = list(dict.fromkeys(patterns))
    layouts = tuple(
        compile_layout(pattern, q_len=length, kv_len=length, annotations=annotations) for pattern in distinct
    )
    order = tuple(distinct.index(pattern) for pattern in patterns)
    return Layers(layouts, tuple(map(repr, distinct)), order, length, annotations)


def _without_copies(pattern: Pattern) -> Pattern:
    """The pattern itself; of a `PerHead` whose heads are all alike, that of one head."""
    if isinstance(pattern, PerHead) and len(set(pattern.patterns)) == 1:
        return pattern.patterns[0]
    return pattern


def _of_layout(layout: BlockLayout, length: int | None, layers: int, annotations: Annotations | None) -> Layers:
    if layout.batch > 1:
        raise LayoutError(
            f"the layout is for {layout.batch} sequences that differ; check one at a time, such as "
            "BlockLayout.from_mask(mask[0])."
        )
    if layout.q_len != layout.kv_len:
        raise LayoutError(
            f"the layout has q_len={layout.q_len} and kv_len={layout.kv_len}; what reaches what is a question about "
            "queries and keys of the same tokens. Give a square mask, or the layout of the whole sequence."
        )
    if length is not None and length != layout.q_len:
        raise LayoutError(f"the layout is for {layout.q_len} tokens, but length={length}; leave length out.")
    if annotations is not None and annotations.length != layout.q_len:
        raise LayoutError(f"annotations describe {annotations.length} tokens, but the layout is for {layout.q_len}.")
    name = "a mask" if layout.pattern is None else repr(layout.pattern)
    return Layers((layout,), (name,), (0,) * layers, layout.q_len, annotations)
