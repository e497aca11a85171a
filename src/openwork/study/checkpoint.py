"""A model of Hugging Face in a study: loaded or begun, one part of it trained, a plan plugged in by `sparsify`."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from openwork.errors import StudyError
from openwork.hf import densify, layers_of, sparsify
from openwork.hf.layers import Layer, stacks_of
from openwork.hf.own import both
from openwork.hf.state import model_state
from openwork.layout import BlockLayout
from openwork.nn import LayoutCache
from openwork.nn.layouts import Facts
from openwork.patterns import Dense, Pattern
from openwork.plan import Plan
from openwork.study.checkpoint_source import CheckpointSource, require_transformers
from openwork.study.config import StudyConfig
from openwork.study.model import Annotate, StudyModel, matrix_numbers
from openwork.study.shapes import LayerShape, ModelFacts
from openwork.train.schedules import DENSE_PLAN

__all__ = ["CheckpointModel", "checkpoint_facts", "load_checkpoint_model", "quiet"]

_PROBE = 16
"""Tokens of the call in which a model shows its own masks."""
_LORA_RANK = 16
_LORA_ALPHA = 32
_SHOWN_KEYS = 3


class Prepared(list[BlockLayout]):
    """The layouts of a batch, one for each layer, with the facts that they were compiled from."""

    annotations: Facts | None = None


class CheckpointModel(StudyModel):
    """A model of transformers, and what a study does with it.

    Dense attention is the model as transformers runs it, untouched; under any other plan it is sparsified. What a
    token sees is the plan and the model's own mask, its own local layers included.

    Args:
        base: The model of transformers.
        source: Where it comes from.
        tune: What of it is trained, one of `TUNINGS`; `None` for all, from random weights.
    """

    def __init__(self, base: Any, source: CheckpointSource, tune: str | None = None) -> None:
        self.base, self.source = base, source
        attention = [layer for stack in stacks_of(base) for layer in stack.own_layers]
        self.layers = tuple(_shape(layer, base) for layer in attention)
        self._own = _own_patterns(base)
        self.module = _tuned(base, [layer.module for layer in attention], tune)
        self._plan, self._facts, self._cache = DENSE_PLAN, None, LayoutCache()
        self._of_texts: Annotate | None = None

    @property
    def storable_plan(self) -> Plan | None:
        """The plan in use where a saved model can carry it: no mask, nothing dense, and no facts that it reads."""
        return None if self.mask is not None or self._plan == DENSE_PLAN or self._plan.needs else self._plan

    def set_plan(self, plan: Plan) -> None:
        """Uses the plan from the next call on; dense attention is the model's own."""
        self.mask = None
        if plan == DENSE_PLAN:
            densify(self.base)
        else:
            with quiet():
                sparsify(self.base, plan, annotate=self._annotate if plan.needs else None)
        self._plan = plan

    def set_mask(self, mask: BlockLayout) -> None:
        """Uses a literal mask in every layer from the next call on."""
        allowed: Any = torch.as_tensor(mask.to_dense())
        # a mask of a study is the same for all sequences, and often for all heads
        allowed = allowed.flatten(0, -3) if allowed.ndim > 2 else allowed
        with quiet():
            sparsify(self.base, allowed[0] if allowed.ndim == 3 and len(allowed) == 1 else allowed)
        self.mask = mask

    def _annotate(self, batch: Mapping[str, Any]) -> Any:
        """The facts of the batch at hand: of whole documents, which a window of tokens does not hold."""
        return self._facts if self._of_texts is None else self._of_texts(batch)

    @contextmanager
    def reading_texts(self, annotate: Annotate | None) -> Iterator[nn.Module]:
        """The model as it is called with texts that are no documents of the study, which `annotate` describes."""
        self._of_texts = annotate
        try:
            yield self.module
        finally:
            self._of_texts = None

    def set_backend(self, backend: str) -> None:
        """A sparsified model takes the best backend itself."""
        assert backend == "auto"

    def prepare(self, seq_len: int, *, annotations: Facts | None = None) -> list[BlockLayout]:
        """The layouts of plan and own mask, one for each layer."""
        if self.mask is not None:
            return [self.mask] * len(self.layers)
        state = model_state(self.base)
        # that of the sparsified model, which then finds each layout that was compiled here
        cache = self._cache if state is None else state.cache
        patterns = [
            both(self._plan.for_layer(number, len(self._own)), own) if state is not None else own
            for number, own in enumerate(self._own)
        ]
        made = Prepared(
            cache.layout(pattern, q_len=seq_len, kv_len=seq_len, annotations=annotations) for pattern in patterns
        )
        made.annotations = annotations
        return made

    def token_losses(self, tokens: Tensor, targets: Tensor, layouts: Sequence[BlockLayout]) -> Tensor:
        """Negative log-likelihood of each target in nats, float32 [batch, seq_len]."""
        self._facts = getattr(layouts, "annotations", None)
        logits: Tensor = self.module(input_ids=tokens, use_cache=False).logits
        return F.cross_entropy(logits.float().flatten(0, 1), targets.flatten(), reduction="none").view_as(targets)

    def backend_of(self, layout: BlockLayout, **size: Any) -> str:
        """What computes attention over a layout: of dense attention, what transformers takes."""
        if self._plan == DENSE_PLAN and self.mask is None:
            return str(self.base.config._attn_implementation)
        return super().backend_of(layout, **size)

    def trained_state(self) -> dict[str, Tensor]:
        """The tensors that training changes: what is frozen is in the checkpoint already."""
        frozen = {name for name, parameter in self.module.named_parameters() if not parameter.requires_grad}
        return {name: value for name, value in self.module.state_dict().items() if name not in frozen}

    def load_trained_state(self, state: Mapping[str, Any]) -> None:
        """Restores what `trained_state` gave."""
        self.module.load_state_dict(state, strict=False)

    def merged(self) -> Any:
        """The model of transformers alone, adapters added to its weights; the run is over then."""
        if self.module is not self.base:
            self.base = self.module.merge_and_unload()  # type: ignore[operator]  # PEFT's
            self.module = self.base
        return self.base


