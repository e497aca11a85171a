"""A pattern that misses its file, the list, the strategy, the docs page or its drawing does not pass."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import re
from pathlib import Path

import pytest

import openwork
import openwork.patterns as package
from openwork.patterns import And, Not, Or, Pattern, PerHead, zoo
from openwork.patterns.names import IMPORTERS, LEAVES, PATTERNS
from openwork.testing.strategies import LEAF_STRATEGIES

DOCS = Path(__file__).parents[2] / "docs" / "patterns.md"


def defined_patterns() -> set[type[Pattern]]:
    """Every public pattern class that some module of the package defines."""
    found = set()
    for info in pkgutil.iter_modules(package.__path__):
        module = importlib.import_module(f"{package.__name__}.{info.name}")
        found |= {
            value
            for value in vars(module).values()
            if isinstance(value, type)
            and issubclass(value, Pattern)
            and value.__module__ == module.__name__
            and not value.__name__.startswith("_")
        }
    return found - {Pattern, And, Or, Not, PerHead}


def test_every_pattern_is_on_the_list() -> None:
    assert defined_patterns() == set(LEAVES)
    assert set(PATTERNS.values()) == {*LEAVES, PerHead}
    for leaf in (*LEAVES, PerHead):
        assert getattr(package, leaf.__name__) is leaf and leaf.__name__ in package.__all__
        assert getattr(openwork, leaf.__name__) is leaf and leaf.__name__ in openwork.__all__


def test_every_pattern_has_a_strategy() -> None:
    assert set(LEAF_STRATEGIES) == set(LEAVES)


def test_a_file_holds_one_family() -> None:
    files: dict[str, set[str]] = {}
    for leaf in LEAVES:
        files.setdefault(Path(inspect.getsourcefile(leaf) or "").name, set()).add(leaf.__name__)
    shared = {frozenset(names) for names in files.values() if len(names) > 1}
    assert shared == {frozenset(pair) for pair in (("Dense", "Causal"), ("Keys", "Queries"), ("Same", "Earlier"))}


@pytest.mark.parametrize("leaf", LEAVES, ids=lambda leaf: leaf.__name__)
def test_every_pattern_says_what_it_is(leaf: type[Pattern]) -> None:
    text = inspect.getdoc(leaf) or ""
    assert re.search(r"^Source: ", text, re.MULTILINE), "the docstring names no source"
    assert re.search(r"`[^`]*(<=|==|<|%|\bfn\()[^`]*`|Allowed always|`flag\[[ij]\]`|power of two", text), "no formula"
    drawings = re.findall(rf">>> assert_mask\({leaf.__name__}\(.*'''\n(?:    \.\.\. +[#. ]+\n)+", text)
    assert drawings, "the docstring has no drawing that is run: assert_mask(..., '''...''')"
    assert "Raises:" in text or not inspect.signature(leaf).parameters, "the docstring does not say what raises"


@pytest.mark.parametrize("leaf", [*LEAVES, PerHead], ids=lambda leaf: leaf.__name__)
def test_every_pattern_is_on_the_docs_page(leaf: type[Pattern]) -> None:
    assert re.search(rf"^\| .*`{leaf.__name__}\(", DOCS.read_text(), re.MULTILINE)


@pytest.mark.parametrize("name", [*zoo.__all__, *IMPORTERS])
def test_every_other_name_is_on_the_docs_page(name: str) -> None:
    assert f"`{name}(" in DOCS.read_text()


@pytest.mark.parametrize("name", zoo.__all__)
def test_every_zoo_entry_is_one_line_and_cites(name: str) -> None:
    function = getattr(zoo, name)
    text = inspect.getdoc(function) or ""
    assert re.search(r"\d{4}\.\d{5}|released code", text), "no citation"
    assert re.match(r"(Encoder|Decoder|Training)", text), "the first word says for what"
