"""`parse_pattern`: pattern text read back by a walk over its syntax tree; nothing in it is ever executed."""

from __future__ import annotations

import ast
import difflib
import importlib
import inspect
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

from openwork.errors import OpenworkError, PatternError
from openwork.patterns import zoo
from openwork.patterns.base import Pattern
from openwork.patterns.checks import shown
from openwork.patterns.custom import Custom
from openwork.patterns.names import IMPORTERS, PATTERNS
from openwork.patterns.register import REGISTERED

__all__ = ["parse_pattern"]

_LONGEST = 1_000_000
"""Characters of pattern text."""
_SHOWN = 60
"""Characters of pattern text that an error repeats."""
_DEEPEST = 50
"""Brackets, `~` and `-` inside each other: what is read can also be printed, compared and compiled."""


def parse_pattern(text: str, *, allow_imports: bool = False) -> Pattern:
    """The pattern that a text describes: `parse_pattern(repr(pattern)) == pattern`.

    The text is Python that makes a pattern, limited to: the patterns of this package with literal arguments,
    `&`, `|`, `~`, `-` and brackets; `PerHead.of` and the importers (`Window.from_hf(...)`); the zoo, with or without
    its name (`zoo.longformer()`, `longformer()`); and classes registered with `register_pattern`, by their full
    import path. It is parsed, never run. Brackets and signs nest at most 50 deep.

    Args:
        text: Pattern text.
        allow_imports: Import what the text names by an import path: registered classes whose module is not loaded
            yet, and the functions of `Custom`. Importing a module runs it, so allow this for text you trust only.

    Raises:
        PatternError: The text is not that of a pattern; the message says where and what would be.

    Examples:
        >>> parse_pattern("Causal() & (Window(before=255) | Keys('heading'))")
        Causal() & (Window(before=255, after=0) | Keys(name='heading'))
        >>> parse_pattern("Windw(before=3)")
        Traceback (most recent call last):
        ...
        openwork.errors.PatternError: unknown pattern 'Windw'; did you mean 'Window'? (in 'Windw(before=3)')
    """
    if not isinstance(text, str):
        raise PatternError(f"parse_pattern takes text; got {type(text).__name__}.")
    if len(text) > _LONGEST:
        raise PatternError(f"pattern text may have {_LONGEST:,} characters at most; got {len(text):,}.")
    try:
        return _Reader(allow_imports).pattern(_tree(text.strip()))
    except _Unreadable as error:
        raise PatternError(f"{error} (in {_short(text.strip())!r})") from None
    except SyntaxError as error:
        where = f" at character {error.offset}" if error.offset else ""
        raise PatternError(
            f"pattern text {_short(text.strip())!r} cannot be read{where}: {error.msg}. "
            f"It is written like Causal() & Window(before=255)."
        ) from None
    except (RecursionError, MemoryError):
        raise PatternError(
            f"pattern text {_short(text.strip())!r} cannot be read: it is nested too deeply, or a chain of thousands."
        ) from None


class _Unreadable(Exception):
    """What is wrong with the text; `parse_pattern` adds the text."""


def _tree(text: str) -> ast.expr:
    try:
        return ast.parse(text, mode="eval").body
    except UnicodeEncodeError as error:
        raise _Unreadable(f"character {error.start + 1} is a lone surrogate, which no text can hold") from None
    except ValueError as error:  # a null byte, in Python 3.11
        raise _Unreadable(str(error)) from None


def _short(text: str) -> str:
    return text if len(text) <= _SHOWN else text[: _SHOWN - 3] + "..."


def _source(node: ast.expr) -> str:
    """The text of a node, not longer than an error should be."""
    if isinstance(node, ast.Constant) and isinstance(node.value, int) and node.value.bit_length() > 256:
        return shown(node.value)
    try:
        return _short(ast.unparse(node))
    except ValueError:  # it holds a number with more digits than Python prints
        return type(node).__name__


_SIGNS = {ast.BitAnd: "&", ast.BitOr: "|", ast.Sub: "-"}