def load_checkpoint_model(config: StudyConfig, source: CheckpointSource, vocab_size: int) -> CheckpointModel:
    """The model as a run begins with it, on the CPU: trained weights, or random ones from torch's generator.

    Raises:
        StudyError: transformers cannot load it, or weights are missing.
    """
    with quiet(), source.explained():
        if config.tune is not None:
            base = _with_weights(source)
        else:
            base = _from_config(source, vocab_size, own_tokens=config.tokenizer == "model")
        model = CheckpointModel(base, source, config.tune)
        if config.checkpointing:
            # renamed in transformers 5.20
            enable = getattr(base, "activation_checkpointing_enable", None) or base.gradient_checkpointing_enable
            enable({"use_reentrant": False})
    model.module.train()
    return model


def checkpoint_facts(source: CheckpointSource, vocab_size: int) -> ModelFacts:
    """What is known of the model, from its configuration alone: no weights are loaded.

    Raises:
        StudyError: It does not predict the next token.
        PlanError: Its attention cannot be made sparse.
    """
    transformers = require_transformers()
    with quiet(), source.explained():
        configuration = transformers.AutoConfig.from_pretrained(str(source.config_path), local_files_only=True)
        known = type(configuration) in transformers.MODEL_FOR_CAUSAL_LM_MAPPING
        if not known or getattr(configuration, "is_encoder_decoder", False):
            raise StudyError(
                f"{source.argument}: a study needs a model that predicts the next token, and "
                f"{configuration.model_type} is none that transformers' AutoModelForCausalLM knows."
            )
        with torch.device("meta"):
            base = _from_config(source, vocab_size, own_tokens=False)
    stacks = stacks_of(base)
    if not all(stack.causal for stack in stacks):
        raise StudyError(
            f"{source.argument}: {type(base).__name__} lets tokens see later ones (is_decoder is not set), so it "
            "cannot be judged by predicting the next token."
        )
    layers = tuple(_shape(layer, base) for stack in stacks for layer in stack.own_layers)
    return ModelFacts(
        layers=layers,
        matrix_numbers=matrix_numbers(base, vocab_size),
        num_parameters=sum(parameter.numel() for parameter in base.parameters()),
        mixes=(0,) * (len(layers) + 1),
    )


