"""What a pattern is, and the operators that combine patterns."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import reduce
from typing import Any, ClassVar

import numpy as np

from openwork.errors import PatternError
from openwork.patterns.annotations import IntArray
from openwork.patterns.checks import shown, whole
from openwork.patterns.rectangles import FULL, Order, Spans, States, Tokens

__all__ = [
    "And",
    "Not",
    "Or",
    "Pattern",
    "PerHead",
    "broadcast",
    "leaves",
    "negate",
    "smaller",
    "substitute",
    "zero_or_more",
]


_MOST_HEADS = 65_536
"""More heads than any model has: a typo, or a text that wants to fill the memory."""


def negate(condition: Any) -> Any:
    """The boolean complement on every input type: bool, NumPy, torch (`~True` would be -2)."""
    return not condition if isinstance(condition, bool) else ~condition


def broadcast(condition: Any, other: Any) -> Any:
    """`condition`, which reads one side of the pairs only, in the shape that both sides have together."""
    return condition & (other == other)


def zero_or_more(x: Any) -> Any:
    """`max(x, 0)` on every input type."""
    return x * (x > 0)


def smaller(a: Any, b: Any) -> Any:
    """`min(a, b)` on every input type."""
    return b + (a - b) * (a < b)


class Pattern:
    """Which pairs of query and key positions may interact: a pure value without lengths.

    Subclasses are frozen dataclasses. Patterns combine with `&`, `|`, `~` and `-`; they have no truth value.
    A subclass gives `allows`; the rest has defaults that are right and slow:

    - `pairs`: the same answer for tokens, where annotations are needed;
    - `states`: *empty*, *full* or *partial* for whole rectangles (see `openwork.patterns.rectangles`);
    - `signature`: numbers that are equal only where the bitmasks of two blocks are equal (padding apart);
    - `orders`: in which token order the pairs would be dense.
    """

    needs: ClassVar[Mapping[str, str]] = {}
    """Annotations read: name to kind (`"flag"`, `"label"`, `"links"`); instances of annotated patterns override."""

    def allows(self, q_pos: Any, kv_pos: Any) -> Any:
        """Whether the query at `q_pos` may attend to the key at `kv_pos` (ints, NumPy or torch; broadcasts)."""
        raise NotImplementedError(f"{type(self).__name__} must define allows(q_pos, kv_pos)")

    def pairs(self, q: Tokens, k: Tokens) -> Any:
        """Whether each pair of tokens is allowed; padding is the caller's to remove."""
        return self.allows(q.position, k.position)

    def states(self, q: Spans, k: Spans) -> States:
        """`EMPTY`, `PARTIAL` or `FULL` for each rectangle; `PARTIAL` is always right."""
        return np.ones(len(q.low), dtype=np.int8)

    def signature(self, q: Spans, k: Spans) -> list[IntArray] | None:
        """Numbers that fix each block's bitmask, padding apart; `None`: every block must be looked at."""
        return None

    def orders(self) -> tuple[Order, ...]:
        """Token orders in which the allowed pairs form dense blocks; none by default."""
        return ()

    def head(self, head: int) -> Pattern:
        """The pattern of query head `head`: itself, except for `PerHead`."""
        return self

    def __and__(self, other: Pattern) -> Pattern:
        if not isinstance(other, Pattern):
            return NotImplemented
        return _combine(And, self, other, "&")

    def __or__(self, other: Pattern) -> Pattern:
        if not isinstance(other, Pattern):
            return NotImplemented
        return _combine(Or, self, other, "|")

    def __sub__(self, other: Pattern) -> Pattern:
        if not isinstance(other, Pattern):
            return NotImplemented
        return _combine(And, self, ~other, "-")

    def __invert__(self) -> Pattern:
        return Not(self)

    def __bool__(self) -> bool:
        raise PatternError(
            "a pattern has no truth value: `and`, `or` and `not` do not combine patterns; use `&`, `|` and `~`"
        )

    def _repr_html_(self) -> str:
        from openwork.layout.show import pattern_html

        return pattern_html(self)


def _combine(node: Callable[[tuple[Pattern, ...]], Pattern], left: Pattern, right: Pattern, sign: str) -> Pattern:
    heads = {len(p.patterns) for p in (left, right) if isinstance(p, PerHead)}
    if len(heads) > 1:
        few, many = sorted(heads)
        raise PatternError(f"`{sign}` joins PerHead patterns of equally many heads; got {few} and {many}.")
    if heads:
        return PerHead(*(_combine(node, left.head(h), right.head(h), sign) for h in range(heads.pop())))
    return node((left, right))


@dataclass(frozen=True, repr=False)
class _Nary(Pattern):
    patterns: tuple[Pattern, ...]

    sign: ClassVar[str]

    def __post_init__(self) -> None:
        # nested alike, it would be equal in meaning but not in value to what its text reads back as
        parts: list[Pattern] = []
        for pattern in self.patterns:
            parts += pattern.patterns if isinstance(pattern, _Nary) and type(pattern) is type(self) else [pattern]
        object.__setattr__(self, "patterns", tuple(parts))

    @property
    def needs(self) -> Mapping[str, str]:  # type: ignore[override]
        return _join_needs(self.patterns)

    def __repr__(self) -> str:
        # `&` binds tighter than `|`, so only an Or inside an And needs brackets
        texts = (f"({p!r})" if isinstance(p, Or) else repr(p) for p in self.patterns)
        return f" {self.sign} ".join(texts)


