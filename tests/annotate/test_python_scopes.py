"""Every link of the Python annotator against `ast` and `symtable`, on whole files of the standard library."""

from __future__ import annotations

import ast
import bisect
import symtable
import warnings
from collections import defaultdict
from dataclasses import dataclass, field
from typing import Any

import pytest

from openwork.annotate import Python, SourceFacts

Place = tuple[int, int]
"""Line from 1, column in characters from 0."""

_TABLE_NAMES = {
    ast.Lambda: "lambda",
    ast.ListComp: "listcomp",
    ast.SetComp: "setcomp",
    ast.DictComp: "dictcomp",
    ast.GeneratorExp: "genexpr",
}


@dataclass(eq=False)
class Around:
    """A scope: a symbol table, or the names that a comprehension binds (Python 3.12 has no table for those)."""

    table: Any
    outer: Around | None
    owner: str = ""
    targets: frozenset[str] | None = None


@dataclass
class Oracle:
    """The names of a file, each with the scope that it belongs to."""

    uses: dict[Place, tuple[str, Any]] = field(default_factory=dict)
    definitions: dict[Place, tuple[str, Any, Place]] = field(default_factory=dict)
    """Where a `def` or `class` stands -> its name, the scope that binds it, where its body starts."""
    bindings: dict[tuple[str, Any], list[Place]] = field(default_factory=lambda: defaultdict(list))
    """What else binds a name, definitions left out."""
    in_strings: set[Place] = field(default_factory=set)
    """Names in f-strings, whose place Python 3.11 tells wrongly."""


