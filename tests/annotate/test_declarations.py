"""Promises about facts to come: what keeps them, what breaks them, and how they read."""

from __future__ import annotations

import pickle

import pytest

from openwork import Annotations
from openwork.errors import AnnotationError
from openwork.patterns.declarations import Declarations

NOTES = Annotations(
    length=5,
    flags={"asks": [True, False, False, True, False]},
    labels={"turn": [3, -1, 1, 1, 2]},
    links={"use": [[1, 2, 0, 1], [3, 5, 1, 2]]},
)

KEPT = [
    (Declarations(final_flags={"asks"}), 4),
    (Declarations(final_flags={"other"}), 0),
    (Declarations(nondecreasing_labels={"turn"}), 3),
    (Declarations(nondecreasing_labels={"other"}), 0),
    (Declarations(links_from={"use": 1}), 2),
    (Declarations(links_from={"other": 9}), 0),
    (Declarations(), 0),
]
BROKEN = [
    (Declarations(final_flags={"asks"}), 1, "flag 'asks' was declared final at token 1, but token 3 carries it"),
    (
        Declarations(nondecreasing_labels={"turn"}),
        2,
        "label 'turn' was declared never to decrease, but token 2 has 1 after 3",
    ),
    (
        Declarations(links_from={"use": 2}),
        4,
        "links 'use' were declared to point to no key before 2, but token 4 is linked to key 1",
    ),
]


@pytest.mark.parametrize(("promise", "start"), KEPT)
def test_kept_from_there_on(promise, start):
    promise.check(NOTES, start)


@pytest.mark.parametrize(("promise", "start", "message"), BROKEN)
def test_broken_from_there_on(promise, start, message):
    with pytest.raises(AnnotationError, match=message):
        promise.check(NOTES, start)


def test_promises_are_values():
    one = Declarations(final_flags=["b", "a"], links_from={"use": 3, "a": 1})
    two = Declarations(final_flags={"a", "b"}, links_from={"a": 1, "use": 3})
    assert one == two and hash(one) == hash(two) and one != Declarations()
    assert eval(repr(one), {"Declarations": Declarations}) == one
    assert pickle.loads(pickle.dumps(one)) == one
    assert repr(Declarations()) == "Declarations()"
    assert one and not Declarations()


def test_two_promises_at_once():
    both = Declarations({"a"}, {"x"}, {"use": 3}).merged(Declarations({"b"}, {"x"}, {"use": 5, "z": 1}))
    assert both == Declarations({"a", "b"}, {"x"}, {"use": 5, "z": 1})


REFUSED = [
    ({"final_flags": "asks"}, "final_flags takes a set of names; got the single string 'asks'. Write {'asks'}"),
    ({"nondecreasing_labels": [3]}, "nondecreasing_labels holds names, non-empty strings; got 3"),
    ({"links_from": {"": 3}}, "links_from holds names, non-empty strings; got ''"),
    ({"links_from": {"use": -1}}, r"links_from\['use'\] must be a key index of 0 or more; got -1"),
    ({"links_from": {"use": 1.5}}, r"links_from\['use'\] must be a key index of 0 or more; got 1.5"),
]


@pytest.mark.parametrize(("arguments", "message"), REFUSED)
def test_a_promise_is_refused(arguments, message):
    with pytest.raises(AnnotationError, match=message):
        Declarations(**arguments)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Declarations(final_flags=5), "final_flags takes a set of names; got 5"),
        (lambda: Declarations(nondecreasing_labels=None), "nondecreasing_labels takes a set of names; got None"),
        (lambda: Declarations(links_from=["use"]), r"links_from is a table {name: key index}; got \['use'\]"),
    ],
)
def test_other_things_than_names_are_refused_in_words(make, message):
    with pytest.raises(AnnotationError, match=message):
        make()


def test_names_may_come_from_a_generator():
    assert Declarations(final_flags=(name for name in ("a", "b"))) == Declarations(final_flags={"a", "b"})
