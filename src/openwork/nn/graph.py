"""What `torch.compile` has to leave alone: layouts are made by NumPy, outside of every graph."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

import torch
from torch import Tensor

from openwork.ops import sparse_attention
from openwork.ops.prepared import PreparedLayout

__all__ = ["attended", "outside_graph"]

P = ParamSpec("P")
T = TypeVar("T")


def outside_graph(function: Callable[P, T]) -> Callable[P, T]:
    """The function, which `torch.compile` breaks its graph around and does not trace."""
    # torch.compiler.disable, the public way, loads 1.3 s of compiler when a module is imported. This is what torch
    # itself decorates with, and loads it at the first call; a wrapper of our own would be traced once for each user
    made: Callable[P, T] = torch._disable_dynamo(function)  # type: ignore[attr-defined]
    return made


def attended(query: Tensor, key: Tensor, value: Tensor, layout: Any, **options: Any) -> Tensor:
    """The output of `sparse_attention`; inside `torch.compile` in the graph with a prepared layout, else beside it."""
    if isinstance(layout, PreparedLayout):
        return sparse_attention(query, key, value, layout, **options).output
    return _beside(query, key, value, layout, **options)


@outside_graph
def _beside(query: Tensor, key: Tensor, value: Tensor, layout: Any, **options: Any) -> Tensor:
    return sparse_attention(query, key, value, layout, **options).output
