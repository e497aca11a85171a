"""What a run leaves behind: its raw samples and the figures that follow from them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, Field, asdict, dataclass, field, fields
from typing import TYPE_CHECKING, Any

from openwork.errors import StudyError
from openwork.measure import bits_per_byte, perplexity

if TYPE_CHECKING:
    from openwork.study.state import RunState

__all__ = ["USE_CLASSES", "HeldOut", "RunRecord", "position_edges"]

USE_CLASSES = ("other", "name_inside", "name_outside", "after_inside", "after_outside")
"""What a held-out token is in respect of uses of names: see `UseTokens`."""

_LAST_SHARE = 0.1
_MOST_BUCKETS = 32
_BUCKETS_PER_OCTAVE = 2


def position_edges(seq_len: int) -> tuple[int, ...]:
    """Where the buckets of positions begin, and the end of the last one: two buckets for each doubling of the context.

    >>> position_edges(64)
    (0, 1, 2, 3, 4, 6, 8, 11, 16, 23, 32, 45, 64)
    """
    edges = {round(seq_len * 2 ** (-number / _BUCKETS_PER_OCTAVE)) for number in range(_MOST_BUCKETS)}
    return tuple(sorted({0, *edges}))


@dataclass(frozen=True, kw_only=True)
class HeldOut:
    """The held-out text that quality is measured on: the same for every plan."""

    num_tokens: int
    """Tokens that are predicted, in tokens."""
    num_bytes: int
    """UTF-8 bytes that they stand for, in bytes."""
    gzip_bits_per_byte: float
    """What `gzip -9` needs for those bytes, in bits per byte."""
    curve_num_bytes: int = 0
    """UTF-8 bytes of the first of them, on which quality is measured on the way, in bytes; 0 for all."""

    @property
    def curve_bytes(self) -> int:
        """UTF-8 bytes that a point of a held-out curve was measured on."""
        return self.curve_num_bytes or self.num_bytes


@dataclass(frozen=True, kw_only=True)
class RunRecord:
    """One run, done."""

    name: str
    """The plan's name."""
    seed: int
    """Decided first weights and order of data."""
    tokens_per_step: int
    """Training tokens of each step, in tokens."""
    spent_s: float
    """Training time, in seconds."""
    sessions: int
    """1, and one more for each time it was resumed."""
    backend: str
    """What computed the plan's attention."""
    peak_bytes: int
    """Most memory, in bytes; 0 where the system does not tell."""
    start_bytes: int
    """Memory before the model was made, in bytes."""
    nats: float
    """Negative log-likelihood of all held-out tokens, in nats."""
    losses: tuple[float, ...]
    """Training loss of each step, in nats per token."""
    step_ms: tuple[float, ...]
    """Time of each step, in milliseconds."""
    layout_ms: tuple[float, ...]
    """Of that, compiling layouts, in milliseconds."""
    data_ms: tuple[float, ...]
    """Time to read and annotate before each step, in milliseconds."""
    density: tuple[float, ...]
    """Allowed pairs over all pairs at each step."""
    block_density: tuple[float, ...]
    """Executed pairs over all pairs at each step."""
    held_out_curve: tuple[tuple[int, float, float], ...]
    """Held-out quality on the way, on the first part of the text: step, training seconds, bits per byte."""
    position_nats: tuple[float, ...] = ()
    """Of `nats`, those of each bucket of positions; empty in records from before there were any."""
    use_nats: tuple[float, ...] = ()
    """Of `nats`, those of each class of `USE_CLASSES`; empty where the data has no uses."""
    use_tokens: tuple[int, ...] = ()
    """How many tokens each of these classes has."""
    use_window: int | None = None
    """Keys before a query within which a use's definition counts as inside."""
    fixed_bytes: int = 0
    """Parameters, gradients and optimizer state, in bytes; 0 in records from before that was measured."""
    timeline: tuple[dict[str, Any], ...] = ()
    """What the plan's schedule decided: `step` from which it holds, `reason`, `plan` as JSON; empty without one."""
    untuned_nats: float | None = None
    """As `nats`, of the checkpoint under the plan before the first step; `None` where none is tuned."""
    metrics: dict[str, float] = field(default_factory=dict)
    """What the user's metric gave at the end, by name."""
    untuned_metrics: dict[str, float] = field(default_factory=dict)
    """The same before the first step of tuning."""
    code: tuple[str, ...] = ()
    """The versions of the code that did it; empty in records from before that was kept for each run."""

    @classmethod
    def of(cls, name: str, seed: int, state: RunState, *, tokens_per_step: int, held_out: HeldOut) -> RunRecord:
        """The record of a run that is at its end."""
        return cls(
            name=name,
            seed=seed,
            tokens_per_step=tokens_per_step,
            spent_s=state.spent_s,
            sessions=state.sessions,
            code=tuple(state.code),
            backend=state.backend,
            peak_bytes=state.peak_bytes,
            start_bytes=state.start_bytes,
            fixed_bytes=state.fixed_bytes,
            nats=state.final["nats"],
            losses=tuple(state.losses),
            step_ms=tuple(state.step_ms),
            layout_ms=tuple(state.layout_ms),
            data_ms=tuple(state.data_ms),
            density=tuple(state.density),
            block_density=tuple(state.block_density),
            held_out_curve=tuple(
                (step, spent_s, bits_per_byte(nats, held_out.curve_bytes)) for step, spent_s, nats in state.evaluated
            ),
            position_nats=tuple(state.final["position_nats"]),
            use_nats=tuple(state.final["use_nats"]),
            use_tokens=tuple(state.final["use_tokens"]),
            use_window=state.final["use_window"],
            timeline=tuple(state.timeline),
            untuned_nats=state.untuned.get("nats"),
            metrics=state.metrics.get("final", {}),
            untuned_metrics=state.metrics.get("untuned", {}),
        )

    @property
    def steps(self) -> int:
        """Optimizer steps done."""
        return len(self.losses)

    @property
    def settled_from(self) -> int:
        """Step of the last change of plan; 0 without a schedule."""
        return int(self.timeline[-1]["step"]) if self.timeline else 0

    @property
    def last_training_loss(self) -> float:
        """Mean training loss of the last tenth of the steps, in nats per token."""
        last = self.losses[-max(1, round(self.steps * _LAST_SHARE)) :]
        return sum(last) / len(last)

    def bits_per_byte(self, held_out: HeldOut) -> float:
        """Quality on the held-out text."""
        return bits_per_byte(self.nats, held_out.num_bytes)

    def perplexity(self, held_out: HeldOut) -> float:
        """Perplexity of a held-out token."""
        return perplexity(self.nats, held_out.num_tokens)

    def to_dict(self) -> dict[str, Any]:
        """The record as JSON values."""
        return asdict(self)

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> RunRecord:
        """The record that `to_dict` wrote, or an earlier version of it, whose later fields then have their defaults.

        Raises:
            StudyError: It lacks a field that has no default.
        """
        if missing := [f.name for f in fields(cls) if f.name not in content and _is_required(f)]:
            raise StudyError(
                f"the record of a run lacks {', '.join(missing)}: it was changed, or is of no version known."
            )
        values = {f.name: content[f.name] for f in fields(cls) if f.name in content}
        for name, value in values.items():
            if isinstance(value, list):
                values[name] = tuple(tuple(entry) if isinstance(entry, list) else entry for entry in value)
        return cls(**values)


def _is_required(known: Field[Any]) -> bool:
    return known.default is MISSING and known.default_factory is MISSING
