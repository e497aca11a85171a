"""Colours, dashes and markers of the report: the same series looks the same in every chart of a page.

The series' colours are those of Okabe and Ito (2008, "Color Universal Design"), which people with any of the common
kinds of colour blindness tell apart, darkened for the light page and lightened for the dark one until each stands out
by 3:1 and more, which WCAG 2.1 (1.4.11) asks of graphics. Yellow cannot and is left out. No chart relies on colour
alone: dashes and markers differ too.
"""

from __future__ import annotations

__all__ = ["DARK", "DASHES", "LIGHT", "MARKERS", "PRINT", "SENTINELS", "series"]

LIGHT = {
    "ink": "#1b1b1b",
    "soft": "#5a5a5a",
    "paper": "#ffffff",
    "panel": "#f4f4f1",
    "rule": "#d9d9d4",
    "c0": "#1b1b1b",
    "c1": "#0072b2",
    "c2": "#d55e00",
    "c3": "#007f5f",
    "c4": "#b0588a",
    "c5": "#8f6400",
    "c6": "#2b8cc4",
}
"""CSS variables on a light page."""

DARK = {
    "ink": "#ececec",
    "soft": "#b0b0b0",
    "paper": "#161616",
    "panel": "#222220",
    "rule": "#3c3c39",
    "c0": "#ececec",
    "c1": "#4ea3dc",
    "c2": "#f2843a",
    "c3": "#2fbf93",
    "c4": "#de9bc1",
    "c5": "#e6b03c",
    "c6": "#8fd0f5",
}
"""The same on a dark page."""

PRINT = LIGHT | {"ink": "#000000", "soft": "#333333", "panel": "#ffffff", "rule": "#bbbbbb", "c0": "#000000"}
"""The same on paper."""

SENTINELS = {name: f"#fe00{number:02x}" for number, name in enumerate(LIGHT)}
"""What the plotting library is told instead of a colour, which it must know; `var(--name)` takes its place."""

DASHES: tuple[tuple[float, ...], ...] = ((), (7, 2.5), (2, 2), (9, 2.5, 2, 2.5), (4, 1.5))
"""Lengths of dashes and gaps of each series in turn, in pixels."""

MARKERS = ("o", "s", "^", "D", "v", "P")
"""Markers of each series in turn, in matplotlib's letters."""

_NUM_COLOURS = 7


def series(style: int) -> tuple[str, tuple[float, ...], str]:
    """Name of the colour, dash and marker of series number `style`; 210 differ.

    >>> series(1)
    ('c1', (7, 2.5), 's')
    """
    return f"c{style % _NUM_COLOURS}", DASHES[style % len(DASHES)], MARKERS[style % len(MARKERS)]
