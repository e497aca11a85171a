"""`Same` and `Earlier`: pairs whose labels are equal, or in order."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from openwork.patterns.annotations import IntArray
from openwork.patterns.base import Pattern
from openwork.patterns.checks import fact_name
from openwork.patterns.flags import needs_binding
from openwork.patterns.rectangles import Order, Spans, States, Tokens, no_tokens, states_from

__all__ = ["Earlier", "Same"]

_NONE = np.iinfo(np.int64).max


@dataclass(frozen=True)
class _Labelled(Pattern):
    name: str

    def __post_init__(self) -> None:
        fact_name(type(self).__name__, self.name)

    @property
    def needs(self) -> Mapping[str, str]:  # type: ignore[override]
        return {self.name: "label"}

    def allows(self, q_pos: Any, kv_pos: Any) -> Any:
        """Raises: positions alone do not decide; bind the pattern."""
        raise needs_binding(self)

    def _label(self, tokens: Tokens) -> IntArray:
        return tokens.label(self.name)

    def _label_or_none(self, tokens: Tokens) -> IntArray:
        label = tokens.label(self.name)
        return np.where(label < 0, _NONE, label)

    def _range(self, side: Spans) -> tuple[IntArray, IntArray, IntArray]:
        """Smallest label, smallest label that is one, largest label of each set."""
        low, high = side.range_of(("label", self.name), self._label)
        least, _ = side.range_of(("label or none", self.name), self._label_or_none)
        return low, least, high

    def signature(self, q: Spans, k: Spans) -> list[IntArray]:
        """The labels of both blocks."""
        return [side.content(("label", self.name), self._label) for side in (q, k)]


@dataclass(frozen=True)
class Same(_Labelled):
    """Attend to keys whose label `name` equals the query's.

    Query `i` sees key `j` when `label[i] == label[j] >= 0`; a label below 0 matches nothing, on either side.

    Source: packed documents, as in the block-diagonal masks of xformers and FlashAttention's variable-length
    calls; also speakers of a dialogue and retrieved passages.

    Args:
        name: Name of the label.

    Raises:
        PatternError: The name is not a non-empty string.

    Examples:
        >>> from openwork.patterns import Annotations
        >>> from openwork.testing import assert_mask
        >>> notes = Annotations(length=6, labels={"document": [0, 0, 1, 1, 1, -1]})
        >>> assert_mask(Same("document"), '''
        ...     # # . . . .
        ...     # # . . . .
        ...     . . # # # .
        ...     . . # # # .
        ...     . . # # # .
        ...     . . . . . .
        ... ''', annotations=notes)
    """

    def pairs(self, q: Tokens, k: Tokens) -> Any:
        """Whether the labels are equal and not below 0."""
        q_label = q.label(self.name)
        return (q_label == k.label(self.name)) & (q_label >= 0)

    def states(self, q: Spans, k: Spans) -> States:
        """By the ranges of labels; exact where each set has labels without gaps."""
        (q_low, q_least, q_high), (k_low, k_least, k_high) = self._range(q), self._range(k)
        none = no_tokens(q, k)
        apart = (q_high < k_least) | (k_high < q_least)
        one = (q_low == q_high) & (k_low == k_high) & (q_low == k_low) & (q_low >= 0)
        return states_from(none | (q_high < 0) | (k_high < 0) | apart, ~none & one)

    def orders(self) -> tuple[Order, ...]:
        """Sorted by label."""
        return (Order("sort", sort_queries=self._label, sort_keys=self._label),)


@dataclass(frozen=True)
class Earlier(_Labelled):
    """Attend to keys whose label `name` is less than the query's.

    Query `i` sees key `j` when `0 <= label[j] < label[i]`; a label below 0 matches nothing, on either side.

    Source: the offset block-causal mask of block diffusion (Arriola et al. 2025, arXiv 2503.09573), where the label
    is the number of the block; also earlier turns of a dialogue.

    Args:
        name: Name of the label.

    Raises:
        PatternError: The name is not a non-empty string.

    Examples:
        >>> from openwork.patterns import Annotations
        >>> from openwork.testing import assert_mask
        >>> notes = Annotations(length=6, labels={"turn": [0, 0, 1, -1, 2, 2]})
        >>> assert_mask(Earlier("turn"), '''
        ...     . . . . . .
        ...     . . . . . .
        ...     # # . . . .
        ...     . . . . . .
        ...     # # # . . .
        ...     # # # . . .
        ... ''', annotations=notes)
    """

    def pairs(self, q: Tokens, k: Tokens) -> Any:
        """Whether the key's label is less than the query's and not below 0."""
        k_label = k.label(self.name)
        return (k_label >= 0) & (k_label < q.label(self.name))

    def states(self, q: Spans, k: Spans) -> States:
        """Exact: the smallest and largest labels decide."""
        (q_low, _, q_high), (k_low, k_least, k_high) = self._range(q), self._range(k)
        none = no_tokens(q, k)
        return states_from(none | (k_least >= q_high), ~none & (k_low >= 0) & (k_high < q_low))

    def orders(self) -> tuple[Order, ...]:
        """Sorted by label."""
        return (Order("sort", sort_queries=self._label, sort_keys=self._label),)
