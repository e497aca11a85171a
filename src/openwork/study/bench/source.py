"""Where a micro-run's model comes from: a folder, a config.json alone, a function, or one of the study's shapes."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import nn

from openwork.errors import StudyError
from openwork.nn import Decoder, DecoderConfig, SparseAttention
from openwork.study.bench.config import BenchConfig
from openwork.study.bench.homegrown import HomeGrown
from openwork.study.bench.subject import BenchModel
from openwork.study.model_source import ModelSource
from openwork.study.shapes import MODEL_SHAPES

__all__ = ["bench_model"]

_VOCABULARY = 4096
"""Token ids of a model that is made for a micro-run: enough that embeddings cost something, few enough that they do
not hide attention."""


def bench_model(config: BenchConfig) -> BenchModel:
    """The model that a micro-run's text names, with weights, on its device and in its dtype, dropout off.

    Raises:
        StudyError: The text names no model, or one that cannot be measured.
    """
    torch.manual_seed(config.seed)
    text, path = config.model, Path(config.model)
    if text in MODEL_SHAPES:
        shape = Decoder(DecoderConfig(vocab_size=_VOCABULARY, **asdict(MODEL_SHAPES[text])))
        return HomeGrown(_placed(shape, config), _VOCABULARY, title=f"the study's {text} decoder", weights="random")
    if path.is_dir() or path.suffix == ".json":
        from openwork.study.bench.checkpoint import pretrained_model

        return pretrained_model(path, lambda module: _placed(module, config))
    return _from_function(_function(text), config)


def _function(text: str) -> ModelSource:
    place, _, function = text.rpartition(":")
    named = place.endswith(".py") or all(part.isidentifier() for part in place.split("."))
    if not named or not function.isidentifier():
        hub = (
            " A name of a model hub is not looked up: download the model, and name its folder."
            if text.count("/") == 1 and not text.startswith((".", "/"))
            else ""
        )
        raise StudyError(
            "MODEL must be a folder with a config.json, a config.json alone, FILE.py:FUNCTION (or "
            f"package.module:FUNCTION), or one of {', '.join(MODEL_SHAPES)}; got {text!r}, which is none of them.{hub}"
        )
    return ModelSource(place, function, option="MODEL")


def _from_function(source: ModelSource, config: BenchConfig) -> BenchModel:
    """The model that the user's own function gives."""
    function = source.load()
    with source.explained():
        module = function(_VOCABULARY) if _takes_vocabulary(function) else function()
    kind = type(module).__name__
    if not isinstance(module, nn.Module):
        raise StudyError(f"{source.argument}: {source.function} gave a value of type {kind}; it must return a module.")
    if not any(parameter.requires_grad for parameter in module.parameters()):
        raise StudyError(f"{source.argument}: {kind} has no parameter that requires a gradient.")
    if any(parameter.is_meta for parameter in module.parameters()):
        raise StudyError(f"{source.argument}: {kind} is on torch's meta device and has no numbers; make it on the CPU.")
    module = _placed(module, config)
    title, weights = f"{kind} of {source.text}", "as the function made them"
    if _is_pretrained(module):
        from openwork.study.bench.pretrained import Pretrained

        return Pretrained(module, title=title, weights=weights)
    if any(isinstance(part, SparseAttention) for part in module.modules()):
        vocabulary = _VOCABULARY if _takes_vocabulary(function) else _embedded(module, source)
        return HomeGrown(module, vocabulary, title=title, weights=weights)
    raise StudyError(
        f"{source.argument}: {kind} is no transformers model and has no openwork.nn.SparseAttention layer, so a plan "
        "cannot be plugged in; use SparseAttention for its attention."
    )


def _takes_vocabulary(function: Callable[..., Any]) -> bool:
    """Whether the function must be given something: a study calls it with the size of its vocabulary."""
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):
        return False
    open_ended = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    return any(p.name == "vocab_size" or (p.default is p.empty and p.kind not in open_ended) for p in parameters)


def _embedded(module: nn.Module, source: ModelSource) -> int:
    """Token ids of a model that chose their number itself: rows of its largest table."""
    sizes = [part.num_embeddings for part in module.modules() if isinstance(part, nn.Embedding)]
    if not sizes:
        raise StudyError(f"{source.argument}: {type(module).__name__} has no nn.Embedding, so it takes no tokens.")
    return max(sizes)


def _is_pretrained(module: nn.Module) -> bool:
    """Whether it is a transformers model, without importing transformers."""
    return any(kind.__name__ == "PreTrainedModel" for kind in type(module).__mro__)


def _placed(module: nn.Module, config: BenchConfig) -> nn.Module:
    return module.to(device=config.device, dtype=getattr(torch, config.dtype)).eval()
