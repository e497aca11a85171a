"""What the running call of a model was given: its token ids, and what the annotator says of them.

A mask function is told neither the ids nor the model, so a hook before each call leaves them here for it. The mask
object takes them along: a layer that is computed again for its gradient reads them there, whatever runs by then.
"""

from __future__ import annotations

import logging
import weakref
from collections.abc import Callable, Mapping
from contextvars import ContextVar, Token
from typing import Any

import numpy as np
import torch
from torch import Tensor

from openwork.errors import AnnotationError
from openwork.hf.stand_in import StandIn
from openwork.hf.state import ModelState
from openwork.patterns import Annotations
from openwork.patterns.annotations import BoolArray, IntArray

__all__ = ["OFFSETS", "TEXT", "Call", "CallEnd", "GenerationIds", "current_facts", "enter_call"]

_LOG = logging.getLogger("openwork.hf")
TEXT, OFFSETS = "openwork_text", "openwork_offsets"
"""Names under which `annotating` puts the raw text, and the span of each token, into a batch."""
_IDS = "_openwork_ids"
"""Attribute of a cache: the ids of the tokens that it holds."""

_CALL: ContextVar[Call | None] = ContextVar("openwork_hf_call", default=None)
_GENERATED: ContextVar[tuple[Tensor | None, Any] | None] = ContextVar("openwork_hf_generated", default=None)
"""What `generate` is about to read upon a cache: all ids, and a weak reference to that cache."""

Facts = tuple[Annotations, ...]


class Call:
    """The tokens that a call has read, those in the cache included.

    Args:
        state: The model's.
        ids: int `[batch, tokens]`; None where they are not known.
        text: The raw text of each row, and the span of each of its tokens, where the batch brought them.
    """

    def __init__(self, state: ModelState, ids: Tensor | None, text: tuple[Any, Any] | None = None) -> None:
        self.state, self.ids, self.text = state, ids, text
        self._facts: dict[tuple[Any, ...], Facts] = {}

    def facts(self, batch: int, length: int, valid: BoolArray | None, documents: IntArray | None) -> Facts | None:
        """What the annotator says of the first `length` tokens, for each row; None where the ids are not known.

        Raises:
            AnnotationError: The annotator returned something else than annotations for each row.
        """
        ids = self.ids
        if ids is None or ids.shape[0] != batch or ids.shape[1] < length:
            return None
        key = batch, length, None if valid is None else valid.tobytes()
        if key not in self._facts:
            tokens: dict[str, Any] = {"input_ids": ids[:, :length].detach().cpu()}
            tokens["attention_mask"] = torch.ones(batch, length, dtype=torch.bool)
            if valid is not None:
                tokens["attention_mask"] = torch.from_numpy(valid[:, :length])
            if documents is not None:
                tokens["documents"] = torch.from_numpy(documents[:, :length])
            if self.text is not None:
                tokens["text"], tokens["offsets"] = self.text
            self._facts[key] = _checked(self.state.annotate(tokens), batch)
            self._tell_empty(self._facts[key])
        return self._facts[key]

    def _tell_empty(self, facts: Facts) -> None:
        """Says in one line, at the first call of a model, that no token has any of the facts that the plan reads."""
        if self.state.told_empty:
            return
        self.state.told_empty = True
        needs = self.state.plan.needs.items()
        # documents the model knows by itself
        names = sorted(name for name, kind in needs if (name, kind) != ("document", "label"))
        if names and not any(_holds(row, name) for row in facts for name in names):
            _LOG.warning(
                "no token of the first call has any of the facts that the plan reads (%s). If the text has them, look "
                "what the annotator is given: openwork.hf.annotate.text_of(tokenizer, ids).",
                ", ".join(map(repr, names)),
            )


def _holds(facts: Annotations, name: str) -> bool:
    flags, labels, links = (kind.get(name, ()) for kind in (facts.flags, facts.labels, facts.links))
    return bool(np.any(flags) or np.any(np.asarray(labels) >= 0) or len(links))


def _checked(facts: Any, batch: int) -> Facts:
    rows = (facts,) if isinstance(facts, Annotations) else tuple(facts) if isinstance(facts, list | tuple) else None
    if rows is None or not all(isinstance(row, Annotations) for row in rows):
        got = type(facts).__name__ if rows is None else f"a list of {', '.join({type(row).__name__ for row in rows})}"
        raise AnnotationError(f"annotate must return openwork.Annotations, one for each row of the batch; got {got}.")
    if len(rows) not in (1, batch):
        raise AnnotationError(f"annotate described {len(rows)} rows of a batch of {batch}; describe each row, or all.")
    return rows


