"""`Keys` and `Queries`: tokens that carry a flag are seen by all, or see all."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from openwork.errors import PatternError
from openwork.patterns.annotations import IntArray
from openwork.patterns.base import Pattern, broadcast
from openwork.patterns.checks import fact_name
from openwork.patterns.rectangles import Order, Spans, States, Tokens, no_tokens, states_from

__all__ = ["Keys", "Queries", "needs_binding"]


def needs_binding(pattern: Pattern) -> PatternError:
    """The error of an annotated pattern that is asked about positions alone."""
    return PatternError(
        f"{pattern!r} reads annotations, so positions alone do not decide it: "
        f"ow.bind(pattern, q_len=..., kv_len=..., annotations=...).allows(q_idx, kv_idx) answers."
    )


@dataclass(frozen=True)
class _Flagged(Pattern):
    name: str

    def __post_init__(self) -> None:
        fact_name(type(self).__name__, self.name)

    @property
    def needs(self) -> Mapping[str, str]:  # type: ignore[override]
        return {self.name: "flag"}

    def allows(self, q_pos: Any, kv_pos: Any) -> Any:
        """Raises: positions alone do not decide; bind the pattern."""
        raise needs_binding(self)

    def _side(self, q: Any, k: Any) -> tuple[Any, Any]:
        raise NotImplementedError

    def _selected(self, tokens: Tokens) -> IntArray:
        return tokens.flag(self.name).astype(np.int64)

    def pairs(self, q: Tokens, k: Tokens) -> Any:
        """Whether the token carries the flag."""
        side, other = self._side(q, k)
        return broadcast(side.flag(self.name), other.index)

    def states(self, q: Spans, k: Spans) -> States:
        """Exact."""
        low, high = self._side(q, k)[0].range_of(("flag", self.name), self._selected)
        none = no_tokens(q, k)
        return states_from(none | (high < 1), ~none & (low > 0))

    def signature(self, q: Spans, k: Spans) -> list[IntArray]:
        """Which tokens of the block carry the flag."""
        return [self._side(q, k)[0].content(("flag", self.name), self._selected)]


@dataclass(frozen=True)
class Keys(_Flagged):
    """Attend to every key that carries flag `name`: global keys.

    Key `j` is seen by every query when `flag[j]`.

    Source: global attention of Longformer (arXiv 2004.05150) and of BigBird-ETC (arXiv 2007.14062), with the
    global tokens named by an annotation: headings, lines that define something, a question.

    Args:
        name: Name of the flag.

    Raises:
        PatternError: The name is not a non-empty string.

    Examples:
        >>> from openwork.patterns import Annotations
        >>> from openwork.testing import assert_mask
        >>> notes = Annotations(length=5, flags={"heading": [1, 0, 0, 1, 0]})
        >>> assert_mask(Keys("heading"), '''
        ...     # . . # .
        ...     # . . # .
        ...     # . . # .
        ...     # . . # .
        ...     # . . # .
        ... ''', annotations=notes)
    """

    def _side(self, q: Any, k: Any) -> tuple[Any, Any]:
        return k, q

    def orders(self) -> tuple[Order, ...]:
        """The keys selected."""
        return (Order("keys", select=self._selected),)


@dataclass(frozen=True)
class Queries(_Flagged):
    """Attend from every query that carries flag `name` to every key: global queries.

    Query `i` sees every key when `flag[i]`.

    Source: global attention of Longformer (arXiv 2004.05150) and of BigBird-ETC (arXiv 2007.14062); symmetric
    global tokens are `Keys(name) | Queries(name)`.

    Args:
        name: Name of the flag.

    Raises:
        PatternError: The name is not a non-empty string.

    Examples:
        >>> from openwork.patterns import Annotations
        >>> from openwork.testing import assert_mask
        >>> notes = Annotations(length=4, flags={"question": [0, 0, 1, 1]})
        >>> assert_mask(Queries("question"), '''
        ...     . . . .
        ...     . . . .
        ...     # # # #
        ...     # # # #
        ... ''', annotations=notes)
    """

    def _side(self, q: Any, k: Any) -> tuple[Any, Any]:
        return q, k

    def orders(self) -> tuple[Order, ...]:
        """The queries selected."""
        return (Order("queries", select=self._selected),)
