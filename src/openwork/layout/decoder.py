"""`decoder`: which cached keys the next token reads, and which no later token can."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from openwork.errors import LayoutError, PatternError
from openwork.layout.descend import Budget, visible_keys
from openwork.layout.future import FutureQueries
from openwork.layout.growing import GrowingTokens
from openwork.patterns.annotations import Annotations, IntArray
from openwork.patterns.base import Pattern, PerHead, leaves
from openwork.patterns.declarations import Declarations
from openwork.patterns.rectangles import EMPTY

__all__ = ["Decoder", "decoder"]

PerSequence = Sequence[Any]


def decoder(pattern: Pattern, *, batch: int = 1, declarations: Declarations | None = None) -> Decoder:
    """Follows sequences token by token, and says which cached keys each new token reads.

    Args:
        pattern: The layer's pattern; a `PerHead` gives each query head its own keys.
        batch: Sequences that are decoded together; they may have different lengths.
        declarations: What the facts of all tokens will do as text grows (an annotator's `declares`).
            `Decoder.declare` adds promises later.

    Returns:
        A `Decoder` without tokens.

    Raises:
        PatternError: `pattern` is not a pattern.
        LayoutError: `batch` is not positive.

    Examples:
        >>> import openwork as ow
        >>> decoder = ow.decoder(ow.Causal() & (ow.Window(before=1) | ow.First(keys=1)))
        >>> decoder.append(5)
        >>> decoder.visible()[0][0].tolist()
        [0, 3, 4]
        >>> decoder.droppable()[0].tolist()
        [1, 2, 3]
    """
    if not isinstance(pattern, Pattern):
        raise PatternError(f"decoder takes a pattern; got {pattern!r}.")
    if not isinstance(batch, int) or batch < 1:
        raise LayoutError(f"batch must be 1 or more; got {batch!r}.")
    return Decoder(pattern, batch, declarations or Declarations())


@dataclass
class _Sequence:
    tokens: GrowingTokens
    declared: list[tuple[int, Declarations]]

    @property
    def promise(self) -> Declarations:
        merged = Declarations()
        for _, declarations in self.declared:
            merged = merged.merged(declarations)
        return merged


class Decoder:
    """Sequences that grow token by token under one pattern; made by `openwork.decoder`."""

    def __init__(self, pattern: Pattern, batch: int, declarations: Declarations) -> None:
        self.pattern = pattern
        self._heads = pattern.patterns if isinstance(pattern, PerHead) else (pattern,)
        self._sequences = [_Sequence(GrowingTokens(pattern), [(0, declarations)]) for _ in range(batch)]

    @property
    def lengths(self) -> list[int]:
        """Tokens of each sequence so far."""
        return [len(sequence.tokens) for sequence in self._sequences]

    def append(
        self,
        n: int | PerSequence = 1,
        annotations: Annotations | Sequence[Annotations | None] | None = None,
        positions: Any = None,
    ) -> None:
        """Takes the next tokens.

        Args:
            n: How many, for all sequences or one number for each.
            annotations: Facts about these `n` tokens, one value or one for each sequence. Link spans of queries count
                from the first of these tokens; spans of keys are indices of the whole sequence (give `kv_length`,
                the length with these tokens). Facts about the whole text so far do as well: they must begin with
                what was said before.
            positions: int `[n]` or `[batch, n]` where they are not the index, each after all before it; -1 is padding.

        Raises:
            LayoutError: `n` is negative, or positions do not fit or do not ascend.
            AnnotationError: Facts that the pattern reads are missing, of another length, take back what was said
                before, or break a declaration.
        """
        counts = [n] * len(self._sequences) if isinstance(n, int | np.integer) else list(n)
        notes = [annotations] * len(counts) if isinstance(annotations, Annotations | None) else list(annotations)
        if len(counts) != len(self._sequences) or len(notes) != len(self._sequences):
            raise LayoutError(
                f"append got {len(counts)} counts and {len(notes)} annotations for {len(self._sequences)} sequences."
            )
        if any(not isinstance(count, int | np.integer) or count < 0 for count in counts):
            raise LayoutError(f"append takes 0 or more tokens; got n={n!r}.")
        rows = _position_rows(positions, counts)
        # every sequence is checked before any changes, so that a refusal leaves all as they were
        grown = [
            sequence.tokens.extended(int(count), note, row)
            for sequence, count, note, row in zip(self._sequences, counts, notes, rows, strict=True)
        ]
        for sequence, tokens in zip(self._sequences, grown, strict=True):
            for start, declarations in sequence.declared:
                tokens.check(declarations, start, since=len(sequence.tokens))
        for sequence, tokens in zip(self._sequences, grown, strict=True):
            sequence.tokens = tokens

    def declare(self, declarations: Declarations, sequence: int | None = None) -> None:
        """Promises something about all tokens from here on; a later token that breaks it raises.

        Args:
            declarations: The promise.
            sequence: The sequence that it is about; `None` is all.
        """
        if sequence is not None and not 0 <= sequence < len(self._sequences):
            raise LayoutError(f"sequence {sequence} does not exist; the decoder has {len(self._sequences)}.")
        for chosen in self._sequences if sequence is None else [self._sequences[sequence]]:
            chosen.declared.append((len(chosen.tokens), declarations))

    def visible(self) -> list[list[IntArray]]:
        """Keys that the last token of each sequence sees, itself included: sorted, for each sequence and head."""
        return [[self._visible(sequence, head) for head in self._heads] for sequence in self._sequences]

    def _visible(self, sequence: _Sequence, head: Pattern) -> IntArray:
        tokens = sequence.tokens
        if len(tokens) == 0:
            return np.zeros(0, dtype=np.int64)
        query = tokens.last_query()
        budget = Budget(1 << 40, head)
        side = tokens.indexed()
        return np.concatenate([visible_keys(head, query, side, budget), tokens.visible_in_tail(head, query)])

    def droppable(self) -> list[IntArray]:
        """Keys of each sequence that no later query of any head can see: sorted indices.

        Decided by position and by declaration alone: without a declaration any fact may still come.
        """
        return [np.flatnonzero(~self._kept(sequence, self._heads)) for sequence in self._sequences]

    def _kept(self, sequence: _Sequence, patterns: Sequence[Pattern]) -> Any:
        tokens = sequence.tokens
        if len(tokens) == 0:
            # which facts a sequence has is known from its first token on
            return np.zeros(0, dtype=bool)
        keys = tokens.all_keys()
        promise = sequence.promise
        future = FutureQueries(len(tokens), tokens.next_position, len(tokens), promise, tokens.last_labels())
        kept = np.zeros(len(tokens), dtype=bool)
        for pattern in patterns:
            kept |= pattern.states(future, keys) != EMPTY
        return kept & tokens.valid()

    def explain(self) -> str:
        """In words: how many keys each sequence keeps, and which leaves of the pattern keep them."""
        lines = []
        for number, sequence in enumerate(self._sequences):
            length = len(sequence.tokens)
            kept = int(self._kept(sequence, self._heads).sum())
            lines.append(f"sequence {number}: {kept} of {length} keys are kept, {length - kept} can be dropped")
            for leaf in dict.fromkeys(leaf for head in self._heads for leaf in leaves(head)):
                reached = int((self._kept(sequence, self._heads) & self._kept(sequence, [leaf])).sum())
                reason = _unpromised(leaf, sequence.promise)
                lines.append(f"  {leaf!r} may reach {reached} of them{reason}")
        return "\n".join(lines)


def _unpromised(leaf: Pattern, promise: Declarations) -> str:
    for name, kind in leaf.needs.items():
        if kind == "flag" and name not in promise.final_flags:
            return f" (flag {name!r} is not declared final)"
        if kind == "label" and name not in promise.nondecreasing_labels:
            return f" (label {name!r} is not declared never to decrease)"
        if kind == "links" and name not in promise.links_from:
            return f" (links {name!r} are not declared to stay near)"
    return ""


def _position_rows(positions: Any, counts: list[Any]) -> list[IntArray | None]:
    if positions is None:
        return [None] * len(counts)
    rows = list(np.atleast_2d(np.asarray(positions)) if not isinstance(positions, list) else positions)
    if len(rows) == 1 or (rows and np.ndim(rows[0]) == 0):
        rows = [np.asarray(positions).reshape(-1)] * len(counts)
    arrays: list[IntArray | None] = []
    for row, count in zip(rows, counts, strict=False):
        array = np.asarray(row)
        if array.shape != (int(count),) or (array.size and (array.dtype.kind not in "iu" or array.min() < -1)):
            raise LayoutError(
                f"positions of {int(count)} new tokens must be {int(count)} integers of -1 or more; got {row}."
            )
        arrays.append(array.astype(np.int64))
    if len(arrays) != len(counts):
        raise LayoutError(f"positions are given for {len(arrays)} sequences; the decoder has {len(counts)}.")
    return arrays
