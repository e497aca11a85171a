"""`draw`: a pattern or a layout as a text picture."""

from __future__ import annotations

import numpy as np

from openwork.errors import PatternError
from openwork.layout.bind import bind
from openwork.layout.compile import compile_layout
from openwork.layout.data import BlockLayout, Plane
from openwork.layout.overview import cell_counts, cell_edges
from openwork.patterns.annotations import Annotations, BoolArray, IntArray
from openwork.patterns.base import Pattern, PerHead

__all__ = ["SHADES", "draw", "draw_layout", "draw_mask", "draw_plane", "shade_cells"]

SHADES = ".:-+*#"
"""None of the pairs of a cell, then up to 1, 10 and 50 percent, more, all."""
_BOUNDS = (0.01, 0.1, 0.5)
_MOST_PAIRS = 64
"""Rows and columns that are drawn pair by pair; longer sequences are drawn in cells."""


def draw(pattern: Pattern, q_len: int, kv_len: int | None = None, annotations: Annotations | None = None) -> str:
    """A text picture of a pattern: rows are queries, columns are keys, `#` is allowed and `.` is not.

    The last query is the last key, as in `compile_layout`. Above 64 queries or keys a character stands for a cell of
    many pairs, and its shade for how many of them are allowed; a last line says so. A `PerHead` is drawn head by
    head, equal heads once.

    Args:
        pattern: What to draw.
        q_len: Number of queries.
        kv_len: Number of keys; `q_len` by default.
        annotations: Facts about the keys, where the pattern reads any.

    Raises:
        PatternError: `pattern` is not one.
        LayoutError: There are more queries than keys.
        AnnotationError: The pattern reads an annotation that is missing or of another length.

    Examples:
        >>> from openwork.patterns import Causal, PerHead, Window
        >>> print(draw(Causal() & Window(before=1), 3, 5))
        . # # . .
        . . # # .
        . . . # #
        >>> print(draw(PerHead(Causal(), Window(before=0), Causal()), 2))
        head 0, 2: Causal()
        # .
        # #
        head 1: Window(before=0, after=0)
        # .
        . #
    """
    if not isinstance(pattern, Pattern):
        raise PatternError(f"draw takes a pattern; got {type(pattern).__name__}. draw_mask draws a boolean array.")
    kv_len = q_len if kv_len is None else kv_len
    if isinstance(pattern, PerHead):
        heads: dict[Pattern, list[int]] = {}
        for number, head in enumerate(pattern.patterns):
            heads.setdefault(head, []).append(number)
        return "\n".join(
            f"head {', '.join(map(str, numbers))}: {head!r}\n{draw(head, q_len, kv_len, annotations)}"
            for head, numbers in heads.items()
        )
    if max(q_len, kv_len) <= _MOST_PAIRS:
        return draw_mask(bind(pattern, q_len=q_len, kv_len=kv_len, annotations=annotations).to_dense()[0, 0])
    return draw_plane(compile_layout(pattern, q_len=q_len, kv_len=kv_len, annotations=annotations).plane())


def draw_layout(layout: BlockLayout) -> str:
    """A text picture of what a layout allows, plane by plane; what `BlockLayout.draw` gives.

    >>> from openwork.patterns import Causal, PerHead, Window
    >>> heads = PerHead(Causal(), Window(before=0), Causal())
    >>> print(draw_layout(compile_layout(heads, q_len=2, kv_len=2)))
    plane 0: head 0, 2
    # .
    # #
    plane 1: head 1
    # .
    . #
    """
    if len(layout.planes) == 1:
        return draw_plane(layout.planes[0])
    lines = []
    for number, plane in enumerate(layout.planes):
        users = []
        for row in range(layout.batch):
            heads = ", ".join(map(str, np.flatnonzero(layout.index[row] == number)))
            if heads:
                sequence = f"sequence {row}" if layout.batch > 1 else ""
                users.append(" ".join(filter(None, (sequence, f"head {heads}" if layout.heads > 1 else ""))))
        lines += [f"plane {number}: {'; '.join(users)}", draw_plane(plane)]
    return "\n".join(lines)


def draw_plane(plane: Plane) -> str:
    """A text picture of one plane; above 64 queries or keys a character is a cell of many pairs."""
    if max(plane.q_len, plane.kv_len) <= _MOST_PAIRS:
        return draw_mask(plane.to_dense())
    shades = shade_cells(plane, _MOST_PAIRS)
    cell = f"{plane.q_len / len(shades):.4g} x {plane.kv_len / shades.shape[1]:.4g}"
    rows = [" ".join(SHADES[shade] for shade in row) for row in shades]
    return "\n".join([*rows, f"(a cell is {cell} pairs: . none, : to 1 %, - to 10 %, + to 50 %, * more, # all)"])


def draw_mask(mask: BoolArray) -> str:
    """A boolean array `[q_len, kv_len]` as a text picture.

    >>> print(draw_mask(np.eye(2, dtype=bool)))
    # .
    . #
    """
    return "\n".join(" ".join("#" if allowed else "." for allowed in row) for row in np.asarray(mask))


def shade_cells(plane: Plane, most: int) -> IntArray:
    """How dense each cell of a plane is, as an index into `SHADES`, on a grid of at most `most` rows and columns."""
    q_cells, kv_cells = min(plane.q_len, most), min(plane.kv_len, most)
    counts = cell_counts(plane, q_cells, kv_cells)
    areas = np.outer(np.diff(cell_edges(plane.q_len, q_cells)), np.diff(cell_edges(plane.kv_len, kv_cells)))
    shades = 1 + np.searchsorted(_BOUNDS, counts / areas, side="left")
    shades[counts == 0], shades[counts == areas] = 0, len(SHADES) - 1
    result: IntArray = shades.astype(np.int64)
    return result
