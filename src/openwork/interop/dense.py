"""A layout as a whole mask, for libraries that take nothing else."""

from __future__ import annotations

import numpy as np

from openwork.errors import ArgumentError, LayoutError
from openwork.layout import BlockLayout
from openwork.patterns.annotations import BoolArray

__all__ = ["MAX_BYTES", "EmptyRows", "dense_mask"]

MAX_BYTES = 1 << 30
"""Most bytes that a whole mask may take, one for each pair, unless the caller says otherwise."""

EmptyRows = str
"""`"raise"`, or `"keep"` where the caller knows what the other library makes of them."""


def dense_mask(layout: BlockLayout, *, max_bytes: int, empty_rows: EmptyRows = "keep", library: str = "") -> BoolArray:
    """Bool `[batch or 1, q_heads or 1, q_len, kv_len]`, True = attend.

    Args:
        layout: What to write out.
        max_bytes: Most bytes that it may take.
        empty_rows: `"raise"` where `library` cannot express a query that sees no key.
        library: What it does with one, in words.

    Raises:
        ArgumentError: `layout` is no layout, or `empty_rows` no such word.
        LayoutError: The mask would take more, or a query sees no key.
    """
    if not isinstance(layout, BlockLayout):
        raise ArgumentError(
            f"layout must be a BlockLayout (compile_layout, BlockLayout.from_mask); got {type(layout).__name__}."
        )
    if empty_rows not in ("raise", "keep"):
        raise ArgumentError(f"empty_rows must be 'raise' or 'keep'; got {empty_rows!r}.")
    needed = layout.batch * layout.heads * layout.q_len * layout.kv_len
    if needed > max_bytes:
        raise LayoutError(
            f"a whole mask of [{layout.batch}, {layout.heads}, {layout.q_len}, {layout.kv_len}] takes {needed:,} "
            "bytes, "
            f"more than max_bytes={max_bytes:,}. Compute with the layout itself (openwork.ops.sparse_attention), "
            "or raise max_bytes."
        )
    dense = layout.to_dense()
    if empty_rows == "raise" and not dense.any(axis=-1).all():
        first = [int(i) for i in np.argwhere(~dense.any(axis=-1))[0]]
        raise LayoutError(
            f"query {first[2]} of sequence {first[0]}, head {first[1]} sees no key: openwork gives it 0, "
            f"{library}. Let it "
            "see itself (`| Window(before=0)`), or say empty_rows='keep' where its result is thrown away, as "
            "padding is."
        )
    return dense
