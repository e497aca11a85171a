"""`register_pattern`: a user's own Pattern class joins pattern text, by its import path."""

from __future__ import annotations

from dataclasses import fields
from typing import Any, TypeVar

from openwork.errors import PatternError
from openwork.patterns.base import Pattern

__all__ = ["REGISTERED", "register_pattern"]

REGISTERED: dict[str, type[Pattern]] = {}
"""Registered classes by import path."""

P = TypeVar("P", bound=type[Pattern])


def register_pattern(cls: P) -> P:
    """Class decorator: patterns of this class print as `module.Class(...)`, which `parse_pattern` reads back.

    The module has to be loaded when the text is read, or the caller passes `allow_imports=True`.
    `openwork.testing.pattern_contract` says whether the class keeps the rules that compilers rely on.

    Args:
        cls: A frozen dataclass that derives from `Pattern` and stands at the top level of its module. Its fields
            hold ints, floats, strings, booleans, None, tuples of those, or patterns.

    Raises:
        PatternError: The class is not one of these.

    Examples:
        >>> register_pattern(int)
        Traceback (most recent call last):
        ...
        openwork.errors.PatternError: register_pattern takes a class that derives from Pattern; got <class 'int'>.
    """
    given: Any = cls
    if not isinstance(given, type) or not issubclass(given, Pattern):
        raise PatternError(f"register_pattern takes a class that derives from Pattern; got {given!r}.")
    if not getattr(getattr(given, "__dataclass_params__", None), "frozen", False):
        raise PatternError(f"{cls.__qualname__} must be a frozen dataclass: put @dataclass(frozen=True) below.")
    path = f"{cls.__module__}.{cls.__qualname__}"
    if not all(part.isidentifier() for part in path.split(".")):
        raise PatternError(f"{path} cannot be imported by its path; move the class to the top level of a module.")

    def written(self: Any) -> str:
        values = (f"{field.name}={getattr(self, field.name)!r}" for field in fields(self) if field.init)
        return f"{path}({', '.join(values)})"

    setattr(cls, "__repr__", written)  # noqa: B010 - mypy takes an assignment for a mistake
    REGISTERED[path] = cls
    return cls
