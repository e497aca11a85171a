"""Checks that patterns make on their arguments; each message names the argument, the value and the way out."""

from __future__ import annotations

import operator
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from openwork.errors import PatternError

__all__ = ["LARGEST", "fact_name", "per_axis", "shown", "whole", "whole_row", "yes_or_no"]

LARGEST = 2**31 - 1
"""Largest number in a pattern: no sequence is longer, and products of two stay within 64 bits."""
_SHOWN = 80
"""Characters of a value that a message repeats."""


def shown(value: Any) -> str:
    """`repr(value)` for a message: not longer than a line, whatever the value.

    >>> shown("b" * 100)[:8], len(shown("b" * 100)), shown(16**9000)
    ("'bbbbbbb", 80, 'a number of 36001 bits')
    """
    if isinstance(value, int) and value.bit_length() > 256:
        return f"a number of {value.bit_length()} bits"
    text = repr(value)
    return text if len(text) <= _SHOWN else text[: _SHOWN - 3] + "..."


def whole(argument: str, value: Any, *, at_least: int, at_most: int = LARGEST, remedy: str = "") -> int:
    """`value` as a Python int from `at_least` to `at_most`.

    >>> whole("Strided stride", 4, at_least=1)
    4
    """
    try:
        number = operator.index(value)
    except TypeError:
        number = at_least - 1
    hint = f" {remedy}" if remedy else ""
    if isinstance(value, bool | np.bool_) or number < at_least:
        raise PatternError(f"{argument} must be an integer of {at_least} or more; got {shown(value)}.{hint}")
    if number > at_most:
        raise PatternError(f"{argument} must be {at_most:,} or less; got {shown(number)}.{hint}")
    return number


def yes_or_no(argument: str, value: Any) -> bool:
    """`value` as a Python bool.

    >>> yes_or_no("Window.from_hf bidirectional", True)
    True
    """
    if not isinstance(value, bool | np.bool_):
        raise PatternError(f"{argument} must be True or False; got {shown(value)}.")
    return bool(value)


def fact_name(owner: str, value: Any) -> str:
    """`value` as the name of an annotation."""
    if not isinstance(value, str) or not value:
        raise PatternError(f"{owner} name must be the name of an annotation, such as 'heading'; got {shown(value)}.")
    return value


def per_axis(argument: str, value: Any, axes: int, *, at_least: int) -> tuple[int, ...]:
    """`value` as one integer for each of `axes` axes; a single integer stands for all."""
    values = list(value) if isinstance(value, Sequence) and not isinstance(value, str) else [value] * axes
    if len(values) != axes:
        raise PatternError(
            f"{argument} needs one value, or one for each of the {axes} axes of shape; got {shown(value)}."
        )
    return tuple(whole(argument, each, at_least=at_least) for each in values)


def whole_row(argument: str, values: Any, *, at_least: int) -> tuple[int, ...]:
    """`values` as Python ints of `at_least` or more, any number of them.

    >>> whole_row("longnet segments", [4, 8], at_least=1)
    (4, 8)
    """
    try:
        row = None if isinstance(values, str | Mapping) else tuple(values)
    except TypeError:
        row = None
    if row is None:
        raise PatternError(f"{argument} must be a list of integers; got {shown(values)}.")
    return tuple(whole(argument, value, at_least=at_least) for value in row)
