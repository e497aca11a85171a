"""Which keys a call has, where they stand, and what is known of them: padding, packing, caches."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np

from openwork.errors import AnnotationError, AnnotationWarning
from openwork.hf.own import OwnMask, both
from openwork.hf.prompt import Prompt
from openwork.hf.rule import INDEX, ROW
from openwork.hf.state import ModelState
from openwork.layout import BlockLayout, documents_from_positions
from openwork.layout.visible import visible_now
from openwork.nn.layouts import LayoutCache
from openwork.patterns import Annotations, Pattern
from openwork.patterns.annotations import BoolArray, IntArray

__all__ = ["Surroundings", "token_positions"]


def token_positions(valid: BoolArray) -> IntArray:
    """int64 `[batch, length]`: the place of each token among those that are no padding; -1 for padding."""
    places: IntArray = np.where(valid, np.cumsum(valid, axis=1) - 1, -1)
    return places


@dataclass(frozen=True, eq=False)
class Surroundings:
    """All that one call of the mask function says, apart from the layers' patterns.

    The queries are the last `q_len` of the keys: unwritten slots of a static cache are cut off.

    Attributes:
        batch: Sequences.
        q_len: Queries.
        kv_len: Keys that are written, from `kv_start` on.
        kv_start: Tokens that the cache has dropped before its first key.
        own: The model's own mask.
        valid: bool `[batch, kv_start + kv_len]`, False for padding; `None` where there is none.
        facts: Asks the user's annotator about the tokens from the first on: one set for each sequence or one for all;
            None where their ids are not known.
        cached: Whether there are keys of earlier calls.
        prompt: Where the prompt of the running `generate` ends; None where none runs.
        make_pairs: The model's own mask as transformers itself builds it for sdpa, bool `[batch, 1, q_len, kv_length]`.
    """

    batch: int
    q_len: int
    kv_len: int
    kv_start: int
    own: OwnMask
    valid: BoolArray | None = None
    facts: Callable[[], tuple[Annotations, ...] | None] | None = None
    cached: bool = False
    prompt: Prompt | None = None
    make_pairs: Callable[[], Any] | None = None
    _layouts: dict[Pattern, BlockLayout] = field(default_factory=dict)
    _visible: dict[Pattern, list[list[IntArray]]] = field(default_factory=dict)

    def num_generated(self, state: ModelState) -> int:
        """How many of the last queries of a model are generated tokens.

        Where its `generate` does not run, a single token upon a cache is one.
        """
        if self.prompt is None or self.prompt.state is not state:
            return 1 if self.cached and self.q_len == 1 else 0
        return min(self.q_len, max(0, self.kv_start + self.kv_len - self.prompt.length))

    def of_last(self, queries: int) -> Surroundings:
        """The same for the last queries alone."""
        return replace(self, q_len=queries, make_pairs=None, _layouts={}, _visible={})

    @cached_property
    def positions(self) -> IntArray | None:
        """int64 `[batch or 1, kv_len]`; None where they are 0, 1, 2, ..."""
        stop = self.kv_start + self.kv_len
        if self.own.positions is not None:
            places = self.own.positions if self.valid is None else np.where(self.valid, self.own.positions, -1)
            return places[:, self.kv_start : stop]
        if self.valid is not None:
            return token_positions(self.valid)[:, self.kv_start : stop]
        return np.arange(self.kv_start, stop, dtype=np.int64)[None] if self.kv_start else None

    def allowed(self, pattern: Pattern) -> Pattern:
        """The pairs of `pattern` that the model's own mask allows, too."""
        return both(pattern, self.own.pattern)

    def layout(self, pattern: Pattern, cache: LayoutCache) -> BlockLayout:
        """The layout of a layer's pattern under the model's own mask."""
        if pattern not in self._layouts:
            allowed = self.allowed(pattern)
            facts = self._annotations(allowed)
            with _no_word_of_empty_facts(facts):
                self._layouts[pattern] = cache.layout(
                    allowed, q_len=self.q_len, kv_len=self.kv_len, kv_positions=self.positions, annotations=facts
                )
        return self._layouts[pattern]

    def visible(self, pattern: Pattern) -> list[list[IntArray]]:
        """For each sequence (or once for all) and head (or once for all), the keys that the last token sees."""
        if pattern not in self._visible:
            allowed = self.allowed(pattern)
            facts = self._annotations(allowed)
            with _no_word_of_empty_facts(facts):
                self._visible[pattern] = visible_now(
                    allowed, kv_len=self.kv_len, kv_positions=self.positions, annotations=facts
                )
        return self._visible[pattern]

    def _annotations(self, pattern: Pattern) -> list[Annotations] | None:
        """The facts that a pattern reads, about the keys that are there, one set for each sequence."""
        needs = pattern.needs
        if not needs:
            return None
        stop = self.kv_start + self.kv_len
        labels: dict[str, Any] = {name: rows for name, rows in self.own.labels.items() if name in needs}
        labels.update(self._for_rules(needs.keys()))
        document = needs.get("document") == "label"
        others = {name for name in needs if name not in labels and not (document and name == "document")}
        facts = self.facts() if self.facts is not None and (others or document) else None
        if document and (facts is None or "document" not in facts[0].labels):
            labels["document"] = self._documents()
        elif document:
            others.add("document")
        if others and facts is None:
            raise AnnotationError(
                f"the plan reads {', '.join(repr(name) for name in sorted(others))}, but the ids of the tokens are not "
                "known: the model was called with embeddings or continues a cache that it did not fill. Call the model "
                "with input_ids from the first token on."
            )
        rows = []
        for row in range(self.batch):
            notes = Annotations(stop, labels={name: _row(values, row, stop) for name, values in labels.items()})
            if facts is not None and others:
                notes = _named(_pick(facts, row), others, stop).merged(notes)
            rows.append(_since(notes, self.kv_start))
        return rows

    def _for_rules(self, names: Collection[str]) -> dict[str, IntArray]:
        """The labels by which a `ModelRule` knows what it is asked about."""
        if INDEX not in names:
            return {}
        stop = self.kv_start + self.kv_len
        return {INDEX: np.arange(stop)[None], ROW: np.repeat(np.arange(self.batch)[:, None], stop, axis=1)}

    def _documents(self) -> IntArray:
        """Which document of a packed row each token belongs to; one where the row is not packed."""
        stop = self.kv_start + self.kv_len
        if self.own.positions is not None:
            return documents_from_positions(self.own.positions)
        if self.valid is not None:
            return np.where(self.valid, 0, -1)[:, :stop]
        return np.zeros((1, stop), dtype=np.int64)