class _Reader:
    def __init__(self, allow_imports: bool) -> None:
        self.allow_imports = allow_imports
        self.depth = 0

    def pattern(self, node: ast.expr) -> Pattern:
        """The pattern that `node` makes."""
        value = self.value(node)
        if not isinstance(value, Pattern):
            raise _Unreadable(f"`{_source(node)}` is not a pattern; a pattern is written like Window(before=255)")
        return value

    def value(self, node: ast.expr) -> Any:
        """A pattern, or a literal as arguments are."""
        self.depth += 1
        if self.depth > _DEEPEST:
            raise _Unreadable(f"patterns are nested at most {_DEEPEST} deep")
        value = self.read(node)
        self.depth -= 1
        return value

    def read(self, node: ast.expr) -> Any:
        if isinstance(node, ast.Call):
            return self.call(node)
        if isinstance(node, ast.BinOp):
            return self.joined(node)
        if isinstance(node, ast.UnaryOp):
            return self.unary(node)
        if isinstance(node, ast.Constant) and isinstance(node.value, int | float | str | None):
            return node.value
        if isinstance(node, ast.Tuple | ast.List):
            return tuple(self.value(item) for item in node.elts)
        if isinstance(node, ast.Dict):
            return self.table(node)
        if isinstance(node, ast.BoolOp):
            word = "and" if isinstance(node.op, ast.And) else "or"
            raise _Unreadable(f"`{word}` does not combine patterns; use `&` and `|`")
        if isinstance(node, ast.Name | ast.Attribute):
            name = _dotted(node)
            known = self.maker(name) is not None
            raise _Unreadable(f"{name!r} needs its brackets: write {name}(...)" if known else self.unknown(name))
        raise _Unreadable(f"`{_source(node)}` is no part of pattern text")

    def joined(self, node: ast.BinOp) -> Pattern:
        sign = _SIGNS.get(type(node.op))
        if sign is None:
            raise _Unreadable(f"`{_source(node)}`: patterns combine with `&`, `|`, `~` and `-` only")
        # a chain of one sign is a left-leaning tree: walk it flat, so that long ones do not nest
        chain: list[tuple[str, ast.expr]] = []
        left: ast.expr = node
        while isinstance(left, ast.BinOp) and type(left.op) in _SIGNS:
            chain.append((_SIGNS[type(left.op)], left.right))
            left = left.left
        result = self.pattern(left)
        for sign, right in reversed(chain):
            other = self.pattern(right)
            result = result & other if sign == "&" else result | other if sign == "|" else result - other
        return result

    def unary(self, node: ast.UnaryOp) -> Any:
        if isinstance(node.op, ast.Invert):
            return ~self.pattern(node.operand)
        if isinstance(node.op, ast.Not):
            raise _Unreadable("`not` does not combine patterns; use `~`")
        number = self.value(node.operand)
        if isinstance(number, bool) or not isinstance(number, int | float):
            raise _Unreadable(f"`{_source(node)}` is not a number")
        return -number if isinstance(node.op, ast.USub) else number

    def table(self, node: ast.Dict) -> dict[Any, Any]:
        table = {}
        for key, value in zip(node.keys, node.values, strict=True):
            if key is None:
                raise _Unreadable("`**` is no part of pattern text")
            name = self.value(key)
            try:
                again = name in table
            except TypeError:  # it holds a table
                raise _Unreadable(f"`{_source(key)}` cannot be the key of a table") from None
            if again:
                raise _Unreadable(f"the table has `{_source(key)}` twice")
            table[name] = self.value(value)
        return table

    def call(self, node: ast.Call) -> Any:
        name = _dotted(node.func)
        if any(isinstance(item, ast.Starred) for item in node.args) or any(item.arg is None for item in node.keywords):
            raise _Unreadable("`*` and `**` are no part of pattern text")
        maker = self.maker(name)
        if maker is None:
            raise _Unreadable(self.unknown(name))
        if maker is Custom and not self.allow_imports:
            raise _Unreadable(
                "Custom names a function of yours by its import path, and importing runs code: "
                "pass allow_imports=True if you trust this text"
            )
        positional = [self.value(item) for item in node.args]
        keywords: dict[str, Any] = {}
        for item in node.keywords:
            assert item.arg is not None  # `**` has been refused
            if item.arg in keywords:
                raise _Unreadable(f"{_short(name)} is given {_short(item.arg)!r} twice")
            keywords[item.arg] = self.value(item.value)
        if maker is range:
            return _range(positional, keywords)
        _check_arguments(name, maker, positional, keywords)
        if name not in REGISTERED:
            return maker(*positional, **keywords)
        try:
            return maker(*positional, **keywords)
        except OpenworkError:
            raise
        except (TypeError, ValueError, ArithmeticError) as error:  # a user's class checks as it likes
            raise _Unreadable(f"{_short(name)} refused its arguments: {type(error).__name__}: {error}") from None

    def maker(self, name: str) -> Callable[..., Any] | None:
        """What a name in front of brackets makes; None if it is unknown."""
        if name == "range":
            return range
        if name in _KNOWN:
            return _KNOWN[name]
        if name in REGISTERED:
            return REGISTERED[name]
        if "." in name and self.allow_imports and all(part.isidentifier() for part in name.split(".")):
            return self.imported(name)
        return None

    def imported(self, name: str) -> Callable[..., Any] | None:
        """The registered class at import path `name`, its module loaded."""
        parts = name.split(".")
        for split in range(len(parts) - 1, 0, -1):
            module = ".".join(parts[:split])
            try:
                importlib.import_module(module)
            except ModuleNotFoundError as error:
                if error.name is not None and (module == error.name or module.startswith(error.name + ".")):
                    continue
                raise _Unreadable(f"importing {module!r} failed: {error}") from None
            except ImportError as error:
                raise _Unreadable(f"importing {module!r} failed: {error}") from None
            if name in REGISTERED:
                return REGISTERED[name]
            raise _Unreadable(
                f"{name!r} is not a registered pattern of module {module!r}: decorate the class with register_pattern"
            )
        return None

    def unknown(self, name: str) -> str:
        if "." in name and name.split(".")[0] not in {*_KNOWN, "zoo"}:
            if self.allow_imports:
                return f"no module of {_short(name)!r} can be imported"
            return (
                f"{_short(name)!r} is not loaded: import its module first, or pass allow_imports=True if you trust "
                "this text"
            )
        name = _short(name)
        close = difflib.get_close_matches(name, _KNOWN, n=3, cutoff=0.6)
        close = close or difflib.get_close_matches(name.lower(), [key.lower() for key in _KNOWN], n=1, cutoff=0.6)
        folded = {key.lower(): key for key in _KNOWN}
        close = [key if key in _KNOWN else folded[key] for key in close]
        hint = f"did you mean {' or '.join(map(repr, close))}?" if close else f"known are {', '.join(PATTERNS)}"
        return f"unknown pattern {name!r}; {hint}"


