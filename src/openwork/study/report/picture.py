"""A picture of a pattern over the text that it was compiled for.

Rows are queries, columns keys, and the text runs down the diagonal: a causal pattern leaves all above the
diagonal empty, so there each line of the text stands beside the query of its first token.
"""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby

import numpy as np
import numpy.typing as npt

from openwork.layout.data import Plane
from openwork.layout.draw import shade_cells
from openwork.study.report.values import Figure, Key

__all__ = ["TextLine", "pattern_figure", "text_lines"]

SHADES = (0.0, 0.22, 0.38, 0.58, 0.78, 1.0)
"""Opacity of a square: none of its pairs, to 1 %, to 10 %, to 50 %, more, all."""
SHADE_NAMES = ("none", "to 1 %", "to 10 %", "to 50 %", "over 50 %", "all pairs")
_WIDTH, _SIDE = 420, 292
"""Of the whole and of the square of pairs, in pixels; the rest is for text."""
_TOP, _LEFT = 12, 12
_CELL_PX = 2
_FONT_PX, _LETTER_PX, _PITCH_PX = 10, 6.1, 12
_RING_PX = 7


@dataclass(frozen=True)
class TextLine:
    """A line of the text.

    Attributes:
        token: Index of its first token.
        text: What it says, with its number where the reader should find it in a file.
        marked: Whether it is set apart, as a definition or a heading is.
    """

    token: int
    text: str
    marked: bool = False


@dataclass(frozen=True)
class _Drawing:
    parts: list[str] = field(default_factory=list)

    def path(self, d: str, style: str) -> None:
        if d:
            self.parts.append(f'<path d="{d}" style="{style}"/>')


