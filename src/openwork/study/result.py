"""The figures of a study: one row for each plan, each speed beside its ideal."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from statistics import fmean
from typing import Any

from openwork.measure import PeakMemory, Spread, bits_per_byte, spread
from openwork.study.config import DENSE, MODEL_SHAPES, StudyConfig
from openwork.study.record import HeldOut, RunRecord

__all__ = ["Row", "StudyResult"]

_FORWARD_BACKWARD = 3.5
"""Attention's forward and backward FLOPs over the forward's: the backward recomputes the scores."""
_WARM_STEPS = 2
"""Steps left out of the times: the first ones allocate and compile."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """What one plan saved and cost, over all its seeds."""

    name: str
    """The plan's name."""
    pattern: str
    """What it is: the plan's pattern, or its mask file."""
    backend: str
    """What computed its attention."""
    bits_per_byte: float
    """Held-out quality, mean over the seeds, in bits per byte."""
    bits_per_byte_seeds: tuple[float, ...]
    """The same for each seed."""
    perplexity: float
    """Held-out perplexity of a token, mean over the seeds."""
    training_bits_per_byte: float
    """Training loss over the last tenth of the steps, in bits per byte."""
    steps: float
    """Optimizer steps, mean over the seeds."""
    tokens: float
    """Training tokens seen, mean over the seeds."""
    spent_s: float
    """Training time, mean over the seeds, in seconds."""
    tokens_per_s: float
    """Training tokens of a step over the median time of a step with its data."""
    step_ms: Spread | None
    """Time of a step, layouts included, in milliseconds."""
    layout_ms: float
    """Median time to compile layouts, part of a step, in milliseconds."""
    data_ms: float
    """Median time to read and annotate the sequences before a step, in milliseconds."""
    peak_bytes: int | None
    """Most memory while training, in bytes; `None` where it is not the plan's own."""
    model_bytes: int | None
    """The same above what was in use before the model was made, in bytes."""
    density: float
    """Allowed pairs over all pairs, mean over layers."""
    causal_density: float
    """Allowed pairs over those of dense causal attention."""
    block_density: float
    """Executed pairs over all pairs."""
    speedup: float
    """Median step time of dense attention over this plan's."""
    attention_ideal: float
    """Dense pairs over allowed pairs: what attention alone could gain."""
    step_ideal: float
    """FLOPs of a dense step over this plan's: what a whole step could gain."""


