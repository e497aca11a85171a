"""`parse_schedule`: schedule text read back by a walk over its syntax tree; nothing in it is ever executed."""

from __future__ import annotations

import ast
import difflib
from collections.abc import Mapping
from dataclasses import MISSING, fields
from typing import Any

from openwork.errors import OpenworkError, PlanError
from openwork.patterns import Pattern, parse_pattern
from openwork.train.schedules import DenseThenSparse, RelaxOnPlateau, Schedule, Shrink

__all__ = ["SCHEDULES", "parse_schedule"]

SCHEDULES: Mapping[str, type[Schedule]] = {kind.__name__: kind for kind in (DenseThenSparse, Shrink, RelaxOnPlateau)}
"""What `parse_schedule` knows, by name."""

_LONGEST = 10_000
_SHOWN = 60


def parse_schedule(text: str) -> Schedule:
    """The schedule that a text describes: `parse_schedule(repr(schedule)) == schedule`.

    Args:
        text: A schedule with its arguments by name: numbers, and patterns as `parse_pattern` reads them.

    Raises:
        PlanError: The text is not that of a schedule; the message says where and what would be.

    Examples:
        >>> parse_schedule("Shrink(start_step=100, end_step=400, final_window=255)")
        Shrink(start_step=100, end_step=400, final_window=255, multiple=64)
        >>> parse_schedule("RelaxOnPlateau(to=Causal() & Window(before=1023))").to
        Causal() & Window(before=1023, after=0)
        >>> parse_schedule("Shrnk(end_step=400)")
        Traceback (most recent call last):
        ...
        openwork.errors.PlanError: unknown schedule 'Shrnk'; did you mean 'Shrink'? (in 'Shrnk(end_step=400)')
    """
    if not isinstance(text, str):
        raise PlanError(f"parse_schedule takes text; got {type(text).__name__}.")
    text = text.strip()
    shown = text if len(text) <= _SHOWN else text[: _SHOWN - 3] + "..."
    if len(text) > _LONGEST:
        raise PlanError(f"schedule text may have {_LONGEST:,} characters at most; got {len(text):,}.")
    try:
        node = ast.parse(text, mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        raise PlanError(f"schedule text {shown!r} cannot be read. It is written like {_EXAMPLE}.") from None
    if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Name):
        raise PlanError(f"schedule text {shown!r} is no schedule with its arguments. It is written like {_EXAMPLE}.")
    name = node.func.id
    if name not in SCHEDULES:
        close = difflib.get_close_matches(name.lower(), [known.lower() for known in SCHEDULES], n=1)
        folded = {known.lower(): known for known in SCHEDULES}
        hint = f"did you mean {folded[close[0]]!r}?" if close else f"known are {', '.join(SCHEDULES)}"
        raise PlanError(f"unknown schedule {name!r}; {hint} (in {shown!r})")
    return _made(SCHEDULES[name], node, text)


_EXAMPLE = "Shrink(start_step=100, end_step=400, final_window=255)"


def _made(kind: type[Schedule], node: ast.Call, text: str) -> Schedule:
    known = {field.name: field for field in fields(kind)}
    takes = ", ".join(name if field.default is MISSING else f"{name}=..." for name, field in known.items())
    values: dict[str, Any] = {}
    for keyword in node.keywords:
        if keyword.arg not in known:
            raise PlanError(f"{kind.__name__} has no argument {keyword.arg!r}; it takes {takes}.")
        values[keyword.arg] = _value(kind, keyword.arg, keyword.value, text)
    missing = [name for name, field in known.items() if field.default is MISSING and name not in values]
    if node.args or missing:
        what = f"lacks {missing[0]}" if missing else "takes its arguments by name"
        raise PlanError(f"{kind.__name__} {what}; it takes {takes}.")
    return kind(**values)


def _value(kind: type[Schedule], name: str, node: ast.expr, text: str) -> Any:
    source = ast.get_source_segment(text, node) or ""
    default = next(field.default for field in fields(kind) if field.name == name)
    if isinstance(default, Pattern):
        try:
            return parse_pattern(source)
        except OpenworkError as error:
            raise PlanError(f"{kind.__name__} {name}: {error}") from None
    try:
        return ast.literal_eval(node)
    except (ValueError, TypeError, SyntaxError, RecursionError, MemoryError):
        raise PlanError(f"{kind.__name__} {name} is a number; got {source[:_SHOWN]!r}.") from None