@dataclass(frozen=True, repr=False)
class And(_Nary):
    """Pairs that every one of `patterns` allows; written `a & b`."""

    sign: ClassVar[str] = "&"

    def allows(self, q_pos: Any, kv_pos: Any) -> Any:
        """Whether every pattern allows the pair."""
        return reduce(lambda a, b: a & b, (p.allows(q_pos, kv_pos) for p in self.patterns))

    def pairs(self, q: Tokens, k: Tokens) -> Any:
        """Whether every pattern allows the pair of tokens."""
        return reduce(lambda a, b: a & b, (p.pairs(q, k) for p in self.patterns))

    def states(self, q: Spans, k: Spans) -> States:
        """The smallest state."""
        return reduce(np.minimum, (p.states(q, k) for p in self.patterns))

    def signature(self, q: Spans, k: Spans) -> list[IntArray] | None:
        """The states of all patterns, and the signatures of the partial ones."""
        return _signatures(self.patterns, q, k)


@dataclass(frozen=True, repr=False)
class Or(_Nary):
    """Pairs that any one of `patterns` allows; written `a | b`."""

    sign: ClassVar[str] = "|"

    def allows(self, q_pos: Any, kv_pos: Any) -> Any:
        """Whether any pattern allows the pair."""
        return reduce(lambda a, b: a | b, (p.allows(q_pos, kv_pos) for p in self.patterns))

    def pairs(self, q: Tokens, k: Tokens) -> Any:
        """Whether any pattern allows the pair of tokens."""
        return reduce(lambda a, b: a | b, (p.pairs(q, k) for p in self.patterns))

    def states(self, q: Spans, k: Spans) -> States:
        """The largest state."""
        return reduce(np.maximum, (p.states(q, k) for p in self.patterns))

    def signature(self, q: Spans, k: Spans) -> list[IntArray] | None:
        """The states of all patterns, and the signatures of the partial ones."""
        return _signatures(self.patterns, q, k)


@dataclass(frozen=True, repr=False)
class Not(Pattern):
    """Pairs that `pattern` does not allow; written `~pattern`. Padding stays padding."""

    pattern: Pattern

    def __new__(cls, pattern: Pattern) -> Any:
        """The complement; of a `PerHead` head by head, of a `Not` the pattern inside."""
        if isinstance(pattern, PerHead):
            return PerHead(*(~p for p in pattern.patterns))
        if isinstance(pattern, Not):
            return pattern.pattern
        return super().__new__(cls)

    @property
    def needs(self) -> Mapping[str, str]:  # type: ignore[override]
        """What the pattern inside reads."""
        return self.pattern.needs

    def allows(self, q_pos: Any, kv_pos: Any) -> Any:
        """Whether the pattern does not allow the pair."""
        return negate(self.pattern.allows(q_pos, kv_pos))

    def pairs(self, q: Tokens, k: Tokens) -> Any:
        """Whether the pattern does not allow the pair of tokens."""
        return negate(self.pattern.pairs(q, k))

    def states(self, q: Spans, k: Spans) -> States:
        """Full where the pattern is empty, and the reverse."""
        return (FULL - self.pattern.states(q, k)).astype(np.int8)

    def signature(self, q: Spans, k: Spans) -> list[IntArray] | None:
        """The pattern's own."""
        return self.pattern.signature(q, k)

    def __repr__(self) -> str:
        return f"~({self.pattern!r})" if isinstance(self.pattern, _Nary) else f"~{self.pattern!r}"

    def __invert__(self) -> Pattern:
        return self.pattern

    def __getnewargs__(self) -> tuple[Pattern]:
        return (self.pattern,)


