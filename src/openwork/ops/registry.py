"""Which backends there are, and which one runs a call."""

from __future__ import annotations

import logging
from contextlib import AbstractContextManager, nullcontext

import torch

from openwork.errors import ArgumentError, BackendError
from openwork.ops.backends.call import Backend, Call
from openwork.ops.backends.cpu import CpuBackend
from openwork.ops.backends.gather import GatherBackend
from openwork.ops.backends.reference import ReferenceBackend
from openwork.ops.backends.sdpa import SdpaBackend
from openwork.ops.preference import passed_over

__all__ = ["BACKENDS", "as_given", "auto_refusals", "backend_names", "choose", "refusals"]

BACKENDS: tuple[Backend, ...] = (SdpaBackend(), CpuBackend(), GatherBackend(), ReferenceBackend())
"""In the order in which `"auto"` asks them, but for what `preference` measured; a new backend joins here alone."""

_log = logging.getLogger("openwork.ops")


def as_given(device: torch.device) -> AbstractContextManager[object]:
    """A context in which products are computed in the dtype of their inputs, inside `torch.autocast` too."""
    if torch.amp.is_autocast_available(device.type) and torch.is_autocast_enabled(device.type):
        return torch.autocast(device.type, enabled=False)
    return nullcontext()


def backend_names() -> tuple[str, ...]:
    """Names that `backend=` takes, `"auto"` apart."""
    return tuple(backend.name for backend in BACKENDS)


def refusals(call: Call) -> dict[str, list[str]]:
    """For each backend, in the order of `"auto"`, why it cannot run the call; empty where it can."""
    return {backend.name: backend.refusal_reasons(call) for backend in BACKENDS}


def choose(call: Call, backend: str) -> Backend:
    """The backend that runs the call.

    Raises:
        ArgumentError: There is no backend of that name.
        BackendError: The named backend refused, or under `"auto"` every backend did.
    """
    if backend == "auto":
        return _first_willing(call)
    for candidate in BACKENDS:
        if candidate.name == backend:
            break
    else:
        raise ArgumentError(f"backend={backend!r} is not one of {', '.join(('auto', *backend_names()))}.")
    reasons = candidate.refusal_reasons(call)
    if reasons:
        able = [name for name, why in refusals(call).items() if not why]
        way_out = f"Can run it: {', '.join(able)}." if able else "No other backend can run it either."
        raise BackendError(f"backend {backend!r} cannot run {call.describe()}: {'; '.join(reasons)}. {way_out}")
    return candidate


def auto_refusals(call: Call) -> dict[str, list[str]]:
    """For each backend, in the order of `"auto"`, why it cannot run the call or is passed over for a faster one.

    `"auto"` takes the first one without a reason.
    """
    found = refusals(call)
    for name, reason in passed_over(call, {name: not why for name, why in found.items()}).items():
        found[name].append(reason)
    return found


def _first_willing(call: Call) -> Backend:
    refused: list[str] = []
    for backend in BACKENDS:
        reasons = backend.refusal_reasons(call)
        if not reasons and backend.name == "sdpa":
            # the one that may be passed over for a later one
            reasons = auto_refusals(call)["sdpa"]
        if not reasons:
            _log.debug("auto chose %s for %s%s", backend.name, call.describe(), "".join(refused))
            return backend
        refused.append(f"\n  {backend.name}: {'; '.join(reasons)}")
    raise BackendError(f"no backend can run {call.describe()}:{''.join(refused)}")
