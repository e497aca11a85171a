"""`visible_now`: the keys that the last token of each sequence sees, for sequences that are given whole."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np

from openwork.layout.descend import Budget, visible_keys
from openwork.layout.from_mask import DEFAULT_BLOCK, natural_order
from openwork.layout.positions import position_rows, resolve
from openwork.layout.side import Side
from openwork.layout.tokens import SideTokens, sides_of
from openwork.patterns.annotations import Annotations, IntArray
from openwork.patterns.base import Pattern, PerHead

__all__ = ["visible_now"]


def visible_now(
    pattern: Pattern,
    *,
    kv_len: int,
    kv_positions: Any = None,
    annotations: Annotations | Sequence[Annotations] | None = None,
) -> list[list[IntArray]]:
    """The keys that the last key's token sees: what `ops.decode_attention` reads, without a decoder that follows along.

    `openwork.decoder` remembers a sequence and is told of each token; here the caller holds the tokens, as a cache
    does whose rows are reordered or cut off between calls.

    Args:
        pattern: Which pairs may interact; a `PerHead` gives every query head its own keys.
        kv_len: Number of keys, the query's own the last.
        kv_positions: int `[kv_len]` or `[batch, kv_len]` where they are not 0, 1, 2, ...; -1 is padding.
        annotations: Facts about the keys, one value or one for each sequence.

    Returns:
        For each sequence (once where they are alike), for each head (once where they are alike): sorted int64 indices.

    Raises:
        LayoutError: Positions do not fit `kv_len`.
        AnnotationError: The pattern reads an annotation that is missing or of another length.

    Examples:
        >>> from openwork.patterns import Causal, First, Window
        >>> pattern = Causal() & (Window(before=1) | First(keys=1))
        >>> visible_now(pattern, kv_len=5)[0][0].tolist()
        [0, 3, 4]
        >>> visible_now(pattern, kv_len=5, kv_positions=[-1, -1, 0, 1, 2])[0][0].tolist()
        [2, 3, 4]
    """
    heads = pattern.patterns if isinstance(pattern, PerHead) else (pattern,)
    if not pattern.needs and kv_len > 0:
        rows = np.arange(kv_len)[None] if kv_positions is None else position_rows("kv_positions", kv_positions, kv_len)
        shifts = [_shift(row) for row in rows]
        if all(shift is not None for shift in shifts):
            return [[_of_a_run(head, kv_len, shift) for head in heads] for shift in shifts if shift is not None]
    binding = resolve(pattern, q_len=1, kv_len=kv_len, kv_positions=kv_positions, annotations=annotations)
    found = []
    for sequence in binding.sequences:
        query, keys = sides_of(sequence)
        side = Side(keys, natural_order(kv_len, DEFAULT_BLOCK[1]), DEFAULT_BLOCK[1])
        empty = np.zeros(0, dtype=np.int64)
        alive = kv_len > 0 and query.positions[0] >= 0
        found.append([visible_keys(head, query, side, Budget(1 << 40, head)) if alive else empty for head in heads])
    return [found[row] for row in binding.rows]


def _shift(row: IntArray) -> int | None:
    """`s` where key `j` has position `j - s` from the first key on that is no padding; None where there is none."""
    last = int(row[-1])
    first = int(np.argmax(row >= 0))
    if last < 0 or row[first] != last - (len(row) - 1 - first):
        return None
    run = row[first:]
    return len(row) - 1 - last if (run[1:] - run[:-1] == 1).all() else None


def _of_a_run(pattern: Pattern, kv_len: int, shift: int) -> IntArray:
    """Visible keys of the last of `kv_len` keys, whose positions are one run that ends at `kv_len - 1 - shift`.

    Such keys are looked up among positions that are indexed once for all lengths up to a power of two, so that the
    cost follows the keys that are seen.
    """
    last = kv_len - 1 - shift
    side = _indexed_run(1 << max(10, (last + 1).bit_length()))
    query = SideTokens(np.array([last], dtype=np.int64), None)
    found = visible_keys(pattern, query, side, Budget(1 << 40, pattern))
    # a cache that has dropped its first tokens begins behind position 0
    return found[(found <= last) & (found >= -shift)] + shift


@lru_cache(maxsize=8)
def _indexed_run(length: int) -> Side:
    tokens = SideTokens(np.arange(length, dtype=np.int64), None)
    return Side(tokens, natural_order(length, DEFAULT_BLOCK[1]), DEFAULT_BLOCK[1])
