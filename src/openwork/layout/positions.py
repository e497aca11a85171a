"""Index and position: which position, and which facts, each row of the tensors has (DESIGN.md, Meaning 2)."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from openwork.errors import AnnotationError, AnnotationWarning, LayoutError
from openwork.patterns.annotations import Annotations, IntArray
from openwork.patterns.base import Pattern, leaves
from openwork.patterns.flags import Keys, Queries
from openwork.patterns.links import Linked

__all__ = ["Binding", "SequenceBinding", "check_lengths", "documents_from_positions", "position_rows", "resolve"]

KINDS = {"flag": "flags", "label": "labels", "links": "links"}


@dataclass(frozen=True, eq=False)
class SequenceBinding:
    """Positions and facts of one sequence.

    Attributes:
        q_positions: int64 `[q_len]`.
        kv_positions: int64 `[kv_len]`.
        q_facts: Annotations that the queries read, and the row of them that query 0 has.
        k_facts: Annotations that the keys read.
    """

    q_positions: IntArray
    kv_positions: IntArray
    q_facts: tuple[Annotations, int] | None
    k_facts: Annotations | None


@dataclass(frozen=True, eq=False)
class Binding:
    """A pattern's surroundings: lengths, positions and annotations, one entry for each distinct sequence.

    Attributes:
        sequences: The distinct sequences.
        rows: For each sequence of the batch (or one for all), its entry in `sequences`.
        q_positions: int64 `[batch or 1, q_len]`, or None where positions are the default.
        kv_positions: int64 `[batch or 1, kv_len]`, or None where positions are the default.
        q_start: Position of query 0 where positions are the default, else 0.
    """

    q_len: int
    kv_len: int
    sequences: tuple[SequenceBinding, ...]
    rows: tuple[int, ...]
    q_positions: IntArray | None
    kv_positions: IntArray | None
    q_start: int


def resolve(
    pattern: Pattern,
    *,
    q_len: int,
    kv_len: int,
    q_start: int | None = None,
    q_positions: Any = None,
    kv_positions: Any = None,
    annotations: Annotations | Sequence[Annotations] | None = None,
    q_annotations: Annotations | Sequence[Annotations] | None = None,
) -> Binding:
    """Checks the arguments of `compile_layout` and `bind`, and gives each row its position and facts.

    Raises:
        LayoutError: Lengths or positions contradict each other.
        AnnotationError: The pattern reads an annotation that is missing or of another length.
    """
    check_lengths(q_len, kv_len)
    if q_start is not None and (q_positions is not None or kv_positions is not None):
        given = "q_positions" if q_positions is not None else "kv_positions"
        raise LayoutError(f"q_start={q_start} and {given} both say where the queries sit; give one of them.")
    if q_start is not None and (not isinstance(q_start, int | np.integer) or q_start < 0):
        raise LayoutError(f"q_start must be an integer of 0 or more; got {q_start!r}.")
    if q_positions is None and q_start is None and q_len > kv_len:
        raise LayoutError(
            f"q_len={q_len} is longer than kv_len={kv_len}, so the first {q_len - kv_len} queries have no position. "
            "Pass q_start (0 for cross-attention) to say where query 0 sits."
        )
    aligned = q_positions is None and (q_start is None or q_start == kv_len - q_len)
    start = kv_len - q_len if q_start is None else int(q_start)
    k_rows = None if kv_positions is None else position_rows("kv_positions", kv_positions, kv_len)
    q_rows = None if q_positions is None else position_rows("q_positions", q_positions, q_len)
    if q_rows is None and k_rows is not None:
        q_rows = k_rows[:, kv_len - q_len :]
    batched_k = _annotations("annotations", annotations, kv_len)
    batched_q = _annotations("q_annotations", q_annotations, q_len)
    _check_needs(pattern, batched_k, batched_q, aligned)
    batch = _batch_size(
        q_positions=None if q_rows is None else len(q_rows),
        kv_positions=None if k_rows is None else len(k_rows),
        annotations=None if batched_k is None else len(batched_k),
        q_annotations=None if batched_q is None else len(batched_q),
    )
    default_q, default_k = np.arange(start, start + q_len, dtype=np.int64), np.arange(kv_len, dtype=np.int64)
    sequences: list[SequenceBinding] = []
    rows: list[int] = []
    for b in range(batch):
        k_facts = _pick(batched_k, b)
        q_own = _pick(batched_q, b)
        q_facts = (
            (q_own, 0) if q_own is not None else (k_facts, kv_len - q_len) if k_facts is not None and aligned else None
        )
        q_pos, k_pos = _pick(q_rows, b), _pick(k_rows, b)
        sequence = SequenceBinding(
            default_q if q_pos is None else q_pos, default_k if k_pos is None else k_pos, q_facts, k_facts
        )
        twin = next((i for i, other in enumerate(sequences) if _same(sequence, other)), len(sequences))
        if twin == len(sequences):
            sequences.append(sequence)
        rows.append(twin)
    if len(sequences) == 1:
        rows = rows[:1]
    if k_rows is None and q_rows is not None:
        k_rows = default_k[None]
    return Binding(
        int(q_len), int(kv_len), tuple(sequences), tuple(rows), q_rows, k_rows, start if q_rows is None else 0
    )


def check_lengths(q_len: Any, kv_len: Any) -> None:
    """Refuses lengths that are not integers of 0 or more.

    Raises:
        LayoutError: A length is something else.
    """
    for name, length in (("q_len", q_len), ("kv_len", kv_len)):
        if not isinstance(length, int | np.integer) or length < 0:
            raise LayoutError(f"{name} must be an integer of 0 or more; got {length!r}.")


def position_rows(name: str, values: Any, length: int) -> IntArray:
    """Positions as a caller gave them, NumPy or torch, as int64 `[batch or 1, length]`.

    Raises:
        LayoutError: They have another length, are not integers, or are less than -1.
    """
    if hasattr(values, "detach"):
        values = values.detach().cpu().numpy()
    array = np.asarray(values)
    if array.dtype.kind not in "iu" and array.size:
        raise LayoutError(f"{name} must be integers; got {array.dtype}.")
    if array.ndim not in (1, 2) or array.shape[-1] != length:
        raise LayoutError(f"{name} has shape {list(array.shape)}; it needs [{length}] or [batch, {length}].")
    array = np.atleast_2d(array).astype(np.int64)
    if array.size and array.min() < -1:
        raise LayoutError(f"{name} holds {array.min()}; positions are 0 or more, and -1 is padding.")
    return array


def _annotations(name: str, values: Any, length: int) -> tuple[Annotations, ...] | None:
    if values is None:
        return None
    items = (values,) if isinstance(values, Annotations) else tuple(values)
    for item in items:
        if not isinstance(item, Annotations):
            raise AnnotationError(f"{name} takes Annotations, or a list with one for each sequence; got {item!r}.")
        if item.length != length:
            what = "kv_len" if name == "annotations" else "q_len"
            raise AnnotationError(
                f"{name} describes {item.length} tokens, but {what}={length}; annotate the same tokens."
            )
    return items


def _check_needs(
    pattern: Pattern, k: tuple[Annotations, ...] | None, q: tuple[Annotations, ...] | None, aligned: bool
) -> None:
    for leaf in dict.fromkeys(leaves(pattern)):
        sides = {"annotations": k} if aligned or not isinstance(leaf, Queries | Linked) else {}
        if not aligned and not isinstance(leaf, Keys):
            sides["q_annotations"] = q
        for name, kind in leaf.needs.items():
            for argument, given in sides.items():
                _check_side(leaf, name, kind, argument, given)


def _check_side(leaf: Pattern, name: str, kind: str, argument: str, given: tuple[Annotations, ...] | None) -> None:
    if given is None and argument == "q_annotations":
        raise AnnotationError(
            f"{leaf!r} reads the {kind} {name!r} of the queries, and they are not the last q_len keys, so they do not "
            "share the keys' annotations: pass q_annotations."
        )
    if given is None:
        raise AnnotationError(f"{leaf!r} reads the {kind} {name!r}: pass annotations that carry it.")
    for item in given:
        facts = getattr(item, KINDS[kind])
        if name not in facts:
            have = ", ".join(map(repr, facts)) or "none"
            raise AnnotationError(f"{leaf!r} reads the {kind} {name!r}, but {argument} has {have} of that kind.")
    if given and all(_is_empty(kind, getattr(item, KINDS[kind])[name]) for item in given):
        warnings.warn(
            f"the {kind} {name!r} that {leaf!r} reads is empty in {argument}.", AnnotationWarning, stacklevel=5
        )


def _is_empty(kind: str, values: Any) -> bool:
    if kind == "links":
        return len(values) == 0
    return not bool(values.any() if kind == "flag" else (values >= 0).any())


def _batch_size(**sizes: int | None) -> int:
    given = {name: size for name, size in sizes.items() if size is not None and size != 1}
    if len(set(given.values())) > 1:
        text = ", ".join(f"{name} for {size}" for name, size in given.items())
        raise LayoutError(
            f"the arguments are for different numbers of sequences: {text}; give one row for each, or one."
        )
    return next(iter(given.values()), 1)


def _pick(rows: Any, b: int) -> Any:
    return None if rows is None else rows[b if len(rows) > 1 else 0]


def _same(a: SequenceBinding, b: SequenceBinding) -> bool:
    def facts(x: Annotations | None, y: Annotations | None) -> bool:
        return x is y or (x is not None and y is not None and x == y)

    return (
        np.array_equal(a.q_positions, b.q_positions)
        and np.array_equal(a.kv_positions, b.kv_positions)
        and facts(a.k_facts, b.k_facts)
        and facts(a.q_facts[0] if a.q_facts else None, b.q_facts[0] if b.q_facts else None)
    )


def documents_from_positions(positions: Any) -> IntArray:
    """Document labels of packed rows whose positions restart; for `Same("document")`.

    A document starts where a valid position does not exceed the valid one before it. Padding (-1) gets label -1.

    Args:
        positions: int `[seq_len]` or `[batch, seq_len]`, NumPy or torch.

    Returns:
        int64 of the same shape.

    Examples:
        >>> documents_from_positions([0, 1, 2, 0, 1, -1, 0]).tolist()
        [0, 0, 0, 1, 1, -1, 2]
    """
    if hasattr(positions, "detach"):
        positions = positions.detach().cpu().numpy()
    array = np.asarray(positions, dtype=np.int64)
    if array.ndim == 2:
        return np.stack([documents_from_positions(row) for row in array]) if len(array) else array
    if array.size and array.min() < -1:
        raise LayoutError(f"positions holds {array.min()}; positions are 0 or more, and -1 is padding.")
    labels = np.full(array.shape, -1, dtype=np.int64)
    valid = array >= 0
    packed = array[valid]
    labels[valid] = np.concatenate([[0], np.cumsum(packed[1:] <= packed[:-1])]) if packed.size else 0
    return labels