class Walk:
    def __init__(self, text: str) -> None:
        self.oracle = Oracle()
        self.lines = text.split("\n")
        self.children: dict[int, dict[tuple[str, int], list[Any]]] = {}
        self.top = symtable.symtable(text, "file", "exec")
        self.kept: list[Any] = []
        self.index(self.top)
        self.strings = 0
        self.bound: dict[tuple[str, Any], list[Place]] = defaultdict(list)
        """Where a name, as its table has it, is bound by whatever it is."""
        self.reads: list[tuple[ast.Name, Around]] = []
        self.visit(ast.parse(text), Around(self.top, None))
        for node, around in self.reads:
            self.oracle.uses[self.place(node)] = (node.id, self.home(node.id, around, self.place(node)))

    def index(self, table: Any) -> None:
        self.kept.append(table)  # so that no two tables ever have one id
        found: dict[tuple[str, int], list[Any]] = defaultdict(list)
        for child in table.get_children():
            found[child.get_name(), child.get_lineno()].append(child)
            self.index(child)
        self.children[id(table)] = found

    def child(self, around: Around, name: str, line: int) -> Any:
        found = self.children[id(around.table)][name, line]
        return found.pop(0) if found else None

    def place(self, node: Any) -> Place:
        return node.lineno, len(self.lines[node.lineno - 1].encode()[: node.col_offset].decode(errors="replace"))

    def home(self, name: str, around: Around, place: Place | None = None) -> Any:
        """The table, or comprehension, whose name it is where it is read at `place` or bound."""
        name = mangled(name, around)
        scope: Around | None = around
        while scope is not None and scope.targets is not None:
            if name in scope.targets:
                return scope
            scope = scope.outer
        assert scope is not None
        try:
            symbol = scope.table.lookup(name)
        except KeyError:  # an annotation that is never evaluated is in no table
            return self.outward(name, scope)
        if symbol.is_global():
            return self.top
        if not symbol.is_local():
            return self.outward(name, scope.outer)
        if scope.table.get_type() == "class" and place is not None:
            if all(place < other for other in self.bound.get((name, scope.table), [])):
                # the one place where the table is no answer: before a class binds a name, Python looks further out
                return self.outward(name, scope.outer)
        return scope.table

    def outward(self, name: str, scope: Around | None) -> Any:
        while scope is not None and scope.outer is not None:
            if scope.targets is not None:
                if name in scope.targets:
                    return scope
            elif scope.table.get_type() != "class" and name in scope.table.get_identifiers():
                symbol = scope.table.lookup(name)
                if symbol.is_local():
                    return scope.table
                if symbol.is_declared_global():
                    return self.top
            scope = scope.outer
        return self.top

    def bind(self, name: str, around: Around, place: Place) -> None:
        home = self.home(name, around)
        self.oracle.bindings[name, home].append(place)
        self.bound[mangled(name, around), home].append(place)

    def visit_all(self, nodes: list[Any], around: Around) -> None:
        for node in nodes:
            if node is not None:
                self.visit(node, around)

    def visit(self, node: Any, around: Around) -> None:
        if getattr(node, "type_params", None) or type(node).__name__ == "TypeAlias":
            raise SyntaxError("type parameters have tables of their own; no file of the sample has any")
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            self.definition(node, around)
        elif isinstance(node, ast.Lambda):
            self.visit_all([*node.args.defaults, *node.args.kw_defaults], around)
            inner = Around(self.child(around, "lambda", node.lineno), around, around.owner)
            self.parameters(node.args, inner)
            self.visit(node.body, inner)
        elif type(node) in _TABLE_NAMES:
            self.comprehension(node, around)
        elif isinstance(node, ast.Name):
            if isinstance(node.ctx, ast.Load):
                self.reads.append((node, around))
                if self.strings:
                    self.oracle.in_strings.add(self.place(node))
            else:
                self.bind(node.id, around, self.place(node))
        else:
            self.strings += isinstance(node, ast.JoinedStr)
            for name in bound_names(node):
                self.bind(name, around, self.place(node))
            self.visit_all(list(ast.iter_child_nodes(node)), around)
            self.strings -= isinstance(node, ast.JoinedStr)

    def parameters(self, arguments: ast.arguments, around: Around) -> None:
        for argument in ast.walk(arguments):
            if isinstance(argument, ast.arg):
                self.oracle.bindings[argument.arg, around.table].append(self.place(argument))

    def definition(self, node: Any, around: Around) -> None:
        home = self.home(node.name, around)
        self.oracle.definitions[self.place(node)] = (node.name, home, self.place(node.body[0]))
        self.bound[mangled(node.name, around), home].append(self.place(node.body[0]))
        self.visit_all(node.decorator_list, around)
        if isinstance(node, ast.ClassDef):
            self.visit_all([*node.bases, *node.keywords], around)
            inner = Around(self.child(around, node.name, node.lineno), around, node.name)
        else:
            arguments = node.args
            self.visit_all([*arguments.defaults, *arguments.kw_defaults], around)
            for argument in ast.walk(arguments):
                if isinstance(argument, ast.arg):
                    self.visit_all([argument.annotation], around)
            self.visit_all([node.returns], around)
            inner = Around(self.child(around, node.name, node.lineno), around, around.owner)
            self.parameters(arguments, inner)
        self.visit_all(node.body, inner)

    def comprehension(self, node: Any, around: Around) -> None:
        table = self.child(around, _TABLE_NAMES[type(node)], node.lineno) or around.table
        names = [name for clause in node.generators for name in ast.walk(clause.target) if isinstance(name, ast.Name)]
        targets = frozenset(name.id for name in names if isinstance(name.ctx, ast.Store))
        inner = Around(table, around, around.owner, targets)
        for name in names:
            self.visit(name, inner)
        self.visit(node.generators[0].iter, around)
        for number, clause in enumerate(node.generators):
            self.visit_all([*([clause.iter] if number else []), *clause.ifs], inner)
        self.visit_all([node.key, node.value] if isinstance(node, ast.DictComp) else [node.elt], inner)


def mangled(name: str, around: Around) -> str:
    if around.owner and name.startswith("__") and not name.endswith("__"):
        return f"_{around.owner.lstrip('_')}{name}"
    return name


def bound_names(node: Any) -> list[str]:
    """The names that a node other than a name, a parameter or a definition binds."""
    if isinstance(node, ast.Import | ast.ImportFrom):
        return [(item.asname or item.name).split(".")[0] for item in node.names if item.name != "*"]
    if isinstance(node, ast.ExceptHandler | ast.MatchAs | ast.MatchStar) and node.name:
        return [node.name]
    return [node.rest] if isinstance(node, ast.MatchMapping) and node.rest else []


@dataclass
class Read:
    """A file as the annotator reads it, in lines and columns."""

    text: str
    facts: SourceFacts

    def __post_init__(self) -> None:
        self.starts = [0, *(index + 1 for index, character in enumerate(self.text) if character == "\n")]

    def place(self, character: int) -> Place:
        line = bisect.bisect_right(self.starts, character)
        return line, character - self.starts[line - 1]

    def links(self) -> dict[Place, Place]:
        return {
            self.place(use.first): self.place(self.facts.definitions[use.definition].first) for use in self.facts.uses
        }


