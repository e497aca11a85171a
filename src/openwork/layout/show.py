"""How patterns and layouts show themselves: as text in a terminal, as a small table and picture in a notebook."""

from __future__ import annotations

import html
import math
from dataclasses import fields
from itertools import groupby

import numpy as np

from openwork.layout.compile import compile_layout
from openwork.layout.data import BlockLayout, Plane
from openwork.layout.draw import shade_cells
from openwork.patterns.annotations import Annotations, IntArray
from openwork.patterns.axis import Axis
from openwork.patterns.base import Pattern, PerHead, leaves
from openwork.patterns.chunk import Chunk
from openwork.patterns.custom import Custom
from openwork.patterns.grid import Grid
from openwork.patterns.random_blocks import RandomBlocks

__all__ = ["layout_html", "layout_text", "pattern_html", "plane_svg", "toy_length"]

_CELLS = 48
_PIXELS = 192
_OPACITY = (0.0, 0.25, 0.4, 0.6, 0.8, 1.0)
_MOST_HEADS = 8
_LONGEST = 8192


def layout_text(layout: BlockLayout) -> str:
    """What a layout is, how dense, and what its parts are and saved, in a few lines."""
    lines = [
        f"<BlockLayout {layout.q_len:,} queries x {layout.kv_len:,} keys, blocks {layout.q_block} x {layout.kv_block}, "
        f"batch {layout.batch}, heads {layout.heads}, {_bytes(layout.nbytes)}"
    ]
    if layout.pattern is not None:
        lines.append(f"  {layout.pattern!r}")
    lines.append(
        f"  density {layout.density:.4g}, block density {layout.block_density:.4g}, "
        f"executed over useful {_ratio(layout.executed_pairs, layout.allowed_pairs)}"
    )
    for number, plane in enumerate(layout.planes):
        title = f"  plane {number}: " if len(layout.planes) > 1 else "  "
        lines.append(f"{title}{_plane_summary(plane)}")
        lines += [f"    {' | '.join(row)}" for row in _part_rows(plane)]
    return "\n".join(lines) + ">"


def layout_html(layout: BlockLayout) -> str:
    """A layout for a notebook: its figures, the parts of each plane, and a picture."""
    rows = [
        ("queries x keys", f"{layout.q_len:,} x {layout.kv_len:,}, blocks {layout.q_block} x {layout.kv_block}"),
        ("sequences x heads told apart", f"{layout.batch} x {layout.heads}"),
        ("allowed pairs", f"{layout.allowed_pairs:,}: density {layout.density:.4g}"),
        ("executed pairs", f"{layout.executed_pairs:,}: block density {layout.block_density:.4g}"),
        ("executed over useful", _ratio(layout.executed_pairs, layout.allowed_pairs)),
        ("size", _bytes(layout.nbytes)),
    ]
    if layout.pattern is not None:
        rows.insert(0, ("pattern", repr(layout.pattern)))
    table = "".join(f"<tr><th>{html.escape(a)}</th><td>{html.escape(b)}</td></tr>" for a, b in rows)
    planes = []
    for number, plane in enumerate(layout.planes[:_MOST_HEADS]):
        parts = "".join(f"<li>{html.escape(', '.join(row))}</li>" for row in _part_rows(plane))
        caption = f"plane {number}: {_plane_summary(plane)}" if len(layout.planes) > 1 else _plane_summary(plane)
        planes.append(_figure(plane_svg(plane), f"{html.escape(caption)}<ul>{parts}</ul>"))
    if len(layout.planes) > _MOST_HEADS:
        planes.append(f"<p>and {len(layout.planes) - _MOST_HEADS} more planes</p>")
    return f"<div><table>{table}</table>{''.join(planes)}</div>"


def pattern_html(pattern: Pattern) -> str:
    """A pattern for a notebook: its text, and a picture on a toy sequence that is long enough to show it.

    Where the pattern reads annotations, the picture stands on made-up ones and says so.
    """
    heads: dict[Pattern, list[int]] = {}
    for number in range(len(pattern.patterns) if isinstance(pattern, PerHead) else 1):
        heads.setdefault(pattern.head(number), []).append(number)
    figures = []
    for head, numbers in list(heads.items())[:_MOST_HEADS]:
        length = toy_length(head)
        notes = _toy_annotations(head, length)
        layout = compile_layout(head, q_len=length, kv_len=length, annotations=notes)
        caption = f"on {length:,} positions" + (" with made-up annotations" if notes is not None else "")
        if len(heads) > 1:
            caption = f"head {', '.join(map(str, numbers))}: <code>{html.escape(repr(head))}</code>, {caption}"
        figures.append(_figure(plane_svg(layout.plane()), f"{caption}, density {layout.density:.3g}"))
    if len(heads) > _MOST_HEADS:
        figures.append(f"<p>and {len(heads) - _MOST_HEADS} more kinds of head</p>")
    return f"<div><p><code>{html.escape(repr(pattern))}</code></p>{''.join(figures)}</div>"


