"""openwork: sparse attention, described once, checked before it is trained, exact on every backend.

Everything here is a re-export that loads when it is first used: `import openwork` loads neither torch nor NumPy.

    >>> import openwork as ow
    >>> ow.Causal() & (ow.Window(before=255) | ow.Keys("heading") | ow.First(keys=4))
    Causal() & (Window(before=255, after=0) | Keys(name='heading') | First(keys=4))
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from openwork.errors import (
        AnnotationError,
        ArgumentError,
        BackendError,
        DataError,
        LayoutError,
        OpenworkError,
        PatternError,
        PlanError,
        StudyError,
    )
    from openwork.layout import BlockLayout, bind, compile_layout, decoder, documents_from_positions, draw
    from openwork.patterns import (
        Annotations,
        Axis,
        Causal,
        Chunk,
        Custom,
        Declarations,
        Dense,
        Dilated,
        Earlier,
        First,
        Grid,
        Keys,
        Linked,
        Pattern,
        PerHead,
        PowersOfTwo,
        Queries,
        RandomBlocks,
        Same,
        Strided,
        Summary,
        Window,
        parse_pattern,
    )
    from openwork.plan import Plan

__all__ = [
    "AnnotationError",
    "Annotations",
    "ArgumentError",
    "Axis",
    "BackendError",
    "BlockLayout",
    "Causal",
    "Chunk",
    "Custom",
    "DataError",
    "Declarations",
    "Dense",
    "Dilated",
    "Earlier",
    "First",
    "Grid",
    "Keys",
    "LayoutError",
    "Linked",
    "OpenworkError",
    "Pattern",
    "PatternError",
    "PerHead",
    "Plan",
    "PlanError",
    "PowersOfTwo",
    "Queries",
    "RandomBlocks",
    "Same",
    "Strided",
    "StudyError",
    "Summary",
    "Window",
    "bind",
    "compile_layout",
    "decoder",
    "documents_from_positions",
    "draw",
    "parse_pattern",
]

__version__ = "0.1.0"

_LAYOUT = {"BlockLayout", "bind", "compile_layout", "decoder", "documents_from_positions", "draw"}


def _home(name: str) -> str:
    if name.endswith("Error"):
        return "openwork.errors"
    if name in _LAYOUT:
        return "openwork.layout"
    return "openwork.plan" if name == "Plan" else "openwork.patterns"


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'openwork' has no attribute {name!r}")
    value = getattr(import_module(_home(name)), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
