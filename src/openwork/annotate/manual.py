"""Headings in Unix manual pages (roff source): the macros `.SH` and `.SS`, and `.Sh` and `.Ss` of BSD."""

from __future__ import annotations

import re

from openwork.annotate.headings import Heading, Line, heading_annotator, lines_of

__all__ = ["manual_headings"]

_MACRO = re.compile(r"[.'][ \t]*(SH|SS|Sh|Ss)(?=[ \t]|$)")
_DEFINITION = re.compile(r"[.'][ \t]*(?:de1?|dei1?|am1?|ami1?|ig)(?:[ \t]+(\S+))?(?:[ \t]+(\S+))?")
_LEVELS = {"sh": 1, "ss": 2}


def _find(text: str) -> list[Heading]:
    """Headings: the title that follows the macro, to the end of the line.

    A macro without a title takes the next line of text. What defines another macro, or is ignored, has no headings.
    """
    found: list[Heading] = []
    until: str | None = None
    waiting = 0
    for line in lines_of(text):
        if until is not None:
            if line.text[:1] == "." and line.text[1:].strip(" \t") == until:
                until = None
            continue
        macro = _MACRO.match(line.text)
        if macro:
            level = _LEVELS[macro.group(1).lower()]
            waiting = 0 if _heading(line, macro.end(), level, found) else level
        elif line.text[:1] not in (".", "'"):
            if waiting and _heading(line, 0, waiting, found):
                waiting = 0
        elif definition := _DEFINITION.match(line.text):
            ignored = line.text.lstrip(".' \t").startswith("ig")
            until = (definition.group(1) if ignored else definition.group(2)) or "."
    return found


def _heading(line: Line, column: int, level: int, found: list[Heading]) -> bool:
    """Note the heading in a line from `column` on; False where there is no title."""
    title = line.text[column:].lstrip(" \t")
    if not title:
        return False
    stop = line.start + len(line.text)
    found.append(Heading(stop - len(title), stop, level))
    return True


manual_headings = heading_annotator("manual", _find)
