"""Where the prompt of a running `generate` ends: a plan's decode part is for what comes behind it."""

from __future__ import annotations

from collections.abc import Mapping
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from openwork.hf.stand_in import StandIn
from openwork.hf.state import ModelState

__all__ = ["Generate", "Prompt", "current_prompt"]


@dataclass(frozen=True, eq=False)
class Prompt:
    """What a running `generate` continues.

    Attributes:
        state: That of the model which generates.
        length: Tokens of the prompt, cached ones and padding among them.
    """

    state: ModelState
    length: int


_PROMPT: ContextVar[Prompt | None] = ContextVar("openwork_hf_prompt", default=None)


def current_prompt() -> Prompt | None:
    """That of the innermost running `generate`; None where none runs, or its model makes the prompt itself."""
    return _PROMPT.get()


class Generate(StandIn):
    """Stands for a model's `generate`: a call upon a cache does not say which of its tokens are generated ones.

    A chunk of a long prompt and the candidates of assisted decoding look alike there.
    """

    name = "generate"

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """What the model's own method returns."""
        # an encoder-decoder's prompt is made inside
        known = not getattr(self.model.config, "is_encoder_decoder", False)
        length = _length(args, kwargs) if known else None
        token = _PROMPT.set(None if length is None else Prompt(self.state, length))
        try:
            return self.original(*args, **kwargs)
        finally:
            _PROMPT.reset(token)


def _length(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> int | None:
    # embeddings go before ids, as in `generate`
    for given in (kwargs.get("inputs_embeds"), kwargs.get("input_ids"), kwargs.get("inputs"), *args[:1]):
        if isinstance(given, Tensor) and given.ndim > 1:
            return given.shape[1]
    return None