def current_facts(
    batch: int, length: int, valid: BoolArray | None = None, documents: IntArray | None = None
) -> Callable[[], Facts | None] | None:
    """The facts of the running call's tokens, made when they are first asked for; None where no call is known."""
    call = _CALL.get()
    return None if call is None else lambda: call.facts(batch, length, valid, documents)


def enter_call(state: ModelState, module: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Token[Any] | None:
    """Makes what a module is called with the running call; None where an outer call knows more.

    Args:
        state: The model's.
        module: The model, or one of its stacks.
        args: What it is called with.
        kwargs: What it is called with, by name.
    """
    ids = kwargs.get("input_ids", args[0] if args and isinstance(args[0], Tensor) else None)
    outer = _CALL.get()
    if not isinstance(ids, Tensor) or ids.is_floating_point() or ids.ndim != 2:
        if outer is not None and not getattr(module.config, "is_encoder_decoder", False):
            # a text part that is handed embeddings: the ids are those of the model around it
            return None
        return _CALL.set(Call(state, None))
    if (
        outer is not None
        and outer.ids is not None
        and outer.ids.shape[1] >= ids.shape[1]
        and _ends_with(outer.ids, ids)
    ):
        return None
    text = kwargs.get(TEXT), kwargs.get(OFFSETS)
    known = (text[0], text[1]) if text[0] is not None else None
    return _CALL.set(Call(state, _with_cached(ids, kwargs.get("past_key_values")), known))


def _with_cached(ids: Tensor, cache: Any) -> Tensor | None:
    """The ids of all tokens up to this call's last; None where those in the cache are not known."""
    seen = _tokens_in(cache)
    whole: Tensor | None = ids
    if seen:
        generated, kept = _generated_for(cache), getattr(cache, _IDS, None)
        whole = None
        if generated is not None and generated.shape[1] == seen + ids.shape[1] and _ends_with(generated, ids):
            # `generate` says what its rows are after beams were reordered; the cache does not
            whole = generated
        elif kept is not None and kept.shape[0] == ids.shape[0] and kept.shape[1] >= seen:
            whole = torch.cat([kept[:, :seen].to(ids.device), ids], dim=1)
    if cache is not None:
        setattr(cache, _IDS, whole)
    return whole


def _generated_for(cache: Any) -> Tensor | None:
    ids, reference = _GENERATED.get() or (None, None)
    return ids if reference is not None and reference() is cache else None


def _tokens_in(cache: Any) -> int:
    return int(cache.get_seq_length()) if hasattr(cache, "get_seq_length") else 0


def _ends_with(whole: Tensor, ids: Tensor) -> bool:
    if whole.shape[0] != ids.shape[0] or whole.shape[1] < ids.shape[1]:
        return False
    return torch.equal(whole[:, whole.shape[1] - ids.shape[1] :].to(ids.device), ids)


class CallEnd:
    """A forward hook that ends what a call began; `tokens` is where its beginning is kept."""

    def __init__(self, tokens: list[Token[Any] | None]) -> None:
        self.tokens = tokens

    def __call__(self, module: Any, args: Any, output: Any) -> None:
        """Notes on the cache that a call returns which ids it holds, and makes the outer call the running one again."""
        call: Call | None = _CALL.get()
        cache: Any = getattr(output, "past_key_values", None)
        if call is not None and call.ids is not None and hasattr(cache, "get_seq_length"):
            length, kept = call.ids.shape[1], getattr(cache, _IDS, None)
            # of an encoder-decoder the inner call, which ends first, is the decoder's
            if int(cache.get_seq_length()) == length and (kept is None or kept.shape[1] != length):
                setattr(cache, _IDS, call.ids)
        token = self.tokens.pop() if self.tokens else None
        if token is not None:
            _CALL.reset(token)

    def __reduce__(self) -> tuple[Any, ...]:
        # tokens belong to the running call, a copy has none
        return CallEnd, ([],)


class GenerationIds(StandIn):
    """Stands for a model's `prepare_inputs_for_generation`: `generate` hands it all ids so far, reordered for beams.

    With a static cache it also makes the masks, before the model is called.
    """

    name = "prepare_inputs_for_generation"

    def __call__(self, input_ids: Tensor, *args: Any, **kwargs: Any) -> Any:
        """What the model's own method returns."""
        whole: Tensor | None = input_ids
        cache = kwargs.get("past_key_values")
        if 0 < input_ids.shape[1] <= _tokens_in(cache):
            # all ids are more than those in the cache: this is a chunk of a prompt that is read in chunks
            whole = _with_cached(input_ids, cache)
        _GENERATED.set((whole, None if cache is None else weakref.ref(cache)))
        token = _CALL.set(Call(self.state, whole))
        try:
            return self.original(input_ids, *args, **kwargs)
        finally:
            _CALL.reset(token)
