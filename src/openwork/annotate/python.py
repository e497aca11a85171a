"""Definitions and uses in Python text, read from left to right and never revised.

A name is *held* until the next lexeme says what it is: an attribute, an argument's name, a target of an assignment,
or a use. Two things can be said only later, and their names wait:

- at the start of a statement, `a, b` may be targets (`a, b = ...`) until the statement ends: *candidates*;
- in the first element of a bracket, `[a` may name a target of the comprehension (`[a for a in ...]`) until a comma or
  the end of the bracket: *pending*. A name that is called does not wait: its arguments would be over.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

from openwork.annotate.characters import UNFINISHED
from openwork.annotate.python_frames import (
    EXPRESSIONS,
    KEYWORDS,
    STATEMENT_MODES,
    Frame,
    Held,
    Match,
    is_operand,
    opened,
    shows_soft_keyword,
    type_parameters,
)
from openwork.annotate.python_lexer import Lexeme, lexemes
from openwork.annotate.python_scopes import Scope
from openwork.annotate.source import Definition, SourceFacts, Use, source_code

__all__ = ["Python", "python_source"]

_HEADERS = frozenset("if elif else while for try except finally with def class".split())
_AUGMENTED = frozenset("+= -= *= /= //= %= @= &= |= ^= >>= <<= **=".split())
_STILL_TARGET = frozenset({",", ")", "]", "=", ":", ";", "\n"})
_INDENT = re.compile(r"[ \t\f\ufeff]*")
_LINE_END = re.compile(r"[\r\n]|\Z")


class _Reader:
    def __init__(self, text: str) -> None:
        self.text = text
        self.definitions: list[Definition] = []
        self.uses: list[Use] = []
        self.blocks = [Scope("module")]
        self.matches: list[Match] = []
        self.deferred: list[tuple[Scope, str]] = []
        """Names that the statement binds anew once its right side has been read."""
        self.line_start = 0
        self.column = 0
        self.start_statement(new_line=True)

    def start_statement(self, *, new_line: bool) -> None:
        self.new_line = new_line
        self.first = ""
        """The word or sign that the statement starts with."""
        self.num_lexemes = 0
        self.previous: Lexeme | None = None
        self.starts = True
        """Whether a name would be the start of an element."""
        self.held: Held | None = None
        self.frames = [Frame("", self.blocks[-1], self.blocks[-1], "either")]
        self.header_name = ""
        self.header_scope: Scope | None = None

    def read(self) -> SourceFacts:
        for lexeme in lexemes(self.text):
            if lexeme.kind == "newline":
                self.line_start = lexeme.stop
                if all(frame.opener in ("", "lambda") for frame in self.frames):
                    self.end_statement(lexeme, new_line=True)
                continue
            attribute = self.previous is not None and self.previous.text == "."
            if lexeme.text in ("def", "class") and not attribute and (self.first or len(self.frames) > 1):
                self.recover(lexeme)
            if self.first or self.begin(lexeme):
                self.go_on(lexeme)
            self.previous = lexeme
            self.num_lexemes += 1
        return SourceFacts(tuple(self.definitions), tuple(self.uses))

    def recover(self, lexeme: Lexeme) -> None:
        """Start anew at a definition that stands where none can: a bracket before it was never closed."""
        before = self.previous
        for frame in self.frames:
            self.close_use(frame, lexeme.known)
        self.frames = self.frames[:1]
        self.end_statement(lexeme, new_line=True)
        if before is not None and before.text == "async":
            self.previous = before

    def begin(self, lexeme: Lexeme) -> bool:
        """Read the first lexeme of a statement; False where it has been dealt with."""
        if self.new_line:
            self.new_line = False
            self.dedent()
        if lexeme.text == "async":
            return False
        word = self.first = lexeme.text
        statement = self.frames[0]
        if word == "case" and self.matches and self.column == self.matches[-1].cases:
            statement.mode = "pattern"
            return False
        if lexeme.kind == "name" and word in KEYWORDS and word not in EXPRESSIONS:
            statement.mode = STATEMENT_MODES.get(word, "use")
            self.starts = statement.mode != "use"
            if statement.mode == "define":
                first = self.previous.start if self.previous is not None else lexeme.start
                end = _LINE_END.search(self.text, lexeme.stop)
                assert end is not None  # the end of the text is the end of a line
                self.definitions.append(Definition("", first, lexeme.stop, end.start()))
            return False
        if word == "@":
            statement.mode = "use"
        return True

    def dedent(self) -> None:
        indent = _INDENT.match(self.text, self.line_start)
        assert indent is not None  # it matches nothing, too
        self.column = len(indent.group().lstrip("\ufeff").rpartition("\f")[2].expandtabs(8))
        while len(self.blocks) > 1 and self.column <= self.blocks[-1].indent:
            self.blocks.pop()
        while self.matches and self.column <= self.matches[-1].indent:
            self.matches.pop()
        if self.matches and self.matches[-1].cases < 0:
            self.matches[-1].cases = self.column
        self.frames[0].scope = self.frames[0].reading = self.blocks[-1]

    def go_on(self, lexeme: Lexeme) -> None:
        """Read a lexeme inside a statement."""
        use = self.settle(lexeme)
        frame = self.frames[-1]
        if frame.closed >= 0:
            if lexeme.text not in _STILL_TARGET:
                frame.candidates, loads = frame.candidates[: frame.closed], frame.candidates[frame.closed :]
                self.load_all(loads, lexeme.known)
            frame.closed = -1
        after_dot = self.previous is not None and self.previous.text in (".", "f!")
        if lexeme.kind == "name" and not after_dot and lexeme.text not in KEYWORDS:
            binds = frame.mode != "use" and (self.starts or frame.mode not in ("parameter", "define"))
            self.held = Held(lexeme, frame.scope if binds else frame.reading, self.starts)
            self.starts = False
        elif lexeme.kind == "name" and not after_dot:
            self.keyword(lexeme)
        elif lexeme.text in ("(", "[", "{", "f{"):
            self.open(lexeme, use)
        elif lexeme.text in (")", "]", "}", "f}"):
            self.close(lexeme)
        elif lexeme.text in (",", ":", "=", ";"):
            self.separator(lexeme)
        elif lexeme.text not in ("*", "**"):
            self.starts = False

    def settle(self, lexeme: Lexeme) -> int:
        """Decide what the held name is, now that `lexeme` follows; the number of the use if it is called, else -1."""
        held, frame, sign = self.held, self.frames[-1], lexeme.text
        self.held = None
        if held is None:
            return -1
        name = held.lexeme.text
        if sign == ":=":
            held.scope.walrus_target().bind(name, None)
        elif frame.mode == "define" and not self.header_name:
            self.header_name = name
            self.definitions[-1] = replace(self.definitions[-1], name=name)
        elif frame.mode in ("global", "nonlocal"):
            names = held.scope.global_names if frame.mode == "global" else held.scope.nonlocal_names
            names.add(held.scope.key(name))
        elif frame.mode == "import":
            if held.starts and sign != "as":
                frame.candidates.append(held)
        elif frame.mode == "pattern":
            if sign in (".", "("):
                return self.load(held, lexeme)
            if sign != "=":
                held.scope.bind(name, None)
        elif frame.mode == "parameter" and held.starts:
            frame.scope.bind(name, None)
        elif frame.mode == "target" and held.starts and sign not in (".", "(", "["):
            if self.first == "for":  # what is iterated over is read first
                self.assign([held])
            else:
                held.scope.bind(name, None)
        elif frame.mode == "either" and held.starts and sign in _AUGMENTED:
            self.assign([held])
        elif frame.mode == "either" and held.starts and sign in _STILL_TARGET:
            frame.candidates.append(held)
        elif frame.mode == "alias":
            held.scope.bind(name, None)
        elif self.num_lexemes == 1 and shows_soft_keyword(lexeme):
            frame.mode = "alias" if name == "type" else "use"
            self.starts = True
        elif frame.mode != "skip" and not (frame.call and held.starts and sign == "="):
            return self.load(held, lexeme)
        return -1

    def load(self, held: Held, lexeme: Lexeme) -> int:
        # in the body of a class, a comprehension would look past what the class binds: only its `for` can tell
        waits = held.scope.sees_class(held.lexeme.text) and any(
            frame.ambiguous and frame.around is not held.scope for frame in self.frames
        )
        if lexeme.text == "(" and not waits:
            return self.emit(held, lexeme.known)
        self.load_all([held], lexeme.known)
        return -1

    def load_all(self, names: list[Held], known: int) -> None:
        """Take names as uses, or let them wait in the innermost bracket that may still bind them."""
        for frame in reversed(self.frames):
            if frame.ambiguous:
                frame.pending += names
                return
        for held in names:
            self.emit(held, known)

    def emit(self, held: Held, known: int) -> int:
        definition = held.scope.lookup(held.lexeme.text)
        if definition is None:
            return -1
        name = held.lexeme
        self.uses.append(Use(name.start, name.stop, known, name.stop, definition))
        return len(self.uses) - 1

    def assign(self, names: list[Held]) -> None:
        for held in names:
            if held.scope.binds(held.lexeme.text):
                # the right side, still to come, means what the name meant so far
                self.deferred.append((held.scope, held.lexeme.text))
            else:
                held.scope.bind(held.lexeme.text, None)

    def keyword(self, lexeme: Lexeme) -> None:
        word = lexeme.text
        if word in ("for", "async"):
            self.end_lambdas(lexeme)
        frame = self.frames[-1]
        self.starts = False
        if word == "lambda":
            scope = frame.reading.child("function")
            self.frames.append(Frame("lambda", scope, frame.reading, "parameter"))
            self.starts = True
        elif word == "for" and frame.opener:
            candidates, frame.candidates = frame.candidates, []
            frame.pending += candidates
            frame.start_clause()
            self.starts = True
        elif word == "in" and frame.mode == "target":
            frame.end_targets()
        elif word == "if" and frame.around is not None:
            frame.reading = frame.scope
        elif word == "if" and frame.mode == "pattern":
            frame.mode = "use"
        elif word == "import" and frame.mode == "skip":
            frame.mode = "import"
            self.starts = True
        elif word == "as":
            self.starts = True
            if frame.mode == "import":
                frame.candidates = []
            elif frame.mode == "use" and self.first in ("with", "except"):
                frame.mode, frame.after_as = "target", True

    def open(self, lexeme: Lexeme, use: int) -> None:
        frame = self.frames[-1]
        if frame.mode == "define" and not frame.opener and self.header_scope is None and self.header_name:
            new = self.open_header(lexeme, frame)
        elif frame.mode == "alias" and lexeme.text == "[":
            new = type_parameters(frame)
        else:
            new = opened(lexeme, frame, trailer=is_operand(self.previous), starts=self.starts)
        new.use = use
        if use >= 0:
            self.uses[use] = replace(self.uses[use], stop=UNFINISHED)
        self.frames.append(new)
        self.starts = True

    def open_header(self, lexeme: Lexeme, frame: Frame) -> Frame:
        """The type parameters, parameters or bases in the header of a definition."""
        if lexeme.text == "[":
            return type_parameters(frame)
        self.header_scope = self.body_scope(frame)
        if self.first == "def":
            return Frame(lexeme.text, self.header_scope, frame.reading, "parameter")
        return Frame(lexeme.text, frame.reading, frame.reading, "use", call=True)

    def body_scope(self, frame: Frame) -> Scope:
        if self.first == "class":
            return frame.reading.child("class", self.column, self.header_name)
        return frame.reading.child("function", self.column)

    def close(self, lexeme: Lexeme) -> None:
        self.end_lambdas(lexeme)
        self.starts = False
        frame = self.frames[-1]
        if not frame.opener:
            return
        if frame.mode == "import":
            frame.bind_candidates()
        self.frames.pop()
        self.load_all(frame.let_go(), lexeme.known)
        self.close_use(frame, lexeme.known)
        around = self.frames[-1]
        if frame.candidates and around.mode == "either":
            around.closed = len(around.candidates)
            around.candidates += frame.candidates
        else:
            self.load_all(frame.candidates, lexeme.known)

    def close_use(self, frame: Frame, stop: int) -> None:
        if frame.use >= 0:
            self.uses[frame.use] = replace(self.uses[frame.use], stop=stop)

    def end_lambdas(self, lexeme: Lexeme) -> None:
        """Leave the bodies of lambdas that `lexeme` ends."""
        while self.frames[-1].opener == "lambda":
            if self.frames[-1].mode == "parameter" and lexeme.text in (",", ":", "="):
                return
            self.frames.pop()

    def separator(self, lexeme: Lexeme) -> None:
        sign = lexeme.text
        self.end_lambdas(lexeme)
        frame = self.frames[-1]
        self.starts = sign == ","
        if frame.opener == "lambda":
            if sign == ":":
                frame.mode, frame.reading = "use", frame.scope
        elif sign == ",":
            if frame.ambiguous and frame.around is None:
                self.load_all(frame.let_go(), lexeme.known)
            if frame.mode == "import":
                frame.bind_candidates()
            elif frame.after_as:
                frame.mode, frame.after_as = "use", False
        elif frame.opener:
            return
        elif sign == ";":
            self.end_statement(lexeme, new_line=False)
        elif sign == ":":
            self.colon(lexeme, frame)
        elif frame.mode == "either":
            self.starts = True
            self.assign(frame.candidates)
            frame.candidates = []
        elif frame.mode == "alias":
            frame.mode = "use"

    def colon(self, lexeme: Lexeme, frame: Frame) -> None:
        """Read a colon outside all brackets: the end of a header, or an annotation."""
        if frame.mode == "define":
            if self.header_name:
                body = self.header_scope or self.body_scope(frame)
                self.blocks[-1].bind(self.header_name, len(self.definitions) - 1)
                self.blocks.append(body)
        elif self.first == "match" and self.num_lexemes > 1:
            self.matches.append(Match(self.column))
        elif self.first not in _HEADERS and frame.mode != "pattern" and self.first != "case":
            self.assign(frame.candidates)
            frame.candidates, frame.mode = [], "use"
            return
        self.end_statement(lexeme, new_line=False)

    def end_statement(self, lexeme: Lexeme, *, new_line: bool) -> None:
        if lexeme.kind == "newline":
            self.settle(lexeme)
            self.end_lambdas(lexeme)
        statement = self.frames[0]
        if statement.mode == "import":
            statement.bind_candidates()
        self.load_all(statement.candidates, lexeme.known)
        for scope, name in self.deferred:
            scope.bind(name, None)
        self.deferred = []
        self.start_statement(new_line=new_line)


@dataclass(frozen=True)
class Python:
    r"""Python, as a `SourceLanguage`: `def`, `async def` and `class`, and the names that mean them.

    Examples:
        >>> facts = Python().read("def f(x): return x\ny = f(1, 2)\n")
        >>> facts.definitions[0]
        Definition(name='f', first=0, known=3, stop=18)
        >>> facts.uses[0]
        Use(first=23, name_stop=24, known=25, stop=30, definition=0)
    """

    name: str = "python"
    suffixes: tuple[str, ...] = (".py", ".pyi", ".pyw")

    def read(self, text: str) -> SourceFacts:
        """Definitions and uses in `text`, which may stop anywhere."""
        return _Reader(text).read()


python_source = source_code(Python())
