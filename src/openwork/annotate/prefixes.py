"""The prefix test: an annotation may not know the future."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from openwork.annotate.offsets import check_offsets
from openwork.patterns.annotations import Annotations, IntArray

__all__ = ["FutureFact", "future_facts"]


@dataclass(frozen=True)
class FutureFact:
    """A fact about a token that the text up to that token does not show.

    Attributes:
        cut: Tokens that had been read.
        end: Characters that they stand for.
        difference: What those tokens are said to be by the text so far, and by the whole text.
    """

    cut: int
    end: int
    difference: str


def future_facts(
    annotator: Callable[[str, Any], Annotations],
    text: str,
    offsets: Any,
    *,
    max_cuts: int | None = 400,
    seed: int = 0,
    near_facts: bool = False,
    names: tuple[str, ...] | None = None,
) -> Iterator[FutureFact | None]:
    r"""For each cut of a text, what its annotator knows of the future there; None is nothing.

    At a cut after `t` tokens, `annotator(text up to there, offsets[:t])` must equal
    `annotator(text, offsets).prefix(t)`.

    Args:
        annotator: What is tested.
        text: The text.
        offsets: The character span of each token, int `[n, 2]`.
        max_cuts: Cut after every token up to this many cuts; of a longer text, after so many tokens drawn by `seed`,
            the last ones always among them. `None` cuts after every token.
        seed: Draws the cuts.
        near_facts: Draw half of the cuts right behind tokens where a fact begins or ends; there few cuts show most.
        names: Facts that are compared; `None` compares all.

    Examples:
        >>> from openwork.annotate import byte_offsets, markdown_headings
        >>> text = "# Title\n\ntext"
        >>> any(future_facts(markdown_headings, text, byte_offsets(text)))
        False
    """
    spans = check_offsets(text, offsets)
    whole = _chosen(annotator(text, spans), names)
    cuts = _cuts(len(spans), max_cuts, seed)
    if near_facts and max_cuts is not None and len(cuts) <= len(spans):
        telling = np.random.default_rng(seed).permutation(_changes(whole))[: max_cuts // 2].tolist()
        cuts = sorted({*telling, *_cuts(len(spans), max_cuts - len(telling), seed)})
    for cut in cuts:
        end = int(spans[:cut, 1].max(initial=0))
        difference = _difference(_chosen(annotator(text[:end], spans[:cut]), names), whole.prefix(cut))
        yield FutureFact(cut, end, difference) if difference else None


def _changes(notes: Annotations) -> IntArray:
    """Cuts right behind each token whose facts are not those of the token before it."""
    begins = [np.zeros(0, dtype=np.int64)]
    for values in (*notes.flags.values(), *notes.labels.values()):
        begins.append(np.flatnonzero(values[1:] != values[:-1]) + 1)
    begins += [rows[:, 0] for rows in notes.links.values()]
    changes: IntArray = np.unique(np.concatenate(begins)) + 1
    return changes


def _chosen(notes: Annotations, names: tuple[str, ...] | None) -> Annotations:
    if names is None:
        return notes
    flags, labels, links = (
        {name: values for name, values in facts.items() if name in names}
        for facts in (notes.flags, notes.labels, notes.links)
    )
    return Annotations(notes.length, flags, labels, links, notes.kv_length)


def _cuts(length: int, max_cuts: int | None, seed: int) -> list[int]:
    if max_cuts is None or length + 1 <= max_cuts:
        return list(range(length + 1))
    drawn = np.random.default_rng(seed).choice(length, size=max_cuts - 2, replace=False)
    return sorted({*drawn.tolist(), length - 1, length})


def _difference(prefix: Annotations, whole: Annotations) -> str:
    """What the prefix says otherwise than the whole text; empty where they agree."""
    if prefix == whole:
        return ""
    if prefix.length != whole.length:
        return f"the prefix has facts for {prefix.length} tokens."
    for kind, mine, theirs in (
        ("flag", prefix.flags, whole.flags),
        ("label", prefix.labels, whole.labels),
    ):
        for name in sorted({*mine, *theirs}):
            if name not in mine or name not in theirs:
                return f"{kind} {name!r} is made of one text and not of the other."
            (tokens,) = np.nonzero(mine[name] != theirs[name])
            if len(tokens):
                token = int(tokens[0])
                return (
                    f"{kind} {name!r} of token {token} is {mine[name][token]} by the prefix and {theirs[name][token]} "
                    "by the whole text."
                )
    for name in sorted({*prefix.links, *whole.links}):
        if name not in prefix.links or name not in whole.links:
            return f"links {name!r} are made of one text and not of the other."
        alone = {tuple(row) for row in prefix.links[name].tolist()} ^ {tuple(row) for row in whole.links[name].tolist()}
        if alone:
            row = min(alone)
            side = "the prefix" if list(row) in prefix.links[name].tolist() else "the whole text"
            return f"links {name!r} hold {list(row)} by {side} alone."
    return "they differ."
