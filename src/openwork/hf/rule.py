"""A mask function that is not transformers' own, as a pattern: asked pair by pair, tile by tile."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

# private: the only way in which torch indexes a tensor by mapped scalars, as transformers itself does it
from torch._dynamo._trace_wrapped_higher_order_op import TransformGetItemToIndex

from openwork.patterns import Pattern
from openwork.patterns.annotations import BoolArray
from openwork.patterns.rectangles import Tokens

__all__ = ["INDEX", "ROW", "ModelRule"]

ROW, INDEX = "openwork.row", "openwork.index"
"""Labels that tell the rule which sequence of the batch, and which token of it, it is asked about."""


@dataclass(frozen=True, repr=False)
class ModelRule(Pattern):
    """What a mask function says of each pair; equal where it is the same function.

    Nothing of size q x kv is built, but every pair that the patterns beside it leave open is asked: time grows with
    their number.

    Args:
        function: `function(batch, head, q_idx, kv_idx)` on torch tensors.
        single: Whether it can only be asked about one pair at a time (transformers says so of a user's function).
    """

    function: Callable[..., Any]
    single: bool = False

    @property
    def needs(self) -> Mapping[str, str]:  # type: ignore[override]
        """The labels that `Surroundings` makes for it."""
        return {ROW: "label", INDEX: "label"}

    def pairs(self, q: Tokens, k: Tokens) -> BoolArray:
        """What the function says of each pair of tokens."""
        wanted = np.broadcast_arrays(q.label(ROW), q.label(INDEX), k.label(INDEX))
        rows, queries, keys = (torch.from_numpy(np.ascontiguousarray(values)) for values in wanted)
        head = torch.zeros((), dtype=torch.int64)
        if not self.single:
            answer = self.function(rows, head, queries, keys)
        else:
            flat = [values.reshape(-1) for values in (rows, queries, keys)]
            with TransformGetItemToIndex():
                answer = torch.vmap(lambda b, i, j: self.function(b, head, i, j))(*flat)
            answer = answer.reshape(rows.shape)
        allowed: BoolArray = np.broadcast_to(torch.as_tensor(answer).cpu().numpy().astype(np.bool_), rows.shape)
        return allowed

    def __repr__(self) -> str:
        return f"<mask function {getattr(self.function, '__qualname__', type(self.function).__name__)}>"
