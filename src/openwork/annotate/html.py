"""Headings in HTML: the elements `h1` to `h6`, read as a browser reads tags."""

from __future__ import annotations

import re

from openwork.annotate.headings import Heading, heading_annotator

__all__ = ["html_headings"]

_SPACE = r"[ \t\n\r\f]"
# no alternative gives back what it has read, so a tag that is not closed yet is no other tag either
_TAG = re.compile(
    rf"""<(/?)([A-Za-z][^ \t\n\r\f/>]*+)
    (?: (?:{_SPACE}|/)++
      | =(?!{_SPACE}*+["'])
      | [^ \t\n\r\f/>=]++ (?: {_SPACE}*+ = {_SPACE}*+ (?: "[^"]*+" | '[^']*+' | (?!["'])[^ \t\n\r\f>]*+ ) )?+
    )*+ >""",
    re.VERBOSE,
)
_COMMENT = re.compile(r"<!--(?:-?>|[\s\S]*?--!?>)")
_RAW = frozenset({"iframe", "noembed", "noframes", "plaintext", "script", "style", "textarea", "title", "xmp"})
"""Elements whose content is text, whatever it looks like."""
_VOID = frozenset("area base br col embed hr img input link meta param source track wbr".split())
_AROUND = frozenset(
    "address article aside blockquote body center dd details dialog div dl dt fieldset figcaption figure footer form "
    "header html li main nav ol section summary table tbody td tfoot th thead tr ul".split()
)
"""Elements whose end closes a heading that began inside them."""


def _find(text: str) -> list[Heading]:
    """Headings from the end of their opening tag to the end of what closes them."""
    found: list[Heading] = []
    level, first = 0, 0
    inside: list[str] = []
    position = text.find("<")
    while position >= 0:
        tag, stop = _piece(text, position)
        if stop < 0:
            break
        if tag is not None:
            closing, name = bool(tag.group(1)), tag.group(2).lower()
            number = int(name[1]) if len(name) == 2 and name[0] == "h" and name[1] in "123456" else 0
            if number and not closing:
                if level:
                    found.append(Heading(first, stop - 1, level))
                level, first, inside = number, stop - 1, []
            elif level and closing and (number or (name in _AROUND and name not in inside)):
                found.append(Heading(first, stop, level))
                level = 0
            elif level and closing and name in inside:
                del inside[len(inside) - 1 - inside[::-1].index(name) :]
            elif level and not closing and name not in _VOID:
                inside.append(name)
            if name in _RAW and not closing:
                stop = _end_of_raw(text, stop, name)
                if stop < 0:
                    break
        position = text.find("<", stop)
    if level:
        found.append(Heading(first, len(text), level))
    return found


def _piece(text: str, start: int) -> tuple[re.Match[str] | None, int]:
    """The tag at a `<`, or None for a comment and the like, and where it ends; -1 if it is not closed."""
    if tag := _TAG.match(text, start):
        return tag, tag.end()
    following = text[start + 1 : start + 3]
    if following[:1].isascii() and following[:1].isalpha():
        return None, -1
    if following[:1] == "/" and (len(following) < 2 or (following[1].isascii() and following[1].isalpha())):
        return None, -1
    if text.startswith("<!--", start):
        comment = _COMMENT.match(text, start)
        return None, comment.end() if comment else -1
    if text.startswith("<![CDATA[", start):
        end = text.find("]]>", start)
        return None, end + 3 if end >= 0 else -1
    if following[:1] in ("!", "?", "/"):
        return None, text.find(">", start) + 1 or -1
    return None, start + 1


def _end_of_raw(text: str, start: int, name: str) -> int:
    if name == "plaintext":
        return -1
    end = re.compile(rf"</{name}(?=[ \t\n\r\f/>])", re.IGNORECASE).search(text, start)
    return end.start() if end else -1


html_headings = heading_annotator("html", _find)