@dataclass(frozen=True, init=False, repr=False)
class PerHead(Pattern):
    """Query head `h` uses its own pattern, `patterns[h]`.

    There are as many patterns as query heads. `&`, `|`, `~` and `-` distribute over the heads. A `PerHead` does
    not hold another one, and `allows` is asked of `pattern.head(h)`.

    Args:
        patterns: One pattern for each query head.

    Raises:
        PatternError: There is no pattern, or one of them is not a pattern or a `PerHead` itself.

    Examples:
        >>> from openwork.patterns import Causal, PerHead, Window
        >>> heads = Causal() & PerHead(Window(before=3), Window(before=31))
        >>> heads.head(1)
        Causal() & Window(before=31, after=0)
        >>> PerHead.of({range(0, 2): Window(before=3)}, default=Causal(), heads=3)
        PerHead(Window(before=3, after=0), Window(before=3, after=0), Causal())
    """

    patterns: tuple[Pattern, ...]

    def __init__(self, *patterns: Pattern) -> None:
        if not patterns:
            raise PatternError("PerHead needs one pattern for each query head; got none.")
        if len(patterns) > _MOST_HEADS:
            raise PatternError(f"PerHead takes {_MOST_HEADS:,} patterns or fewer; got {len(patterns):,}.")
        for head, pattern in enumerate(patterns):
            if isinstance(pattern, PerHead):
                raise PatternError(f"PerHead does not nest: the pattern of head {head} is itself a PerHead.")
            if not isinstance(pattern, Pattern):
                raise PatternError(f"PerHead takes patterns; head {head} got {shown(pattern)}.")
        object.__setattr__(self, "patterns", tuple(patterns))

    @classmethod
    def of(cls, heads_to_pattern: Mapping[int | range, Pattern], *, default: Pattern, heads: int) -> PerHead:
        """A `PerHead` from a table of heads; heads that are not named get `default`.

        Args:
            heads_to_pattern: Head numbers, or ranges of them, to patterns.
            default: Pattern of every other head.
            heads: Number of query heads.

        Raises:
            PatternError: A head is no integer, outside `0..heads-1`, or named twice.
        """
        heads = whole("PerHead.of heads", heads, at_least=1, at_most=_MOST_HEADS)
        if not isinstance(heads_to_pattern, Mapping):
            raise PatternError(f"PerHead.of takes a table {{head: pattern}}; got {shown(heads_to_pattern)}.")
        patterns: dict[int, Pattern] = {}
        for key, pattern in heads_to_pattern.items():
            for head in key if isinstance(key, range) else (key,):
                if isinstance(head, bool | np.bool_) or not isinstance(head, int | np.integer):
                    raise PatternError(f"PerHead.of names heads by integers or ranges of them; got {shown(head)}.")
                if not 0 <= head < heads:
                    raise PatternError(
                        f"PerHead.of names head {shown(head)}, but there are {heads} heads (0 to {heads - 1})."
                    )
                if head in patterns:
                    raise PatternError(f"PerHead.of names head {head} twice.")
                patterns[head] = pattern
        return cls(*(patterns.get(head, default) for head in range(heads)))

    @property
    def needs(self) -> Mapping[str, str]:  # type: ignore[override]
        """What the patterns read, together."""
        return _join_needs(self.patterns)

    def allows(self, q_pos: Any, kv_pos: Any) -> Any:
        """Raises: each head has its own answer."""
        raise PatternError("PerHead has one answer for each head: ask pattern.head(h).allows(q_pos, kv_pos).")

    def pairs(self, q: Tokens, k: Tokens) -> Any:
        """Raises: each head has its own answer."""
        raise PatternError("PerHead has one answer for each head: bind pattern.head(h), or use bound.head(h).")

    def states(self, q: Spans, k: Spans) -> States:
        """Raises: each head has its own answer."""
        raise PatternError("PerHead has one answer for each head: ask pattern.head(h).states(q, k).")

    def head(self, head: int) -> Pattern:
        """The pattern of query head `head`."""
        if not 0 <= head < len(self.patterns):
            raise PatternError(f"head {head} does not exist: PerHead has {len(self.patterns)} heads.")
        return self.patterns[head]

    def __repr__(self) -> str:
        return f"PerHead({', '.join(map(repr, self.patterns))})"


def _join_needs(patterns: Iterable[Pattern]) -> Mapping[str, str]:
    needs: dict[str, str] = {}
    for pattern in patterns:
        for name, kind in pattern.needs.items():
            # two kinds under one name: the binder looks up each leaf by its own kind, so keep both
            needs[name] = kind if needs.get(name, kind) == kind else f"{needs[name]}+{kind}"
    return needs


def _signatures(patterns: tuple[Pattern, ...], q: Spans, k: Spans) -> list[IntArray] | None:
    columns: list[IntArray] = []
    for pattern in patterns:
        states = pattern.states(q, k)
        signature = pattern.signature(q, k) if (states == 1).any() else []
        if signature is None:
            return None
        partial = states == 1
        columns.append(states.astype(np.int64))
        columns += [np.where(partial, column, 0) for column in signature]
    return columns


def leaves(pattern: Pattern) -> Iterator[Pattern]:
    """The patterns that `pattern` is composed of, left to right, each time they occur."""
    if isinstance(pattern, _Nary | PerHead):
        for part in pattern.patterns:
            yield from leaves(part)
    elif isinstance(pattern, Not):
        yield from leaves(pattern.pattern)
    else:
        yield pattern


def substitute(pattern: Pattern, values: Mapping[Pattern, bool]) -> Pattern | bool:
    """The pattern where each leaf in `values` is replaced by a constant, simplified; a constant if nothing is left."""
    if isinstance(pattern, _Nary):
        absorbing = isinstance(pattern, Or)
        kept: list[Pattern] = []
        for part in pattern.patterns:
            value = substitute(part, values)
            if value is absorbing:
                return absorbing
            if not isinstance(value, bool):
                kept.append(value)
        if not kept:
            return not absorbing
        return kept[0] if len(kept) == 1 else type(pattern)(tuple(kept))
    if isinstance(pattern, Not):
        value = substitute(pattern.pattern, values)
        return not value if isinstance(value, bool) else Not(value)
    return values.get(pattern, pattern)
