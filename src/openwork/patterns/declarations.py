"""`Declarations`: promises about the facts of tokens that are still to come; decoding relies on nothing else."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

import numpy as np

from openwork.errors import AnnotationError
from openwork.patterns.annotations import Annotations

__all__ = ["Declarations"]


@dataclass(frozen=True, eq=False)
class Declarations:
    """What annotations will do as text grows, promised at some token `start` and kept by every token from there on.

    An annotator's own declarations are made before the first token (`start=0`), so they hold for every text it
    annotates. A caller who knows more declares later: the flags of a prompt are final once the prompt is read.

    Args:
        final_flags: Flags that no token from `start` on carries.
        nondecreasing_labels: Labels that never decrease: each token from `start` on that has one (0 or more) has at
            least the label of the labelled token before it. Tokens without a label (below 0) do not count.
        links_from: Link name to key index: links of queries from `start` on point to no key before it.

    Raises:
        AnnotationError: A name is not a non-empty string, or a key index is negative.

    Examples:
        >>> promise = Declarations(nondecreasing_labels={"document"})
        >>> promise.check(Annotations(length=3, labels={"document": [0, 0, 1]}))
        >>> promise.check(Annotations(length=3, labels={"document": [0, 1, 0]}))
        Traceback (most recent call last):
        ...
        openwork.errors.AnnotationError: label 'document' was declared never to decrease, but token 2 has 0 after 1.
    """

    final_flags: Iterable[str] = frozenset()
    nondecreasing_labels: Iterable[str] = frozenset()
    links_from: Mapping[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        object.__setattr__(self, "final_flags", _names("final_flags", self.final_flags))
        object.__setattr__(self, "nondecreasing_labels", _names("nondecreasing_labels", self.nondecreasing_labels))
        if not isinstance(self.links_from, Mapping):
            raise AnnotationError(f"links_from is a table {{name: key index}}; got {self.links_from!r}.")
        _names("links_from", self.links_from)
        for name, first in self.links_from.items():
            if isinstance(first, bool) or not isinstance(first, int | np.integer) or first < 0:
                raise AnnotationError(f"links_from[{name!r}] must be a key index of 0 or more; got {first!r}.")
        ordered = {name: int(self.links_from[name]) for name in sorted(self.links_from)}
        object.__setattr__(self, "links_from", MappingProxyType(ordered))

    def __bool__(self) -> bool:
        """Whether anything is declared."""
        return bool(self.final_flags or self.nondecreasing_labels or self.links_from)

    def merged(self, other: Declarations) -> Declarations:
        """Both promises at once; where both bound a link, the later key index counts.

        >>> Declarations(final_flags={"question"}).merged(Declarations(links_from={"use": 8}))
        Declarations(final_flags={'question'}, links_from={'use': 8})
        """
        links = dict(self.links_from)
        for name, first in other.links_from.items():
            links[name] = max(first, links.get(name, 0))
        return Declarations(
            final_flags=frozenset(self.final_flags) | frozenset(other.final_flags),
            nondecreasing_labels=frozenset(self.nondecreasing_labels) | frozenset(other.nondecreasing_labels),
            links_from=links,
        )

    def check(self, annotations: Annotations, start: int = 0) -> None:
        """Hold the facts of the tokens from index `start` on against the promise.

        Facts that are promised about but absent break nothing.

        Raises:
            AnnotationError: A token breaks the promise; the message names the fact, the token and the value.
        """
        for name in sorted(self.final_flags):
            late = np.flatnonzero(annotations.flags.get(name, np.zeros(0, dtype=bool))[start:])
            if len(late):
                raise AnnotationError(
                    f"flag {name!r} was declared final at token {start}, but token {start + int(late[0])} carries it."
                )
        for name in sorted(self.nondecreasing_labels):
            if name in annotations.labels:
                _check_label(name, annotations.labels[name], start)
        for name, first in self.links_from.items():
            rows = annotations.links.get(name, np.zeros((0, 4), dtype=np.int64))
            early = rows[(rows[:, 1] > start) & (rows[:, 2] < first)]
            if len(early):
                query = max(start, int(early[0, 0]))
                raise AnnotationError(
                    f"links {name!r} were declared to point to no key before {first}, but token {query} is linked "
                    f"to key {int(early[0, 2])}."
                )

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Declarations):
            return NotImplemented
        return self._key() == other._key()

    def __hash__(self) -> int:
        return hash(self._key())

    def _key(self) -> tuple[Any, ...]:
        return self.final_flags, self.nondecreasing_labels, tuple(self.links_from.items())

    def __reduce__(self) -> tuple[Any, ...]:
        # a mappingproxy cannot be pickled
        return Declarations, (self.final_flags, self.nondecreasing_labels, dict(self.links_from))

    def __repr__(self) -> str:
        parts = [
            f"{kind}={{{', '.join(repr(name) for name in sorted(names))}}}"
            for kind, names in (
                ("final_flags", self.final_flags),
                ("nondecreasing_labels", self.nondecreasing_labels),
            )
            if names
        ]
        if self.links_from:
            parts.append(f"links_from={dict(self.links_from)!r}")
        return f"Declarations({', '.join(parts)})"


def _names(argument: str, names: Iterable[str]) -> frozenset[str]:
    if isinstance(names, str):
        raise AnnotationError(f"{argument} takes a set of names; got the single string {names!r}. Write {{{names!r}}}.")
    if not isinstance(names, Iterable):
        raise AnnotationError(f"{argument} takes a set of names; got {names!r}.")
    names = list(names)
    for name in names:
        if not isinstance(name, str) or not name:
            raise AnnotationError(f"{argument} holds names, non-empty strings; got {name!r}.")
    return frozenset(names)


def _check_label(name: str, labels: Any, start: int) -> None:
    (labelled,) = np.nonzero(labels >= 0)
    values = labels[labelled]
    (drops,) = np.nonzero((values[1:] < values[:-1]) & (labelled[1:] >= start))
    if len(drops):
        drop = int(drops[0])
        raise AnnotationError(
            f"label {name!r} was declared never to decrease, but token {int(labelled[drop + 1])} has "
            f"{int(values[drop + 1])} after {int(values[drop])}."
        )