def read(text: str) -> tuple[Read, Oracle]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return Read(text, Python().read(text)), Walk(text).oracle


def wrong_links(mine: Read, oracle: Oracle) -> list[str]:
    """Links that do not go from a name that is read to a definition in the scope that the name belongs to."""
    wrong = []
    for use, target in mine.links().items():
        if use in oracle.in_strings or (use not in oracle.uses and in_string(mine, use)):
            continue
        name, home = oracle.uses.get(use, ("", None))
        defined, scope, _ = oracle.definitions[target]
        if (name, home) != (defined, scope):
            wrong.append(f"{use} {mine.text.splitlines()[use[0] - 1].strip()!r} -> {target}")
    return wrong


def in_string(mine: Read, place: Place) -> bool:
    line = mine.text.split("\n")[place[0] - 1]
    return any(mark in line[: place[1]] for mark in ("f'", 'f"', "F'", 'F"')) or "{" in line[: place[1]]


def missed_links(mine: Read, oracle: Oracle) -> list[str]:
    """Uses that are not linked to the last definition before them, of names that nothing but definitions bind."""
    links = mine.links()
    bodies: dict[tuple[str, Any], list[tuple[Place, Place]]] = defaultdict(list)
    for place, (name, home, body) in oracle.definitions.items():
        bodies[name, home].append((body, place))
    missed = []
    for use, (name, home) in oracle.uses.items():
        before = [entry for entry in bodies[name, home] if entry[0] <= use]
        if use in oracle.in_strings or (name, home) in oracle.bindings or not before:
            continue
        if links.get(use) != max(before)[1]:
            missed.append(f"{use} {mine.text.splitlines()[use[0] - 1].strip()!r} -> {max(before)[1]}")
    return missed


@pytest.fixture(scope="module")
def readings(python_files: dict[str, str]) -> dict[str, tuple[Read, Oracle]]:
    found = {}
    for name, text in python_files.items():
        if "\f" not in text and "\r" not in text:  # ast counts lines otherwise than we do
            found[name] = read(text)
    return found


@pytest.mark.slow
def test_every_link_agrees_with_symtable(readings):
    assert len(readings) >= 50
    wrong = {name: wrong_links(*reading) for name, reading in readings.items()}
    assert {name: links for name, links in wrong.items() if links} == {}
    assert sum(len(mine.facts.uses) for mine, _ in readings.values()) > 1000


def test_no_use_of_an_earlier_definition_is_missed(readings):
    missed = {name: missed_links(*reading) for name, reading in readings.items()}
    assert {name: links for name, links in missed.items() if links} == {}


def test_definitions_are_those_of_ast(readings):
    for name, (mine, oracle) in readings.items():
        assert {mine.place(item.first) for item in mine.facts.definitions} == set(oracle.definitions), name
        for item in mine.facts.definitions:
            assert oracle.definitions[mine.place(item.first)][0] == item.name, name


SHADOWED = """
def name(): ...
def f(name): name()
def g():
    name = 1
    name()
def h():
    for name in range(3): name()
    [name for name in range(3)]
    lambda name: name()
def i():
    import name
    name()
x.name()
x(name=1)
"""


def test_the_oracle_knows_shadowed_names_and_attributes():
    mine, oracle = read(SHADOWED)
    assert mine.links() == {}
    assert wrong_links(mine, oracle) == missed_links(mine, oracle) == []


@pytest.mark.parametrize(
    ("text", "wrong", "missed"),
    [
        ("def f(): ...\ndef g(f): f()\n", 1, 0),
        ("def f(): ...\ndef g(): f()\n", 0, 0),
    ],
)
def test_the_oracle_sees_a_link_that_does_not_belong(text, wrong, missed):
    _, oracle = read(text)
    use = next(place for place, (name, _) in oracle.uses.items() if name == "f")
    fake = Read(text, SourceFacts((), ()))
    fake.links = lambda: {use: (1, 0)}  # type: ignore[method-assign]
    assert (len(wrong_links(fake, oracle)), len(missed_links(fake, oracle))) == (wrong, missed)


def test_the_oracle_sees_a_link_that_is_missing():
    _, oracle = read("def f(): ...\ndef g(): f()\n")
    assert len(missed_links(Read("def f(): ...\ndef g(): f()\n", SourceFacts((), ())), oracle)) == 1
