"""The model that a study trains, its own or the user's, behind what the study asks of one."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from openwork.errors import StudyError
from openwork.layout import BlockLayout, compile_layout
from openwork.nn import (
    Decoder,
    DecoderConfig,
    LayoutCache,
    ShortConvolution,
    SparseAttention,
    prepare_layouts,
    set_plan,
)
from openwork.nn.layouts import Facts
from openwork.ops import explain
from openwork.patterns import Causal
from openwork.plan import Plan
from openwork.study.checkpoint_source import CheckpointSource, require_transformers
from openwork.study.config import StudyConfig
from openwork.study.model_source import ModelSource, model_source
from openwork.study.shapes import MODEL_SHAPES, LayerShape, ModelFacts, facts_of_shape

__all__ = ["Annotate", "StudyModel", "make_model", "matrix_numbers", "model_facts"]


Annotate = Callable[[Mapping[str, Any]], Any]
"""Makes the annotations of each row of a batch (`openwork.hf.sparsify`)."""


class StudyModel:
    """A model and what a study does with it.

    Args:
        module: A module whose attention layers are `SparseAttention` and whose `forward(tokens, layouts)` gives logits.
        source: Where it comes from, where it is the user's own.

    Attributes:
        module: The same.
        source: The same.
        layers: Its attention layers, in the order of `module.modules()`.
        mask: The literal mask in use; `None` under a plan.
    """

    module: nn.Module
    source: ModelSource | CheckpointSource | None
    layers: tuple[Any, ...]
    mask: BlockLayout | None = None

    def __init__(self, module: nn.Module, source: ModelSource | None = None) -> None:
        self.module, self.source = module, source
        self.layers = tuple(part for part in module.modules() if isinstance(part, SparseAttention))
        self._plan = Plan(default=Causal())
        self._cache = LayoutCache()

    def set_plan(self, plan: Plan) -> None:
        """Uses the plan from the next call on."""
        set_plan(self.module, plan)
        self._plan, self.mask = plan, None

    def set_mask(self, mask: BlockLayout) -> None:
        """Uses a literal mask in every layer from the next call on."""
        self.set_plan(Plan(default=Causal()))
        self.mask = mask

    def set_backend(self, backend: str) -> None:
        """Computes attention with this backend from the next call on."""
        for layer in self.layers:
            layer.backend = backend

    def prepare(self, seq_len: int, *, annotations: Facts | None = None) -> list[BlockLayout]:
        """The layouts of plan or mask, one for each layer; equal content is compiled once and kept."""
        if self.mask is not None:
            return [self.mask] * len(self.layers)
        return list(prepare_layouts(self._plan, len(self.layers), seq_len, annotations=annotations, cache=self._cache))

    def token_losses(self, tokens: Tensor, targets: Tensor, layouts: Sequence[BlockLayout]) -> Tensor:
        """Negative log-likelihood of each target in nats, float32 (float64 for float64) [batch, seq_len]."""
        logits = self.module(tokens, layouts)
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        return F.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="none").view_as(targets)

    def backend_of(self, layout: BlockLayout, *, batch: int, dtype: torch.dtype, device: torch.device) -> str:
        """The backend that `"auto"` takes for attention over a layout."""
        first = self.layers[0]
        query = torch.empty(batch, first.q_heads, layout.q_len, first.head_dim, dtype=dtype, device=device)
        key = query[:, : first.kv_heads]
        return explain(query, key, key, layout).backend

    @contextmanager
    def reading_texts(self, annotate: Annotate | None) -> Iterator[nn.Module]:
        """The model as it is called with texts that are no documents of the study, which `annotate` describes."""
        assert annotate is None, "only a model of transformers says which tokens it is called with"
        yield self.module

    def trained_state(self) -> dict[str, Tensor]:
        """The tensors that a run's checkpoint keeps."""
        return self.module.state_dict()

    def load_trained_state(self, state: Mapping[str, Any]) -> None:
        """Restores what `trained_state` gave."""
        self.module.load_state_dict(state)

    @contextmanager
    def evaluating(self) -> Iterator[None]:
        """The model as it is judged: without dropout; afterwards each module is in the mode that it was in."""
        before = [(part, part.training) for part in self.module.modules()]
        self.module.eval()
        try:
            yield
        finally:
            # a model's own `train` may do more than set the mode, and sets that of parts which were kept in another
            self.module.train(before[0][1])
            for part, training in before:
                part.training = training