def _with_weights(source: CheckpointSource) -> Any:
    base, report = require_transformers().AutoModelForCausalLM.from_pretrained(
        str(source.folder), dtype=torch.float32, local_files_only=True, output_loading_info=True
    )
    missing = sorted(report["missing_keys"])
    if missing:
        names = ", ".join(missing[:_SHOWN_KEYS]) + (", ..." if len(missing) > _SHOWN_KEYS else "")
        raise StudyError(
            f"{source.argument} has no weights for {len(missing)} tensors of {type(base).__name__} ({names}); it would "
            "be tuned from random ones. Save the whole model with save_pretrained."
        )
    # one that was saved sparse begins dense like any other
    return densify(base)


def _from_config(source: CheckpointSource, vocab_size: int, *, own_tokens: bool) -> Any:
    """A model with random weights; without tokens of its own it begins and ends a text with the study's separator."""
    transformers = require_transformers()
    configuration = transformers.AutoConfig.from_pretrained(str(source.config_path), local_files_only=True)
    text = configuration.get_text_config()
    text.vocab_size = vocab_size
    if not own_tokens:
        for part in (configuration, text):
            part.bos_token_id = part.eos_token_id = vocab_size - 1
            part.pad_token_id = None
    return transformers.AutoModelForCausalLM.from_config(configuration, dtype=torch.float32)


def _shape(layer: Layer, base: Any) -> LayerShape:
    config = getattr(layer.module, "config", None) or base.config.get_text_config()
    q_heads = layer.q_heads or int(config.num_attention_heads)
    head_dim = getattr(layer.module, "head_dim", None) or config.hidden_size // q_heads
    kv_heads = getattr(config, "num_key_value_heads", None) or q_heads
    return LayerShape(q_heads=q_heads, kv_heads=int(kv_heads), head_dim=int(head_dim))


@torch.no_grad()
def _own_patterns(base: Any) -> list[Pattern]:
    """What each layer of the model lets tokens see by itself, as one short call hands it over."""
    base.eval()
    with quiet():
        sparsify(base, Dense())
    try:
        base(input_ids=torch.zeros(1, _PROBE, dtype=torch.long), use_cache=False)
        return [layer.own for layer in layers_of(base)]
    finally:
        densify(base)


def _tuned(base: Any, attention: Sequence[nn.Module], tune: str | None) -> nn.Module:
    """The module that trains: the model with what is not tuned frozen, or wrapped in adapters."""
    whole: nn.Module = base
    if tune in (None, "all"):
        return whole
    base.requires_grad_(False)
    if tune == "attention":
        for module in attention:
            module.requires_grad_(True)
        return whole
    try:
        from peft import LoraConfig, get_peft_model
    except ImportError:
        raise StudyError("--tune lora needs peft: pip install 'openwork[hf]'.") from None
    inside = {id(part) for module in attention for part in module.modules()}
    # Conv1D is GPT-2's linear layer
    linear = [
        name
        for name, part in base.named_modules()
        if id(part) in inside and (isinstance(part, nn.Linear) or type(part).__name__ == "Conv1D")
    ]
    adapters = LoraConfig(r=_LORA_RANK, lora_alpha=_LORA_ALPHA, target_modules=linear, task_type="CAUSAL_LM")
    made: nn.Module = get_peft_model(base, adapters)
    return made


@contextmanager
def quiet() -> Iterator[None]:
    """Keeps progress bars and notes of the libraries off the terminal, where the study has its own."""
    library, ours = require_transformers().utils.logging, logging.getLogger("openwork.hf")
    level, bars, told = library.get_verbosity(), library.is_progress_bar_enabled(), ours.level
    library.set_verbosity_error()
    library.disable_progress_bar()
    # that a plan is put on weights which were trained without it is what the study is about
    ours.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            # PEFT calls what transformers has renamed, and tells of Conv1D what it then does by itself
            warnings.simplefilter("ignore", FutureWarning)
            warnings.filterwarnings("ignore", message="fan_in_fan_out")
            yield
    finally:
        ours.setLevel(told)
        library.set_verbosity(level)
        if bars:
            library.enable_progress_bar()