def plane_svg(plane: Plane) -> str:
    """The allowed pairs of a plane as an inline SVG: rows are queries, columns are keys, darker is denser."""
    if not plane.q_len or not plane.kv_len:
        return "<svg width='1' height='1'></svg>"
    shades = shade_cells(plane, _CELLS)
    rows, columns = shades.shape
    rects = "".join(_row_rects(y, row) for y, row in enumerate(shades))
    height = max(8, min(2 * _PIXELS, _PIXELS * plane.q_len // plane.kv_len))
    return (
        f"<svg xmlns='http://www.w3.org/2000/svg' width='{_PIXELS}' height='{height}' "
        f"viewBox='0 0 {columns} {rows}' preserveAspectRatio='none' shape-rendering='crispEdges' role='img' "
        f"aria-label='rows are queries, columns are keys'>"
        f"<rect width='{columns}' height='{rows}' fill='#f4f1ea'/><g fill='#17456b'>{rects}</g></svg>"
    )


def _row_rects(y: int, row: IntArray) -> str:
    rects, x = [], 0
    for shade, run in groupby(row.tolist()):
        width = len(list(run))
        if shade:
            rects.append(f"<rect x='{x}' y='{y}' width='{width}' height='1' opacity='{_OPACITY[shade]}'/>")
        x += width
    return "".join(rects)


def _figure(picture: str, caption: str) -> str:
    return (
        f"<figure style='display:inline-block;vertical-align:top;margin:0.5em'>{picture}"
        f"<figcaption style='max-width:32em;font-size:smaller'>{caption}</figcaption></figure>"
    )


def _plane_summary(plane: Plane) -> str:
    text = f"{plane.allowed_pairs:,} of {plane.possible_pairs:,} pairs allowed"
    if empty := int((plane.row_counts() == 0).sum()):
        text += f", {empty:,} empty rows"
    if plane.plain_pairs is not None and len(plane.parts) > 1 and plane.allowed_pairs:
        text += f"; as plain blocks executed over useful would be {_ratio(plane.plain_pairs, plane.allowed_pairs)}"
    return text


def _part_rows(plane: Plane) -> list[list[str]]:
    names = plane.names or ("natural order",) * len(plane.parts)
    return [
        [
            name,
            f"{part.q_blocks:,} x {part.kv_blocks:,} blocks",
            f"{part.num_full:,} full",
            f"{part.num_partial:,} partial with {len(part.masks):,} masks",
            f"executed over useful {_ratio(part.executed_pairs, part.allowed_pairs)}",
        ]
        for name, part in zip(names, plane.parts, strict=True)
    ]


def _ratio(executed: int, useful: int) -> str:
    return f"{executed / useful:.3g}" if useful else "undefined (no pair is allowed)"


def _bytes(count: float) -> str:
    for unit in ("B", "KiB", "MiB"):
        if count < 1024:
            return f"{count:.4g} {unit}"
        count /= 1024
    return f"{count:.4g} GiB"


def toy_length(pattern: Pattern) -> int:
    """A number of positions on which a picture shows what is particular to the pattern."""
    grids = [leaf for leaf in leaves(pattern) if isinstance(leaf, Grid | Axis)]
    if grids:
        return min(_LONGEST, max(leaf.offset + math.prod(leaf.shape) for leaf in grids))
    if any(isinstance(leaf, Custom) and leaf.rectangles is None for leaf in leaves(pattern)):
        return 64
    return min(_LONGEST, 3 * max(map(_scale, leaves(pattern))))


def _scale(leaf: Pattern) -> int:
    """About how many positions one repetition of a leaf takes."""
    if isinstance(leaf, Chunk):
        return leaf.size * (2 + (leaf.before or 0) + (leaf.after or 0))
    if isinstance(leaf, RandomBlocks):
        return leaf.block * (leaf.num_blocks or 8)
    numbers = [getattr(leaf, field.name) for field in fields(leaf)]  # type: ignore[arg-type]
    return max([8, *(number for number in numbers if isinstance(number, int))])


def _toy_annotations(pattern: Pattern, length: int) -> Annotations | None:
    kinds: dict[str, dict[str, object]] = {"flag": {}, "label": {}, "links": {}}
    token = np.arange(length)
    for number, (name, needed) in enumerate(sorted(pattern.needs.items())):
        step = max(4, length // (5 + 2 * number))
        for kind in needed.split("+"):
            if kind == "flag":
                kinds[kind][name] = token % step == step // 2
            elif kind == "label":
                kinds[kind][name] = token // step
            else:
                uses = token[step::step]
                kinds[kind][name] = np.stack([uses, uses + 1, uses // 2, uses // 2 + max(1, step // 8)], axis=1)
    if not pattern.needs:
        return None
    return Annotations(length, kinds["flag"], kinds["label"], kinds["links"])
