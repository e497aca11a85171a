"""One row for each plan of a study: its figures, each speed beside its ideal."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from statistics import fmean
from typing import TYPE_CHECKING, NamedTuple

from openwork.measure import Interval, Spread, bits_per_byte, co2e_g, energy_wh, paired_interval, perplexity, spread
from openwork.study.config import DENSE, StudyConfig
from openwork.study.curves import Crossing, Meeting, crossing, meeting, reaches
from openwork.study.practice import Energy, Practice, accelerators_needed, largest_batch
from openwork.study.record import USE_CLASSES, RunRecord, position_edges

if TYPE_CHECKING:
    from openwork.study.result import StudyResult

__all__ = ["Row", "Stretch", "Untuned", "UseLoss", "make_row"]

_FORWARD_BACKWARD = 3.5
"""Attention's forward and backward FLOPs over the forward's: the backward recomputes the scores."""
_WARM_STEPS = 2
"""Steps left out of the times: the first ones allocate and compile."""


class Stretch(NamedTuple):
    """Held-out loss at a stretch of positions.

    Attributes:
        first: The first position, from 0: a token there is predicted from one token.
        stop: The end.
        bits_per_token: Mean loss of a token there, in bits.
    """

    first: int
    stop: int
    bits_per_token: float


class UseLoss(NamedTuple):
    """Held-out loss on the tokens of one class of uses.

    Attributes:
        num_tokens: How many there are.
        bits_per_token: Their mean loss, in bits, mean over the seeds; `None` where there are none.
    """

    num_tokens: int
    bits_per_token: float | None


class Untuned(NamedTuple):
    """A checkpoint with a plan put on, before any step.

    Attributes:
        bits_per_byte: Held-out quality, in bits per byte.
        perplexity: Held-out perplexity of a token.
        metrics: What the user's metric gave, by name.
    """

    bits_per_byte: float
    perplexity: float
    metrics: dict[str, float]


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
    difference: Interval | None
    """Bits per byte minus those of dense attention at the end of both, by seed; `None` with one seed and for dense."""
    equal_tokens: Meeting | None
    """Beside dense attention after equally many tokens; `None` for dense, or where no curve says."""
    equal_seconds: Meeting | None
    """Beside dense attention after equally many seconds."""
    crossing_tokens: Crossing | None
    """Where its held-out curve over tokens last crosses that of dense attention; `None` with too few points."""
    crossing_seconds: Crossing | None
    """Where its held-out curve over seconds does."""
    energy: Energy
    """Estimated energy: time x stated watts."""
    practice: Practice
    """Batches, epochs and accelerators."""
    positions: tuple[Stretch, ...]
    """Held-out loss by position in the sequence, mean over the seeds; empty where it was not measured."""
    uses: dict[str, UseLoss]
    """Held-out loss on uses of names, by class: `name_inside`, `name_outside`, `after_inside`, `after_outside`; empty
    where the data has none."""
    untuned: Untuned | None = None
    """The checkpoint under the plan before its first step; `None` where none is tuned."""
    metrics: dict[str, float] = field(default_factory=dict)
    """What the user's metric gave at the end, by name, mean over the seeds."""


