"""Headings in Markdown: the block structure of CommonMark 0.31, line by line, as far as it decides about headings."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from openwork.annotate.headings import Heading, Line, heading_annotator, lines_of

__all__ = ["markdown_headings"]

_ATX = re.compile(r"(#{1,6})(?=[ \t]|$)")
_SETEXT = re.compile(r"(=+|-+)([ \t]*)")
_FENCE = re.compile(r"(`{3,})[^`]*$|(~{3,})")
_RULE = re.compile(r"(?:(?:\*[ \t]*){3,}|(?:-[ \t]*){3,}|(?:_[ \t]*){3,})$")
_MARKER = re.compile(r"([-+*]|(\d{1,9})[.)])(?=[ \t]|$)", re.ASCII)
_BLOCK_TAGS = (
    "address|article|aside|base|basefont|blockquote|body|caption|center|col|colgroup|dd|details|dialog|dir|div|dl|dt|"
    "fieldset|figcaption|figure|footer|form|frame|frameset|h1|h2|h3|h4|h5|h6|head|header|hr|html|iframe|legend|li|link|"
    "main|menu|menuitem|nav|noframes|ol|optgroup|option|p|param|search|section|summary|table|tbody|td|tfoot|th|thead|"
    "title|tr|track|ul"
)
_BLANK = re.compile(r"[ \t]*$")
_HTML = (
    # what starts a block of HTML, and what ends it: a line that holds the second, or a blank line
    (
        re.compile(r"<(?:script|pre|style|textarea)(?=[\s>]|$)", re.I),
        re.compile(r"</(?:script|pre|style|textarea)>", re.I),
    ),
    (re.compile(r"<!--"), re.compile(r"-->")),
    (re.compile(r"<\?"), re.compile(r"\?>")),
    (re.compile(r"<![A-Za-z]"), re.compile(r">")),
    (re.compile(r"<!\[CDATA\["), re.compile(r"\]\]>")),
    (re.compile(rf"</?(?:{_BLOCK_TAGS})(?=\s|/?>|$)", re.I), None),
)
_ATTRIBUTE = r"""\s+[A-Za-z_:][\w.:-]*(?:\s*=\s*(?:[^\s"'=<>`]+|'[^']*'|"[^"]*"))?"""
_HTML_ALONE = re.compile(
    rf"(?:<[A-Za-z][A-Za-z0-9-]*(?:{_ATTRIBUTE})*\s*/?>|</[A-Za-z][A-Za-z0-9-]*\s*>)\s*$", re.ASCII
)
_REFERENCE = re.compile(
    r"""\s*\[(?=[^\]]*\S)(?:[^\[\]\\]|\\.){1,999}\]:[ \t]*\n?[ \t]*(?:<(?:[^<>\n\\]|\\.)*>|[^\s<]\S*)"""
    r"""(?:(?:[ \t]+|[ \t]*\n[ \t]*)(?:"(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*'|\((?:[^()\\]|\\.)*\))[ \t]*(?=\n|$)"""
    r"""|[ \t]*(?=\n|$))""",
    re.DOTALL,
)


@dataclass
class _Container:
    """A block quote (`width` 0), or a list item whose content stands `width` columns in."""

    width: int
    empty: bool = False
    """An item of which only the marker has been read."""


@dataclass
class _Cursor:
    """A place in a line that knows its column: a tab is as wide as it needs to be, and may be used up in part."""

    text: str
    offset: int = 0
    column: int = 0
    spare: int = 0
    """Columns of the tab at `offset` that have been used up."""

    def indent(self) -> int:
        """Columns of white space from here on."""
        column, offset = self.column, self.offset
        while offset < len(self.text) and self.text[offset] in " \t":
            step = 1
            if self.text[offset] == "\t":
                step = 4 - column % 4
            column += step
            offset += 1
        return column - self.column

    def skip(self, columns: int) -> None:
        """Use up columns of white space, or as many characters that are none."""
        while columns > 0 and self.offset < len(self.text):
            step = 1
            if self.text[self.offset] == "\t":
                width = 4 - self.column % 4
                step = min(width, columns)
                self.column += step
                columns -= step
                if step < width:
                    return
            else:
                self.column += 1
                columns -= 1
            self.offset += 1

    def rest(self) -> str:
        return self.text[self.offset :].lstrip(" \t")

    def start(self) -> int:
        """Where the rest starts in the line."""
        return len(self.text) - len(self.rest())


@dataclass
class _Blocks:
    """The open blocks at the start of a line."""

    containers: list[_Container] = field(default_factory=list)
    leaf: str = ""
    """`paragraph`, `fence`, `html`, `code` or none."""
    paragraph: list[str] = field(default_factory=list)
    fence: str = ""
    html_end: re.Pattern[str] | None = None

    def read(self, line: Line) -> Heading | None:
        """Take a line into account; the heading that it shows to be one."""
        cursor = _Cursor(line.text)
        matched = self._matched(cursor)
        all_matched = matched == len(self.containers)
        if all_matched and self.leaf in ("fence", "html"):
            self._verbatim(cursor)
            return None
        lazy = self.leaf == "paragraph"
        in_paragraph = lazy and all_matched and bool(cursor.rest())
        heading = None
        while True:
            indent, rest = cursor.indent(), cursor.rest()
            if indent >= 4:
                if not lazy and rest:
                    self._open(matched, "code")
                    return None
                break
            if in_paragraph and (underline := _SETEXT.match(rest)) and self._is_title():
                heading = _setext(line, cursor, underline, table="|" in "".join(self.paragraph))
                if underline.end() == len(rest):
                    self._open(matched, "")
                    return heading
            if rest.startswith(">"):
                matched = self._enter(matched, _Container(0))
                self._skip_quote(cursor)
            elif _ATX.match(rest):
                heading = _atx(line, cursor)
                self._open(matched, "")
                return heading
            elif fence := _FENCE.match(rest):
                self._open(matched, "fence")
                self.fence = fence.group(1) or fence.group(2)
                return None
            elif self._starts_html(rest, matched, lazy):
                return None
            elif _RULE.match(rest):
                self._open(matched, "")
                return heading
            elif item := self._item(cursor, rest, in_paragraph):
                matched = self._enter(matched, item)
            else:
                break
            lazy = in_paragraph = False
        self._text(cursor.rest(), matched, lazy)
        return heading

    def _matched(self, cursor: _Cursor) -> int:
        """How many open containers the line belongs to; the cursor moves past their marks."""
        for number, container in enumerate(self.containers):
            indent, rest = cursor.indent(), cursor.rest()
            if container.width == 0:
                if indent > 3 or not rest.startswith(">"):
                    return number
                self._skip_quote(cursor)
            elif not rest:
                if container.empty:
                    return number
                cursor.skip(indent)
            elif indent >= container.width:
                cursor.skip(container.width)
            else:
                return number
        return len(self.containers)

    @staticmethod
    def _skip_quote(cursor: _Cursor) -> None:
        cursor.skip(cursor.indent() + 1)
        if cursor.indent():
            cursor.skip(1)

    def _verbatim(self, cursor: _Cursor) -> None:
        rest = cursor.rest()
        if self.leaf == "fence":
            mark = rest.rstrip(" \t")
            if cursor.indent() < 4 and len(mark) >= len(self.fence) and not mark.strip(self.fence[0]):
                self.leaf = ""
        elif self.html_end.search(cursor.text, cursor.offset) if self.html_end else not rest:
            self.leaf = ""

    def _starts_html(self, rest: str, matched: int, lazy: bool) -> bool:
        for start, end in _HTML:
            if start.match(rest):
                self._open(matched, "html")
                self.html_end = end
                # the same line may end it; `<!-->` and `<?>` do so themselves
                if end is not None and end.search(rest):
                    self.leaf = ""
                return True
        if not lazy and _HTML_ALONE.match(rest):
            self._open(matched, "html")
            self.html_end = None
            return True
        return False

    def _item(self, cursor: _Cursor, rest: str, in_paragraph: bool) -> _Container | None:
        """The list item that starts here; the cursor moves to its content."""
        marker = _MARKER.match(rest)
        if marker is None:
            return None
        blank = _BLANK.match(rest, marker.end()) is not None
        if in_paragraph and (blank or (marker.group(2) or "1").lstrip("0") != "1"):
            return None
        indent = cursor.indent()
        cursor.skip(indent + marker.end())
        spaces = cursor.indent()
        if blank or spaces > 4:
            spaces = 1
        cursor.skip(spaces)
        return _Container(indent + marker.end() + spaces, empty=blank)

    def _enter(self, matched: int, container: _Container) -> int:
        self._open(matched, "")
        self.containers.append(container)
        return matched + 1

    def _open(self, matched: int, leaf: str) -> None:
        """Close what the line does not belong to and start another leaf."""
        self.containers = self.containers[:matched]
        for container in self.containers:
            container.empty = False
        self.leaf = leaf
        self.paragraph = []

    def _text(self, rest: str, matched: int, lazy: bool) -> None:
        if not rest:
            if self.leaf != "code" or matched < len(self.containers):
                kept = self.containers[:matched]
                self.containers, self.leaf, self.paragraph = kept, "", []
        elif lazy:
            self.paragraph.append(rest)
        else:
            self._open(matched, "paragraph")
            self.paragraph = [rest]

    def _is_title(self) -> bool:
        """Whether the paragraph is more than link definitions."""
        content = "\n".join(self.paragraph)
        position = 0
        while reference := _REFERENCE.match(content, position):
            position = reference.end()
        return bool(content[position:].strip())


def _atx(line: Line, cursor: _Cursor) -> Heading | None:
    marks = _ATX.match(cursor.rest())
    assert marks is not None  # the caller has looked
    first = line.start + cursor.start() + marks.end()
    stop = line.start + len(line.text)
    if first == stop:
        # a heading without text: the line ending shows it
        return Heading(first, first + 1, marks.end()) if line.ended else None
    return Heading(first, stop, marks.end())


def _setext(line: Line, cursor: _Cursor, underline: re.Match[str], *, table: bool) -> Heading | None:
    level = 1 if underline.group(1)[0] == "=" else 2
    start = line.start + cursor.start()
    stop = line.start + len(line.text)
    if len(underline.group(1)) >= 3 and not table:
        return Heading(start + 2, start + underline.end(), level)
    return Heading(stop, stop + 1, level) if line.ended and start + underline.end() == stop else None


def _find(text: str) -> list[Heading]:
    blocks = _Blocks()
    found = (blocks.read(line) for line in lines_of(text))
    return [heading for heading in found if heading is not None]


markdown_headings = heading_annotator("markdown", _find)
