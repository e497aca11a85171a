"""Schedules: from an optimizer step, and what was measured on the way, to the plan of that step.

`schedule.plan_at(step, plan, seq_len=..., num_layers=...)` and `openwork.nn.set_plan` are all that a training loop
needs. A schedule keeps no state: asked again for a step, after whatever interruption, it says the same.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from types import MappingProxyType
from typing import Any, ClassVar, NamedTuple

from openwork.errors import PlanError
from openwork.patterns import Causal, Dense, Pattern, Window
from openwork.plan import Plan
from openwork.train.wider import wider

__all__ = ["DENSE_PLAN", "Decision", "DenseThenSparse", "Measurement", "RelaxOnPlateau", "Schedule", "Shrink"]

_ALL_BEFORE = Causal()

DENSE_PLAN = Plan(default=_ALL_BEFORE)
"""Every layer attends to all that came before."""


class Measurement(NamedTuple):
    """One measurement of validation.

    Attributes:
        step: Optimizer steps done when it was made.
        loss: What should fall, such as the mean negative log-likelihood of a held-out token.
    """

    step: int
    loss: float


class Decision(NamedTuple):
    """What a schedule says of a step.

    Attributes:
        plan: The plan to use.
        reason: Why, in words with the figures.
    """

    plan: Plan
    reason: str


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """A function from optimizer step to plan; a value, whose `repr` is what `parse_schedule` reads back."""

    reads_validation: ClassVar[bool] = False
    """Whether what was measured on the way counts."""

    @property
    def needs(self) -> Mapping[str, str]:
        """Annotations that the schedule's own patterns read, name to kind, beside those of the plan."""
        return MappingProxyType({})

    def decide(
        self,
        step: int,
        plan: Plan,
        *,
        seq_len: int,
        num_layers: int,
        measured: Sequence[Measurement] = (),
        dense: Pattern = _ALL_BEFORE,
    ) -> Decision:
        """The plan of optimizer step `step`, counted from 0, and why.

        Args:
            step: The step that is about to be done.
            plan: Where the schedule leads.
            seq_len: Tokens of a sequence.
            num_layers: Layers of the model.
            measured: All measurements of validation so far, in order; those after `step` are left out.
            dense: What dense attention is: `Dense()` for an encoder, and for a model that keeps its own causality
                whatever the plan says, as one of Hugging Face does.
        """
        raise NotImplementedError

    def plan_at(
        self,
        step: int,
        plan: Plan,
        *,
        seq_len: int,
        num_layers: int,
        measured: Sequence[Measurement] = (),
        dense: Pattern = _ALL_BEFORE,
    ) -> Plan:
        """The plan of `decide` alone."""
        return self.decide(step, plan, seq_len=seq_len, num_layers=num_layers, measured=measured, dense=dense).plan


@dataclass(frozen=True, kw_only=True)
class DenseThenSparse(Schedule):
    """Dense attention for the first steps, then the plan.

    Examples:
        >>> schedule, local = DenseThenSparse(steps=100), Plan(default=Causal() & Window(before=255))
        >>> [schedule.plan_at(step, local, seq_len=1024, num_layers=4) == local for step in (0, 99, 100)]
        [False, False, True]
    """

    steps: int
    """Optimizer steps at the start that are dense."""

    def __post_init__(self) -> None:
        _require_counts(self, "steps")

    def decide(
        self,
        step: int,
        plan: Plan,
        *,
        seq_len: int,
        num_layers: int,
        measured: Sequence[Measurement] = (),
        dense: Pattern = _ALL_BEFORE,
    ) -> Decision:
        """Dense before `steps`."""
        if step < self.steps:
            return Decision(Plan(default=dense), f"dense for the first {self.steps} steps")
        return Decision(plan, f"the plan, after {self.steps} dense steps")


