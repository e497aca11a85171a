"""What is looked at before every call of a sparsified model: arguments that would be lost, and a model gone dense."""

from __future__ import annotations

import logging
from typing import Any

import torch

from openwork.errors import ArgumentError
from openwork.hf.caches import check_cache
from openwork.hf.calls import OFFSETS, TEXT, CallEnd, enter_call
from openwork.hf.state import NAME, ModelState, implementation_of

__all__ = ["CallGuard"]

_LOG = logging.getLogger("openwork.hf")


class CallGuard:
    """A forward pre-hook; it holds the model's state, so that copies and pickles of the model keep it.

    Args:
        state: The model's.
        config: The configuration of the part that follows the plan: that of a whole with vision and text says nothing.
        end: The hook that ends the call, where the plan reads facts.
    """

    def __init__(self, state: ModelState, config: Any, end: CallEnd | None = None) -> None:
        self.state, self.config, self.end = state, config, end

    def __call__(self, module: Any, args: Any, kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]] | None:
        """Raises for what sparse attention would lose without a word, and notes the ids for the annotator.

        Raises:
            ArgumentError: `output_attentions=True`, a head mask, or another model's cache.
        """
        if implementation_of(self.config) != NAME:
            self._tell_dense(module)
            return _without_text(args, kwargs)
        self.state.told_dense = False
        if kwargs.get("output_attentions") or getattr(self.config, "output_attentions", False):
            raise ArgumentError(
                "output_attentions=True asks for the probabilities of all pairs, which sparse attention never builds. "
                "Leave it out, or look at a dense copy: openwork.hf.densify(copy.deepcopy(model))."
            )
        for name in ("head_mask", "decoder_head_mask"):
            if kwargs.get(name) is not None:
                raise ArgumentError(
                    f"{name} multiplies whole heads, which sparse attention cannot honour; prune the heads, or give "
                    "them a plan of their own with PerHead."
                )
        if not self.state.told_mixed and not torch.compiler.is_compiling():
            self._tell_mixed(kwargs)
        check_cache(self.config, kwargs.get("past_key_values"))
        if self.end is not None:
            self.end.tokens.append(enter_call(self.state, module, args, kwargs))
        return _without_text(args, kwargs)

    def _tell_mixed(self, kwargs: dict[str, Any]) -> None:
        """Says in one line that documents are not kept apart, where the caller most likely thinks they are."""
        positions, use_cache = kwargs.get("position_ids"), kwargs.get("use_cache")
        use_cache = getattr(self.config, "use_cache", False) if use_cache is None else use_cache
        if not isinstance(positions, torch.Tensor) or positions.ndim != 2 or kwargs.get("attention_mask") is not None:
            return
        if use_cache and bool((positions[:, 1:] <= positions[:, :-1]).any()):
            self.state.told_mixed = True
            _LOG.warning(
                "position_ids restart, as in packed documents, but the call keeps a cache, and with one transformers "
                "does not keep documents apart: pass use_cache=False."
            )

    def _tell_dense(self, module: Any) -> None:
        if not self.state.told_dense:
            self.state.told_dense = True
            _LOG.warning(
                "%s is dense again: its attention implementation is %r now; set_attn_implementation(%r) goes back to "
                "the plan, openwork.hf.densify(model) removes it.",
                type(module).__name__,
                implementation_of(self.config),
                NAME,
            )


def _without_text(args: Any, kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]] | None:
    """The arguments without the raw text, which no model takes; None where there is none."""
    if TEXT not in kwargs and OFFSETS not in kwargs:
        return None
    return args, {name: value for name, value in kwargs.items() if name not in (TEXT, OFFSETS)}
