"""Scratch memory filled with NaN, so that whoever reads what nobody wrote is seen."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

__all__ = ["poisoned_memory"]

_EMPTY = (
    torch.ops.aten.empty.memory_format,
    torch.ops.aten.empty_like.default,
    torch.ops.aten.empty_strided.default,
    torch.ops.aten.new_empty.default,
    torch.ops.aten.new_empty_strided.default,
)


class _Poison(TorchDispatchMode):
    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if func in _EMPTY and isinstance(result, Tensor):
            if result.dtype.is_floating_point:
                result.fill_(float("nan"))
            elif result.dtype in (torch.int32, torch.int64):
                result.fill_(-(10**9))
        return result


def poisoned_memory() -> TorchDispatchMode:
    """A context in which memory that torch hands out unwritten holds NaN (-10^9 for int32 and int64).

    Examples:
        >>> with poisoned_memory():
        ...     torch.empty(2).tolist()
        [nan, nan]
    """
    poison: TorchDispatchMode = _Poison()  # type: ignore[no-untyped-call]
    return poison
