"""A method of one model that does more than its class's."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, ClassVar

from openwork.hf.state import ModelState

__all__ = ["StandIn"]


class StandIn:
    """Stands in the model's own attributes for a method of its class; a copy or a pickle of the model takes it along.

    Attributes:
        name: The method.
        model: The model.
        state: What `sparsify` left on it.
    """

    name: ClassVar[str]

    def __init__(self, model: Any, state: ModelState) -> None:
        self.model, self.state = model, state

    @property
    def __signature__(self) -> inspect.Signature:
        # transformers looks which arguments its methods take
        return inspect.signature(self.original)

    @property
    def original(self) -> Callable[..., Any]:
        """The method of the class."""
        return getattr(type(self.model), self.name).__get__(self.model)  # type: ignore[no-any-return]
