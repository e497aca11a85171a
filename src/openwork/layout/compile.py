"""`compile_layout`: from a pattern, lengths and annotations to a `BlockLayout`, without q_len x kv_len anything."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from openwork.errors import LayoutError, PatternError
from openwork.layout.data import BlockLayout, Plane
from openwork.layout.descend import Budget
from openwork.layout.from_mask import as_block_size, natural_order
from openwork.layout.parts import PlaneCompiler
from openwork.layout.positions import check_lengths, resolve
from openwork.layout.tokens import sides_of
from openwork.patterns.annotations import Annotations
from openwork.patterns.base import Pattern, PerHead

__all__ = ["MAX_BYTES", "compile_layout"]

MAX_BYTES = 1 << 30


def compile_layout(
    pattern: Pattern,
    *,
    q_len: int,
    kv_len: int,
    q_start: int | None = None,
    q_positions: Any = None,
    kv_positions: Any = None,
    block_size: tuple[int, int] | int | None = None,
    annotations: Annotations | Sequence[Annotations] | None = None,
    q_annotations: Annotations | Sequence[Annotations] | None = None,
    max_bytes: int = MAX_BYTES,
) -> BlockLayout:
    """Which blocks of query-key pairs to run, for a pattern on given lengths.

    By default key `j` has position `j` and query `i` has position `q_start + i` with `q_start = kv_len - q_len`: the
    last query is the last key.

    Args:
        pattern: Which pairs may interact.
        q_len: Number of queries.
        kv_len: Number of keys.
        q_start: Position of query 0; 0 for cross-attention.
        q_positions: int `[q_len]` or `[batch, q_len]`, in place of the default; -1 is padding.
        kv_positions: int `[kv_len]` or `[batch, kv_len]`, likewise. Without `q_positions` the queries are the last
            `q_len` of them.
        block_size: `(q_block, kv_block)`; `None` is 64x64.
        annotations: Facts about the keys, one value or one for each sequence.
        q_annotations: Facts about the queries, where they are not the last `q_len` keys.
        max_bytes: Most memory that the layout may take, in bytes.

    Returns:
        The layout. Its parts hold every allowed pair exactly once.

    Raises:
        LayoutError: Lengths or positions contradict each other, or the layout would pass `max_bytes`.
        AnnotationError: The pattern reads an annotation that is missing or of another length.

    Examples:
        >>> import openwork as ow
        >>> layout = ow.compile_layout(ow.Causal() & ow.Window(before=255), q_len=1024, kv_len=1024)
        >>> round(layout.density, 3), round(layout.executed_over_useful, 2)
        (0.219, 1.25)
    """
    if not isinstance(pattern, Pattern):
        raise PatternError(
            f"compile_layout takes a pattern; got {type(pattern).__name__}. A boolean tensor is a layout already: "
            "BlockLayout.from_mask(mask)."
        )
    blocks = as_block_size(block_size)
    check_lengths(q_len, kv_len)
    _check_size(q_len, kv_len, max_bytes)
    binding = resolve(
        pattern,
        q_len=q_len,
        kv_len=kv_len,
        q_start=q_start,
        q_positions=q_positions,
        kv_positions=kv_positions,
        annotations=annotations,
        q_annotations=q_annotations,
    )
    heads = pattern.patterns if isinstance(pattern, PerHead) else (pattern,)
    distinct = list(dict.fromkeys(heads))
    natural = natural_order(q_len, blocks[0]), natural_order(kv_len, blocks[1])
    budget = Budget(max_bytes, pattern)
    planes: list[Plane] = []
    for sequence in binding.sequences:
        compiler = PlaneCompiler(*sides_of(sequence), blocks, natural)
        planes += [compiler.compile(head, budget) for head in distinct]
    columns = np.array([distinct.index(head) for head in heads], dtype=np.int32)
    rows = np.array(binding.rows, dtype=np.int32)
    return BlockLayout(
        int(q_len),
        int(kv_len),
        tuple(planes),
        rows[:, None] * len(distinct) + columns[None],
        *blocks,
        q_positions=binding.q_positions,
        kv_positions=binding.kv_positions,
        q_start=binding.q_start,
        pattern=pattern,
    )


def _check_size(q_len: int, kv_len: int, max_bytes: int) -> None:
    """Refuse lengths whose token orders alone would pass `max_bytes`, before anything of that length is made."""
    if max(q_len, kv_len) >= 2**31:
        raise LayoutError(f"lengths must fit 32-bit indices; got q_len={q_len}, kv_len={kv_len}.")
    needed = 4 * (q_len + kv_len)
    # under a small budget it is the blocks that are too many, and the message about them says more
    if needed > max(max_bytes, 1 << 20):
        raise LayoutError(
            f"q_len={q_len} and kv_len={kv_len} need {needed:,} bytes for the order of their tokens alone, more than "
            f"max_bytes={max_bytes:,}. Use shorter sequences, or raise max_bytes."
        )
