"""Checks that patterns make on their arguments; each message names the argument, the value and the way out."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import Any

from openwork.errors import PatternError

__all__ = ["fact_name", "per_axis", "whole"]


def whole(argument: str, value: Any, *, at_least: int, remedy: str = "") -> int:
    """`value` as a Python int of `at_least` or more.

    >>> whole("Strided stride", 4, at_least=1)
    4
    """
    try:
        number = operator.index(value)
    except TypeError:
        number = at_least - 1
    if isinstance(value, bool) or number < at_least:
        hint = f" {remedy}" if remedy else ""
        raise PatternError(f"{argument} must be an integer of {at_least} or more; got {value!r}.{hint}")
    return number


def fact_name(owner: str, value: Any) -> str:
    """`value` as the name of an annotation."""
    if not isinstance(value, str) or not value:
        raise PatternError(f"{owner} name must be the name of an annotation, such as 'heading'; got {value!r}.")
    return value


def per_axis(argument: str, value: Any, axes: int, *, at_least: int) -> tuple[int, ...]:
    """`value` as one integer for each of `axes` axes; a single integer stands for all."""
    values = list(value) if isinstance(value, Sequence) and not isinstance(value, str) else [value] * axes
    if len(values) != axes:
        raise PatternError(f"{argument} needs one value, or one for each of the {axes} axes of shape; got {value!r}.")
    return tuple(whole(argument, each, at_least=at_least) for each in values)