def make_row(result: StudyResult, name: str) -> Row:
    """The figures of one plan over all its seeds."""
    config, held_out = result.config, result.held_out
    contender = next(contender for contender in config.everyone if contender.name == name)
    records, dense = result.of(name), result.of(DENSE)
    sparse_from = _settled_from(config, name, records)
    step_ms = _warm([record.step_ms for record in records], sparse_from)
    times = spread(step_ms)
    data_times = spread(_warm([record.data_ms for record in records], sparse_from))
    density = _mean_after([record.density for record in records], sparse_from)
    causal_density = min(1.0, density / ((config.seq_len + 1) / (2 * config.seq_len)))
    qualities = tuple(record.bits_per_byte(held_out) for record in records)
    peak = max(record.peak_bytes for record in records)
    isolated = config.isolate and peak > 0
    tokens_per_s = _tokens_per_s(config, records, sparse_from)
    dense_ms = _median(_warm([record.step_ms for record in dense], 0))
    other = name != DENSE
    return Row(
        name=name,
        pattern=str(contender.mask)
        if contender.plan is None
        else repr(contender.plan.default)
        if contender.plan == type(contender.plan)(default=contender.plan.default)
        else repr(contender.plan),
        backend=_dense_backend(records[0].backend) if name == DENSE else records[0].backend,
        bits_per_byte=fmean(qualities),
        bits_per_byte_seeds=qualities,
        perplexity=fmean(record.perplexity(held_out) for record in records),
        training_bits_per_byte=bits_per_byte(fmean(record.last_training_loss for record in records), 1)
        / result.training_bytes_per_token,
        steps=fmean(record.steps for record in records),
        tokens=_tokens(records),
        spent_s=fmean(record.spent_s for record in records),
        tokens_per_s=tokens_per_s,
        step_ms=times,
        layout_ms=_median(_warm([record.layout_ms for record in records], sparse_from)),
        data_ms=data_times.median if data_times else 0.0,
        peak_bytes=peak if isolated else None,
        model_bytes=peak - min(record.start_bytes for record in records) if isolated else None,
        density=density,
        causal_density=causal_density,
        block_density=_mean_after([record.block_density for record in records], sparse_from),
        speedup=dense_ms / times.median if times and times.median else 1.0,
        attention_ideal=1 / causal_density if causal_density else math.inf,
        step_ideal=_step_flops(result, 1.0) / _step_flops(result, causal_density),
        difference=_difference(result, records, dense) if other else None,
        equal_tokens=meeting(records, dense, "tokens", held_out) if other else None,
        equal_seconds=meeting(records, dense, "seconds", held_out) if other else None,
        crossing_tokens=crossing(records, dense, "tokens") if other else None,
        crossing_seconds=crossing(records, dense, "seconds") if other else None,
        energy=_energy(result, records, dense if other else None),
        practice=_practice(result, records, tokens_per_s, _tokens_per_s(config, dense, 0)),
        positions=_positions(result, records),
        uses=_uses(records),
        untuned=_untuned(result, records),
        metrics=_means([record.metrics for record in records]),
    )


def _untuned(result: StudyResult, records: Sequence[RunRecord]) -> Untuned | None:
    nats = [record.untuned_nats for record in records if record.untuned_nats is not None]
    if not nats:
        return None
    held_out = result.held_out
    return Untuned(
        fmean(bits_per_byte(each, held_out.num_bytes) for each in nats),
        fmean(perplexity(each, held_out.num_tokens) for each in nats),
        _means([record.untuned_metrics for record in records]),
    )


def _means(found: Sequence[dict[str, float]]) -> dict[str, float]:
    """The mean of each number that all of them have."""
    return {name: fmean(each[name] for each in found) for name in found[0] if all(name in each for each in found)}


def _settled_from(config: StudyConfig, name: str, records: Sequence[RunRecord]) -> int:
    """The step from which each of these runs has the plan that its row is about."""
    if name != DENSE and not any(record.timeline for record in records):
        # a record from before there were time lines, or a study without a schedule: then there are no dense steps
        return config.dense_steps
    return max(record.settled_from for record in records)


def _difference(result: StudyResult, records: Sequence[RunRecord], dense: Sequence[RunRecord]) -> Interval | None:
    return paired_interval(
        [
            ours.bits_per_byte(result.held_out) - theirs.bits_per_byte(result.held_out)
            for ours, theirs in zip(records, dense, strict=True)
        ]
    )


def _tokens(records: Sequence[RunRecord]) -> float:
    return fmean(record.steps * record.tokens_per_step for record in records)


def _tokens_per_s(config: StudyConfig, records: Sequence[RunRecord], first: int) -> float:
    """Tokens of a step over the median time of a step and of its data."""
    waits = _median(_warm([record.step_ms for record in records], first)) + _median(
        _warm([record.data_ms for record in records], first)
    )
    return 1e3 * config.batch_size * config.seq_len / waits if waits else 0.0


