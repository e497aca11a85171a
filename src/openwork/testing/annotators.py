"""The prefix test: an annotation may not know the future."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from openwork.annotate import check_offsets, future_facts
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
    found = next((fact for fact in future_facts(annotator, text, spans, max_cuts=max_cuts, seed=seed) if fact), None)
    if found is not None:
        name = getattr(annotator, "name", None) or getattr(annotator, "__name__", repr(annotator))
        raise AssertionError(
            f"annotator {name!r} is not causal: cut after token {found.cut} of {len(spans)}, which ends "
            f"{text[max(0, found.end - 40) : found.end]!r} (next is {text[found.end : found.end + 20]!r}), "
            f"{found.difference}"
        )
