"""Which modules of a model are attention layers, in which stack, and which models cannot be made sparse."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from torch import nn
from transformers import PreTrainedModel

from openwork.errors import PlanError

__all__ = ["Layer", "Stack", "inner_model", "stacks_of"]

_INTERFACE = "ALL_ATTENTION_FUNCTIONS"
_CROSS = ("crossattention", "cross_attention", "cross_attn", "encoder_attn", "encdecattention", "encoder_attention")
_STATE_SPACE = re.compile(
    "Mamba|SSM|R[Ww][Kk][Vv]|DeltaNet|RecurrentBlock|R[Gg][Ll][Rr][Uu]|L(inear|ightning)Attention|ShortConv|RetNet|xLSTM"
)
_ALIBI = ("bloom", "falcon", "mpt")


@dataclass(frozen=True)
class Layer:
    """One attention module.

    Attributes:
        path: Its name in `named_modules()` of the model.
        module: The module.
        q_heads: Query heads; `None` where neither the module nor its configuration says.
        cross: Whether its keys are those of another sequence; such a layer is left as it is.
    """

    path: str
    module: nn.Module
    q_heads: int | None
    cross: bool


@dataclass(frozen=True)
class Stack:
    """The layers of one `PreTrainedModel` part: the plan's layer numbers count its layers that are not crossing.

    Attributes:
        path: Its name in `named_modules()`; empty for the model itself.
        module: The part.
        kind: `"encoder"`, `"decoder"` or `""` where the model has one stack.
        layers: Its attention layers, in order.
    """

    path: str
    module: PreTrainedModel
    kind: str
    layers: tuple[Layer, ...]

    @property
    def own_layers(self) -> tuple[Layer, ...]:
        """The layers in which a sequence attends to itself."""
        return tuple(layer for layer in self.layers if not layer.cross)

    @property
    def causal(self) -> bool:
        """Whether its layers say that they hide later keys."""
        return any(bool(getattr(layer.module, "is_causal", True)) for layer in self.own_layers)


def _uses_interface(kind: type) -> bool:
    """Whether a module class looks its attention function up by name, as transformers' own do."""
    for base in kind.__mro__:
        if base in (nn.Module, PreTrainedModel):
            # PreTrainedModel knows the names, too, to check what it is set to
            return False
        for member in vars(base).values():
            code = getattr(inspect.unwrap(member) if callable(member) else member, "__code__", None)
            if code is not None and _INTERFACE in code.co_names:
                return True
    return False


def stacks_of(model: Any) -> list[Stack]:
    """The stacks of attention layers of a model.

    Raises:
        PlanError: It is no model of transformers, or its attention does not go through the interface; the message
            names the model, the reason and what can be done.
    """
    if not isinstance(model, PreTrainedModel):
        raise PlanError(
            f"sparsify takes a transformers model; got {type(model).__name__}. For modules of your own use "
            "openwork.nn.SparseAttention or openwork.nn.replace_attention."
        )
    parts = {path: module for path, module in model.named_modules() if isinstance(module, PreTrainedModel)}
    found: dict[str, list[Layer]] = {}
    for path, module in model.named_modules():
        if _uses_interface(type(module)):
            owner = max((part for part in parts if _inside(path, part)), key=len)
            layer = Layer(path, module, _q_heads(module), _is_cross(path, module))
            found.setdefault(owner, []).append(layer)
    _refuse(model, found)
    return [Stack(path, parts[path], _kind(path, model), tuple(layers)) for path, layers in found.items()]


def inner_model(model: Any) -> Any:
    """The transformers model inside what DDP, `torch.compile` and PEFT wrap around it, or what was given."""
    while not isinstance(model, PreTrainedModel):
        if hasattr(model, "get_base_model"):
            model = model.get_base_model()
        elif isinstance(getattr(model, "_orig_mod", None), nn.Module):
            model = model._orig_mod
        elif isinstance(model, nn.parallel.DistributedDataParallel | nn.DataParallel):
            model = model.module
        else:
            return model
    return model


