"""What `openwork show` prints: a summary, a drawing with its rows labelled, a truth table."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from openwork.layout.draw import SHADES, draw_mask, shade_cells
from openwork.layout.overview import cell_edges

if TYPE_CHECKING:
    from openwork.cli.subject import Subject, TokenText
    from openwork.patterns.annotations import BoolArray

__all__ = ["drawing", "summary", "truth_table"]

_MOST_CELLS = 64
_SNIPPET = 16


def drawing(subject: Subject, *, sequence: int, head: int, columns: int) -> list[str]:
    """Lines that show which keys each query sees: rows are queries, columns are keys.

    Args:
        subject: What to show.
        sequence: Which sequence of a batch.
        head: Which query head.
        columns: Width of the terminal; where the pairs do not fit, a character stands for a cell of many.
    """
    plane = subject.layout.plane(sequence, head)
    cells = max(8, min(_MOST_CELLS, (columns - _label_width(subject)) // 2))
    if max(plane.q_len, plane.kv_len) <= cells:
        rows = draw_mask(plane.to_dense()).splitlines()
        return [f"{_label(subject.tokens, query, plane.q_len)}  {row}" for query, row in enumerate(rows)]
    shades = shade_cells(plane, cells)
    firsts = cell_edges(plane.q_len, len(shades))
    lines = [
        f"{_label(subject.tokens, int(first), plane.q_len)}  {' '.join(SHADES[shade] for shade in row)}"
        for first, row in zip(firsts, shades, strict=False)
    ]
    meanings = zip(SHADES, ("none", "up to 1 %", "10 %", "50 %", "more", "all"), strict=True)
    size = f"{plane.q_len / len(shades):.4g} x {plane.kv_len / shades.shape[1]:.4g}"
    legend = ", ".join(f"{character} {meaning}" for character, meaning in meanings)
    return [*lines, f"each cell: {size} pairs, of which allowed: {legend}"]


def _label_width(subject: Subject) -> int:
    return len(str(subject.layout.q_len)) + 2 + (_SNIPPET + 1 if subject.tokens is not None else 0)


def _label(tokens: TokenText | None, query: int, q_len: int) -> str:
    number = f"{query:{len(str(q_len - 1))}}"
    if tokens is None:
        return number
    # the token where each has a row, a line of the text where a row stands for many
    text = tokens.token(query) if q_len <= _MOST_CELLS else tokens.line_from(query)
    printable = "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)
    return f"{number} {printable[:_SNIPPET]:{_SNIPPET}}"


def summary(subject: Subject, *, sequence: int, head: int) -> list[str]:
    """What is shown and how dense it is, in a few lines."""
    layout = subject.layout
    plane = layout.plane(sequence, head)
    which = f", head {head} of {layout.heads}" if layout.heads > 1 else ""
    which += f", sequence {sequence} of {layout.batch}" if layout.batch > 1 else ""
    density = plane.allowed_pairs / max(1, plane.possible_pairs)
    lines = [
        subject.title,
        f"{plane.q_len:,} queries (rows) x {plane.kv_len:,} keys (columns){which}",
        f"{plane.allowed_pairs:,} of {plane.possible_pairs:,} pairs allowed: density {density:.3g}",
    ]
    if empty := int((plane.row_counts() == 0).sum()):
        lines.append(f"{empty:,} {'query sees' if empty == 1 else 'queries see'} no key: output 0")
    if subject.annotations is not None:
        lines.append(f"found in the text: {_facts(subject)}")
    return lines


def _facts(subject: Subject) -> str:
    notes = subject.annotations
    assert notes is not None
    facts = [f"{name} on {int(values.sum()):,} tokens" for name, values in notes.flags.items()]
    facts += [f"{name} with {len(np.unique(values[values >= 0])):,} labels" for name, values in notes.labels.items()]
    facts += [f"{len(rows):,} links {name}" for name, rows in notes.links.items()]
    return "; ".join(facts) or "nothing"


def truth_table(allowed: BoolArray) -> list[str]:
    """A 0 or 1 for each pair of positions, and in words which keys each query sees."""
    q_len, kv_len = allowed.shape
    width = len(str(max(q_len, kv_len) - 1))
    lines = [f"{'q_pos':>5} | {' '.join(f'{key:{width}}' for key in range(kv_len))} | sees"]
    lines.append("-" * len(lines[0]))
    for query, row in enumerate(allowed):
        cells = " ".join(f"{int(cell):{width}}" for cell in row)
        lines.append(f"{query:5} | {cells} | {' '.join(map(str, np.flatnonzero(row))) or 'nothing'}")
    return lines