def make_model(config: StudyConfig, vocab_size: int) -> StudyModel:
    """The model with its first weights, drawn from torch's generator; on the CPU.

    Raises:
        StudyError: The user's own function is not there, has changed, raises, or gives no model to study; or a
            checkpoint cannot be loaded.
    """
    source = model_source(config.model)
    if isinstance(source, CheckpointSource):
        require_transformers()
        from openwork.study.checkpoint import load_checkpoint_model

        return load_checkpoint_model(config, source, vocab_size)
    if source is None:
        decoder = DecoderConfig(vocab_size=vocab_size, **asdict(MODEL_SHAPES[config.model]))
        module: nn.Module = Decoder(decoder)
    else:
        function = source.load(config.model_sha256)
        with source.explained():
            module = function(vocab_size)
        _require_model(source, module, config)
    if hasattr(module, "checkpointing"):
        setattr(module, "checkpointing", config.checkpointing)  # noqa: B010
    return StudyModel(module, source)


def model_facts(config: StudyConfig, vocab_size: int) -> ModelFacts:
    """What is known of the model; the user's own is made and tried on one batch.

    Raises:
        StudyError: It is no model that can be studied, in words.
    """
    source = model_source(config.model)
    if source is None:
        return facts_of_shape(config.model, vocab_size)
    if isinstance(source, CheckpointSource):
        require_transformers()
        from openwork.study.checkpoint import checkpoint_facts

        source.check_length(config.seq_len)
        return checkpoint_facts(source, vocab_size)
    device = torch.device(config.device)
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.manual_seed(config.seed)
        model = make_model(config, vocab_size)
        torch.manual_seed(config.seed)
        _require_equal(source, model.module, make_model(config, vocab_size).module)
        with source.explained():
            model.module.to(device)
        order = _try(source, model, config, vocab_size)
    return ModelFacts(
        layers=tuple(LayerShape(q_heads=p.q_heads, kv_heads=p.kv_heads, head_dim=p.head_dim) for p in model.layers),
        matrix_numbers=matrix_numbers(model.module, vocab_size),
        num_parameters=sum(parameter.numel() for parameter in model.module.parameters()),
        mixes=_mixes(order),
    )


def _require_model(source: ModelSource, module: Any, config: StudyConfig) -> None:
    """Whatever can be refused without a forward pass."""
    name = f"--model {source.text}"
    if not isinstance(module, nn.Module):
        what = (
            f"the class {module.__name__}" if isinstance(module, type) else f"a value of type {type(module).__name__}"
        )
        raise StudyError(f"{name}: {source.function}(vocab_size) gave {what}; it must return a torch.nn.Module.")
    kind = type(module).__name__
    if not any(isinstance(part, SparseAttention) for part in module.modules()):
        raise StudyError(
            f"{name}: {kind} has no openwork.nn.SparseAttention layer, so a plan cannot be plugged in; use it for the "
            "attention."
        )
    if not any(parameter.requires_grad for parameter in module.parameters()):
        raise StudyError(f"{name}: {kind} has no parameter that requires a gradient, so there is nothing to train.")
    try:
        inspect.signature(module.forward).bind(None, None)
    except TypeError:
        raise StudyError(
            f"{name}: {kind}.forward{inspect.signature(module.forward)} does not take (tokens, layouts); write "
            "forward(self, tokens, layouts) and give each SparseAttention layer its own of the layouts."
        ) from None
    if config.checkpointing and not hasattr(module, "checkpointing"):
        raise StudyError(
            f"--checkpointing: {kind} has no attribute `checkpointing`; give it one, and call "
            "torch.utils.checkpoint in forward where it is true."
        )


