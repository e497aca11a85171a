"""The compiled kernels, where this installation has them, and which instruction set they use."""

from __future__ import annotations

import os
from functools import cache
from importlib import import_module
from types import ModuleType

from openwork.errors import BackendError

__all__ = ["VARIABLE", "absence", "available_isas", "chosen_isa", "kernels"]

VARIABLE = "OPENWORK_CPU_ISA"
"""The environment variable that forces an instruction set."""


@cache
def _load() -> tuple[ModuleType | None, str]:
    try:
        return import_module("openwork._native"), ""
    except ModuleNotFoundError:
        return None, "is not built"
    except ImportError as error:
        return None, f"does not load: {str(error).splitlines()[0]}"


def absence() -> str | None:
    """Why there are no native kernels, with the way out; None where there are."""
    module, reason = _load()
    if module is not None:
        return None
    return f"the extension openwork._native {reason}; install again where there is a C++20 compiler"


def kernels() -> ModuleType:
    """The extension.

    Raises:
        BackendError: It is not there.
    """
    module, _ = _load()
    if module is None:
        raise BackendError(f"backend 'cpu' cannot run: {absence()}; backend='gather' needs none.")
    return module


def available_isas() -> dict[str, bool]:
    """Instruction sets that the extension has code for, widest first, and whether this machine can run each."""
    module, _ = _load()
    return {} if module is None else dict(module.isas())


def chosen_isa() -> str:
    """The instruction set that the kernels use: the widest that runs here, or what the environment forces.

    Raises:
        BackendError: `OPENWORK_CPU_ISA` names one that is not there or that this machine cannot run.
    """
    isas = available_isas()
    able = [name for name, runs_here in isas.items() if runs_here]
    forced = os.environ.get(VARIABLE, "")
    if not forced:
        return able[0]
    if forced in able:
        return forced
    why = "this machine cannot run it" if forced in isas else "the kernels have no such variant"
    raise BackendError(f"{VARIABLE}={forced!r}: {why}. Unset it, or choose from: {', '.join(able)}.")
