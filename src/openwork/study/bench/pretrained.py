"""A micro-run's model of Hugging Face transformers, and the three ways to compute it."""

from __future__ import annotations

import copy
import inspect
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.generation.streamers import BaseStreamer

from openwork.errors import OpenworkError, StudyError
from openwork.hf import SparseLayer, densify, layers_of, sparsify
from openwork.layout import BlockLayout
from openwork.nn import LayoutCache
from openwork.patterns import Dense, Pattern
from openwork.plan import Plan
from openwork.study.bench.config import DENSE, EAGER, MASK, SPARSE
from openwork.study.bench.masked import Masks, masking, use_masks
from openwork.study.bench.subject import (
    MASKED_BACKEND,
    BenchModel,
    Inputs,
    Way,
    dense_mask,
    random_tokens,
    sharing_copy,
)
from openwork.study.model import matrix_numbers
from openwork.study.shapes import LayerShape

__all__ = ["Pretrained"]

_PROBE = 16
"""Tokens of the call in which a model shows its layers."""
_LABELLED = ("ForCausalLM", "LMHeadModel", "ForMaskedLM", "ForConditionalGeneration")
"""Endings of the classes that compute the loss of a language model from `labels`."""


class Pretrained(BenchModel):
    """A transformers model whose attention goes through the attention interface.

    Args:
        module: The model; a sparse one is made dense.
        title: What reports call it.
        weights: Where its numbers come from.

    Raises:
        PlanError: Its attention cannot be replaced; the message says why.
        StudyError: It does not run on tokens alone.
    """

    def __init__(self, module: nn.Module, *, title: str, weights: str) -> None:
        assert isinstance(module, PreTrainedModel)
        # dropout would draw other numbers for each way
        self._model: PreTrainedModel = densify(module)
        self._model.eval()  # type: ignore[no-untyped-call]
        self.module, self.title, self.weights = self._model, title, weights
        self._require_tokens()
        text = self._model.config.get_text_config()
        self.vocab_size = int(text.vocab_size)
        self._implementation = str(text._attn_implementation)
        self._parameters = inspect.signature(self._model.forward).parameters
        self._layers = self._probed()
        self.shapes = tuple(map(self._shape, self._layers))
        self.matrix_numbers = matrix_numbers(self._model, self.vocab_size)
        self.most_tokens = _learned_positions(self._model)
        self._layouts = LayoutCache()
        self.causal = all(layer.causal for layer in self._layers)
        self.generates = bool(self._model.can_generate()) and not self._both_stacks

    @property
    def _both_stacks(self) -> bool:
        return bool(getattr(self._model.config, "is_encoder_decoder", False))

    def _require_tokens(self) -> None:
        if self._model.main_input_name != "input_ids":
            raise StudyError(
                f"{self.title} reads {self._model.main_input_name}; openwork bench runs models that read token ids."
            )
        if any(parameter.is_meta for parameter in self._model.parameters()):
            raise StudyError(f"{self.title} is on torch's meta device and has no numbers; load it on the CPU.")

    def _probed(self) -> tuple[SparseLayer, ...]:
        """The self-attention layers, as one short call through `openwork.hf` saw them."""
        module = sparsify(sharing_copy(self._model), Dense())
        try:
            with torch.no_grad():
                module(**self.inputs(1, _PROBE, 0), **self._options())
        except OpenworkError:
            raise
        except Exception as error:  # a model may need other inputs, and says so as it likes
            reason = (str(error).splitlines() or [""])[0]
            raise StudyError(
                f"{self.title} does not run on token ids alone: {type(error).__name__}: {reason}"
            ) from error
        return layers_of(module)

    def _shape(self, layer: SparseLayer) -> LayerShape:
        q_heads, kv_heads, head_dim = layer.q_heads, layer.kv_heads, layer.head_dim
        if q_heads is None or kv_heads is None or head_dim is None:
            raise StudyError(f"{self.title}: {layer.path} does not say its heads, so its FLOPs cannot be counted.")
        return LayerShape(q_heads=q_heads, kv_heads=kv_heads, head_dim=head_dim)

    def inputs(self, batch_size: int, seq_len: int, seed: int) -> Inputs:
        """`input_ids`, and `decoder_input_ids` of the same length where the model has a decoder beside its encoder."""
        tokens = random_tokens(self.vocab_size, batch_size, seq_len, seed).to(self._model.device)
        return {"input_ids": tokens, "decoder_input_ids": tokens} if self._both_stacks else {"input_ids": tokens}

    def _options(self) -> dict[str, Any]:
        return {"use_cache": False} if self._takes("use_cache") else {}

    def _takes(self, name: str) -> bool:
        return name in self._parameters

    def dense(self, seq_len: int) -> Way:
        """The model as it is: its own mask, by the attention implementation that transformers chose."""
        started = time.perf_counter()
        layouts = self._compiled([layer.own for layer in self._layers], seq_len)
        return self._way(DENSE, self._model, layouts, 0, time.perf_counter() - started, self._implementation, _plainly)

    def masked(self, plan: Plan, seq_len: int, *, eager: bool = False) -> Way:
        """The same model with dense attention that is given plan and own mask as pairs."""
        started = time.perf_counter()
        patterns = self._patterns(plan)
        layouts = self._compiled(self._joined(patterns), seq_len)
        masks = Masks(eager=eager or self._implementation != "sdpa")
        module = masking(self._model, masks)
        parts = dict(module.named_modules())
        made: dict[Pattern, Tensor] = {}
        for layer, pattern in zip(self._layers, patterns, strict=True):
            if pattern not in made:
                only = self._layouts.layout(pattern, q_len=seq_len, kv_len=seq_len)
                made[pattern] = dense_mask(only, self._model.device)
            masks.plan_masks[parts[layer.path]] = made[pattern]
        held = sum(mask.nbytes for mask in made.values())
        backend = MASKED_BACKEND if not masks.eager else "eager with a mask"

        def within(compute: Callable[[], Any]) -> Any:
            with use_masks(masks):
                return compute()

        name = EAGER if eager else MASK
        return self._way(name, module, layouts, held, time.perf_counter() - started, backend, within)

    def sparse(self, plan: Plan, seq_len: int, backend: str) -> Way:
        """The same model, sparsified."""
        module = sharing_copy(self._model)
        sparsify(module, plan, backend=backend)
        started = time.perf_counter()
        layouts = self._compiled(self._joined(self._patterns(plan)), seq_len)
        held = sum(layout.nbytes for layout in {id(layout): layout for layout in layouts}.values())
        return self._way(SPARSE, module, layouts, held, time.perf_counter() - started, backend, _plainly)

    def require_fits(self, plan: Plan) -> None:
        """Raises a `PlanError` where the plan does not fit the model."""
        self._patterns(plan)

    def _patterns(self, plan: Plan) -> list[Pattern]:
        """What the plan says for each layer, as `sparsify` understands it."""
        return [layer.plan for layer in layers_of(sparsify(sharing_copy(self._model), plan))]

    def _joined(self, patterns: list[Pattern]) -> list[Pattern]:
        return [layer.own & pattern for layer, pattern in zip(self._layers, patterns, strict=True)]

    def _compiled(self, patterns: list[Pattern], seq_len: int) -> tuple[BlockLayout, ...]:
        return tuple(self._layouts.layout(pattern, q_len=seq_len, kv_len=seq_len) for pattern in patterns)

    def _way(
        self,
        name: str,
        module: nn.Module,
        layouts: tuple[BlockLayout, ...],
        held_bytes: int,
        compile_s: float,
        backend: str,
        within: Callable[[Callable[[], Any]], Any],
    ) -> Way:
        labelled = self._takes("labels") and type(module).__name__.endswith(_LABELLED)
        # a prompt is read for its last token alone
        prompt = {"logits_to_keep": 1} if self._takes("logits_to_keep") else {}

        def forward(inputs: Inputs) -> Tensor:
            return _first_tensor(within(lambda: module(**inputs, **self._options(), **prompt)))

        def loss(inputs: Inputs) -> Tensor:
            if labelled:
                labels = inputs.get("decoder_input_ids", inputs["input_ids"])
                found: Tensor = within(lambda: module(**inputs, labels=labels, **self._options())).loss
                return found
            return _first_tensor(within(lambda: module(**inputs, **self._options()))).float().square().mean()

        return Way(
            name=name,
            module=module,
            loss=loss,
            forward=forward,
            layouts=layouts,
            held_bytes=held_bytes,
            compile_s=compile_s,
            backend=backend,
        )

    def to_double(self) -> Pretrained:
        """A copy that computes in float64."""
        return Pretrained(copy.deepcopy(self._model).double(), title=self.title, weights=self.weights)

    def generate(self, way: Way, inputs: Inputs, new_tokens: int, seen: Callable[[], None]) -> None:
        """Continues the prompt greedily by `new_tokens` tokens; `seen` is called as each becomes known."""
        module: Any = way.module
        module.generate(
            **inputs,
            attention_mask=torch.ones_like(inputs["input_ids"]),
            min_new_tokens=new_tokens,
            max_new_tokens=new_tokens,
            do_sample=False,
            num_beams=1,
            pad_token_id=0,
            streamer=_Moments(seen),
        )