def _require_equal(source: ModelSource, first: nn.Module, second: nn.Module) -> None:
    """Every plan starts from the same weights: those of one seed."""
    others = second.state_dict()
    for name, value in first.state_dict().items():
        if isinstance(value, Tensor) and not value.equal(others.get(name, value.new_empty(0))):
            raise StudyError(
                f"--model {source.text}: two calls after the same torch.manual_seed gave other weights ({name}), and "
                "every plan must start from the same ones; draw all that is random from torch's generator."
            )


def _try(source: ModelSource, model: StudyModel, config: StudyConfig, vocab_size: int) -> list[nn.Module]:
    """Runs the model on one batch, and gives the modules that move information between tokens, as they were called."""
    size = min(2, config.micro_batch_size), config.seq_len
    tokens = torch.arange(size[0] * size[1], device=config.device).view(size) % vocab_size
    # one of its own for each layer, so that it can be told which layer was given which
    layouts = [compile_layout(Causal(), q_len=size[1], kv_len=size[1]) for _ in model.layers]
    order: list[nn.Module] = []
    given: dict[nn.Module, Any] = {}

    def seen(module: nn.Module, inputs: tuple[Any, ...], named: dict[str, Any]) -> None:
        order.append(module)
        given[module] = inputs[1] if len(inputs) > 1 else named.get("layout")

    mixing = [part for part in model.module.modules() if isinstance(part, SparseAttention | ShortConvolution)]
    hooks = [part.register_forward_pre_hook(seen, with_kwargs=True) for part in mixing]
    autocast = torch.autocast(tokens.device.type, torch.bfloat16, enabled=config.dtype == "bfloat16")
    try:
        with model.evaluating(), torch.no_grad(), autocast, source.explained():
            logits = model.module(tokens, layouts)
    finally:
        for hook in hooks:
            hook.remove()
    for number, (layer, layout) in enumerate(zip(model.layers, layouts, strict=True)):
        if given.get(layer) is not layout:
            what = "was not called" if layer not in given else f"was not given layouts[{number}]"
            raise StudyError(
                f"--model {source.text}: SparseAttention layer {number} {what} by forward(tokens, layouts); layouts "
                "are in the order of model.modules(), and each layer takes its own: layer(hidden, layout)."
            )
    wanted = [*size, vocab_size]
    found = list(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
    if found != wanted:
        raise StudyError(
            f"--model {source.text}: forward(tokens, layouts) gave {found} for tokens {list(size)}; it must give "
            f"logits [batch, seq_len, vocab_size], here {wanted}."
        )
    return order


def matrix_numbers(module: nn.Module, vocab_size: int) -> int:
    """Numbers that every token is multiplied by: matrices, without tables that are only looked up in."""
    parts = list(module.modules())
    linear = [part for part in parts if isinstance(part, nn.Linear)]
    tables = [part for part in parts if isinstance(part, nn.Embedding)]
    used = {id(part.weight) for part in linear}
    if not any(part.out_features == vocab_size for part in linear):
        # nothing else gives logits, so the table of the tokens is the output layer too
        used |= {id(table.weight) for table in tables if table.num_embeddings == vocab_size}
    looked_up = {id(table.weight) for table in tables} - used
    return sum(p.numel() for p in module.parameters() if p.ndim >= 2 and id(p) not in looked_up)


def _mixes(order: Sequence[nn.Module]) -> tuple[int, ...]:
    found, before = [], 0
    for module in order:
        if isinstance(module, ShortConvolution):
            before += module.width - 1
        else:
            found.append(before)
            before = 0
    return (*found, before)
