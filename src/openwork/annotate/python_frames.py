"""What a reader of Python keeps in mind while a statement is read: open brackets, and names that wait."""

from __future__ import annotations

from dataclasses import dataclass, field

from openwork.annotate.python_lexer import Lexeme
from openwork.annotate.python_scopes import Scope

__all__ = [
    "EXPRESSIONS",
    "KEYWORDS",
    "STATEMENT_MODES",
    "Frame",
    "Held",
    "Match",
    "is_operand",
    "opened",
    "shows_soft_keyword",
    "type_parameters",
]

KEYWORDS = frozenset(
    "False None True and as assert async await break class continue def del elif else except finally for from global "
    "if import in is lambda nonlocal not or pass raise return try while with yield".split()
)
EXPRESSIONS = frozenset("False None True await lambda not yield".split())
"""Keywords that an expression may start with."""
STATEMENT_MODES = {
    "import": "import",
    "from": "skip",
    "global": "global",
    "nonlocal": "nonlocal",
    "del": "target",
    "for": "target",
    "def": "define",
    "class": "define",
}
"""How names are read in a statement that starts with this keyword; with any other one, `use`."""
_VALUES = frozenset({"False", "None", "True"})


@dataclass
class Held:
    """A name whose role the next lexeme decides."""

    lexeme: Lexeme
    scope: Scope
    """Where it is bound or looked up."""
    starts: bool
    """Nothing of its element stands before it: it may be a target, a parameter or an argument's name."""


@dataclass
class Match:
    """A `match` statement whose cases are being read."""

    indent: int
    cases: int = -1
    """Column of its `case` lines; -1 until the first."""


@dataclass
class Frame:
    """A statement, an open bracket or an open lambda: what is read until it closes."""

    opener: str
    """`""` for a statement, `lambda`, or the bracket."""
    scope: Scope
    """Where the names that it binds are bound."""
    reading: Scope
    """Where the names that it uses are looked up."""
    mode: str
    """What a name at the start of an element is: `either` (target or use), `target`, `use`, `parameter`, `import`,
    `skip`, `global`, `nonlocal`, `pattern`, `define` (the header of a definition), `alias` (a `type` statement)."""
    call: bool = False
    """Round brackets after an operand, where `name=` names an argument."""
    ambiguous: bool = False
    """A bracket that may still turn out to be a comprehension that binds what has been read."""
    around: Scope | None = None
    """The scope around a comprehension, where its first iterable is read; `None` elsewhere."""
    after_as: bool = False
    """Whether the target after an `as` is being read; a comma ends it."""
    num_clauses: int = 0
    """How many `for` the comprehension has had."""
    use: int = -1
    """The use whose arguments these are."""
    pending: list[Held] = field(default_factory=list)
    """Uses that a comprehension may still bind."""
    candidates: list[Held] = field(default_factory=list)
    """Names that may still be targets."""
    closed: int = -1
    """Number of candidates before those of a bracket that has just closed; -1 elsewhere."""

    def start_clause(self) -> None:
        """Read a `for` in a bracket: it is a comprehension."""
        if self.around is None:
            self.around = self.reading
            self.scope = self.reading.child("comprehension")
            self.ambiguous = True
            for held in self.pending:  # the element, which was read before the `for` made it a comprehension's
                if held.scope is self.around:
                    held.scope = self.scope
        self.num_clauses += 1
        self.mode = "target"
        self.reading = self.scope

    def let_go(self) -> list[Held]:
        """The names that waited for this bracket, but for those that a comprehension has bound; none waits any more."""
        bound = self.scope.bindings if self.around is not None else {}
        waiting, self.pending, self.ambiguous = self.pending, [], False
        return [held for held in waiting if held.scope is self.around or held.scope.key(held.lexeme.text) not in bound]

    def bind_candidates(self) -> None:
        """Bind the names that an import has read."""
        for held in self.candidates:
            held.scope.bind(held.lexeme.text, None)
        self.candidates = []

    def end_targets(self) -> None:
        """Read the `in` after the targets of a `for`."""
        self.mode = "use"
        if self.around is not None:
            self.reading = self.around if self.num_clauses == 1 else self.scope


def opened(lexeme: Lexeme, frame: Frame, *, trailer: bool, starts: bool) -> Frame:
    """The frame of a bracket that opens in `frame`; a trailer stands after an operand: a call or a subscript."""
    bracket = lexeme.text
    mode, scope = "use", frame.reading
    if frame.mode in ("either", "target") and starts and not trailer and bracket in "([":
        mode, scope = frame.mode, frame.scope
    elif frame.mode in ("import", "pattern"):
        mode, scope = frame.mode, frame.scope
    call = trailer and bracket == "("
    ambiguous = mode in ("use", "either") and bracket != "f{" and (call or not trailer)
    return Frame(bracket, scope, frame.reading, mode, call=call, ambiguous=ambiguous)


def is_operand(lexeme: Lexeme | None) -> bool:
    """Whether an expression may end with this lexeme, so that a bracket after it calls or subscripts."""
    if lexeme is None:
        return False
    if lexeme.kind == "name":
        return lexeme.text not in KEYWORDS or lexeme.text in _VALUES
    return lexeme.kind in ("string", "number") or lexeme.text in (")", "]", "}")


def shows_soft_keyword(lexeme: Lexeme) -> bool:
    """Whether `lexeme` cannot follow a name at the start of a statement, so the name is no name (`match x:`)."""
    if lexeme.kind == "name":
        return lexeme.text not in KEYWORDS or lexeme.text in EXPRESSIONS - {"not"}
    return lexeme.kind in ("string", "number") or lexeme.text == "{"


def type_parameters(frame: Frame) -> Frame:
    """The square brackets after the name of a generic; what follows in `frame` sees the parameters."""
    frame.reading = frame.reading.child("type")
    return Frame("[", frame.reading, frame.reading, "parameter")
