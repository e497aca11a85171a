"""Which parts a layout is cut into: scattered pairs become dense ones in another token order.

Let `C1 .. Cm` be the leaves of a pattern `p` that propose an order (in groups: all selections of keys, all selections
of queries, then each sort), each of them occurring unnegated. `p_i` is `p` with the leaves of the groups after `i`
replaced by *nothing*. Then `p_0 <= p_1 <= ... <= p_m = p`, part 0 holds `p_0` in natural order and part `i` holds
`p_i & ~p_(i-1)` in the order of group `i`: only group `i` can have allowed these pairs, so the order covers them, and
every pair is in exactly one part. A group is accepted or left by counting executed pairs on sampled query blocks.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np

from openwork.layout.data import Int32Array, Plane
from openwork.layout.descend import Budget, compile_part, count_executed
from openwork.layout.side import Side
from openwork.layout.tokens import SideTokens
from openwork.patterns.base import And, Not, Or, Pattern, substitute
from openwork.patterns.causal import Dense
from openwork.patterns.rectangles import Order

__all__ = ["PlaneCompiler"]

_SAMPLES = 24
"""Query blocks that a candidate is judged on."""
_ROW_COST = 48
"""Executed pairs that gathering and merging one row of a reordered part is worth; from timing `gather`."""


@dataclass(frozen=True)
class _Group:
    """Leaves that share one order; a leaf proposes at most one of a kind, so the leaves name it."""

    kind: str
    leaves: tuple[Pattern, ...]
    orders: tuple[Order, ...] = field(compare=False)

    @property
    def name(self) -> str:
        what = {"keys": "selected keys", "queries": "selected queries", "sort": "sorted"}[self.kind]
        return f"{what}: {' | '.join(map(repr, self.leaves))}"


@dataclass(frozen=True)
class _Proposal:
    """A pattern in an order: `None` is natural."""

    pattern: Pattern
    group: _Group | None


class PlaneCompiler:
    """Compiles planes of one sequence; orders and what is known of them are shared between planes.

    Args:
        q_tokens: The queries.
        k_tokens: The keys.
        block_size: `(q_block, kv_block)`.
        natural: Natural orders of both sides, which every part in natural order shares.
    """

    def __init__(
        self,
        q_tokens: SideTokens,
        k_tokens: SideTokens,
        block_size: tuple[int, int],
        natural: tuple[Int32Array, Int32Array],
    ) -> None:
        self._tokens = q_tokens, k_tokens
        self._blocks = block_size
        self._natural = Side(q_tokens, natural[0], block_size[0]), Side(k_tokens, natural[1], block_size[1])
        self._sides: dict[_Group, tuple[Side, Side]] = {}

    def compile(self, pattern: Pattern, budget: Budget) -> Plane:
        """The plane of `pattern`."""
        proposals, plain = self._choose(pattern, budget)
        parts, names = [], []
        for proposal in proposals:
            part = compile_part(proposal.pattern, *self._order(proposal.group), budget)
            if part is not None:
                parts.append(part)
                names.append("natural order" if proposal.group is None else proposal.group.name)
        q, k = self._tokens
        possible = int((q.positions >= 0).sum()) * int((k.positions >= 0).sum())
        plane = Plane(tuple(parts), len(q), len(k), possible, tuple(names), plain)
        return plane

    def _choose(self, pattern: Pattern, budget: Budget) -> tuple[list[_Proposal], int | None]:
        groups = list(_groups_of(pattern))
        plain = [_Proposal(pattern, None)]
        if not groups:
            return plain, None
        costs: dict[_Proposal, float] = {}
        plain_cost = self._cost(plain, costs, budget)
        best, best_cost = groups, self._cost(_split(pattern, groups), costs, budget)
        improved = True
        while improved and best:
            improved = False
            for group in best:
                fewer = [other for other in best if other is not group]
                cost = self._cost(_split(pattern, fewer), costs, budget)
                if cost <= best_cost:
                    best, best_cost, improved = fewer, cost, True
                    break
        chosen = _split(pattern, best) if best_cost < plain_cost else plain
        return chosen, int(plain_cost)

    def _cost(self, proposals: list[_Proposal], known: dict[_Proposal, float], budget: Budget) -> float:
        for proposal in proposals:
            if proposal not in known:
                known[proposal] = self._cost_of(proposal, budget)
        return sum(known[proposal] for proposal in proposals)

    def _cost_of(self, proposal: _Proposal, budget: Budget) -> float:
        q_side, k_side = self._order(proposal.group)
        if not q_side.blocks or not k_side.blocks:
            return 0.0
        count = min(_SAMPLES, q_side.blocks)
        # the middle of equal stretches, so that a pattern's period and the sampling do not keep step
        sampled = np.unique((np.arange(count) + 0.5) * q_side.blocks / count).astype(np.int64)
        scratch = Budget(budget.max_bytes, budget.pattern)
        blocks = count_executed(proposal.pattern, q_side, k_side, sampled, scratch)
        pairs = blocks * q_side.block * k_side.block * q_side.blocks / len(sampled)
        rows = 0 if proposal.group is None else len(q_side.order) + len(k_side.order)
        return pairs + _ROW_COST * rows

    def _order(self, group: _Group | None) -> tuple[Side, Side]:
        if group is None:
            return self._natural
        if group not in self._sides:
            self._sides[group] = self._make_order(group)
        return self._sides[group]

    def _make_order(self, group: _Group) -> tuple[Side, Side]:
        (q, k), (q_block, kv_block) = self._tokens, self._blocks
        q_natural, k_natural = self._natural
        if group.kind == "keys":
            return q_natural, Side(k, _padded(_selected(k, group), kv_block), kv_block)
        if group.kind == "queries":
            return Side(q, _padded(_selected(q, group), q_block), q_block), k_natural
        (order,) = group.orders
        assert order.sort_queries is not None and order.sort_keys is not None
        q_values, k_values = _values(q, order.sort_queries), _values(k, order.sort_keys)
        return (
            Side(q, _sorted(q_values, q.positions, q_block, align=order.align), q_block),
            Side(k, _sorted(k_values, k.positions, kv_block, align=order.align), kv_block),
        )


def _split(pattern: Pattern, groups: list[_Group]) -> list[_Proposal]:
    """The parts, as patterns with their orders."""
    proposals: list[_Proposal] = []
    before: Pattern | bool = substitute(pattern, {leaf: False for group in groups for leaf in group.leaves})
    if not isinstance(before, bool):
        proposals.append(_Proposal(before, None))
    for i, group in enumerate(groups):
        upto = substitute(pattern, {leaf: False for other in groups[i + 1 :] for leaf in other.leaves})
        added = _difference(upto, before, group)
        if added is not None:
            proposals.append(_Proposal(added, group))
        before = upto
    return proposals


def _difference(upto: Pattern | bool, before: Pattern | bool, group: _Group) -> Pattern | None:
    """`upto & ~before` for tokens in the order of `group`; None where it is empty.

    The fewer leaves are left, the fewer signatures differ and the less there is to evaluate.
    """
    terms: list[Pattern] = []
    if group.kind == "sort":
        # both sides together decide, so the leaf stays, once
        upto = upto if isinstance(upto, bool) else substitute(upto, {group.leaves[0]: True})
        terms.append(group.leaves[0])
    elif not isinstance(upto, bool):
        # every key (query) of the selection has what the leaves ask for
        upto = _given_any(upto, group.leaves)
    if upto is False or before is True:
        return None
    if not isinstance(upto, bool):
        terms = [*(upto.patterns if isinstance(upto, And) else (upto,)), *terms]
    if not isinstance(before, bool):
        before = substitute(before, dict.fromkeys(terms, True))
    if before is True:
        return None
    if not isinstance(before, bool):
        terms.append(~before)
    return And(tuple(terms)) if len(terms) > 1 else terms[0] if terms else Dense()


def _given_any(pattern: Pattern, alternatives: tuple[Pattern, ...]) -> Pattern | bool:
    """The pattern where it is known that one of `alternatives` holds, simplified where they stand side by side."""
    if len(alternatives) == 1:
        return substitute(pattern, {alternatives[0]: True})
    if isinstance(pattern, Or) and set(alternatives) <= set(pattern.patterns):
        return True
    if isinstance(pattern, And):
        kept = [part for part in (_given_any(p, alternatives) for p in pattern.patterns) if not isinstance(part, bool)]
        return And(tuple(kept)) if len(kept) > 1 else kept[0] if kept else True
    return pattern


def _groups_of(pattern: Pattern) -> Iterator[_Group]:
    signs: dict[Pattern, set[bool]] = {}
    for leaf, positive in _signed_leaves(pattern, True):
        signs.setdefault(leaf, set()).add(positive)
    proposals = [(leaf, order) for leaf, found in signs.items() if found == {True} for order in leaf.orders()]
    for kind in ("keys", "queries"):
        members = [(leaf, order) for leaf, order in proposals if order.kind == kind]
        if members:
            yield _Group(kind, *map(tuple, zip(*members, strict=True)))
    for leaf, order in proposals:
        if order.kind == "sort":
            yield _Group("sort", (leaf,), (order,))


def _signed_leaves(pattern: Pattern, positive: bool) -> Iterator[tuple[Pattern, bool]]:
    if isinstance(pattern, And | Or):
        for part in pattern.patterns:
            yield from _signed_leaves(part, positive)
    elif isinstance(pattern, Not):
        yield from _signed_leaves(pattern.pattern, not positive)
    else:
        yield pattern, positive


def _values(tokens: SideTokens, of: object) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    assert callable(of)
    everything = tokens.view(np.arange(len(tokens)))
    values = np.broadcast_to(np.asarray(of(everything), dtype=np.int64), (len(tokens),))
    return np.where(tokens.positions >= 0, values, -1)


def _selected(tokens: SideTokens, group: _Group) -> Int32Array:
    """Rows that some leaf of the group selects: those of its first leaf first, so that blocks stay pure."""
    rank = np.full(len(tokens), -1, dtype=np.int64)
    for number, order in enumerate(group.orders):
        rank[(rank < 0) & (_values(tokens, order.select) > 0)] = number
    rows = np.flatnonzero(rank >= 0)
    return rows[np.argsort(rank[rows], kind="stable")].astype(np.int32)


def _padded(rows: Int32Array, block: int) -> Int32Array:
    order = np.full(-(-len(rows) // block) * block, -1, dtype=np.int32)
    order[: len(rows)] = rows
    return order


def _sorted(values: object, positions: object, block: int, *, align: bool) -> Int32Array:
    values, positions = np.asarray(values), np.asarray(positions)
    rows = np.flatnonzero(values >= 0)
    rows = rows[np.lexsort((positions[rows], values[rows]))]
    if not align or not len(rows):
        return _padded(rows.astype(np.int32), block)
    starts = np.flatnonzero(np.diff(values[rows], prepend=-1))
    lengths = np.diff(np.append(starts, len(rows)))
    room = -(-lengths // block) * block
    order = np.full(int(room.sum()), -1, dtype=np.int32)
    order[np.arange(len(rows)) + np.repeat(np.cumsum(room) - room - starts, lengths)] = rows
    return order