@contextlib.contextmanager
def _no_word_of_empty_facts(facts: Any) -> Iterator[None]:
    """Many a batch has no heading; that none ever has is said by the call, once for a model."""
    if facts is None:
        yield
        return
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", AnnotationWarning)
        yield


def _row(values: IntArray, row: int, stop: int) -> IntArray:
    return values[row if len(values) > 1 else 0, :stop]


def _pick(facts: Sequence[Annotations], row: int) -> Annotations:
    return facts[row if len(facts) > 1 else 0]


def _named(notes: Annotations, names: set[str], stop: int) -> Annotations:
    if notes.length != stop:
        raise AnnotationError(
            f"annotate described {notes.length} tokens, but the model has read {stop}; describe every token of "
            "input_ids, padding included."
        )
    flags, labels, links = (
        {name: values for name, values in kind.items() if name in names}
        for kind in (notes.flags, notes.labels, notes.links)
    )
    return Annotations(stop, flags, labels, links)


def _since(notes: Annotations, start: int) -> Annotations:
    """The facts of the tokens from `start` on, counted from there."""
    if start == 0:
        return notes
    return Annotations(
        notes.length - start,
        {name: values[start:] for name, values in notes.flags.items()},
        {name: values[start:] for name, values in notes.labels.items()},
        {name: np.maximum(rows - start, 0) for name, rows in notes.links.items()},
    )
