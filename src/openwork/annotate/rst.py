"""Headings in reStructuredText: section titles as docutils reads them.

A title is one line of text with a line of one repeated sign below it, or one above and one below. What looks alike in
an indented block, a table, a quoted literal block or a list is none. (A title that skips a level is an error to
docutils; it is a heading here.)
"""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass, field

from openwork.annotate.headings import Heading, Line, heading_annotator, lines_of

__all__ = ["rst_headings"]

_SIGN = r"[!-/:-@\[-`{-~]"
_SIGNS = re.compile(rf"({_SIGN})\1* *$")
_RUN = re.compile(rf"(({_SIGN})\2*)[ \t]*")
_SIMPLE_TABLE = re.compile(r"=+( +=+)+ *$")
_TABLE_BORDER = re.compile(r"=+[ =]*$")
_GRID_TABLE = re.compile(r"\+-[-+]+-\+ *$")
_ARGUMENT = r"(?:[a-zA-Z][a-zA-Z0-9_-]*|<[^<>]+>)"
_OPTION = rf"(?:[-+][a-zA-Z0-9](?: ?{_ARGUMENT})?|(?:--|/)[a-zA-Z0-9][a-zA-Z0-9_-]*(?:[ =]{_ARGUMENT})?)"
_OPTIONS = rf"{_OPTION}(?:, {_OPTION})*"
_BARE_OPTION = re.compile(rf"{_OPTIONS}$")
_ENUMERATOR = re.compile(
    r"(?:\((?P<parens>[0-9]+|[a-zA-Z]|[ivxlcdm]+|[IVXLCDM]+|#)\)|(?P<rparen>[0-9]+|[a-zA-Z]|[ivxlcdm]+|[IVXLCDM]+|#)\)|"
    r"(?P<period>[0-9]+|[a-zA-Z]|[ivxlcdm]+|[IVXLCDM]+|#)\.)(?: +|$)"
)
_CONSTRUCT = re.compile(
    r"[-+*\u2022\u2023\u2043](?: +|$)"  # bullet list
    r"|:(?![: ])(?:[^:\\]|\\.|:(?!(?:[ `]|$)))*(?<! ):(?: +|$)"  # field list
    rf"|{_OPTIONS}  +"  # option list
    r"|\|(?: +|$)"  # line block
    r"|\.\.(?: +|$)"  # explicit markup
    r"|__(?: +|$)"  # anonymous target
)
_DOCTEST = re.compile(r">>>(?: +|$)")
_LITERAL_NEXT = re.compile(r"(?<!\\)(?:\\\\)*::$")
_ROMAN = (
    (1000, "m"), (900, "cm"), (500, "d"), (400, "cd"), (100, "c"), (90, "xc"), (50, "l"), (40, "xl"), (10, "x"),
    (9, "ix"), (5, "v"), (4, "iv"), (1, "i"),
)  # fmt: skip


