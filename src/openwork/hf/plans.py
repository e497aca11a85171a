"""Plans to start from, each as the literature found it, and plans written as a model's own configuration."""

from __future__ import annotations

import copy
from typing import Any

from openwork.errors import PlanError
from openwork.patterns import Causal, Dense, First, Pattern, PerHead, Window
from openwork.patterns.base import And
from openwork.patterns.checks import shown
from openwork.plan import Plan

__all__ = ["local_below", "odd_layers_full", "own_config", "sparse_prefill"]

_LAYER_TYPES = frozenset({"gemma2", "gpt_oss", "ministral", "qwen2", "qwen3", "smollm3"})
"""Families in which a layer's type decides its window and nothing else; a test compares each with `sparsify`."""
_LOCAL, _FULL = "sliding_attention", "full_attention"


def odd_layers_full(num_layers: int, *, before: int = 2047, first_keys: int = 10, dense_decode: bool = False) -> Plan:
    """Layers 1, 3, 5, ... attend to everything, the others to a window and the first keys.

    Of the recipes without training in SWAA (arXiv 2512.10411, Qwen3-4B, window 2,000, LongMemEval at 24,000 tokens)
    this one, with `dense_decode=True`, kept most: 65.0 of 73.0, and 73.2 of 74.6 after a LoRA. Even layers full gave
    32.2 where odd ones gave 59.2, so which layers are full is worth a measurement on your model.

    Args:
        num_layers: Layers of the model, `model.config.num_hidden_layers`.
        before: Keys before the query in the local layers, its own position not counted.
        first_keys: Keys at the start that every query of a local layer sees.
        dense_decode: Whether generated tokens see everything in every layer.

    Raises:
        PlanError: `num_layers` is not a whole number from 1.

    Examples:
        >>> plan = odd_layers_full(4, before=255, first_keys=4)
        >>> plan.for_layer(1, num_layers=4), plan.for_layer(2, num_layers=4)
        (Causal(), Causal() & (Window(before=255, after=0) | First(keys=4)))
    """
    layers = {layer: Causal() for layer in range(1, _count(num_layers), 2)}
    return Plan(default=_local(before, first_keys), layers=layers, decode=Causal() if dense_decode else None)


def sparse_prefill(*, before: int = 2047, first_keys: int = 10) -> Plan:
    """The prompt is read through a window and the first keys, and generated tokens see everything.

    In SWAA (arXiv 2512.10411) a dense decode is what turns a window from useless into usable: with a LoRA 57.9 of 74.6
    where the window alone had 18.8, and 59.0 with the first 10 keys. Without training it stays far below dense (38.2 of
    73.0); `odd_layers_full(..., dense_decode=True)` is the better start there.

    Args:
        before: Keys before the query that a token of the prompt sees, its own position not counted.
        first_keys: Keys at the start that every token of the prompt sees.

    Examples:
        >>> sparse_prefill(before=511, first_keys=4).part("decode")
        Plan(default=Causal())
    """
    return Plan(default=_local(before, first_keys), decode=Causal())


def local_below(
    num_layers: int, *, before: int = 1023, first_keys: int = 4, period: int = 6, first_layer_full: bool = False
) -> Plan:
    """Layers by depth: each `period` of layers is local below and full in its last, as hybrid models are trained.

    Gemma 3 has `period=6` and a window of 1,024, MiMo-V2-Flash `period=6`, a window of 128 and its first layer full,
    gpt-oss and Gemma 2 `period=2`. Recall falls off beyond 3 local layers for each full one in models that are trained
    so from the start (arXiv 2507.06457), so a smaller `period` is the more careful choice.

    Args:
        num_layers: Layers of the model.
        before: Keys before the query in the local layers, its own position not counted.
        first_keys: Keys at the start that every query of a local layer sees.
        period: Layers from one full layer to the next, 1 or more.
        first_layer_full: Whether layer 0 is full, too.

    Raises:
        PlanError: `num_layers` or `period` is not a whole number from 1.

    Examples:
        >>> sorted(local_below(12, period=6, first_layer_full=True).layers)
        [0, 5, 11]
    """
    full = set(range(_count(period, "period") - 1, _count(num_layers), period)) | ({0} if first_layer_full else set())
    return Plan(default=_local(before, first_keys), layers={layer: Causal() for layer in full})