@dataclass(frozen=True, kw_only=True)
class StudyResult:
    """A study that is done: raw samples, figures, verdict."""

    config: StudyConfig
    """What was asked for."""
    records: tuple[RunRecord, ...]
    """Every run."""
    held_out: HeldOut
    """The text that quality was measured on."""
    training_bytes_per_token: float
    """UTF-8 bytes of training text for each token."""
    vocab_size: int
    """Number of token ids."""
    data: dict[str, Any]
    """The files, and how they were split."""
    environment: dict[str, Any]
    """Machine and versions."""

    @cached_property
    def rows(self) -> tuple[Row, ...]:
        """One row for each plan, dense attention first."""
        names = [contender.name for contender in self.config.everyone]
        return tuple(self._row(name) for name in names)

    @property
    def verdict(self) -> str:
        """What was saved, what it cost and whether it paid, in words."""
        from openwork.study.verdict import verdict

        return "\n".join(verdict(self))

    @property
    def memory_meaning(self) -> str:
        """What the memory figures are."""
        if not self.config.isolate:
            return "not measured: the plans shared one process"
        return PeakMemory(self.config.device).meaning

    def of(self, name: str) -> tuple[RunRecord, ...]:
        """The runs of one plan."""
        return tuple(record for record in self.records if record.name == name)

    def _row(self, name: str) -> Row:
        contender = next(contender for contender in self.config.everyone if contender.name == name)
        records = self.of(name)
        sparse_from = 0 if name == DENSE else self.config.dense_steps
        step_ms = _warm([record.step_ms for record in records], sparse_from)
        data_ms = _warm([record.data_ms for record in records], sparse_from)
        times, data_times = spread(step_ms), spread(data_ms)
        density = _mean_after([record.density for record in records], sparse_from)
        dense_density = (self.config.seq_len + 1) / (2 * self.config.seq_len)
        causal_density = min(1.0, density / dense_density)
        qualities = tuple(record.bits_per_byte(self.held_out) for record in records)
        losses = fmean(record.last_training_loss for record in records)
        peak = max(record.peak_bytes for record in records)
        isolated = self.config.isolate and peak > 0
        per_step = self.config.batch_size * self.config.seq_len
        waits = (times.median if times else 0.0) + (data_times.median if data_times else 0.0)
        return Row(
            name=name,
            pattern=str(contender.mask)
            if contender.plan is None
            else repr(contender.plan.default)
            if contender.plan == type(contender.plan)(default=contender.plan.default)
            else repr(contender.plan),
            backend="sdpa: torch's scaled_dot_product_attention, causal" if name == DENSE else records[0].backend,
            bits_per_byte=fmean(qualities),
            bits_per_byte_seeds=qualities,
            perplexity=fmean(record.perplexity(self.held_out) for record in records),
            training_bits_per_byte=bits_per_byte(losses, 1) / self.training_bytes_per_token,
            steps=fmean(record.steps for record in records),
            tokens=fmean(record.steps for record in records) * per_step,
            spent_s=fmean(record.spent_s for record in records),
            tokens_per_s=1e3 * per_step / waits if waits else 0.0,
            step_ms=times,
            layout_ms=_median(_warm([record.layout_ms for record in records], sparse_from)),
            data_ms=data_times.median if data_times else 0.0,
            peak_bytes=peak if isolated else None,
            model_bytes=peak - min(record.start_bytes for record in records) if isolated else None,
            density=density,
            causal_density=causal_density,
            block_density=_mean_after([record.block_density for record in records], sparse_from),
            speedup=self._dense_ms / times.median if times and times.median else 1.0,
            attention_ideal=1 / causal_density if causal_density else math.inf,
            step_ideal=self._step_flops(1.0) / self._step_flops(causal_density),
        )

    @cached_property
    def _dense_ms(self) -> float:
        return _median(_warm([record.step_ms for record in self.of(DENSE)], 0))

    def _step_flops(self, causal_density: float) -> float:
        """FLOPs of a step's forward and backward: matrices and useful attention pairs."""
        shape, seq_len = MODEL_SHAPES[self.config.model], self.config.seq_len
        head_dim = shape.dim // shape.q_heads
        matrices = shape.dim * (2 * shape.dim + 2 * shape.kv_heads * head_dim + 3 * shape.mlp_dim + shape.conv_width)
        linear = 6 * seq_len * (shape.num_layers * matrices + self.vocab_size * shape.dim)
        pairs = causal_density * seq_len * (seq_len + 1) / 2
        attention = _FORWARD_BACKWARD * 4 * pairs * head_dim * shape.q_heads * shape.num_layers
        return self.config.batch_size * (linear + attention)

    def to_dict(self) -> dict[str, Any]:
        """Everything as JSON values: figures, verdict, environment and raw samples."""
        return {
            "openwork_study": 1,
            "verdict": self.verdict.split("\n"),
            "rows": [_finite(asdict(row)) for row in self.rows],
            "held_out": asdict(self.held_out),
            "memory": self.memory_meaning,
            "training_bytes_per_token": self.training_bytes_per_token,
            "vocab_size": self.vocab_size,
            "config": self.config.to_dict(),
            "data": self.data,
            "environment": self.environment,
            "runs": [record.to_dict() for record in self.records],
        }

    def summary(self) -> dict[str, Any]:
        """The same without raw samples, for one line of JSON."""
        content = self.to_dict()
        del content["runs"]
        content["out"] = str(self.config.out)
        return content


def _warm(series: Sequence[Sequence[float]], first: int) -> list[float]:
    """All samples from step `first` on, without the first few where there are others."""
    return [value for samples in series for value in (samples[first:][_WARM_STEPS:] or samples[first:] or samples)]


def _mean_after(series: Sequence[Sequence[float]], first: int) -> float:
    return fmean(value for samples in series for value in (samples[first:] or samples))


def _median(samples: Sequence[float]) -> float:
    found = spread(samples)
    return found.median if found else 0.0


def _finite(value: Any) -> Any:
    """JSON has no infinity: such a figure is null."""
    if isinstance(value, dict):
        return {key: _finite(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
