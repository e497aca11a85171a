"""Every pattern keeps the contract; the contract can fail."""

from __future__ import annotations

import pickle
import subprocess
import sys
import types
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from openwork.errors import PatternError
from openwork.patterns import (
    Annotations,
    Causal,
    Custom,
    Keys,
    Linked,
    Pattern,
    PerHead,
    Window,
    parse_pattern,
    register_pattern,
)
from openwork.patterns.base import negate
from openwork.patterns.names import LEAVES
from openwork.patterns.rectangles import EMPTY, FULL, Order
from openwork.patterns.register import REGISTERED
from openwork.testing import pattern_contract
from openwork.testing.strategies import LEAF_STRATEGIES, facts, per_head

LENGTH = 40
NOTES = Annotations(
    LENGTH,
    flags={"heading": np.arange(LENGTH) % 9 == 2, "question": np.arange(LENGTH) > 35},
    labels={"document": np.arange(LENGTH) // 13, "turn": np.arange(LENGTH) % 4 - 1},
    links={"use": [[20, 25, 3, 9], [22, 30, 15, 16]], "cite": []},
)


@pytest.mark.parametrize("leaf", LEAVES, ids=lambda leaf: leaf.__name__)
@settings(max_examples=3, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_every_leaf_keeps_the_contract(leaf: type[Pattern], data: st.DataObject) -> None:
    pattern_contract(data.draw(LEAF_STRATEGIES[leaf]), data.draw(facts(LENGTH)))


@settings(max_examples=5, deadline=None, suppress_health_check=list(HealthCheck))
@given(per_head(max_heads=2), facts(LENGTH))
def test_compositions_keep_the_contract(pattern: Pattern, notes: Annotations) -> None:
    pattern_contract(pattern, notes)


@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(per_head(max_heads=3))
def test_patterns_travel_between_processes(pattern: Pattern) -> None:
    again = pickle.loads(pickle.dumps(pattern))
    assert again == pattern and hash(again) == hash(pattern) and repr(again) == repr(pattern)


def test_a_mask_is_tested_without_torch() -> None:
    script = """
import sys
import openwork as ow
from openwork.testing import assert_mask
from openwork.testing.strategies import patterns
assert_mask(ow.Causal(), "# .\\n# #")
ow.Causal()._repr_html_()
assert "torch" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", script], check=True)


@pytest.mark.parametrize("value", [True, np.array([True, False]), np.bool_(True)])
def test_the_complement_is_boolean_on_every_type(value: Any) -> None:
    assert np.array_equal(negate(value), np.logical_not(value))


def test_the_complement_of_a_tensor_is_boolean() -> None:
    import torch

    assert torch.equal(negate(torch.tensor([True, False])), torch.tensor([False, True]))


# --- a user's own class -------------------------------------------------------------------------------------------

mine = types.ModuleType("mine_for_this_test")
sys.modules["mine_for_this_test"] = mine


def as_module_level(cls: type) -> type:
    """As if the class stood at the top of an importable module."""
    cls.__module__, cls.__qualname__ = mine.__name__, cls.__name__
    setattr(mine, cls.__name__, cls)
    return cls


@register_pattern
@as_module_level
@dataclass(frozen=True)
class Mirror(Pattern):
    """Keys on the other side of a centre."""

    centre: int

    def allows(self, q_pos: Any, kv_pos: Any) -> Any:
        return q_pos + kv_pos == 2 * self.centre


def test_a_users_class_joins_everything() -> None:
    pattern = Causal() & Mirror(centre=9)
    pattern_contract(Mirror(centre=9))
    pattern_contract(pattern)
    assert repr(pattern) == "Causal() & mine_for_this_test.Mirror(centre=9)"
    assert parse_pattern(repr(pattern)) == pattern


def test_a_users_class_is_loaded_only_where_the_caller_allows_it(tmp_path: Any, monkeypatch: Any) -> None:
    (tmp_path / "lazy_rules.py").write_text(
        "from dataclasses import dataclass\n"
        "from openwork.patterns import Pattern, register_pattern\n"
        "@register_pattern\n"
        "@dataclass(frozen=True)\n"
        "class Even(Pattern):\n"
        "    '''Even keys.'''\n"
        "    def allows(self, q_pos, kv_pos):\n"
        "        return (kv_pos % 2 == 0) & (q_pos == q_pos)\n"
        "class Plain(Pattern):\n"
        "    '''Not registered.'''\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(PatternError, match="pass allow_imports=True if you trust this text"):
        parse_pattern("lazy_rules.Even()")
    assert "lazy_rules" not in sys.modules
    pattern = parse_pattern("~lazy_rules.Even()", allow_imports=True)
    assert "lazy_rules" in sys.modules
    assert repr(pattern) == "~lazy_rules.Even()"
    assert parse_pattern(repr(pattern)) == pattern  # it is loaded now
    with pytest.raises(PatternError, match=r"'lazy_rules.Plain' is not a registered pattern of module 'lazy_rules'"):
        parse_pattern("lazy_rules.Plain()", allow_imports=True)
    with pytest.raises(PatternError, match=r"no module of 'no_such_rules.Even' can be imported"):
        parse_pattern("no_such_rules.Even()", allow_imports=True)
    del sys.modules["lazy_rules"], REGISTERED["lazy_rules.Even"]


def test_an_import_that_fails_says_so(tmp_path: Any, monkeypatch: Any) -> None:
    (tmp_path / "broken_rules.py").write_text("import a_module_that_is_not_there\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(PatternError, match="importing 'broken_rules' failed: No module named 'a_module_that"):
        parse_pattern("broken_rules.Even()", allow_imports=True)


def test_registering_refuses_what_text_cannot_name() -> None:
    with pytest.raises(PatternError, match="takes a class that derives from Pattern; got <class 'int'>"):
        register_pattern(int)
    with pytest.raises(PatternError, match="must be a frozen dataclass"):
        register_pattern(type("Loose", (Pattern,), {}))

    @dataclass(frozen=True)
    class Local(Pattern):
        pass

    with pytest.raises(PatternError, match=r"<locals>.Local cannot be imported by its path; move the class"):
        register_pattern(Local)


# --- each rule of the contract fails for a class that breaks it ---------------------------------------------------


@as_module_level
@dataclass(frozen=True)
class Broken(Pattern):
    """A window of one key that breaks the rule `how`."""

    how: str

    @property
    def needs(self) -> Any:
        return {"heading": "flag"} if self.how == "never refuses" else {}

    def allows(self, q_pos: Any, kv_pos: Any) -> Any:
        allowed = q_pos == kv_pos
        if self.how == "ints":
            return int(allowed) if isinstance(allowed, bool) else allowed
        if self.how == "type":
            return allowed * 1.0
        if self.how == "shape":
            return kv_pos == 0
        if self.how == "moody":
            return allowed & (np.random.default_rng().random() < 0.5)
        if self.how == "scribbles" and isinstance(kv_pos, np.ndarray):
            kv_pos += 1
        if self.how == "torch" and not isinstance(q_pos, int | np.ndarray):
            return ~allowed
        if self.how == "two answers" and isinstance(q_pos, int):
            return not allowed
        return allowed

    def states(self, q: Any, k: Any) -> Any:
        value = {"full": FULL, "empty": EMPTY}.get(self.how, 1)
        return np.full(len(q.low), value, dtype=np.int8)

    def signature(self, q: Any, k: Any) -> Any:
        return [np.zeros(len(q.low), dtype=np.int64)] if self.how == "signature" else None

    def orders(self) -> Any:
        if self.how == "order":
            return (Order("keys", select=lambda tokens: tokens.position * 0),)
        return (Order("sideways"),) if self.how == "kind" else ()


register_pattern(Broken)


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("ints", r"allows\(0, 0\) .* gives int, not bool"),
        ("type", "gives float64 for arrays, not bool"),
        ("shape", "does not broadcast"),
        (
            "moody",
            "changes its mind|ints, not for arrays|differs between torch|agree|differs from its definition|empty|full",
        ),
        ("scribbles", "changes its arguments"),
        ("torch", "differs between torch and NumPy"),
        ("two answers", "for ints, not for arrays"),
        ("full", "full, but it forbids a pair"),
        ("empty", "empty, but it allows a pair"),
        ("signature", "but their bitmasks differ"),
        ("order", "leaves out tokens of allowed pairs"),
        ("kind", "proposes unknown order 'sideways'"),
        ("never refuses", "so allows must raise PatternError and name ow.bind"),
    ],
)
def test_the_contract_names_the_broken_rule(how: str, message: str) -> None:
    notes = NOTES if how == "never refuses" else None
    with pytest.raises(AssertionError, match=message):
        pattern_contract(Broken(how), notes)


def test_the_contract_asks_for_annotations() -> None:
    with pytest.raises(AssertionError, match="pass annotations= that have them"):
        pattern_contract(Keys("heading"))
    pattern_contract(Keys("heading") | Linked("use"), NOTES)


def test_the_contract_wants_a_value() -> None:
    class Mutable(Pattern):
        __hash__ = None  # type: ignore[assignment]

    with pytest.raises(AssertionError, match="is not hashable"):
        pattern_contract(Mutable())
    with pytest.raises(AssertionError, match="repr does not read back"):
        pattern_contract(Custom(lambda q, k: k == q, "local"))
    with pytest.raises(AssertionError, match=r"does not derive from openwork.Pattern"):
        pattern_contract("Causal()")  # type: ignore[arg-type]


def test_per_head_is_tested_head_by_head() -> None:
    pattern_contract(PerHead(Causal(), Window(before=2)))
    with pytest.raises(AssertionError, match="full, but it forbids"):
        pattern_contract(PerHead(Causal(), Broken("full")))
