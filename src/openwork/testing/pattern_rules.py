"""`pattern_contract`: what every pattern has to keep, a user's own class included."""

from __future__ import annotations

import copy
import importlib.util
import warnings
from collections.abc import Iterator
from itertools import product
from typing import Any

import numpy as np

from openwork.errors import AnnotationWarning, PatternError
from openwork.patterns.annotations import Annotations, BoolArray, IntArray
from openwork.patterns.base import Pattern, PerHead
from openwork.patterns.parse import parse_pattern
from openwork.patterns.rectangles import EMPTY, FULL
from openwork.testing.spans import ListedSpans, ListedTokens

__all__ = ["check_orders", "check_signature", "check_states", "pattern_contract"]


def pattern_contract(
    pattern: Pattern, annotations: Annotations | None = None, *, length: int = 70, seed: int = 0
) -> None:
    """Fails unless a pattern keeps the rules that the compiler and everything above it rely on.

    - It is a value: hashable, equal to its copy, and `parse_pattern(repr(pattern), allow_imports=True)` gives it back.
    - `allows` is pure and gives the same answer for ints (as `bool`), NumPy arrays and, where torch is installed,
      tensors; a pattern that reads annotations refuses and names `ow.bind`.
    - `states` calls no set of tokens empty or full that is not; `signature` is equal only where the bitmasks of two
      blocks are; what `orders` leaves out is allowed nothing.
    - `compile_layout` agrees with the definition, pair by pair.

    Args:
        pattern: The pattern; every head of a `PerHead` is tested.
        annotations: Facts about `length` tokens, where the pattern reads any.
        length: Positions tested, 2 or more.
        seed: Seed of the sets that are tested.

    Raises:
        AssertionError: A rule is broken; the message says which, and where.

    Examples:
        >>> from openwork.patterns import Window
        >>> pattern_contract(Window(before=3))
    """
    assert isinstance(pattern, Pattern), f"{pattern!r} does not derive from openwork.Pattern"
    if annotations is not None:
        length = annotations.length
    _check_value(pattern)
    for head in dict.fromkeys(pattern.patterns if isinstance(pattern, PerHead) else (pattern,)):
        if head.needs and annotations is None:
            raise AssertionError(f"{head!r} reads {dict(head.needs)}: pass annotations= that have them")
        if head.needs:
            _check_refusal(head)
        else:
            _check_answers(head, length)
        positions = np.arange(length)
        random = np.random.default_rng(seed)
        for q_sets, k_sets in _sets(random, length):
            check_states(head, q_sets, k_sets, positions, annotations)
        block = max(1, min(8, length // 4))
        for order in (np.arange(length), random.permutation(length)):
            check_signature(head, _cut(order, block), _cut(np.arange(length), block), positions, annotations)
            check_signature(head, _cut(np.arange(length), block), _cut(order, block), positions, annotations)
        check_orders(head, positions, annotations)
        _check_layout(head, length, annotations)


def _check_value(pattern: Pattern) -> None:
    try:
        same = hash(pattern) == hash(copy.deepcopy(pattern)) and copy.deepcopy(pattern) == pattern
    except TypeError as error:
        raise AssertionError(f"{pattern!r} is not hashable ({error}): use @dataclass(frozen=True)") from None
    assert same, f"{pattern!r} is not equal to its copy"
    try:
        again = parse_pattern(repr(pattern), allow_imports=True)
    except PatternError as error:
        raise AssertionError(f"repr does not read back: {error}") from None
    assert again == pattern, f"repr reads back as {again!r}, not as {pattern!r}"
    assert repr(again) == repr(pattern), f"repr is not stable: {again!r} after {pattern!r}"


def _check_refusal(pattern: Pattern) -> None:
    try:
        pattern.allows(0, 0)
    except PatternError as error:
        assert "ow.bind" in str(error), f"allows of {pattern!r} must name ow.bind; it says: {error}"
    else:
        raise AssertionError(f"{pattern!r} reads annotations, so allows must raise PatternError and name ow.bind")


def _check_answers(pattern: Pattern, length: int) -> None:
    positions = np.arange(length)
    q, k = positions[:, None], positions[None]
    asked = q.copy(), k.copy()
    array = np.asarray(pattern.allows(*asked))
    assert array.dtype == np.bool_, f"allows of {pattern!r} gives {array.dtype} for arrays, not bool"
    assert array.shape == (length, length), f"allows of {pattern!r} does not broadcast: {array.shape}"
    assert np.array_equal(asked[0], q) and np.array_equal(asked[1], k), f"allows of {pattern!r} changes its arguments"
    assert np.array_equal(array, pattern.allows(q, k)), f"allows of {pattern!r} changes its mind"
    few = np.unique(np.linspace(0, length - 1, 12).astype(int)).tolist()
    for i in few:
        for j in few:
            answer = pattern.allows(i, j)
            assert type(answer) is bool, f"allows({i}, {j}) of {pattern!r} gives {type(answer).__name__}, not bool"
            assert answer == array[i, j], f"allows({i}, {j}) of {pattern!r} is {answer} for ints, not for arrays"
    if importlib.util.find_spec("torch") is not None:
        import torch

        for dtype in (torch.int64, torch.int32):
            tensor = pattern.allows(torch.arange(length, dtype=dtype)[:, None], torch.arange(length, dtype=dtype)[None])
            assert isinstance(tensor, torch.Tensor) and tensor.dtype == torch.bool, f"{pattern!r} gives no bool tensor"
            assert np.array_equal(tensor.numpy(), array), f"allows of {pattern!r} differs between torch and NumPy"


def _sets(random: np.random.Generator, length: int) -> Iterator[tuple[list[list[int]], list[list[int]]]]:
    contiguous = []
    for _ in range(24):
        first = int(random.integers(0, length))
        contiguous.append(list(range(first, min(length, first + int(random.choice([1, 2, 5, 17, length]))))))
    scattered = [
        random.permutation(length)[: int(random.choice([1, 2, 4, 9]))].tolist() for _ in range(len(contiguous))
    ]
    strided = [list(range(int(n) % 7, length, int(random.integers(2, 12)))) for n in range(len(contiguous))]
    shuffled = [contiguous[i] for i in random.permutation(len(contiguous))]
    yield contiguous, shuffled
    yield contiguous, scattered
    yield scattered, shuffled
    yield strided, strided[1:] + strided[:1]
    yield strided, strided
    yield [[*rows, -1] for rows in contiguous[:-1]] + [[-1, -1]], scattered


def _cut(order: IntArray, block: int) -> list[list[int]]:
    rows = [order[start : start + block].tolist() for start in range(0, len(order), block)]
    return [row + [-1] * (block - len(row)) for row in rows]


class _Pairs:
    """Every pair of some tokens, asked once, and which pairs are valid."""

    def __init__(self, pattern: Pattern, positions: Any, annotations: Annotations | None) -> None:
        positions = np.asarray(positions, dtype=np.int64)
        rows = np.arange(len(positions))
        q, k = (ListedTokens(side, positions, annotations) for side in (rows[:, None], rows[None]))
        self.mask = np.broadcast_to(np.asarray(pattern.pairs(q, k)), (len(rows), len(rows)))
        self._real = positions >= 0

    def of(self, q_rows: list[int], k_rows: list[int]) -> tuple[BoolArray, BoolArray]:
        """The mask of a rectangle, and which of its pairs are valid; row -1 is a pad."""
        q, k = np.array(q_rows, dtype=np.int64), np.array(k_rows, dtype=np.int64)
        valid = ((q >= 0) & self._real[q])[:, None] & ((k >= 0) & self._real[k])[None]
        return self.mask[np.ix_(q, k)], valid


def check_states(
    pattern: Pattern,
    q_sets: list[list[int]],
    k_sets: list[list[int]],
    positions: Any,
    annotations: Annotations | None = None,
    *,
    exact: bool = False,
) -> None:
    """Fails unless `states` of query set `n` times key set `n` is true of every pair; with `exact`, sharp as well."""
    q, k = ListedSpans(q_sets, positions, annotations), ListedSpans(k_sets, positions, annotations)
    pairs = _Pairs(pattern, positions, annotations)
    for n, state in enumerate(pattern.states(q, k)):
        mask, valid = pairs.of(q_sets[n], k_sets[n])
        where = f"queries {q_sets[n]} x keys {k_sets[n]}"
        some, every = bool(mask[valid].any()), bool(mask[valid].all())
        assert state != EMPTY or not some, f"{pattern!r} calls {where} empty, but it allows a pair"
        assert state != FULL or every, f"{pattern!r} calls {where} full, but it forbids a pair"
        if exact:
            best = EMPTY if not some else FULL if every else 1
            assert state == best, f"{pattern!r} says {state} of {where}, which is {best}"


def check_signature(
    pattern: Pattern,
    q_sets: list[list[int]],
    k_sets: list[list[int]],
    positions: Any,
    annotations: Annotations | None = None,
) -> None:
    """Fails unless all pairs of blocks that are equal in signature and in padding have equal bitmasks."""
    numbers = [(i, j) for i in range(len(q_sets)) for j in range(len(k_sets))]
    q_all = ListedSpans([q_sets[i] for i, _ in numbers], positions, annotations)
    k_all = ListedSpans([k_sets[j] for _, j in numbers], positions, annotations)
    partial = np.flatnonzero(pattern.states(q_all, k_all) == 1)
    numbers = [numbers[n] for n in partial]
    if not numbers:
        return
    q_all = ListedSpans([q_sets[i] for i, _ in numbers], positions, annotations)
    k_all = ListedSpans([k_sets[j] for _, j in numbers], positions, annotations)
    columns = pattern.signature(q_all, k_all)
    if columns is None:
        return
    pairs = _Pairs(pattern, positions, annotations)
    seen: dict[tuple[Any, ...], tuple[BoolArray, tuple[int, int]]] = {}
    for n, (i, j) in enumerate(numbers):
        mask, valid = pairs.of(q_sets[i], k_sets[j])
        key = (*(int(column[n]) for column in columns), valid.tobytes())
        known, where = seen.setdefault(key, (mask & valid, (i, j)))
        assert np.array_equal(known, mask & valid), (
            f"{pattern!r} gives queries {q_sets[i]} x keys {k_sets[j]} the signature of queries {q_sets[where[0]]} x "
            f"keys {k_sets[where[1]]}, but their bitmasks differ"
        )


def check_orders(pattern: Pattern, positions: Any, annotations: Annotations | None = None) -> None:
    """Fails if a proposed order leaves out a token of an allowed pair."""
    rows = list(range(len(positions)))
    mask, valid = _Pairs(pattern, positions, annotations).of(rows, rows)
    allowed = mask & valid
    tokens = ListedTokens(np.arange(len(positions)), np.asarray(positions), annotations)
    for order in pattern.orders():
        assert order.kind in ("keys", "queries", "sort"), f"{pattern!r} proposes unknown order {order.kind!r}"
        sides = {
            "keys": (None, order.select),
            "queries": (order.select, None),
            "sort": (order.sort_queries, order.sort_keys),
        }[order.kind]
        for axis, of in enumerate(sides):
            assert of is not None or (order.kind, axis) in (("keys", 0), ("queries", 1)), (
                f"{pattern!r} proposes {order.kind!r} without its function"
            )
            if of is not None:
                values = np.broadcast_to(np.asarray(of(tokens)), len(positions))
                kept = values >= 0 if order.kind == "sort" else values > 0
                assert not allowed[~kept].any() if axis == 0 else not allowed[:, ~kept].any(), (
                    f"{pattern!r} proposes order {order.kind!r}, which leaves out tokens of allowed pairs"
                )


def _check_layout(pattern: Pattern, length: int, annotations: Annotations | None) -> None:
    from openwork.layout import bind, compile_layout

    for q_len, block in product((length, max(1, length // 3)), (8, 16)):
        arguments: dict[str, Any] = {"q_len": q_len, "kv_len": length, "annotations": annotations}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", AnnotationWarning)  # that facts are empty is no fault of the pattern
            expected = bind(pattern, **arguments).to_dense()
            found = compile_layout(pattern, **arguments, block_size=(block, block)).to_dense()
        assert np.array_equal(found, expected), (
            f"the layout of {pattern!r} differs from its definition for q_len={q_len}, kv_len={length}, "
            f"blocks of {block}"
        )