def _energy(result: StudyResult, records: Sequence[RunRecord], dense: Sequence[RunRecord] | None) -> Energy:
    config, watts = result.config, result.power.watts
    wh = energy_wh(fmean(record.spent_s for record in records), watts, config.pue)
    tokens = reaches(records, dense, "tokens") if dense is not None else None
    seconds = reaches(records, dense, "seconds") if dense is not None else None
    return Energy(
        wh=wh,
        wh_per_million_tokens=1e6 * wh / _tokens(records),
        co2e_g=co2e_g(wh, config.gco2_per_kwh),
        tokens_to_dense=tokens,
        seconds_to_dense=seconds,
        wh_to_dense=None if seconds is None else energy_wh(seconds, watts, config.pue),
    )


def _practice(result: StudyResult, records: Sequence[RunRecord], tokens_per_s: float, dense: float) -> Practice:
    memory, config = result.memory_bytes, result.config
    fits = None
    if config.isolate and memory is not None:
        fits = largest_batch(
            peak_bytes=max(record.peak_bytes for record in records),
            start_bytes=min(record.start_bytes for record in records),
            fixed_bytes=max(record.fixed_bytes for record in records),
            batch_size=config.micro_batch_size,
            memory_bytes=memory,
        )
    return Practice(
        largest_batch=fits[0] if fits else None,
        bytes_per_sequence=fits[1] if fits else None,
        hours_per_epoch=result.training_tokens / tokens_per_s / 3600 if tokens_per_s else math.inf,
        accelerators=accelerators_needed(tokens_per_s, dense),
    )


def _positions(result: StudyResult, records: Sequence[RunRecord]) -> tuple[Stretch, ...]:
    edges = position_edges(result.config.seq_len)
    if any(len(record.position_nats) != len(edges) - 1 for record in records):
        return ()
    num_sequences = result.held_out.num_tokens // result.config.seq_len
    return tuple(
        Stretch(
            low,
            high,
            fmean(record.position_nats[number] for record in records) / math.log(2) / (num_sequences * (high - low)),
        )
        for number, (low, high) in enumerate(pairwise(edges))
    )


def _uses(records: Sequence[RunRecord]) -> dict[str, UseLoss]:
    if any(len(record.use_nats) != len(USE_CLASSES) for record in records):
        return {}
    found = {}
    for number, name in enumerate(USE_CLASSES[1:], start=1):
        num_tokens = records[0].use_tokens[number]
        nats = fmean(record.use_nats[number] for record in records)
        found[name] = UseLoss(num_tokens, nats / math.log(2) / num_tokens if num_tokens else None)
    return found


def _step_flops(result: StudyResult, causal_density: float) -> float:
    """FLOPs of a step's forward and backward: matrices and useful attention pairs."""
    model, seq_len = result.model, result.config.seq_len
    linear = 6 * seq_len * model.matrix_numbers
    pairs = causal_density * seq_len * (seq_len + 1) / 2
    attention = _FORWARD_BACKWARD * 4 * pairs * sum(layer.head_dim * layer.q_heads for layer in model.layers)
    return result.config.batch_size * (linear + attention)


def _warm(series: Sequence[Sequence[float]], first: int) -> list[float]:
    """All samples from step `first` on, without the first few where there are others."""
    return [value for samples in series for value in (samples[first:][_WARM_STEPS:] or samples[first:] or samples)]


def _mean_after(series: Sequence[Sequence[float]], first: int) -> float:
    return fmean(value for samples in series for value in (samples[first:] or samples))


def _median(samples: Sequence[float]) -> float:
    found = spread(samples)
    return found.median if found else 0.0


def _dense_backend(ran: str) -> str:
    """What computed dense attention, in words; the first records do not name it, for it was always the same."""
    if ran in ("", "sdpa"):
        return "sdpa: torch's scaled_dot_product_attention, causal"
    if ran == "cpu":
        return "cpu: our native kernels over all causal blocks, which auto takes where it is no slower than sdpa"
    if ran == "eager":
        return "eager: what transformers computes this model's attention with"
    return f"{ran}: torch's flash attention does not run on this device in this dtype, so dense is not at its fastest"
