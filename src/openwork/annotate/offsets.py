"""Character offsets: which characters of a text each token stands for, in the Hugging Face convention."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from openwork.errors import AnnotationError
from openwork.patterns.annotations import IntArray

__all__ = ["byte_offsets", "check_offsets", "offsets_of"]


def byte_offsets(text: str) -> IntArray:
    r"""The character span of each UTF-8 byte of a text: int64 `[num_bytes, 2]`, half-open.

    Every byte of a character has that character's span.

    Raises:
        AnnotationError: `text` is not a string, or holds a lone surrogate, which UTF-8 cannot write.

    Examples:
        >>> byte_offsets("a\u00e9b").tolist()
        [[0, 1], [1, 2], [1, 2], [2, 3]]
    """
    _check_text(text)
    try:
        data = np.frombuffer(text.encode("utf-8"), dtype=np.uint8)
    except UnicodeEncodeError as error:
        raise AnnotationError(
            f"text has the lone surrogate {text[error.start]!r} at character {error.start}, which UTF-8 cannot write; "
            "decode the file with errors='replace'."
        ) from error
    character = np.cumsum((data & 0xC0) != 0x80, dtype=np.int64) - 1
    return np.stack([character, character + 1], axis=1)


def offsets_of(encoding: Any, *, row: int | None = None, sequence: int | None = None) -> IntArray:
    """The character span of each token of an encoded text: int64 `[num_tokens, 2]`, half-open.

    Special tokens keep the span `(0, 0)`, which carries no facts.

    Args:
        encoding: A `tokenizers.Encoding`, what a Hugging Face fast tokenizer returns (a `BatchEncoding`, with or
            without `offset_mapping`), a mapping with `offset_mapping`, or the spans themselves.
        row: Which text of a batch; needed where there is more than one.
        sequence: Which text of a pair; needed where there are two. Tokens of the other text get `(0, 0)`.

    Raises:
        AnnotationError: There are no offsets to be had (a slow tokenizer), or `row` or `sequence` is needed or names
            nothing.

    Examples:
        >>> offsets_of({"offset_mapping": [(0, 0), (0, 5), (5, 11), (0, 0)]}).tolist()
        [[0, 0], [0, 5], [5, 11], [0, 0]]
    """
    encodings = getattr(encoding, "encodings", None)
    if encodings:
        return offsets_of(_one_row(encodings, len(encodings), row), sequence=sequence)
    if hasattr(encoding, "offsets") and hasattr(encoding, "sequence_ids"):
        return _encoding_offsets(encoding, sequence)
    spans = encoding
    if isinstance(encoding, Mapping) or hasattr(encoding, "keys"):
        if "offset_mapping" not in encoding:
            raise AnnotationError(
                f"the encoding has no offsets, only {sorted(encoding.keys())}. Use a fast tokenizer and pass "
                "return_offsets_mapping=True."
            )
        spans = encoding["offset_mapping"]
    if sequence is not None:
        raise AnnotationError(
            f"sequence={sequence} needs to know which text each token is of; bare offsets do not say. Pass the "
            "tokenizer's own encoding."
        )
    if hasattr(spans, "detach"):
        spans = spans.detach().cpu().numpy()
    try:
        array = np.asarray(spans)
    except ValueError:  # rows of unequal length
        return offsets_of(_one_row(spans, len(spans), row))
    if array.ndim == 3:
        array = _one_row(array, len(array), row)
    return _integer_pairs(array)


def check_offsets(text: str, offsets: Any) -> IntArray:
    """The offsets as int64 `[n, 2]`, once they are known to be spans of `text` in reading order.

    Raises:
        AnnotationError: `text` is no string, or `offsets` has another shape or type, leaves the text, has a span that
            ends before it starts, or goes backwards. Special tokens, `(0, 0)`, may stand anywhere.

    Examples:
        >>> check_offsets("ab", [(0, 1), (1, 3)])
        Traceback (most recent call last):
        ...
        openwork.errors.AnnotationError: token 1 has the span [1, 3], outside the text of 2 characters. ...
    """
    _check_text(text)
    array = _integer_pairs(offsets)
    outside = (array < 0) | (array > len(text))
    if outside.any():
        token = int(np.nonzero(outside.any(axis=1))[0][0])
        raise AnnotationError(
            f"token {token} has the span {array[token].tolist()}, outside the text of {len(text)} characters. Offsets "
            "count characters, not bytes, of the very text that was tokenized."
        )
    backwards = np.flatnonzero(array[:, 1] < array[:, 0])
    if len(backwards):
        raise AnnotationError(
            f"token {int(backwards[0])} has the span {array[backwards[0]].tolist()}, which ends before it starts."
        )
    (real,) = np.nonzero(array[:, 1] > 0)
    (drops,) = np.nonzero((np.diff(array[real], axis=0) < 0).any(axis=1))
    if len(drops):
        token = int(real[drops[0] + 1])
        raise AnnotationError(
            f"token {token} has the span {array[token].tolist()}, before the token ahead of it, "
            f"{array[real[drops[0]]].tolist()}. Annotate one text at a time; of a pair, offsets_of(encoding, "
            "sequence=0) takes the first."
        )
    return array


def _check_text(text: Any) -> None:
    if not isinstance(text, str):
        raise AnnotationError(f"text must be a string; got {type(text).__name__}. Decode bytes first.")


def _integer_pairs(offsets: Any) -> IntArray:
    if hasattr(offsets, "detach"):
        offsets = offsets.detach().cpu().numpy()
    try:
        array = np.asarray(offsets)
    except ValueError:
        array = np.zeros(0, dtype=object)
    if array.size == 0 and array.dtype != object:
        return np.zeros((0, 2), dtype=np.int64)
    if array.ndim != 2 or array.shape[1] != 2 or array.dtype.kind not in "iu":
        raise AnnotationError(
            "offsets must be integers [n, 2], the first character and the end of each token; "
            f"got {array.dtype} {list(array.shape)}."
        )
    return array.astype(np.int64)


def _one_row(rows: Any, num_rows: int, row: int | None) -> Any:
    if row is None and num_rows == 1:
        row = 0
    if row is None:
        raise AnnotationError(f"the encoding holds {num_rows} texts; say which with row=0 to row={num_rows - 1}.")
    if not isinstance(row, int | np.integer) or not 0 <= row < num_rows:
        raise AnnotationError(f"row={row!r} names no text of an encoding that holds {num_rows}.")
    return rows[row]


def _encoding_offsets(encoding: Any, sequence: int | None) -> IntArray:
    array = _integer_pairs(encoding.offsets)
    sequences = sorted({number for number in encoding.sequence_ids if number is not None})
    if sequence is None:
        if len(sequences) > 1:
            raise AnnotationError("the encoding is of a pair of texts; say which with sequence=0 or sequence=1.")
        return array
    if sequence not in sequences:
        raise AnnotationError(f"sequence={sequence} names no text of the encoding, which has {sequences}.")
    return np.asarray(np.where(np.array([n == sequence for n in encoding.sequence_ids])[:, None], array, 0))
