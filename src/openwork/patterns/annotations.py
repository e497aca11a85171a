"""`Annotations`: named facts per token, the value that annotated patterns read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

import numpy as np
import numpy.typing as npt

from openwork.errors import AnnotationError

__all__ = ["Annotations", "BoolArray", "IntArray"]

BoolArray = npt.NDArray[np.bool_]
IntArray = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Annotations:
    """Named facts about the tokens of one sequence.

    Annotations belong to keys, by index. A flag says yes or no of each token, a label gives each token an
    integer (below 0: no label), a link joins a span of queries to a span of keys.

    Args:
        length: Number of tokens described.
        flags: Name to bool `[length]`.
        labels: Name to int `[length]`.
        links: Name to int `[n, 4]`, rows of `q_first, q_stop, kv_first, kv_stop`: half-open spans of token
            indices. Stored sorted, without duplicates and without empty spans.
        kv_length: Number of keys that links may point to, where these annotations are about queries alone
            (`q_annotations`); `None` where queries and keys are the same tokens.

    Raises:
        AnnotationError: A length is negative, an array has another length or type, or a span leaves the
            sequence.

    Examples:
        >>> notes = Annotations(length=4, flags={"heading": [True, False, False, True]})
        >>> notes.flags["heading"].sum()
        np.int64(2)
        >>> notes.prefix(2).flags["heading"].tolist()
        [True, False]
    """

    length: int
    flags: Mapping[str, Any] = field(default_factory=dict)
    labels: Mapping[str, Any] = field(default_factory=dict)
    links: Mapping[str, Any] = field(default_factory=dict)
    kv_length: int | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "length", _count("Annotations length", self.length))
        if self.kv_length is not None:
            object.__setattr__(self, "kv_length", _count("Annotations kv_length", self.kv_length))
        for kind in ("flags", "labels", "links"):
            if not isinstance(getattr(self, kind), Mapping):
                raise AnnotationError(
                    f"Annotations {kind} is a table {{name: values}}; got {type(getattr(self, kind)).__name__}."
                )
        kinds: dict[str, dict[str, npt.NDArray[Any]]] = {
            "flags": {name: _flag(name, values, self.length) for name, values in self.flags.items()},
            "labels": {name: _label(name, values, self.length) for name, values in self.labels.items()},
            "links": {name: _links(name, rows, self.length, self.kv_length) for name, rows in self.links.items()},
        }
        for kind, arrays in kinds.items():
            for array in arrays.values():
                array.setflags(write=False)
            object.__setattr__(self, kind, MappingProxyType(arrays))

    @property
    def names(self) -> tuple[str, ...]:
        """The names of all facts, sorted."""
        return tuple(sorted({*self.flags, *self.labels, *self.links}))

    def prefix(self, stop: int) -> Annotations:
        """The facts about the first `stop` tokens alone: arrays are cut, links are clipped to them.

        >>> notes = Annotations(length=6, links={"use": [[4, 6, 0, 2]]})
        >>> notes.prefix(5).links["use"].tolist()
        [[4, 5, 0, 2]]
        """
        if not isinstance(stop, int | np.integer) or not 0 <= stop <= self.length:
            raise AnnotationError(f"prefix stop must be between 0 and the length {self.length}; got {stop!r}.")
        ends = [stop, stop, self.kv_length or stop, self.kv_length or stop]
        return Annotations(
            length=stop,
            flags={name: values[:stop] for name, values in self.flags.items()},
            labels={name: values[:stop] for name, values in self.labels.items()},
            links={name: np.minimum(rows, ends) for name, rows in self.links.items()},
            kv_length=self.kv_length,
        )

    def merged(self, other: Annotations) -> Annotations:
        """These facts and those of `other`, which must describe the same tokens under other names."""
        if not isinstance(other, Annotations):
            raise AnnotationError(f"annotations merge with annotations; got {type(other).__name__}.")
        if other.length != self.length:
            raise AnnotationError(
                f"annotations of {self.length} and {other.length} tokens do not describe the same sequence."
            )
        for mine, theirs in ((self.flags, other.flags), (self.labels, other.labels), (self.links, other.links)):
            if clash := sorted(mine.keys() & theirs.keys()):
                raise AnnotationError(f"both annotations carry {clash[0]!r}; rename one before merging.")
        return Annotations(
            length=self.length,
            flags={**self.flags, **other.flags},
            labels={**self.labels, **other.labels},
            links={**self.links, **other.links},
            kv_length=self.kv_length or other.kv_length,
        )

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Annotations):
            return NotImplemented
        return self.length == other.length and all(
            mine.keys() == theirs.keys() and all(np.array_equal(mine[name], theirs[name]) for name in mine)
            for mine, theirs in (
                (self.flags, other.flags),
                (self.labels, other.labels),
                (self.links, other.links),
            )
        )

    __hash__ = None  # type: ignore[assignment]

    def __reduce__(self) -> tuple[Any, ...]:
        # a mappingproxy cannot be pickled
        return Annotations, (self.length, dict(self.flags), dict(self.labels), dict(self.links), self.kv_length)

    def __repr__(self) -> str:
        parts = [f"length={self.length}"]
        parts += [f"flag {name!r} on {int(values.sum())}" for name, values in self.flags.items()]
        parts += [f"label {name!r}" for name in self.labels]
        parts += [f"{len(rows)} links {name!r}" for name, rows in self.links.items()]
        return f"<Annotations {', '.join(parts)}>"


def _count(argument: str, value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < 0:
        raise AnnotationError(f"{argument} must be 0 or more; got {value!r}.")
    return int(value)


def _array(kind: str, name: str, values: Any) -> npt.NDArray[Any]:
    if not isinstance(name, str) or not name:
        raise AnnotationError(f"{kind} names are non-empty strings; got {name!r}.")
    if hasattr(values, "detach"):
        values = values.detach().cpu().numpy()
    try:
        return np.asarray(values)
    except ValueError:  # rows of unequal length
        raise AnnotationError(f"{kind} {name!r} must have rows of equal length.") from None


def _per_token(kind: str, name: str, values: Any, length: int) -> npt.NDArray[Any]:
    array = _array(kind, name, values)
    if array.size == 0 and length == 0:
        return np.zeros(0, dtype=np.int64)
    if array.shape != (length,):
        raise AnnotationError(
            f"{kind} {name!r} has shape {list(array.shape)}, but the annotations are for length={length}; "
            f"give one value per token, [{length}]."
        )
    return array


def _flag(name: str, values: Any, length: int) -> BoolArray:
    array = _per_token("flag", name, values, length)
    if array.size and array.dtype != np.bool_ and not np.isin(array, (0, 1)).all():
        raise AnnotationError(f"flag {name!r} must be True or False for each token; got {array.dtype} values.")
    return array.astype(np.bool_)


def _label(name: str, values: Any, length: int) -> IntArray:
    array = _per_token("label", name, values, length)
    if array.size and array.dtype.kind not in "iub":
        raise AnnotationError(f"label {name!r} must be an integer for each token; got {array.dtype} values.")
    if array.dtype == np.uint64 and array.size and array.max() > np.iinfo(np.int64).max:
        raise AnnotationError(f"label {name!r} must fit into 64 bits with a sign; got {array.max()}.")
    return array.astype(np.int64)


def _links(name: str, rows: Any, length: int, kv_length: int | None) -> IntArray:
    array = _array("links", name, rows)
    if array.size == 0:
        return np.zeros((0, 4), dtype=np.int64)
    if array.ndim != 2 or array.shape[1] != 4 or array.dtype.kind not in "iu":
        raise AnnotationError(
            f"links {name!r} must be integers [n, 4] (q_first, q_stop, kv_first, kv_stop); "
            f"got {array.dtype} {list(array.shape)}."
        )
    array = array.astype(np.int64)
    outside = (array < 0) | (array > np.array([length, length, *[length if kv_length is None else kv_length] * 2]))
    if outside.any():
        bad = array[outside.any(axis=1)][0].tolist()
        raise AnnotationError(f"links {name!r} has the span {bad}, outside the {length} tokens.")
    if (backwards := (array[:, 1] < array[:, 0]) | (array[:, 3] < array[:, 2])).any():
        raise AnnotationError(f"links {name!r} has a span that ends before it starts: {array[backwards][0].tolist()}.")
    array = array[(array[:, 1] > array[:, 0]) & (array[:, 3] > array[:, 2])]
    return np.unique(array, axis=0) if len(array) else array
