"""A report as one HTML file that needs nothing else: no network, no font, no script to be read."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from importlib import resources
from itertools import groupby
from pathlib import Path
from typing import Any

from openwork.runs import write_file
from openwork.study.report.palette import DARK, LIGHT, PRINT, series
from openwork.study.report.values import Figure, Key, Part, Report, Section

__all__ = ["html_of", "write_report"]

_MARKERS = {
    "o": '<circle cx="18" cy="6" r="4"/>',
    "s": '<path d="M14 2h8v8h-8z"/>',
    "^": '<path d="M18 1.5l4.6 8.5h-9.2z"/>',
    "D": '<path d="M18 .8l5.2 5.2l-5.2 5.2l-5.2 -5.2z"/>',
    "v": '<path d="M18 10.5l4.6 -8.5h-9.2z"/>',
    "P": '<path d="M16.4 1.5h3.2v2.9h2.9v3.2h-2.9v2.9h-3.2v-2.9h-2.9v-3.2h2.9z"/>',
}


def write_report(path: Path, report: Report) -> None:
    """Writes the report as HTML, whole or not at all.

    Raises:
        StudyError: The file cannot be written.
    """
    write_file(path, html_of(report).encode("utf-8"))


def html_of(report: Report) -> str:
    """The report as the text of one HTML file; the same bytes for the same report."""
    import jinja2

    files = resources.files("openwork.study.report")
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["words"] = _words
    environment.globals["kind"] = lambda part: type(part).__name__
    numbers = iter(range(1_000_000))
    return environment.from_string((files / "page.html.j2").read_text(encoding="utf-8")).render(
        report=report,
        sections=[
            (slug, section, list(_groups(section.parts)))
            for slug, section in zip(_slugs(report.sections), report.sections, strict=True)
        ],
        style=_variables() + (files / "style.css").read_text(encoding="utf-8"),
        svg=lambda figure: _svg(figure, f"f{next(numbers)}"),
        sample=_sample,
        # "</script>" inside a string would end the element that holds the figures
        figures=json.dumps(report.figures, allow_nan=False).replace("<", "\\u003c"),
    )


def _groups(parts: Iterable[Part]) -> Iterable[tuple[str, list[Part]]]:
    """Parts with their kind; figures that follow each other are one group."""
    for kind, group in groupby(parts, key=lambda part: type(part).__name__):
        if kind == "Figure":
            yield kind, list(group)
        else:
            yield from ((kind, [part]) for part in group)


def _slugs(sections: Iterable[Section]) -> list[str]:
    """An address for each section; no two alike, nor like one that every page has."""
    taken, slugs = {"verdict", "environment", "figures"}, []
    for section in sections:
        name = re.sub(r"[^a-z0-9]+", "-", section.title.lower()).strip("-") or "section"
        slug = next(slug for slug in (name, *(f"{name}-{n}" for n in range(2, 1000))) if slug not in taken)
        taken.add(slug)
        slugs.append(slug)
    return slugs


def _words(text: str) -> Any:
    """Escaped text in which what stands between backticks is code."""
    import markupsafe

    pieces = text.split("`")
    if len(pieces) % 2 == 0:  # an odd backtick is a backtick
        pieces[-2:] = ["`".join(pieces[-2:])]
    code, plain = markupsafe.Markup("<code>{}</code>").format, markupsafe.escape
    return markupsafe.Markup("").join((code if number % 2 else plain)(piece) for number, piece in enumerate(pieces))


def _svg(figure: Figure, prefix: str) -> Any:
    """The picture with ids that no other picture of the page has, and its description."""
    import markupsafe

    text = re.sub(r'\bid="([^"]+)"', rf'id="{prefix}-\1"', figure.svg)
    text = re.sub(r'href="#([^"]+)"', rf'href="#{prefix}-\1"', text)
    text = re.sub(r"url\(#([^)]+)\)", rf"url(#{prefix}-\1)", text)
    opening = markupsafe.Markup('<svg role="img" aria-label="{}" ').format(figure.alt)
    return opening + markupsafe.Markup(text.removeprefix("<svg "))


def _sample(key: Key) -> Any:
    """What an entry of a legend looks like in its chart, 36 x 12 pixels."""
    import markupsafe

    if key.shape == "none":
        return ""
    colour, dash, marker = series(key.style)
    stroke = f'style="stroke:var(--{colour});stroke-width:2.5" stroke-dasharray="{" ".join(map(str, dash))}"'
    inner = {
        "line": f'<path d="M0 6h36" {stroke}/>',
        "marker": f'<g style="fill:var(--{colour})">{_MARKERS[marker]}</g>',
        "both": f'<path d="M0 6h36" {stroke}/><g style="fill:var(--{colour})">{_MARKERS[marker]}</g>',
        "bar": f'<path d="M0 1h36v10h-36z" style="fill:var(--{colour})"/>',
        "band": f'<path d="M0 1h36v10h-36z" style="fill:var(--{colour});fill-opacity:.15"/>',
        "level": '<path d="M0 6h36" style="stroke:var(--soft);stroke-width:1.5" stroke-dasharray="1.5 3"/>',
        "shade": f'<path d="M12 0h12v12h-12z" style="fill:var(--{colour});fill-opacity:{key.opacity:g};'
        'stroke:var(--rule)"/>',
        "tick": f'<path d="M18 1v10" style="stroke:var(--{colour});stroke-width:3"/>',
    }[key.shape]
    return markupsafe.Markup(f'<svg viewBox="0 0 36 12" aria-hidden="true">{inner}</svg>')


def _variables() -> str:
    def block(colours: dict[str, str]) -> str:
        return ":root{" + "".join(f"--{name}:{value};" for name, value in colours.items()) + "}"

    dark, paper = block(DARK), block(PRINT)
    return f"{block(LIGHT)}\n@media (prefers-color-scheme:dark){{{dark}}}\n@media print{{{paper}}}\n"
