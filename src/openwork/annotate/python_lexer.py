"""Lexemes of Python text that may stop anywhere, each with the moment from which it is certain.

Read strictly from left to right and never revised, so the lexemes of a beginning of a text are the first lexemes of
the text. That is what makes the annotator causal; `tokenize` gives up on text that stops inside a bracket.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

__all__ = ["Lexeme", "lexemes"]


class Lexeme(NamedTuple):
    """A piece of Python text.

    `known` is the number of leading characters that must have been read to be sure of it: a name is over once the
    next character is there. White space, comments and text inside strings make no lexemes.
    """

    kind: str
    """`name`, `number`, `string`, `op` or `newline`. A replacement field of an f-string is `f{` ... `f}`, an `op`;
    `f:` starts its format, `f!` its conversion."""
    text: str
    start: int
    stop: int
    known: int


_SKIP = re.compile(r"(?:[ \t\f\ufeff]|\\(?:\r\n|\r|\n)|\#[^\r\n]*)+")
# in text that can be parsed, whatever is not ASCII and not in a string or a comment is part of a name
_NAME = re.compile(r"[A-Za-z_\x80-\U0010ffff][0-9A-Za-z_\x80-\U0010ffff]*")
_QUOTE = re.compile(r"""([rRbBuUfFtT]{0,2})('''|\"\"\"|'|")""")
_NUMBER = re.compile(
    r"0[xXoObB][0-9A-Fa-f_]*|(?:[0-9][0-9_]*\.?[0-9_]*|\.[0-9][0-9_]*)(?:[eE](?=[-+0-9]|\Z)[-+]?[0-9_]*)?[jJ]?"
)
_OPERATOR = re.compile(r"\*\*=?|//=?|>>=?|<<=?|->|[-+*/%@&|^=<>!:]=?|.", re.DOTALL)
_GROWS = frozenset({"**", "//", ">>", "<<", *"+-*/%@&|^=<>!:\\"})
"""Operators that the next character may still change; a backslash may turn out to join lines."""

_BODY = {
    "'": re.compile(r"[^\\\r\n']*(?:\\(?:\r\n|[\s\S])[^\\\r\n']*)*"),
    '"': re.compile(r'[^\\\r\n"]*(?:\\(?:\r\n|[\s\S])[^\\\r\n"]*)*'),
    "'''": re.compile(r"[^\\']*(?:(?:\\[\s\S]|'{1,2}(?!'))[^\\']*)*"),
    '"""': re.compile(r'[^\\"]*(?:(?:\\[\s\S]|"{1,2}(?!"))[^\\"]*)*'),
}
_LITERAL = re.compile(r"""[^\\{}'"\r\n]+""")
_NAMED_CHARACTER = re.compile(r"\\N\{[^}\r\n'\"]*\}?")


@dataclass
class _FString:
    quote: str
    raw: bool
    fields: list[int]
    """Open replacement fields, outermost first: brackets open inside each, -1 in the format after its colon."""


def lexemes(text: str) -> Iterator[Lexeme]:
    r"""The lexemes of a text, as far as they are certain.

    >>> [(piece.text, piece.known) for piece in lexemes("f(x) # no\nre")]
    [('f', 2), ('(', 2), ('x', 4), (')', 4), ('\n', 10)]
    """
    length = len(text)
    position = 0
    open_strings: list[_FString] = []
    while position < length:
        if open_strings and (not open_strings[-1].fields or open_strings[-1].fields[-1] < 0):
            position, piece = _literal(text, position, open_strings)
        else:
            if skipped := _SKIP.match(text, position):
                position = skipped.end()
                if position == length:
                    return
            position, piece = _code(text, position, open_strings)
        if piece is not None:
            if piece.known > length:
                return
            yield piece


def _code(text: str, start: int, open_strings: list[_FString]) -> tuple[int, Lexeme | None]:
    character = text[start]
    if quote := _QUOTE.match(text, start):
        return _string(text, quote, open_strings)
    if name := _NAME.match(text, start):
        return name.end(), Lexeme("name", name.group(), start, name.end(), name.end() + 1)
    if character in "\r\n":
        stop = start + (2 if text.startswith("\r\n", start) else 1)
        return stop, Lexeme("newline", "\n", start, stop, start + 1)
    if number := _NUMBER.match(text, start):
        # that it is a number is clear from its first digit, and its value does not matter
        return number.end(), Lexeme("number", "0", start, number.end(), start + (2 if character == "." else 1))
    operator = _OPERATOR.match(text, start)
    assert operator is not None  # it takes any character
    word = operator.group()
    if open_strings and open_strings[-1].fields:
        word, known = _field_operator(word, start, open_strings[-1])
        if known:
            return start + 1, Lexeme("op", word, start, start + 1, known)
    stop = start + len(word)
    return stop, Lexeme("op", word, start, stop, stop + (word in _GROWS))


def _string(text: str, quote: re.Match[str], open_strings: list[_FString]) -> tuple[int, Lexeme]:
    prefix, mark = quote.group(1).lower(), quote.group(2)
    piece = Lexeme("string", "''", quote.start(), quote.end(), quote.start(2) + 1)
    if "f" in prefix or "t" in prefix:
        open_strings.append(_FString(mark, "r" in prefix, []))
        return quote.end(), piece
    body = _BODY[mark].match(text, quote.end())
    assert body is not None  # it takes the empty string
    if text.startswith(mark, body.end()):
        return body.end() + len(mark), piece
    # not closed: a short string ends with its line, a long one never
    return (body.end() if len(mark) == 1 else len(text)), piece


def _field_operator(word: str, start: int, string: _FString) -> tuple[str, int]:
    """The operator at the start of `word` as a replacement field reads it; `known` is 0 where nothing is special."""
    first, depth = word[0], string.fields[-1]
    if first in "([{":
        string.fields[-1] += 1
    elif first in ")]}" and depth:
        string.fields[-1] -= 1
    elif first == "}":
        string.fields.pop()
        return "f}", start + 1
    elif first == ":" and not depth:
        string.fields[-1] = -1
        return "f:", start + 1
    elif word == "!" and not depth:
        return "f!", start + 2
    return word, 0


def _literal(text: str, start: int, open_strings: list[_FString]) -> tuple[int, Lexeme | None]:
    """One step through the text part of an f-string, or through the format of one of its fields."""
    string = open_strings[-1]
    in_format = bool(string.fields)
    if plain := _LITERAL.match(text, start):
        return plain.end(), None
    character = text[start]
    if text.startswith(string.quote, start):
        open_strings.pop()
        return start + len(string.quote), None
    if character == "\\":
        named = None if string.raw else _NAMED_CHARACTER.match(text, start)
        braced = text[start + 1 : start + 2] in ("{", "}")
        return (named.end() if named else start + (1 if braced else 2)), None
    if character in "\r\n" and len(string.quote) == 1:
        open_strings.pop()
        return start, None
    if character == "{":
        if not in_format and text.startswith("{", start + 1):
            return start + 2, None
        string.fields.append(0)
        return start + 1, Lexeme("op", "f{", start, start + 1, start + 1 + (not in_format))
    if character == "}" and in_format:
        string.fields.pop()
        return start + 1, Lexeme("op", "f}", start, start + 1, start + 1)
    return start + 1, None
