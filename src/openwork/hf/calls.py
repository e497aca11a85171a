"""What the running call of a model was given: its token ids, and what the annotator says of them."""

from __future__ import annotations

from contextvars import ContextVar
from typing import Any

from openwork.patterns import Annotations

__all__ = ["current_facts"]

_CALL: ContextVar[Any] = ContextVar("openwork_hf_call", default=None)


def current_facts(batch: int, length: int) -> tuple[Annotations, ...] | None:
    """The facts of the tokens that the running call has read so far; None where the plan reads none."""
    call = _CALL.get()
    return None if call is None else call.facts(batch, length)