def own_config(config: Any, plan: Plan | Pattern) -> Any:
    """A copy of a model's configuration that says by itself what the plan says, so that any engine serves it.

    Possible for plans of windows of one size and full layers: they become `sliding_window` and, where the family has
    them, `layer_types`. A model's own local layers stay local, narrowed to the plan's window.

    Args:
        config: The configuration of a decoder (`model.config`); of a composite model, its text part. It is not changed.
        plan: What each layer is to see.

    Returns:
        A configuration of the same class, for `save_pretrained` beside the unchanged weights.

    Raises:
        PlanError: The plan has something besides windows of one size and full layers, or the family cannot say it.

    Examples:
        >>> from types import SimpleNamespace
        >>> mistral = SimpleNamespace(model_type="mistral", num_hidden_layers=2, sliding_window=None)
        >>> own_config(mistral, Causal() & Window(before=255)).sliding_window
        256
    """
    family, plan = str(getattr(config, "model_type", type(config).__name__)), Plan.of(plan)
    if any(part is not None for part in (plan.encoder, plan.decoder, plan.decode)):
        raise PlanError(
            f"{family} cannot say a plan with encoder, decoder or decode parts by its own configuration; "
            "give the part alone, plan.part('decoder')."
        )
    if not hasattr(config, "sliding_window"):
        raise PlanError(
            f"{family} has no sliding_window, so an engine cannot read a window from its configuration; serve it with "
            "openwork.hf.sparsify."
        )
    num_layers = config.num_hidden_layers
    own = _own_windows(config, num_layers)
    wanted = [_window_of(plan.for_layer(layer, num_layers), layer) for layer in range(num_layers)]
    merged = [min(filter(None, pair), default=None) for pair in zip(own, wanted, strict=True)]
    sizes = sorted({window for window in merged if window is not None})
    if len(sizes) > 1:
        raise PlanError(
            f"{family} has one sliding_window for all layers, and the plan needs {', '.join(map(str, sizes))} keys "
            "(the query's own included); give the local layers one size."
        )
    return _written(config, family, own, merged)


def _written(config: Any, family: str, own: list[int | None], merged: list[int | None]) -> Any:
    made, local = copy.deepcopy(config), [window is not None for window in merged]
    if not any(local):
        return made
    if getattr(config, "layer_types", None) is None:
        if not all(local):
            raise PlanError(
                f"{family} has one window for all its layers, and the plan leaves layer {local.index(False)} full; "
                "make every layer a window, or serve it with openwork.hf.sparsify."
            )
    elif local != [window is not None for window in own]:
        if family not in _LAYER_TYPES:
            changed = next(i for i, window in enumerate(own) if (window is not None) != local[i])
            raise PlanError(
                f"the plan makes layer {changed} of {family} local, but there a layer's type may decide its positions "
                f"as well as its window; known to mean the window alone: {', '.join(sorted(_LAYER_TYPES))}. Serve it "
                "with openwork.hf.sparsify."
            )
        made.layer_types = [_LOCAL if is_local else _FULL for is_local in local]
    made.sliding_window = next(window for window in merged if window is not None)
    if hasattr(made, "use_sliding_window"):
        made.use_sliding_window = True
    return made


def _own_windows(config: Any, num_layers: int) -> list[int | None]:
    """The model's own window in each layer, as Hugging Face counts it: the query's own position included."""
    window = config.sliding_window if getattr(config, "use_sliding_window", True) else None
    types = getattr(config, "layer_types", None)
    if types is None:
        return [window] * num_layers
    if unknown := sorted(set(types) - {_LOCAL, _FULL}):
        raise PlanError(f"the model has layers of type {unknown[0]}, which is neither a window nor full attention.")
    return [window if kind == _LOCAL else None for kind in types]


def _window_of(pattern: Pattern, layer: int) -> int | None:
    """The `sliding_window` that means this causal pattern; `None` for full attention."""
    parts = pattern.patterns if isinstance(pattern, And) else (pattern,)
    windows = [part for part in parts if isinstance(part, Window) and part.before is not None]
    rest = [part for part in parts if not isinstance(part, Causal | Dense | Window)]
    if rest or isinstance(pattern, PerHead):
        raise PlanError(
            f"layer {layer} of the plan is {shown(pattern)}; a model's own configuration says windows and full "
            "attention, nothing else. Serve such a plan with openwork.hf.sparsify."
        )
    befores = [window.before for window in windows if window.before is not None]
    return min(befores) + 1 if befores else None


def _local(before: int, first_keys: int) -> Pattern:
    return Causal() & (Window(before=before) | First(keys=first_keys)) if first_keys else Causal() & Window(before)


def _count(value: Any, name: str = "num_layers") -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise PlanError(f"{name} is a whole number from 1; got {shown(value)}.")
    return value
