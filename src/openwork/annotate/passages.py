"""Retrieved passages and a question, put together: label `passage`, flag `question`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np

from openwork.annotate.characters import CharacterFacts, to_tokens
from openwork.annotate.documents import _whole_numbers
from openwork.annotate.offsets import check_offsets
from openwork.errors import AnnotationError
from openwork.patterns.annotations import Annotations, IntArray
from openwork.patterns.declarations import Declarations

__all__ = ["Passages", "passage_tokens", "passages"]


@dataclass(frozen=True)
class Passages:
    """A context made of passages and a question, and the annotator of that text.

    Label `passage` numbers the passages from 0; what stands between a passage and the next belongs to it. Flag
    `question` is on the question, and on what follows the context: an answer sees what its question sees. Both are -1
    and False elsewhere.

    As an annotator it is causal: the passages are chosen before the first token is read, and what is said of a token
    depends on its place in the context alone. It takes the context, a beginning of it, or the context with an answer
    behind it. In a causal model, passages that should be read with the question in mind need `question_first`.

    Args:
        text: The whole context.
        passage_spans: First character and end of each passage, its separator included.
        question_span: First character and end of the question.
    """

    text: str
    passage_spans: tuple[tuple[int, int], ...]
    question_span: tuple[int, int]

    @property
    def name(self) -> str:
        """What reports call the annotator."""
        return "passages"

    @property
    def causal(self) -> bool:
        """True; see the class."""
        return True

    @property
    def declares(self) -> Declarations:
        """The label `passage` never decreases."""
        return Declarations(nondecreasing_labels={"passage"})

    def __call__(self, text: str, offsets: Any) -> Annotations:
        """The facts of the tokens that stand at `offsets` (int `[n, 2]`) of `text`.

        Raises:
            AnnotationError: `text` is neither the beginning of this context nor an addition to it, or `offsets` are no
                spans of it.
        """
        spans = check_offsets(text, offsets)
        common = min(len(text), len(self.text))
        if text[:common] != self.text[:common]:
            place = next(index for index in range(common) if text[index] != self.text[index])
            raise AnnotationError(
                f"the text is not this context: they part at character {place}, {text[place : place + 20]!r} for "
                f"{self.text[place : place + 20]!r}. Tokenize passages(...).text."
            )
        length = len(text)

        def cut(first: int, stop: int) -> tuple[int, int]:
            return min(first, length), min(stop, length)

        facts = CharacterFacts(
            flags={"question": [cut(*self.question_span), cut(len(self.text), length)]},
            labels={"passage": [(*cut(*span), number) for number, span in enumerate(self.passage_spans)]},
        )
        return to_tokens(facts, text, spans)


def passages(texts: Sequence[str], question: str, *, separator: str = "\n\n", question_first: bool = False) -> Passages:
    """Put retrieved passages and a question together, with the annotator of the result.

    Args:
        texts: The passages, in order.
        question: The question.
        separator: Stands after each passage, and after the question where it comes first.
        question_first: Put the question before the passages instead of behind them.

    Raises:
        AnnotationError: There is no passage, or something is no string.

    Examples:
        >>> from openwork.annotate import byte_offsets
        >>> context = passages(["ab", "c"], "d?", separator=" ")
        >>> context.text
        'ab c d?'
        >>> notes = context(context.text, byte_offsets(context.text))
        >>> notes.labels["passage"].tolist(), notes.flags["question"].nonzero()[0].tolist()
        ([0, 0, 0, 1, 1, -1, -1], [5, 6])
    """
    if isinstance(texts, str):
        raise AnnotationError(
            "passages takes a list of passages; got a single string. Write passages([text], question)."
        )
    texts = _listed("passages", texts)
    named = [*((f"passage {number}", text) for number, text in enumerate(texts)), ("the question", question)]
    for what, text in (*named, ("the separator", separator)):
        if not isinstance(text, str):
            raise AnnotationError(f"{what} must be a string; got {type(text).__name__}. For tokens: passage_tokens.")
    parts = [text + separator for text in texts]
    before = question + separator if question_first else ""
    edges = np.cumsum([len(before), *map(len, parts)]).tolist()
    start = 0 if question_first else edges[-1]
    return Passages(
        text=before + "".join(parts) + ("" if question_first else question),
        passage_spans=tuple(pairwise(edges)),
        question_span=(start, start + len(before or question)),
    )


def passage_tokens(
    token_ids: Sequence[Any], question_ids: Any, *, question_first: bool = False
) -> tuple[IntArray, Annotations]:
    """The same for passages that are tokens already: the token ids of the context, and its annotations.

    Args:
        token_ids: int `[num_tokens]` for each passage, separators included.
        question_ids: int `[num_tokens]` of the question.
        question_first: Put the question before the passages instead of behind them.

    Returns:
        int64 `[n]` and annotations of `n` tokens: label `passage`, flag `question`.

    Raises:
        AnnotationError: There is no passage, or something is no row of integers.

    Examples:
        >>> ids, notes = passage_tokens([[7, 8], [9]], [5, 6])
        >>> ids.tolist(), notes.labels["passage"].tolist(), notes.flags["question"].tolist()
        ([7, 8, 9, 5, 6], [0, 0, 1, -1, -1], [False, False, False, True, True])
    """
    token_ids = _listed("passage_tokens", token_ids)
    rows = [_whole_numbers(f"passage {number}", row) for number, row in enumerate(token_ids)]
    labels = [np.full(len(row), number) for number, row in enumerate(rows)]
    question = _whole_numbers("the question", question_ids)
    place = 0 if question_first else len(rows)
    rows.insert(place, question)
    labels.insert(place, np.full(len(question), -1))
    label = np.concatenate(labels)
    asked = np.concatenate([np.full(len(row), number == place) for number, row in enumerate(rows)])
    return np.concatenate(rows), Annotations(len(label), flags={"question": asked}, labels={"passage": label})


def _listed(owner: str, passages: Any) -> list[Any]:
    try:
        listed = list(passages)
    except TypeError:
        raise AnnotationError(f"{owner} takes a list of passages; got {type(passages).__name__}.") from None
    if not listed:
        raise AnnotationError(f"{owner} needs at least one passage; got none.")
    return listed
