"""From a matplotlib figure to an `<svg>` that belongs to its page: the page's font, the page's colours, no outside."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from openwork.study.report.palette import SENTINELS

__all__ = ["FONT_PX", "axes", "svg_of"]

FONT_PX = 12.5
"""Size of text where a chart is as wide on the screen as it says, in pixels."""
_PX_PER_INCH = 72.0  # matplotlib writes SVG in points, 72 to the inch: here one is one pixel
_STYLE: Any = {
    # text stays text: searchable, in the page's font, as large as the reader wants it
    "svg.fonttype": "none",
    # ids follow from content, so equal figures are equal bytes
    "svg.hashsalt": "openwork",
    "font.size": FONT_PX,
    "font.family": ["DejaVu Sans"],
    "axes.edgecolor": SENTINELS["soft"],
    "axes.labelcolor": SENTINELS["ink"],
    "text.color": SENTINELS["ink"],
    "xtick.color": SENTINELS["soft"],
    "ytick.color": SENTINELS["soft"],
    "xtick.labelcolor": SENTINELS["ink"],
    "ytick.labelcolor": SENTINELS["ink"],
    "grid.color": SENTINELS["rule"],
    "grid.linewidth": 0.8,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.8,
    "axes.unicode_minus": False,
    "axes.formatter.useoffset": False,
    "lines.linewidth": 1.9,
    "lines.scale_dashes": False,
    "path.simplify": False,
    "text.parse_math": False,
}


@contextmanager
def axes(width: float, height: float) -> Iterator[tuple[Any, Any]]:
    """A figure of so many pixels and its axes, in the report's style."""
    import matplotlib
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    with matplotlib.rc_context(_STYLE):
        pad = 2 / _PX_PER_INCH
        layout = ConstrainedLayoutEngine(w_pad=pad, h_pad=pad)
        figure = Figure(figsize=(width / _PX_PER_INCH, height / _PX_PER_INCH), layout=layout)
        yield figure, figure.add_subplot()


def svg_of(figure: Any) -> str:
    """The figure as one `<svg>` element: no size of its own, no font, no address, `var(--...)` for colours."""
    file = io.StringIO()
    figure.savefig(file, format="svg", transparent=True, metadata=dict.fromkeys(("Date", "Creator", "Format", "Type")))
    text = file.getvalue()
    text = text[text.index("<svg ") : text.rindex("</svg>") + len("</svg>")]
    for pattern in (r"<!--.*?-->", r"<metadata>.*?</metadata>", r"<style.*?</style>"):
        text = re.sub(pattern, "", text, flags=re.DOTALL)
    text = re.sub(r"<[^>]*>", _clean, text)
    for name, colour in SENTINELS.items():
        text = text.replace(colour, f"var(--{name})")
    text = re.sub(r'<path [^>]*style="fill: none"/>', "", text)  # the paper of figure and axes, which is the page
    return re.sub(r"\s*\n\s*", "\n", text)


def _clean(match: re.Match[str]) -> str:
    tag = match[0].replace("xlink:href", "href")
    if tag.startswith("<svg "):
        box = re.search(r'viewBox="[^"]*"', tag)
        assert box is not None
        return f"<svg {box[0]}>"
    if tag.startswith("<g id="):
        return "" if tag.endswith("/>") else "<g>"
    tag = re.sub(r"(\.\d\d)\d+", r"\1", re.sub(r"\s+", " ", tag))
    tag = re.sub(r' transform="rotate\(-?0 [^"]*"', "", tag)
    # the size of text is the chart's, the family the page's
    return re.sub(r" font-family: [^;\"]*;?", "", tag)