@dataclass
class _Sections:
    """What is open at the start of a line."""

    state: str = "body"
    """`body`, `text` (one line of a paragraph), `paragraph`, `item` (of a list, if the next line agrees), `over`
    (a line of signs), `overlined` (and the title after it), `doctest`, `grid`, `table`, `literal` (after `::` and a
    blank line) or `quoted`."""
    lines: list[str] = field(default_factory=list)
    """The lines that the state is about."""
    styles: list[tuple[str, bool]] = field(default_factory=list)
    """Sign and whether there is an overline, in the order of levels."""
    border: str = ""
    """Of a simple table, the border below its top: `new` if the line before was it, `head` later on."""

    def read(self, line: Line) -> Heading | None:
        """Take a line into account; the heading that it shows to be one."""
        text = line.text.expandtabs(8).rstrip()
        heading = self._heading(line)
        if heading is not None and not self._is_underline(text):
            # what has begun as an underline goes on as something else
            self._take(text)
            return heading
        if heading is not None:
            style = self._style(text)
            if style not in self.styles:
                self.styles.append(style)
            self._go("body")
            return heading
        self._take(text)
        return None

    def _style(self, underline: str) -> tuple[str, bool]:
        return underline[0], self.state == "overlined"

    def _heading(self, line: Line) -> Heading | None:
        run = _RUN.match(line.text)
        short = self.state == "over" and len(self.lines[0]) < 4
        if run is None or not (short or self.state in ("text", "overlined", "item")):
            return None
        signs, end = run.group(1), line.start + run.end()
        style = self._style(signs)
        level = 1 + (self.styles.index(style) if style in self.styles else len(self.styles))
        if self.state == "overlined":
            over, title = self.lines
            if not signs.startswith(over) or (len(over) < 4 and _width(title) > len(over)):
                return None
            # an underline that goes on is none: only its beginning, which looked like one, is flagged
            whole = line.start + len(over)
            return Heading(whole - 1, end if signs == over else whole, level)
        width = _width(self.lines[-1])
        enough = max(3, min(width, 4))
        if len(signs) >= enough:
            return Heading(line.start + enough - 1, end, level)
        if line.ended and run.end() == len(line.text) and len(signs) >= width:
            return Heading(end, end + 1, level)
        return None

    def _is_underline(self, text: str) -> bool:
        return _SIGNS.match(text) is not None and (self.state != "overlined" or text == self.lines[0])

    def _go(self, state: str, *lines: str) -> None:
        self.state, self.lines, self.border = state, list(lines), ""

    def _take(self, text: str) -> None:
        """Go to the next state with a line that is no underline of a title."""
        state, indented = self.state, text.startswith(" ")
        if state == "body":
            self._body(text)
        elif state in ("text", "paragraph"):
            if not text:
                literal = _LITERAL_NEXT.search(self.lines[-1]) is not None
                self._go("literal" if literal else "body")
            elif indented:
                self._go("body")
            else:
                self._go("paragraph", text)
        elif state == "item":
            if not text or indented:
                self._go("body")
            elif text.startswith(_next_enumerators(self.lines[0])):
                self._body(text)
            else:
                self._go("paragraph", text)
        elif state in ("over", "overlined"):
            self._after_overline(text)
        elif state == "literal":
            if text and not indented and re.match(_SIGN, text):
                self._go("quoted", text[0])
            elif text:
                self._body(text)
        elif state == "quoted":
            if not text:
                self._go("body")
            elif text[0] != self.lines[0]:
                self._body(text)
        elif state == "table":
            self._in_table(text)
        elif not text:  # the end of a doctest or a grid table
            self._go("body")
        elif state == "grid" and text[0] not in "+|":
            self._body(text)

    def _body(self, text: str) -> None:
        """Read the first line of a block."""
        if not text or text.startswith(" "):
            self._go("body")
        elif _next_enumerators(text) or _BARE_OPTION.match(text):
            self._go("item", text)
        elif _GRID_TABLE.match(text):
            self._go("grid")
        elif _SIMPLE_TABLE.match(text):
            self._go("table", text)
        elif _DOCTEST.match(text):
            self._go("doctest")
        elif _CONSTRUCT.match(text):
            self._go("body")
        elif _SIGNS.match(text):
            self._go("over", text)
        else:
            self._go("text", text)

    def _after_overline(self, text: str) -> None:
        lines = self.lines
        if self.state == "over" and text and not _SIGNS.match(text):
            self._go("overlined", lines[0], text)
            return
        # no title after all: a line of four signs is a transition or an error, a shorter one was text
        self._go("body")
        if len(lines[0]) < 4:
            self._go("text", lines[0])
            for line in (*lines[1:], text):
                self._take(line)

    def _in_table(self, text: str) -> None:
        if _TABLE_BORDER.match(text):
            if self.border or len(text) != len(self.lines[0]):
                self._go("body")
            else:
                self.border = "new"
        elif self.border == "new":
            # a blank line after the border ends the table; anything else makes it the border of the table's head
            if text:
                self.border = "head"
            else:
                self._go("body")


def _width(title: str) -> int:
    """Columns that a title takes up, as docutils counts them."""
    if title.isascii():
        return len(title)
    wide = sum(unicodedata.east_asian_width(character) in "WF" for character in title)
    return len(title) + wide - sum(unicodedata.combining(character) > 0 for character in title)


def _next_enumerators(text: str) -> tuple[str, ...]:
    """How the next item of a list would start after an item `text`; empty where it is no item."""
    match = _ENUMERATOR.match(text)
    if match is None:
        return ()
    kind = str(match.lastgroup)
    word = match.group(kind)
    if word == "#":
        following = "2"
    elif word.isdigit():
        following = str(int(word) + 1)
    elif len(word) == 1 and word not in "iI":
        following = chr(ord(word) + 1)
    else:
        number = _from_roman(word.lower())
        if number is None:
            return ()
        following = _to_roman(number + 1)
        following = following.upper() if word.isupper() else following
    before, after = {"parens": ("(", ")"), "rparen": ("", ")"), "period": ("", ".")}[kind]
    return f"{before}{following}{after} ", f"{before}#{after} "


def _to_roman(number: int) -> str:
    word = ""
    for value, letters in _ROMAN:
        word += letters * (number // value)
        number %= value
    return word


def _from_roman(word: str) -> int | None:
    number, rest = 0, word
    for value, letters in _ROMAN:
        while rest.startswith(letters):
            number += value
            rest = rest[len(letters) :]
    return number if not rest and _to_roman(number) == word and number < 5000 else None


def _find(text: str) -> list[Heading]:
    sections = _Sections()
    found = (sections.read(line) for line in lines_of(text))
    return [heading for heading in found if heading is not None]


rst_headings = heading_annotator("rst", _find)
