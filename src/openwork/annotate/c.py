"""C: functions and macros, and where they are used, read from the text so far alone."""

from __future__ import annotations

import re

from openwork.annotate.characters import UNFINISHED
from openwork.annotate.source import Definition, SourceFacts, Use, source_code

__all__ = ["C", "c_source"]

# no alternative looks behind its own end, and what may go on (a word, a comment, a literal) is read to where it ends
_TOKEN = re.compile(
    r"""(?P<space>[ \t\r\f\v]+|\\\r?\n)
    | (?P<newline>\n)
    | (?P<comment>//(?:\\\r?\n|[^\n])*+|/\*(?:[^*]|\*(?!/))*+(?:\*/)?)
    | (?P<literal>"(?:\\[\s\S]|[^"\\\n])*"?|'(?:\\[\s\S]|[^'\\\n])*'?)
    | (?P<word>[A-Za-z_]\w*)
    | (?P<number>\.?\d[\w.]*)
    | (?P<sign>[\s\S])""",
    re.VERBOSE | re.ASCII,
)
_DIRECTIVE = re.compile(r"[ \t]*(?P<name>[a-z]+)(?=[^a-z])")
_DEFINE = re.compile(r"[ \t]*define[ \t]+(?P<name>[A-Za-z_]\w*+)(?=[\s\S])", re.ASCII)
_LINE = re.compile(r"(?:\\\r?\n|/\*(?:[^*]|\*(?!/))*+(?:\*/)?|[^\n\\]|\\)*+")
_UNDECIDED = ("/", "\\", "\\\r")
"""What may become a comment or join two lines with the next character."""
_NO_FUNCTIONS = frozenset(
    "if while for switch return sizeof do else case typeof __typeof__ __attribute__ __attribute __declspec __asm__ asm "
    "_Alignas alignas _Static_assert static_assert defined".split()
)
_LONGEST_HEAD = 1000
"""Most characters of a function's head that links lead to; of a longer one the last ones."""


class _Reader:
    """Reads a text once; what it knows at a character follows from the text up to it."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.definitions: list[Definition] = []
        self.uses: list[list[int]] = []
        self._known: dict[str, int] = {}
        self._is_function: dict[str, bool] = {}
        self._depth = 0
        self._saved: list[int] = []
        self._open: list[int] = []
        """Uses whose arguments are open, by the brackets around; -1 for a bracket of nothing known."""
        self._word: re.Match[str] | None = None
        self._start = -1
        self._candidate = ""
        self._line_start = True

    def read(self) -> SourceFacts:
        position = 0
        while match := _TOKEN.match(self.text, position):
            if len(self.text) - position <= 2 and self.text[position:] in _UNDECIDED:
                break
            position = match.end()
            kind = match.lastgroup
            if kind in ("space", "comment"):
                continue
            if kind == "newline":
                self._line_start = True
                continue
            sign = match.group()
            if sign == "#" and self._line_start:
                position = self._directive(match.start(), position)
                continue
            self._use(match)
            if self._depth == 0 and not self._open and self._start < 0 and sign not in ("}", ";"):
                self._start = match.start()
            if kind == "sign":
                self._sign(sign, match.start())
            self._word = match if kind == "word" else None
            self._line_start = False
        uses = tuple(Use(*use) for use in self.uses)
        return SourceFacts(tuple(self.definitions), uses)

    def _directive(self, start: int, position: int) -> int:
        """Notes a macro, and goes to the end of the directive."""
        name = _DIRECTIVE.match(self.text, position)
        word = name.group("name") if name else ""
        if word in ("if", "ifdef", "ifndef"):
            self._saved.append(self._depth)
        elif word in ("else", "elif") and self._saved:
            # both branches begin at the same depth, whatever brackets the first one opened
            self._depth = self._saved[-1]
        elif word == "endif" and self._saved:
            self._saved.pop()
        line = _LINE.match(self.text, position)
        stop = line.end() if line else position
        if (define := _DEFINE.match(self.text, position)) and define.end("name") < len(self.text):
            end = self.text.find("\n", start)
            self._define(define.group("name"), start, define.end("name"), end if end >= 0 else len(self.text))
            self._is_function[define.group("name")] = self.text[define.end("name")] == "("
        self._word = None
        return stop

    def _define(self, name: str, first: int, known: int, stop: int) -> None:
        self._known[name] = len(self.definitions)
        self._is_function[name] = True
        self.definitions.append(Definition(name, first, known, stop))

    def _use(self, match: re.Match[str]) -> None:
        """The word before this token is over: is it the use of a definition?"""
        word, self._word = self._word, None
        if word is None or (name := word.group()) not in self._known:
            return
        called = match.group() == "("
        if self._is_function[name] and not called:
            return
        if self._depth == 0 and called and not self._open and self._is_function[name]:
            return  # a declaration, or the head of another definition
        # what stands between, a blank or a comment, belongs to neither
        use = [word.start(), word.end(), match.start() + 1, UNFINISHED if called else word.end(), self._known[name]]
        if not called:
            use[3] = use[2]
        self.uses.append(use)

    def _sign(self, sign: str, place: int) -> None:
        if sign == "(":
            before = self._previous_word(place)
            if self._depth == 0 and not self._open and before and before not in _NO_FUNCTIONS:
                self._candidate = before
            is_use = bool(self.uses) and self.uses[-1][2] == place + 1 and self.uses[-1][3] == UNFINISHED
            self._open.append(len(self.uses) - 1 if is_use else -1)
        elif sign == ")":
            if self._open and (number := self._open.pop()) >= 0:
                self.uses[number][3] = place + 1
        elif sign == "{":
            if self._depth == 0 and not self._open and self._candidate and self._start >= 0:
                first = max(self._start, place - _LONGEST_HEAD)
                self._define(self._candidate, first, place, place + 1)
            if not (self._depth == 0 and self._is_linkage(place)):
                self._depth += 1
            self._end_statement()
        elif sign == "}":
            # a brace at the start of a line ends a function, whatever was miscounted
            at_start = place == 0 or self.text[place - 1] == "\n"
            self._depth = 0 if at_start else max(0, self._depth - 1)
            self._end_statement()
        elif sign == ";":
            if not self._open or self._depth == 0:
                self._end_statement()
        elif sign == "=" and self._depth == 0 and not self._open:
            self._candidate = ""

    def _end_statement(self) -> None:
        self._candidate, self._start = "", -1
        if self._depth == 0:
            self._open.clear()

    def _previous_word(self, place: int) -> str:
        found = re.search(r"([A-Za-z_]\w*)\s*\Z", self.text[max(0, place - 200) : place], re.ASCII)
        return found.group(1) if found else ""

    def _is_linkage(self, place: int) -> bool:
        return bool(re.search(r'\bextern\s+"C"\s*\Z', self.text[max(0, place - 40) : place]))


class C:
    """The C language, as `source_code` takes it: functions and macros are definitions, and uses lead to them.

    A function is certain with the brace that opens its body, so the flag `definition` is on that brace, and links lead
    to the head before it. Macros are certain with the character after their name. Calls, and macros that are no
    functions, are uses; declarations are none, nor is what stands in directives. Where `#if` has branches, both begin
    at the same depth. Names are not scoped: a local variable that is called like a macro is taken for it.
    """

    name = "c"
    suffixes = (".c", ".h")

    def read(self, text: str) -> SourceFacts:
        """Functions, macros and their uses in a text that may stop anywhere."""
        return _Reader(text).read()


c_source = source_code(C())
"""Functions, macros and uses of C: flag `definition`, links `use`; see `C`."""