def _inside(path: str, part: str) -> bool:
    return not part or path == part or path.startswith(f"{part}.")


def _is_cross(path: str, module: nn.Module) -> bool:
    # transformers does not flag it uniformly: the path says it in T5, BART, Whisper, BERT and GPT-2
    if getattr(module, "is_cross_attention", False) is True:
        return True
    return any(name in path.lower() for name in _CROSS)


def _q_heads(module: nn.Module) -> int | None:
    for owner in (module, getattr(module, "config", None)):
        for name in ("num_attention_heads", "num_heads", "n_heads", "n_head"):
            heads = getattr(owner, name, None)
            if isinstance(heads, int) and heads > 0:
                return heads
    return None


def _kind(path: str, model: PreTrainedModel) -> str:
    if not getattr(model.config, "is_encoder_decoder", False):
        return ""
    return "decoder" if "decoder" in path.lower() else "encoder"


def _refuse(model: PreTrainedModel, found: dict[str, list[Layer]]) -> None:
    name = type(model).__name__
    way_out = (
        "Mask it with openwork.interop (a 4-D attention_mask where the model takes one; nothing is saved), or use a "
        "model of a family in docs/models.md."
    )
    for module in model.modules():
        if _STATE_SPACE.search(type(module).__name__):
            raise PlanError(
                f"{name} cannot be made sparse: its {type(module).__name__} carries earlier tokens past any mask, so "
                f"no plan would hold. {way_out}"
            )
        # Hiera has the method, too, and uses it where it is a masked autoencoder
        if hasattr(type(module), "random_masking") and getattr(module, "is_mae", True):
            raise PlanError(
                f"{name} cannot be made sparse: its {type(module).__name__} drops patches and shuffles the others in "
                "every call, so a token's place says nothing of its patch. Use the family's plain encoder (ViTModel)."
            )
    layers = [layer for layers in found.values() for layer in layers if not layer.cross]
    if not layers:
        reason = next(_own_attention(model), "it has no attention layer of transformers' own kind")
        raise PlanError(f"{name} cannot be made sparse: {reason}. {way_out}")
    kinds = {_kind(path, model) for path, layers in found.items() if any(not layer.cross for layer in layers)}
    if "" not in kinds and len(kinds) == 1:
        (kind,) = {"encoder", "decoder"} - kinds
        raise PlanError(
            f"{name} cannot be made sparse: its {kind} computes attention itself, past transformers' attention "
            f"interface. {way_out}"
        )
    for layer in layers:
        if getattr(getattr(layer.module, "config", None), "reorder_and_upcast_attn", False):
            raise PlanError(
                f"{name} cannot be made sparse: with reorder_and_upcast_attn=True its {type(layer.module).__name__} "
                "computes attention itself, past transformers' attention interface. Set it to False in the "
                "configuration, and cast to float32 with torch.autocast disabled where that is needed."
            )
        if _has_bias(layer.module):
            raise PlanError(
                f"{name} cannot be made sparse: {type(layer.module).__name__} adds a learned bias to every pair "
                f"(position_bias), a tensor of q_len x kv_len that would be lost. {way_out}"
            )


def _has_bias(module: nn.Module) -> bool:
    # T5's buckets; the tables of Swin and BEiT, whose attention moreover sees single windows
    members = (module.named_children(), module.named_parameters(recurse=False))
    names = [*vars(module), *(name for named in members for name, _ in named)]
    return any("relative" in name and "bias" in name for name in names)


def _own_attention(model: PreTrainedModel) -> Iterator[str]:
    if getattr(model.config, "model_type", "") in _ALIBI:
        yield "its layers compute their own attention and add ALiBi to it, past transformers' attention interface"
    own = [
        module
        for module in model.modules()
        if "Attention" in type(module).__name__ and next(module.parameters(), None) is not None
    ]
    # the module that projects, where there is one, and not what stands around it
    for module in sorted(own, key=lambda module: not any(isinstance(child, nn.Linear) for child in module.children())):
        yield f"its {type(module).__name__} computes attention itself, past transformers' attention interface"
