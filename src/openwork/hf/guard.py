"""What is looked at before every call of a sparsified model: arguments that would be lost, and a model gone dense."""

from __future__ import annotations

import logging
from typing import Any

from openwork.errors import ArgumentError
from openwork.hf.state import NAME, ModelState

__all__ = ["CallGuard"]

_LOG = logging.getLogger("openwork.hf")


class CallGuard:
    """A forward pre-hook; it holds the model's state, so that copies and pickles of the model keep it."""

    def __init__(self, state: ModelState) -> None:
        self.state = state

    def __call__(self, module: Any, args: Any, kwargs: dict[str, Any]) -> None:
        """Raises for what sparse attention would lose without a word.

        Raises:
            ArgumentError: `output_attentions=True`, or a head mask.
        """
        if module.config._attn_implementation != NAME:
            self._tell_dense(module)
            return
        self.state.told_dense = False
        if kwargs.get("output_attentions") or getattr(module.config, "output_attentions", False):
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

    def _tell_dense(self, module: Any) -> None:
        if not self.state.told_dense:
            self.state.told_dense = True
            _LOG.warning(
                "%s is dense again: its attention implementation is %r now; set_attn_implementation(%r) goes back to "
                "the plan, openwork.hf.densify(model) removes it.",
                type(module).__name__,
                module.config._attn_implementation,
                NAME,
            )