def _dotted(node: ast.expr) -> str:
    """The dotted name that `node` is."""
    inner = node
    while isinstance(inner, ast.Attribute):
        inner = inner.value
    if not isinstance(inner, ast.Name):
        raise _Unreadable(f"`{_source(node)}` is no part of pattern text")
    return ast.unparse(node)


_KNOWN: Mapping[str, Callable[..., Any]] = {
    **PATTERNS,
    **IMPORTERS,
    **{f"{prefix}{name}": getattr(zoo, name) for name in zoo.__all__ for prefix in ("", "zoo.")},
}


_signature = cache(inspect.signature)


def _range(positional: list[Any], keywords: dict[str, Any]) -> range:
    if keywords or not 1 <= len(positional) <= 3 or not all(type(number) is int for number in positional):
        raise _Unreadable("range takes 1 to 3 integers, as range(0, 8)")
    if len(positional) == 3 and positional[2] == 0:
        raise _Unreadable("range cannot step by 0")
    return range(*positional)


def _check_arguments(name: str, maker: Callable[..., Any], positional: list[Any], keywords: dict[str, Any]) -> None:
    signature = _signature(maker)
    takes = ", ".join(
        p.name if p.default is p.empty else f"{p.name}={p.default!r}" for p in signature.parameters.values()
    )
    takes = f"it takes {takes}" if takes else "it takes none"
    for keyword in keywords:
        if keyword not in signature.parameters:
            close = difflib.get_close_matches(keyword, signature.parameters, n=1)
            hint = f" Did you mean {close[0]!r}?" if close else ""
            raise _Unreadable(f"{name} has no argument {_short(keyword)!r}; {takes}.{hint}")
    try:
        signature.bind(*positional, **keywords)
    except TypeError as error:
        raise _Unreadable(f"{name}: {error}; {takes}") from None
