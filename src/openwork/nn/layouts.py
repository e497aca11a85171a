"""Layouts for the layers of a model: compiled once for each content, shared by all layers that mean the same."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

import numpy as np

from openwork.layout import BlockLayout, compile_layout
from openwork.nn.graph import outside_graph
from openwork.patterns import Annotations, Pattern
from openwork.plan import Plan

__all__ = ["LayoutCache", "prepare_layouts"]

Facts = Annotations | Sequence[Annotations]


class LayoutCache:
    """The last layouts that were compiled, found again by what they were compiled from.

    The key is the content: pattern, lengths, positions, and those annotations that the pattern reads. Two equal
    batches share a layout, and a pattern that reads no annotation has one layout for all batches of a length.

    Args:
        size: Number of layouts kept; the one unused for longest goes first.

    Examples:
        >>> from openwork.patterns import Causal, Window
        >>> cache = LayoutCache()
        >>> pattern = Causal() & Window(before=7)
        >>> cache.layout(pattern, q_len=64, kv_len=64) is cache.layout(pattern, q_len=64, kv_len=64)
        True
    """

    def __init__(self, size: int = 32) -> None:
        self._size = size
        self._layouts: OrderedDict[tuple[Any, ...], BlockLayout] = OrderedDict()

    @outside_graph
    def layout(
        self,
        pattern: Pattern,
        *,
        q_len: int,
        kv_len: int,
        annotations: Facts | None = None,
        kv_positions: Any = None,
        q_positions: Any = None,
        block_size: tuple[int, int] | None = None,
    ) -> BlockLayout:
        """The compiled layout; the arguments are those of `compile_layout`."""
        read = annotations if pattern.needs else None
        positions = _array_key(kv_positions), _array_key(q_positions)
        key = (pattern, q_len, kv_len, block_size, positions, _facts_key(read, pattern.needs))
        layout = self._layouts.get(key)
        if layout is None:
            layout = compile_layout(
                pattern,
                q_len=q_len,
                kv_len=kv_len,
                annotations=read,
                kv_positions=kv_positions,
                q_positions=q_positions,
                block_size=block_size,
            )
            self._layouts[key] = layout
            while len(self._layouts) > self._size:
                self._layouts.popitem(last=False)
        self._layouts.move_to_end(key)
        return layout


def prepare_layouts(
    plan: Plan | Pattern,
    num_layers: int,
    seq_len: int,
    *,
    annotations: Facts | None = None,
    positions: Any = None,
    cache: LayoutCache | None = None,
) -> tuple[BlockLayout, ...]:
    """One layout for each layer of a model that reads whole sequences; layers of one pattern share theirs.

    Args:
        plan: What each layer uses.
        num_layers: Layers of the model.
        seq_len: Tokens of each sequence; queries and keys are the same tokens.
        annotations: Facts about the tokens, one set, or one for each sequence of the batch. Required where the plan
            reads any.
        positions: int [batch or 1, seq_len] where they are not 0, 1, 2, ...; -1 is padding.
        cache: Keeps layouts between calls; without one, each call compiles anew.

    Raises:
        PlanError: The plan does not fit `num_layers`.
        AnnotationError: The plan reads annotations that are not there, or they have another length.

    Examples:
        >>> from openwork.patterns import Causal, Window
        >>> first, second = prepare_layouts(Causal() & Window(before=15), num_layers=2, seq_len=128)
        >>> first is second
        True
    """
    resolved = Plan.of(plan)
    resolved.check(num_layers)
    cache = cache if cache is not None else LayoutCache()
    return tuple(
        cache.layout(
            resolved.for_layer(layer, num_layers),
            q_len=seq_len,
            kv_len=seq_len,
            annotations=annotations,
            kv_positions=positions,
        )
        for layer in range(num_layers)
    )


def _array_key(array: Any) -> tuple[Any, ...] | None:
    if array is None:
        return None
    if hasattr(array, "detach"):
        array = array.detach().cpu().numpy()
    array = np.ascontiguousarray(array)
    return array.shape, array.dtype.str, hashlib.blake2b(array.tobytes(), digest_size=16).digest()


def _facts_key(annotations: Facts | None, names: Any) -> tuple[Any, ...] | None:
    if annotations is None:
        return None
    single = isinstance(annotations, Annotations)
    sets: Sequence[Annotations] = (annotations,) if isinstance(annotations, Annotations) else annotations
    return (
        single,
        *(
            (
                facts.length,
                *(
                    (kind, name, _array_key(values[name]))
                    for kind, values in _kinds(facts)
                    for name in sorted(values)
                    if name in names
                ),
            )
            for facts in sets
        ),
    )


def _kinds(facts: Annotations) -> tuple[tuple[str, Any], ...]:
    return ("flags", facts.flags), ("labels", facts.labels), ("links", facts.links)
