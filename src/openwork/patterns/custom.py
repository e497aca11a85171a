"""`Custom`: the user's own rule as a function."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from openwork.errors import PatternError
from openwork.patterns.annotations import IntArray
from openwork.patterns.base import Pattern
from openwork.patterns.rectangles import EMPTY, Spans, States, no_tokens

__all__ = ["Custom", "import_path"]

RectanglesFunction = Callable[[IntArray, IntArray, IntArray, IntArray], Any]


@dataclass(frozen=True, repr=False)
class Custom(Pattern):
    """Attend where a function of yours says so.

    Query position `i` attends to key position `j` when `fn(i, j)`. The function is called with integers and with
    arrays that broadcast (NumPy; torch where you pass torch), so it is written in operators: `&`, `|`, `~` and
    comparisons, not `and`, `or`, `not`, `if`. It must depend on its arguments alone.

    The compiler knows nothing of the rule, so it asks `fn` about every pair that the patterns around it leave open:
    standing alone, time grows with `q_len * kv_len` (2 s for 16,384 tokens on one core, half a minute for 65,536).
    `Causal() & Window(...) & Custom(...)` is asked within the window only, and `rectangles` lets whole rectangles be
    answered at once.

    Source: yours.

    Args:
        fn: `fn(q_pos, kv_pos)`, or its import path `"module:name"`. Only a function that can be imported by such a
            path can be written to text and read back.
        name: What reports call it.
        rectangles: Optional `rectangles(q_low, q_high, kv_low, kv_high)`: int64 arrays of the smallest and largest
            positions of many rectangles (both ends included) to 0 where no pair of the rectangle is allowed, 2
            where every pair is, 1 where it is not known. Or its import path.

    Raises:
        PatternError: `fn` cannot be called or imported, the name is not a string, or an answer of `rectangles`
            is not 0, 1 or 2 for each rectangle.

    Examples:
        >>> def same_digit(q_pos, kv_pos):
        ...     return q_pos % 10 == kv_pos % 10
        >>> Custom(same_digit, "same digit").allows(25, 5)
        True
        >>> from openwork.testing import assert_mask
        >>> assert_mask(Custom(lambda q_pos, kv_pos: kv_pos * 2 == q_pos, "half as far"), '''
        ...     # . . . .
        ...     . . . . .
        ...     . # . . .
        ...     . . . . .
        ...     . . # . .
        ... ''')
    """

    fn: Callable[[Any, Any], Any]
    name: str
    rectangles: RectanglesFunction | None = None

    def __post_init__(self) -> None:
        for argument in ("fn", "rectangles"):
            value = getattr(self, argument)
            if argument == "rectangles" and value is None:
                continue
            if isinstance(value, str):
                value = _imported(argument, value)
                object.__setattr__(self, argument, value)
            if not callable(value):
                raise PatternError(
                    f"Custom {argument} must be a function or its import path 'module:name'; got {value!r}."
                )
        if not isinstance(self.name, str) or not self.name:
            raise PatternError(f"Custom name must be a string that reports can show; got {self.name!r}.")

    def allows(self, q_pos: Any, kv_pos: Any) -> Any:
        """What the function says; `bool` for two ints."""
        allowed = self.fn(q_pos, kv_pos)
        return bool(allowed) if isinstance(q_pos, int) and isinstance(kv_pos, int) else allowed

    def pairs(self, q: Any, k: Any) -> Any:
        """What the function says, in the shape of the pairs and as booleans."""
        allowed = np.asarray(self.allows(q.position, k.position))
        if allowed.dtype != np.bool_:
            raise PatternError(
                f"Custom {self.name!r} must answer True or False for each pair; its function gave {allowed.dtype}."
            )
        shape = np.broadcast_shapes(q.position.shape, k.position.shape)
        try:
            return np.broadcast_to(allowed, shape)
        except ValueError:
            raise PatternError(
                f"Custom {self.name!r} must answer for each pair: arrays that broadcast to {list(shape)} gave "
                f"{list(allowed.shape)}. Write the function in operators, without indexing or reshaping."
            ) from None

    def states(self, q: Spans, k: Spans) -> States:
        """What `rectangles` says; without it every rectangle is partial."""
        states = np.ones(len(q.low), dtype=np.int8)
        if self.rectangles is not None:
            answer = np.asarray(self.rectangles(q.low, q.high, k.low, k.high))
            if answer.shape not in ((), states.shape) or not np.isin(answer, (0, 1, 2)).all():
                raise PatternError(
                    f"Custom {self.name!r}: rectangles must answer 0 (empty), 1 (not known) or 2 (full) for each of "
                    f"{len(states)} rectangles; got {answer.dtype} {list(answer.shape)}."
                )
            states[:] = answer
        states[no_tokens(q, k)] = EMPTY
        return states

    def signature(self, q: Spans, k: Spans) -> list[IntArray]:
        """The positions themselves: the rule may read anything into them."""
        return [side.content("position", lambda tokens: tokens.position) for side in (q, k)]

    def __repr__(self) -> str:
        more = f", rectangles={_written(self.rectangles)}" if self.rectangles is not None else ""
        return f"Custom({_written(self.fn)}, {self.name!r}{more})"


def import_path(value: Any) -> str | None:
    """The path `"module:name"` that imports `value`, or None where it has none (a lambda, a local function)."""
    module, name = getattr(value, "__module__", None), getattr(value, "__qualname__", None)
    if not module or not name or not all(part.isidentifier() for part in name.split(".")):
        return None
    return f"{module}:{name}"


def _written(function: Any) -> str:
    path = import_path(function)
    return repr(path) if path else f"<{getattr(function, '__qualname__', type(function).__name__)}>"


def _imported(argument: str, path: str) -> Any:
    module, _, name = path.partition(":")
    try:
        value: Any = importlib.import_module(module)
        for part in name.split("."):
            value = getattr(value, part)
    except (ImportError, AttributeError, ValueError) as error:
        raise PatternError(
            f"Custom {argument} {path!r} cannot be imported ({error}); give a function or 'module:name'."
        ) from None
    return value
