"""`assert_mask`: a toy unit test of a mask in one line."""

from __future__ import annotations

import inspect

import numpy as np

from openwork.errors import PatternError
from openwork.patterns.annotations import Annotations, BoolArray
from openwork.patterns.base import Pattern, PerHead

__all__ = ["assert_mask", "read_drawing"]


def assert_mask(pattern: Pattern, drawing: str, annotations: Annotations | None = None) -> None:
    """Fails unless `pattern` allows exactly the pairs of a drawing.

    Args:
        pattern: The pattern; ask for one head of a `PerHead`.
        drawing: One line for each query and one character for each key: `#` is allowed, `.` is not, blanks do not
            count. Fewer lines than columns are the last queries: the last query is the last key.
        annotations: Facts about the keys, where the pattern reads any.

    Raises:
        AssertionError: Some pair differs; the message shows both drawings and marks the pairs.
        PatternError: The drawing cannot be read, or `pattern` is not a single head's.

    Examples:
        >>> from openwork.patterns import Window
        >>> assert_mask(Window(before=1), '''
        ...     # . .
        ...     # # .
        ...     . # #
        ... ''')
        >>> assert_mask(Window(before=1), '''
        ...     # .
        ...     . #
        ... ''')
        Traceback (most recent call last):
        ...
        AssertionError: Window(before=1, after=0) differs from the drawing in 1 of 4 pairs (+ allowed, not drawn; ...
        # .
        + #
    """
    from openwork.layout.bind import bind

    if isinstance(pattern, PerHead):
        raise PatternError("assert_mask takes the pattern of one head: pattern.head(h).")
    expected = read_drawing(drawing)
    q_len, kv_len = expected.shape
    if q_len > kv_len:
        raise PatternError(
            f"the drawing has {q_len} queries (lines) and {kv_len} keys (characters); the last query is the last key, "
            f"so draw at least as many keys as queries."
        )
    found = bind(pattern, q_len=q_len, kv_len=kv_len, annotations=annotations).to_dense()[0, 0]
    if not np.array_equal(found, expected):
        raise AssertionError(
            f"{pattern!r} differs from the drawing in {int((found != expected).sum())} of {found.size} pairs "
            f"(+ allowed, not drawn; - drawn, not allowed):\n{_difference(found, expected)}"
        )


def read_drawing(drawing: str) -> BoolArray:
    """The mask of a drawing, bool `[lines, characters]`.

    >>> read_drawing('''
    ...     # .
    ...     # #
    ... ''').astype(int).tolist()
    [[1, 0], [1, 1]]
    """
    lines = ["".join(line.split()) for line in inspect.cleandoc(drawing).splitlines()]
    lines = [line for line in lines if line]
    if odd := sorted(set("".join(lines)) - {"#", "."}):
        raise PatternError(f"a drawing is made of '#' and '.'; got {odd[0]!r}.")
    if not lines or len({len(line) for line in lines}) > 1:
        lengths = [len(line) for line in lines]
        raise PatternError(f"a drawing needs lines of equal length; got lengths {lengths}.")
    return np.array([[character == "#" for character in line] for line in lines])


def _difference(found: BoolArray, expected: BoolArray) -> str:
    marks = np.where(found == expected, np.where(found, "#", "."), np.where(found, "+", "-"))
    return "\n".join(" ".join(row) for row in marks)
