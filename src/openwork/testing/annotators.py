"""The prefix test: an annotation may not know the future."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from openwork.annotate import check_offsets
from openwork.patterns.annotations import Annotations

__all__ = ["assert_causal_annotator"]


def assert_causal_annotator(
    annotator: Callable[[str, Any], Annotations],
    text: str,
    offsets: Any,
    *,
    max_cuts: int | None = 400,
    seed: int = 0,
) -> None:
    r"""Check that the facts of a text's first tokens are those of the text that ends with them.

    For each cut after `t` tokens, `annotator(text up to there, offsets[:t])` must equal
    `annotator(text, offsets).prefix(t)`.

    Args:
        annotator: What is tested.
        text: The text.
        offsets: The character span of each token, int `[n, 2]`.
        max_cuts: Cut after every token up to this many cuts; of a longer text, after so many tokens drawn by `seed`,
            the last ones always among them. `None` cuts after every token.
        seed: Draws the cuts.

    Raises:
        AssertionError: Some cut differs; the message names the cut, the fact, the token and both values.

    Examples:
        >>> from openwork.annotate import byte_offsets, markdown_headings
        >>> text = "# Title\n\ntext"
        >>> assert_causal_annotator(markdown_headings, text, byte_offsets(text))
    """
    spans = check_offsets(text, offsets)
    whole = annotator(text, spans)
    for cut in _cuts(len(spans), max_cuts, seed):
        end = int(spans[:cut, 1].max(initial=0))
        if difference := _difference(annotator(text[:end], spans[:cut]), whole.prefix(cut)):
            name = getattr(annotator, "name", None) or getattr(annotator, "__name__", repr(annotator))
            raise AssertionError(
                f"annotator {name!r} is not causal: cut after token {cut} of {len(spans)}, which ends "
                f"{text[max(0, end - 40) : end]!r} (next is {text[end : end + 20]!r}), {difference}"
            )


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
