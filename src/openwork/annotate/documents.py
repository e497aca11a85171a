"""Documents in a packed sequence: label `document`, which `Same("document")` reads."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from openwork.errors import AnnotationError
from openwork.patterns.annotations import Annotations, IntArray

__all__ = ["documents", "documents_from_separators"]


def documents(
    lengths: Iterable[int] | None = None,
    *,
    boundaries: Iterable[int] | None = None,
    padded_to: int | None = None,
) -> Annotations:
    """The documents of a packed sequence, numbered from 0: label `document`.

    Causal: the number of a token's document follows from where the documents before it ended. It never decreases.

    Args:
        lengths: Number of tokens of each document, in order; 0 is an empty document.
        boundaries: Instead of lengths, where each document starts and the last one ends, from 0 on (what others call
            `cu_seqlens`: `[num_documents + 1]`).
        padded_to: Length of the sequence, where padding follows the documents; padding has label -1.

    Raises:
        AnnotationError: Not exactly one of `lengths` and `boundaries` is given, they are not whole numbers, a length is
            negative, boundaries do not start at 0 or go back, or the documents are longer than `padded_to`.

    Examples:
        >>> documents([2, 3], padded_to=6).labels["document"].tolist()
        [0, 0, 1, 1, 1, -1]
        >>> documents([2, 3]) == documents(boundaries=[0, 2, 5])
        True
    """
    if (lengths is None) == (boundaries is None):
        raise AnnotationError("documents takes either lengths or boundaries; give exactly one of them.")
    if lengths is not None:
        sizes = _whole_numbers("lengths", lengths)
    else:
        edges = _whole_numbers("boundaries", boundaries)
        if not len(edges) or edges[0] != 0:
            raise AnnotationError(f"boundaries start at 0, where the first document does; got {edges[:3].tolist()}.")
        sizes = np.diff(edges)
    if len(sizes) and sizes.min() < 0:
        number = int(np.argmin(sizes))
        raise AnnotationError(f"document {number} has {int(sizes[number])} tokens; lengths are 0 or more.")
    total = int(sizes.sum())
    length = total if padded_to is None else padded_to
    if isinstance(length, bool) or not isinstance(length, int | np.integer):
        raise AnnotationError(f"padded_to must be a number of tokens; got {padded_to!r}.")
    if length < total:
        raise AnnotationError(f"the documents have {total} tokens, more than padded_to={padded_to}.")
    label = np.full(length, -1, dtype=np.int64)
    label[:total] = np.repeat(np.arange(len(sizes)), sizes)
    return Annotations(length=length, labels={"document": label})


def documents_from_separators(
    token_ids: Any, separator_ids: int | Iterable[int], *, separator_ends: bool = True
) -> Annotations:
    """The documents of a packed sequence that marks them by a token: label `document`, from 0.

    Causal either way: whether a separator ends or starts a document, the documents before it are known.

    Args:
        token_ids: int `[num_tokens]`.
        separator_ids: The token, or tokens, between documents.
        separator_ends: The separator is the last token of its document (an end-of-text token); if False it is the
            first (a begin-of-text token).

    Raises:
        AnnotationError: `token_ids` is no row of integers, or no separator is named.

    Examples:
        >>> documents_from_separators([5, 6, 0, 7, 0], 0).labels["document"].tolist()
        [0, 0, 0, 1, 1]
        >>> documents_from_separators([1, 5, 6, 1, 7], 1, separator_ends=False).labels["document"].tolist()
        [0, 0, 0, 1, 1]
    """
    ids = _whole_numbers("token_ids", token_ids)
    ids_of_separators: Any = separator_ids
    if isinstance(separator_ids, int):
        ids_of_separators = [separator_ids]
    elif getattr(separator_ids, "ndim", 1) == 0:  # an array or a tensor of one number
        ids_of_separators = [ids_of_separators.item()]
    marks = _whole_numbers("separator_ids", ids_of_separators)
    if not len(marks):
        raise AnnotationError("separator_ids names no token; give the id of the token between documents.")
    starts = np.isin(ids, marks)
    if separator_ends:
        starts = np.r_[False, starts[:-1]] if len(ids) else starts
    elif len(ids):
        starts[0] = False
    return Annotations(length=len(ids), labels={"document": np.cumsum(starts)})


def _whole_numbers(name: str, values: Any) -> IntArray:
    if hasattr(values, "detach"):
        values = values.detach().cpu().numpy()
    try:
        array = np.asarray(values if hasattr(values, "__array__") else list(values))
    except (TypeError, ValueError) as error:
        raise AnnotationError(f"{name} must be a row of integers; got {values!r}.") from error
    if array.ndim == 1 and array.size == 0:
        return np.zeros(0, dtype=np.int64)
    if array.ndim != 1 or array.dtype.kind not in "iu":
        raise AnnotationError(f"{name} must be a row of integers; got {array.dtype} {list(array.shape)}.")
    return array.astype(np.int64)