def pattern_figure(
    plane: Plane,
    *,
    caption: str,
    alt: str,
    lines: Sequence[TextLine] = (),
    keys: Mapping[str, npt.NDArray[np.bool_]] | None = None,
    queries: Mapping[str, npt.NDArray[np.bool_]] | None = None,
    rings: Sequence[tuple[int, int]] = (),
    note: str = "",
    style: int = 1,
) -> Figure:
    """Which keys each query sees, over the text that they are.

    Args:
        plane: What is drawn, as `layout.plane()` gives it.
        caption: Its title.
        alt: What it shows, in words.
        lines: Lines of the text; those that find no room are left out, marked ones last.
        keys: Names and flags per token, ticked above the columns.
        queries: Names and flags per token, ticked beside the rows.
        rings: Pairs of query and key to draw a numbered ring around, from 1; the note should say what they are.
        note: What else to say of it; what a square stands for is always said.
        style: Number of the series whose colour the pairs have.

    Returns:
        The figure; long sequences are drawn in squares of several tokens, shaded by how many of their pairs are
        allowed.
    """
    # as many tokens to a square as it takes, and a whole number where that divides the length
    tokens = -(-max(plane.q_len, plane.kv_len) * _CELL_PX // _SIDE)
    shades = shade_cells(plane, -(-max(plane.q_len, plane.kv_len) // tokens))
    rows, columns = shades.shape
    drawing = _Drawing()
    drawing.parts.append(f'<g transform="translate({_LEFT} {_TOP}) scale({_SIDE / columns:.5g} {_SIDE / rows:.5g})">')
    drawing.path(f"M0 0h{columns}v{rows}h-{columns}z", "fill:var(--panel)")
    for shade in range(1, len(SHADES)):
        colour = f"fill:var(--c{style % 7});fill-opacity:{SHADES[shade]:g};shape-rendering:crispEdges"
        drawing.path(_rectangles(shades == shade), colour)
    drawing.parts.append("</g>")
    _draw_ticks(drawing, plane, keys or {}, queries or {})
    _draw_rings(drawing, plane, rings)
    labels = _draw_text(drawing, plane, lines)
    drawing.parts.append(_axes())
    body = "".join(drawing.parts)
    drawn = f'<svg viewBox="0 0 {_WIDTH} {_TOP + _SIDE + 20}">{body}</svg>'
    per_row, per_column = plane.q_len / rows, plane.kv_len / columns
    single = per_row == per_column == 1
    square = "A square is one pair." if single else f"A square is {per_row:.3g} x {per_column:.3g} tokens."
    if lines and labels < sum(bool(line.text.strip()) for line in lines):
        square += f" {labels} of {len(lines)} lines of the text are written."
    legend = [
        Key(name, style, "shade", opacity)
        for number, (name, opacity) in enumerate(zip(SHADE_NAMES, SHADES, strict=True))
        if (shades == number).any() and number
    ]
    legend += [Key(f"key: {name}", 2, "tick") for name, flags in (keys or {}).items() if flags.any()]
    legend += [Key(f"query: {name}", 3, "tick") for name, flags in (queries or {}).items() if flags.any()]
    return Figure(drawn, caption, alt, f"{square} {note}".strip(), tuple(legend))


def _rectangles(chosen: npt.NDArray[np.bool_]) -> str:
    """Path of the chosen cells, neighbours in a row as one."""
    pieces = []
    for y, row in enumerate(chosen):
        if not row.any():
            continue
        x = 0
        for value, run in groupby(row.tolist()):
            width = sum(1 for _ in run)
            if value:
                pieces.append(f"M{x} {y}h{width}v1h-{width}z")
            x += width
    return "".join(pieces)


def _draw_ticks(
    drawing: _Drawing,
    plane: Plane,
    keys: Mapping[str, npt.NDArray[np.bool_]],
    queries: Mapping[str, npt.NDArray[np.bool_]],
) -> None:
    for flags in keys.values():
        places = _LEFT + (np.flatnonzero(flags) + 0.5) * _SIDE / plane.kv_len
        drawing.path("".join(f"M{x:.1f} {_TOP - 8}v7" for x in _apart(places)), "stroke:var(--c2);stroke-width:1.5")
    for flags in queries.values():
        places = _TOP + (np.flatnonzero(flags) + 0.5) * _SIDE / plane.q_len
        drawing.path("".join(f"M{_LEFT - 8} {y:.1f}h7" for y in _apart(places)), "stroke:var(--c3);stroke-width:1.5")


def _apart(places: npt.NDArray[np.float64]) -> list[float]:
    """One place of those that fall on the same pixel."""
    return sorted(set(np.round(places, 0).tolist()))


def _draw_rings(drawing: _Drawing, plane: Plane, rings: Sequence[tuple[int, int]]) -> None:
    for number, (query, key) in enumerate(rings, start=1):
        x, y = _LEFT + (key + 0.5) * _SIDE / plane.kv_len, _TOP + (query + 0.5) * _SIDE / plane.q_len
        drawing.parts.append(
            f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{_RING_PX}" style="fill:none;stroke:var(--c2);stroke-width:2"/>'
            f'<text x="{x + _RING_PX + 3:.1f}" y="{y - 3:.1f}" style="font-size:12px;font-weight:bold;'
            f'fill:var(--c2);paint-order:stroke;stroke:var(--paper);stroke-width:3">{number}</text>'
        )


def _draw_text(drawing: _Drawing, plane: Plane, lines: Sequence[TextLine]) -> int:
    """Writes the lines that find room beside the diagonal; returns how many."""
    heights = {number: _TOP + line.token * _SIDE / plane.q_len + 4 for number, line in enumerate(lines)}
    chosen: list[int] = []
    for wanted in (True, False):
        for number, line in enumerate(lines):
            free = all(abs(heights[number] - heights[other]) >= _PITCH_PX for other in chosen)
            if line.marked == wanted and line.text.strip() and free:
                chosen.append(number)
    for number in sorted(chosen):
        line, y = lines[number], heights[number]
        x = _LEFT + line.token * _SIDE / plane.kv_len + 7
        letters = int((_WIDTH - x) / _LETTER_PX)
        text = (
            line.text.rstrip() if len(line.text.rstrip()) <= letters else line.text[: letters - 1].rstrip() + "\u2026"
        )
        tone = "fill:var(--c2);font-weight:bold" if line.marked else "fill:var(--soft)"
        drawing.parts.append(
            f'<text class="mono" x="{x:.1f}" y="{y:.1f}" xml:space="preserve" '
            f'style="font-size:{_FONT_PX}px;{tone}">{html.escape(text)}</text>'
        )
    return len(chosen)


def _axes() -> str:
    style = 'style="font-size:12px;fill:var(--ink)"'
    y = _TOP + _SIDE
    return (
        f'<path d="M{_LEFT} {_TOP}v{_SIDE}h{_SIDE}" style="fill:none;stroke:var(--soft);stroke-width:.8"/>'
        f'<text x="{_LEFT}" y="{y + 15}" {style}>keys \u2192</text>'
        f'<text transform="translate({_LEFT + 14} {y - 6}) rotate(-90)" {style}>\u2190 queries</text>'
    )


def text_lines(
    text: str,
    offsets: npt.NDArray[np.int64],
    *,
    marked: npt.NDArray[np.bool_] | None = None,
    first_line: int | None = 1,
) -> tuple[TextLine, ...]:
    r"""The lines of a text with the token that each begins at, and its number.

    Args:
        text: The text.
        offsets: The character span of each token, [num_tokens, 2].
        marked: Per token; a line is marked where one of its tokens is. [num_tokens]
        first_line: Number of the first line; `None` shows no numbers.

    Examples:
        >>> spans = np.array([[0, 1], [1, 2], [2, 4], [4, 5]])
        >>> [(line.token, line.text) for line in text_lines("a\nbc\n", spans)]
        [(0, '1 a'), (2, '2 bc')]
    """
    starts = np.asarray(offsets, dtype=np.int64).reshape(-1, 2)[:, 0]
    found = []
    place = 0
    for number, line in enumerate(text.split("\n"), start=first_line or 0):
        # the first token that begins in the line; one that began before it belongs to the line above
        first, stop = np.searchsorted(starts, [place, place + len(line) + 1], side="left")
        place += len(line) + 1
        if first == stop:
            continue
        here = bool(marked is not None and marked[first:stop].any())
        words = line.rstrip() if first_line is None else f"{number} {line.rstrip()}"
        found.append(TextLine(int(first), words if line.strip() else "", here))
    return tuple(found)
