"""What a model's own mask function allows, read as a pattern: causality, windows, chunks, packed documents."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import reduce
from operator import and_, or_
from types import CodeType
from typing import Any

import numpy as np
import torch
from transformers import masking_utils

from openwork.hf.rule import ModelRule
from openwork.patterns import Causal, Chunk, Dense, Pattern, Same, Window
from openwork.patterns.annotations import IntArray
from openwork.patterns.base import And, leaves

__all__ = ["OwnMask", "both", "conjuncts", "read_mask_function"]

PACKED, BLOCK = "openwork.packed", "openwork.block"
"""Labels under which the documents of a packed row, and a model's bidirectional blocks, reach the pattern."""


@dataclass(frozen=True)
class OwnMask:
    """A model's own mask, without its padding.

    Attributes:
        pattern: What it allows, in positions; a `ModelRule` where the function is of a kind that is not known.
        labels: Labels that the pattern reads, int `[batch, length]` each, by index from the first token on.
        positions: int `[batch, length]` where the rows are packed and positions restart.
    """

    pattern: Pattern
    labels: dict[str, IntArray] = field(default_factory=dict)
    positions: IntArray | None = None

    @property
    def of_decoder(self) -> bool:
        """Whether it is a decoder's: slots behind the last query are not written yet, whatever else it lets through."""
        return any(isinstance(leaf, Causal | ModelRule) for leaf in leaves(self.pattern))

    @property
    def bidirectional(self) -> bool:
        """Whether every pair is allowed."""
        return isinstance(self.pattern, Dense)


def conjuncts(pattern: Pattern) -> tuple[Pattern, ...]:
    """The patterns that all must allow a pair."""
    return pattern.patterns if isinstance(pattern, And) else (pattern,)


def both(pattern: Pattern, own: Pattern) -> Pattern:
    """The pairs that `pattern` and a model's own mask both allow, in as few words as are easily found."""
    if isinstance(own, Dense):
        return pattern
    if isinstance(pattern, Dense):
        return own
    known = conjuncts(pattern)
    for part in conjuncts(own):
        if part not in known:
            pattern = pattern & part
    return pattern


def read_mask_function(function: Callable[..., Any], *, single: bool = False) -> OwnMask:
    """The pattern of a `mask_function`; a `ModelRule` where some part of it is no function of transformers' own.

    transformers composes its masks of closures and hands over the outermost one, which can only be asked pair by
    pair. What they close over (a window's size, the documents of a packed row) says the same at once, so that nothing
    of size q x kv is built. A function is known by its code, so one that was changed is not mistaken for another.
    """
    own = _read(function, single)
    if own.positions is None and PACKED in own.labels:
        # before packed_sequence_compatibility_function, transformers kept documents apart and went on counting
        own = replace(own, positions=_places(own.labels[PACKED]))
    return own


def _places(documents: IntArray) -> IntArray:
    """The place of each token in its document, int `[batch, length]`, from labels that change where one starts."""
    index = np.broadcast_to(np.arange(documents.shape[1]), documents.shape)
    starts = np.diff(documents, axis=1, prepend=documents[:, :1] - 1) != 0
    places: IntArray = index - np.maximum.accumulate(np.where(starts, index, 0), axis=1)
    return places


_NOTHING = ~Dense()


def _inner(maker: str, *arguments: Any) -> CodeType | None:
    """The code of the function that a maker of `masking_utils` returns; None where this version has no such maker."""
    made = getattr(masking_utils, maker, None)
    if made is None:
        return None
    code: CodeType = made(*arguments).__code__
    return code


def _nothing(*_: Any) -> None: ...


# private in the sense that transformers does not document what these close over; see `read_mask_function`
_CODES: dict[CodeType | None, str] = {
    masking_utils.causal_mask_function.__code__: "causal",
    masking_utils.bidirectional_mask_function.__code__: "bidirectional",
    _inner("and_masks", _nothing): "and",
    _inner("or_masks", _nothing): "or",
    _inner("sliding_window_overlay", 1): "window",
    _inner("sliding_window_bidirectional_overlay", 1): "two-sided window",
    _inner("chunked_overlay", 1, None): "chunk",
    _inner("packed_sequence_mask_function", None): "packed",
    _inner("remap_positions_for_packed_sequence", None, None): "remap",
    _inner("blockwise_overlay", None): "block",
}


def _read(function: Any, single: bool) -> OwnMask:
    kind = _CODES.get(getattr(function, "__code__", None))
    if kind is None:
        return OwnMask(ModelRule(function, single))
    cells = {} if function.__closure__ is None else _cells(function)
    if kind == "causal":
        return OwnMask(Causal())
    if kind == "bidirectional":
        return OwnMask(Dense())
    if kind in ("and", "or"):
        return _joined([_read(part, single) for part in cells["mask_functions"]], kind)
    if kind in ("window", "two-sided window") and int(cells["sliding_window"]) < 1:
        # Qwen2-MoE without local layers makes a mask for a window of 0 keys, which no layer reads
        return OwnMask(ModelRule(function, single))
    if kind == "window":
        # the overlay alone limits one side only; causality is another function beside it
        return OwnMask(replace(Window.from_hf(int(cells["sliding_window"])), after=None))
    if kind == "two-sided window":
        return OwnMask(Window.from_hf(int(cells["sliding_window"]), bidirectional=True))
    if kind == "chunk":
        return OwnMask(Chunk(size=int(cells["chunk_size"])))
    if kind == "packed":
        return OwnMask(Same(PACKED), labels={PACKED: _array(cells["packed_sequence_mask"])})
    if kind == "block":
        blocks = _array(cells["block_sequence_ids"])
        return OwnMask(Same(BLOCK), labels={BLOCK: blocks}) if (blocks >= 0).any() else OwnMask(_NOTHING)
    inner = _read(cells["mask_function"], single)
    if any(isinstance(leaf, ModelRule) for leaf in leaves(inner.pattern)):
        # it is asked with the positions of a packed row, not with the indices that a ModelRule knows
        return OwnMask(ModelRule(function, single))
    return replace(inner, positions=_array(cells["position_ids"]))


def _cells(function: Any) -> dict[str, Any]:
    values = (cell.cell_contents for cell in function.__closure__)
    return dict(zip(function.__code__.co_freevars, values, strict=True))


def _array(values: torch.Tensor) -> IntArray:
    array: IntArray = values.detach().cpu().numpy().astype(np.int64)
    return array


def _joined(parts: list[OwnMask], kind: str) -> OwnMask:
    neutral = Dense() if kind == "and" else _NOTHING
    patterns = [part.pattern for part in parts if part.pattern != neutral] or [neutral]
    pattern = reduce(and_ if kind == "and" else or_, patterns)
    labels = {name: values for part in parts for name, values in part.labels.items()}
    positions = [part.positions for part in parts if part.positions is not None]
    return OwnMask(pattern, labels, positions[0] if positions else None)
