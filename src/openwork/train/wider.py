"""`wider`: a pattern that also allows what another one allows, in the fewest words."""

from __future__ import annotations

from openwork.patterns import And, Causal, Dense, Pattern, PerHead, Window

__all__ = ["wider"]


def wider(pattern: Pattern, also: Pattern) -> Pattern:
    """Pairs that either pattern allows.

    That is `pattern | also`, written shorter where both are causal, so that the same pairs are the same value and
    the compiler has less to look at.

    Args:
        pattern: Any pattern; of a `PerHead` each head is widened.
        also: What is added.

    Examples:
        >>> wider(Causal() & Window(before=63), Causal() & Window(before=255))
        Causal() & Window(before=255, after=0)
        >>> wider(Causal() & Window(before=63), Causal())
        Causal()
    """
    if isinstance(pattern, PerHead) or isinstance(also, PerHead):
        heads = len((pattern if isinstance(pattern, PerHead) else also).patterns)  # type: ignore[attr-defined]
        both = [(pattern.head(head), also.head(head)) for head in range(heads)]
        return PerHead(*(wider(own, added) for own, added in both))
    past, added = _past(pattern), _past(also)
    if past is None or added is None:
        return _either(pattern, also)
    joined = _either(past, added)
    return Causal() if joined == Dense() else Causal() & joined


def _past(pattern: Pattern) -> Pattern | None:
    """What a causal pattern says beside being causal; `None` for any other."""
    if isinstance(pattern, Causal):
        return Dense()
    if not isinstance(pattern, And) or not any(isinstance(part, Causal) for part in pattern.patterns):
        return None
    rest = [part for part in pattern.patterns if not isinstance(part, Causal)]
    if not rest:
        return Dense()
    joined = rest[0]
    for part in rest[1:]:
        joined = joined & part
    return joined


def _either(one: Pattern, other: Pattern) -> Pattern:
    if Dense() in (one, other):
        return Dense()
    if one == other:
        return one
    if isinstance(one, Window) and isinstance(other, Window):
        # both hold the own position, so what either allows has no gap
        befores = (one.before, other.before)
        afters = (one.after, other.after)
        before = None if None in befores else max(side for side in befores if side is not None)
        after = None if None in afters else max(side for side in afters if side is not None)
        return Dense() if before is None and after is None else Window(before=before, after=after)
    return one | other