@dataclass(frozen=True, kw_only=True)
class Shrink(Schedule):
    """Dense until `start_step`, then the plan and a window that shrinks linearly; from `end_step` the plan alone.

    The window only ever adds to what the plan allows, so a plan whose own window is `final_window` is reached without
    a jump.

    Examples:
        >>> schedule = Shrink(start_step=100, end_step=200, final_window=256)
        >>> [schedule.window_at(step, seq_len=1024) for step in (0, 100, 150, 200, 10_000)]
        [None, 1024, 640, 256, 256]
        >>> local = Plan(default=Causal() & Window(before=256))
        >>> schedule.plan_at(150, local, seq_len=1024, num_layers=4)
        Plan(default=Causal() & Window(before=640, after=0))
    """

    start_step: int = 0
    """Optimizer step at which attention starts to get sparser; before it, attention is dense."""
    end_step: int
    """Optimizer step from which the plan is used alone."""
    final_window: int = 0
    """Keys before the query that the window has at the end, not counting the query's own position."""
    multiple: int = 64
    """Until the end windows are rounded up to a multiple of so many keys, so that one layout serves many steps."""

    def __post_init__(self) -> None:
        _require_counts(self, "start_step", "end_step", "final_window")
        _require_counts(self, "multiple", low=1)
        if self.end_step < self.start_step:
            raise PlanError(
                f"Shrink end_step must not be before start_step; got end_step={self.end_step}, "
                f"start_step={self.start_step}."
            )

    def window_at(self, step: int, *, seq_len: int) -> int | None:
        """Keys before the query at this optimizer step; `None` while attention is still dense."""
        if step < self.start_step:
            return None
        if step >= self.end_step:
            return self.final_window
        left = (self.end_step - step) * max(0, seq_len - self.final_window)
        # in whole numbers: the same on every machine
        window = self.final_window - (-left // (self.end_step - self.start_step))
        return -(-window // self.multiple) * self.multiple

    def decide(
        self,
        step: int,
        plan: Plan,
        *,
        seq_len: int,
        num_layers: int,
        measured: Sequence[Measurement] = (),
        dense: Pattern = _ALL_BEFORE,
    ) -> Decision:
        """Dense, the plan with the window of this step, or the plan."""
        if step >= self.end_step:
            return Decision(plan, f"the plan alone from step {self.end_step} on")
        window = self.window_at(step, seq_len=seq_len)
        if window is None:
            return Decision(Plan(default=dense), f"dense until step {self.start_step}")
        if window >= seq_len - 1:
            return Decision(Plan(default=dense), f"a window of {window} keys is dense at {seq_len} tokens")
        near = Window(before=window, after=0 if dense == _ALL_BEFORE else window)
        also = near if dense == Dense() else dense & near
        return Decision(plan.map(lambda pattern: wider(pattern, also)), f"the plan and a window of {window} keys")


@dataclass(frozen=True, kw_only=True)
class RelaxOnPlateau(Schedule):
    """Dense until `start_step`, then the plan; where validation stalls or spikes, the upper layers get more.

    The history of validation is read from `start_step` on. A measurement is *better* where it is less than
    `1 - min_gain` times the best so far. After `patience` measurements in a row that are not better, or after one that
    is more than `1 + spike` times the best, the `layers` highest layers that are not relaxed yet are allowed what `to`
    allows too, and counting starts anew. What was relaxed stays so.

    Examples:
        >>> schedule = RelaxOnPlateau(patience=2)
        >>> local = Plan(default=Causal() & Window(before=63))
        >>> measured = [Measurement(100, 3.0), Measurement(200, 2.5), Measurement(300, 2.5), Measurement(400, 2.51)]
        >>> plan, reason = schedule.decide(400, local, seq_len=1024, num_layers=4, measured=measured)
        >>> plan.layers
        mappingproxy({3: Causal()})
        >>> print(reason)
        step 400: validation stalled at 2.5000, 2.5100 after 2.5000 at step 200; layer 3 is relaxed to Causal()
    """

    reads_validation: ClassVar[bool] = True

    start_step: int = 0
    """Optimizer step before which attention is dense; measurements up to it do not speak of the plan, nor count."""
    patience: int = 2
    """Measurements in a row without gain that are a stall."""
    min_gain: float = 0.002
    """Share of the best loss by which a measurement must be lower to be better."""
    spike: float = 0.05
    """Share of the best loss above it from which one measurement is a spike."""
    layers: int = 1
    """Layers that are relaxed at a time, in number."""
    most: int | None = None
    """Layers that are relaxed in all; `None` for as many as there are."""
    to: Pattern = _ALL_BEFORE
    """What a relaxed layer may see beside what the plan allows it."""

    def __post_init__(self) -> None:
        _require_counts(self, "start_step")
        _require_counts(self, "patience", "layers", low=1)
        if self.most is not None:
            _require_counts(self, "most")
        for name in ("min_gain", "spike"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < math.inf:
                raise PlanError(f"RelaxOnPlateau {name} is a share of the best loss, 0 or more; got {value!r}.")
        if not isinstance(self.to, Pattern):
            raise PlanError(f"RelaxOnPlateau to must be a pattern; got {self.to!r}.")

    @property
    def needs(self) -> Mapping[str, str]:
        """What `to` reads."""
        return self.to.needs

    def decide(
        self,
        step: int,
        plan: Plan,
        *,
        seq_len: int,
        num_layers: int,
        measured: Sequence[Measurement] = (),
        dense: Pattern = _ALL_BEFORE,
    ) -> Decision:
        """The last of the decisions up to this step."""
        if step < self.start_step:
            return Decision(Plan(default=dense), f"dense until step {self.start_step}")
        known = [entry for entry in measured if self.start_step < entry.step <= step]
        return self.decisions(plan, num_layers=num_layers, measured=known)[-1]

    def decisions(self, plan: Plan, *, num_layers: int, measured: Sequence[Measurement]) -> list[Decision]:
        """Everything that was decided after these measurements, the plan itself first."""
        tight = {layer: plan.for_layer(layer, num_layers) for layer in reversed(range(num_layers))}
        loose = {layer: wider(own, self.to) for layer, own in tight.items()}
        order = [layer for layer in loose if loose[layer] != tight[layer]][: self.most]
        made, best, waited = [Decision(plan, "the plan")], Measurement(self.start_step, math.inf), list[float]()
        relaxed: dict[int, Pattern] = {}
        for entry in measured:
            if entry.loss < best.loss * (1 - self.min_gain):
                best, waited = entry, []
                continue
            waited.append(entry.loss)
            # written so that a loss that is no number is a spike
            spiked = not entry.loss <= best.loss * (1 + self.spike)
            now = order[len(relaxed) : len(relaxed) + self.layers]
            if not now or (not spiked and len(waited) < self.patience):
                continue
            relaxed |= {layer: loose[layer] for layer in now}
            looser = replace(plan, layers={**plan.layers, **relaxed})
            made.append(Decision(looser, self._reason(entry, best, waited, sorted(now), spiked)))
            waited = []
        return made

    def _reason(
        self, entry: Measurement, best: Measurement, waited: Sequence[float], layers: Sequence[int], spiked: bool
    ) -> str:
        what = f"spiked to {entry.loss:.4f}" if spiked else "stalled at " + ", ".join(f"{loss:.4f}" for loss in waited)
        which = f"layer {layers[0]} is" if len(layers) == 1 else f"layers {', '.join(map(str, layers))} are"
        return (
            f"step {entry.step}: validation {what} after {best.loss:.4f} at step {best.step}; {which} relaxed to "
            f"{self.to!r}"
        )


def _require_counts(schedule: Schedule, *names: str, low: int = 0) -> None:
    known = {field.name for field in fields(schedule)}
    for name in names:
        assert name in known
        value: Any = getattr(schedule, name)
        if isinstance(value, bool) or not isinstance(value, int) or value < low:
            raise PlanError(f"{type(schedule).__name__} {name} must be a whole number, {low} or more; got {value!r}.")