class _Moments(BaseStreamer):
    """Tells of each new token; the first thing that a streamer is given is the prompt."""

    def __init__(self, seen: Callable[[], None]) -> None:
        self._seen, self._prompt = seen, True

    def put(self, value: Any) -> None:
        """The prompt, then one token at a time."""
        if not self._prompt:
            self._seen()
        self._prompt = False

    def end(self) -> None:
        """Nothing more comes."""


def _plainly(compute: Callable[[], Any]) -> Any:
    return compute()


def _first_tensor(output: Any) -> Tensor:
    """The logits, or the last hidden states where the model has no head."""
    values = output.values() if hasattr(output, "values") else output
    return next(value for value in values if isinstance(value, Tensor) and value.is_floating_point())


def _learned_positions(model: PreTrainedModel) -> int | None:
    """Most tokens of a model whose positions are rows of a table; `None` where they are computed."""
    most = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    tables = [
        part.num_embeddings
        for name, part in model.named_modules()
        if isinstance(part, nn.Embedding) and ("position" in name.lower() or name.endswith("wpe"))
    ]
    if most is None or not any(abs(rows - most) <= _SPARE_ROWS for rows in tables):
        return None
    # RoBERTa's first positions are kept for padding: its table has rows that no token gets
    padding = getattr(model.config, "pad_token_id", None)
    if most in tables and padding is not None and model.config.model_type in _PADDED_POSITIONS:
        return int(most) - int(padding) - 1
    return int(most)


_SPARE_ROWS = 2
_PADDED_POSITIONS = ("roberta", "xlm-roberta", "camembert", "xlm-roberta-xl", "roberta-prelayernorm", "data2vec-text")
