"""`PlanCallback`: schedules in the Trainer of Hugging Face."""

from __future__ import annotations

import logging
from dataclasses import asdict, dataclass
from typing import Any, cast

from torch import nn
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from openwork.errors import OpenworkError, PlanError
from openwork.nn import SparseAttention, model_plan, set_plan
from openwork.patterns import Causal, Dense, Pattern
from openwork.plan import Plan
from openwork.train.parse import parse_schedule
from openwork.train.schedules import Measurement, Schedule, Shrink

__all__ = ["PlanCallback", "PlanChange"]

_STATE = "openwork_plan"
"""Where the trainer's own state, which each of its checkpoints holds, keeps ours."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class PlanChange:
    """A change of plan.

    Attributes:
        step: Optimizer step from which it holds, counted from 0.
        reason: Why, in words with the figures.
        plan: The plan as JSON.
    """

    step: int
    reason: str
    plan: str


@dataclass(frozen=True)
class _Course:
    """What a schedule is asked with, the same at every step."""

    target: Plan
    num_layers: int
    dense: Pattern


class PlanCallback(TrainerCallback):
    """Keeps the model of a `transformers.Trainer` at the plan that a schedule has for its optimizer step.

    The schedule is asked with the step and with the measurements in the trainer's own log, and with nothing else. Both
    are in every checkpoint of the trainer, and so is the plan that the schedule leads to: a run that is resumed at any
    step gets the plans of an unbroken one. Between two steps the model has the plan of the next one, so an evaluation
    and a checkpoint after step `n` have that of step `n`. Wrapped models (DistributedDataParallel, `torch.compile`)
    are asked beneath their wrapping.

    Args:
        schedule: The schedule, or its text.
        plan: Where it leads; `None` for the plan that the model has when its training begins.
        seq_len: Tokens of a sequence, of which `Shrink` reckons its windows; no other schedule needs it.
        num_layers: Layers of the model, where it does not say itself.
        dense: What dense attention is. `None` for `Causal()` where the model is built with `SparseAttention`, and else
            for `Dense()`: a sparsified model keeps its own causality.
        metric: The entry of the trainer's log that validation is read from; it must fall as the model gets better.

    Attributes:
        timeline: Every change of plan so far, those before a resumption included.

    Raises:
        PlanError: `schedule` is none; or, as training begins, the model says nothing that a plan or a number of layers
            follows from, nothing is measured that the schedule reads, or a checkpoint is resumed that was made with
            another schedule or towards another plan.

    Examples:
        >>> callback = PlanCallback("DenseThenSparse(steps=500)")

        It is one of the callbacks of a trainer: `Trainer(model, args, train_dataset=data, callbacks=[callback])`.
    """

    def __init__(
        self,
        schedule: Schedule | str,
        plan: Plan | Pattern | None = None,
        *,
        seq_len: int | None = None,
        num_layers: int | None = None,
        dense: Pattern | None = None,
        metric: str = "eval_loss",
    ) -> None:
        schedule = parse_schedule(schedule) if isinstance(schedule, str) else schedule
        if not isinstance(schedule, Schedule):
            raise PlanError(
                "PlanCallback takes a schedule, such as DenseThenSparse(steps=500), or its text; "
                f"got {type(schedule).__name__}."
            )
        if isinstance(schedule, Shrink) and seq_len is None:
            raise PlanError("Shrink reckons its windows from the length of the sequences: PlanCallback(..., seq_len=).")
        self.schedule, self.metric = schedule, metric
        self.timeline: tuple[PlanChange, ...] = ()
        self._asked = None if plan is None else Plan.of(plan)
        self._seq_len, self._num_layers, self._dense = seq_len or 1, num_layers, dense
        self._course: _Course | None = None

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Finds out where the schedule leads, from the checkpoint that is resumed or from the model."""
        if self.schedule.reads_validation and str(getattr(args.eval_strategy, "value", args.eval_strategy)) == "no":
            raise PlanError(
                f"{type(self.schedule).__name__} reads validation, and the trainer makes none: set "
                'TrainingArguments(eval_strategy="steps", eval_steps=...) and give it an eval_dataset.'
            )
        model = kwargs["model"]
        target = self._target(model, _kept(state).get(_STATE))
        num_layers = self._num_layers or model_plan(model).num_layers
        if num_layers is None:
            raise PlanError(
                f"{type(model).__name__} does not say how many layers a plan has: PlanCallback(num_layers=)."
            )
        own = any(isinstance(module, SparseAttention) for module in model.modules())
        self._course = _Course(target, num_layers, self._dense or (Causal() if own else Dense()))
        self._use(model, state)

    def on_step_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Plugs in the plan of the step."""
        logged = [name for entry in state.log_history for name in entry if name.startswith("eval_")]
        if self.schedule.reads_validation and logged and self.metric not in logged:
            raise PlanError(
                f"the trainer's log has no {self.metric}, which PlanCallback(metric=) names; it has "
                f"{', '.join(sorted(set(logged)))}."
            )
        self._use(kwargs["model"], state)

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Plugs in the plan of the next step, which an evaluation in between measures."""
        self._use(kwargs["model"], state)

    def on_evaluate(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Plugs in what the schedule makes of the new measurement."""
        if self._course is not None:
            self._use(kwargs["model"], state)

    def _target(self, model: nn.Module, kept: Any) -> Plan:
        known = self._course.target if self._course is not None else model_plan(model).plan
        plan = self._asked or known
        if kept is None:
            if plan is None:
                raise PlanError(
                    f"{type(model).__name__} has no plan that the schedule could lead to: give it one with "
                    "openwork.hf.sparsify or openwork.nn.set_plan, or say PlanCallback(schedule, plan)."
                )
            return plan
        if kept["schedule"] != repr(self.schedule):
            raise PlanError(
                f"the checkpoint was trained with {kept['schedule']}, but this PlanCallback has {self.schedule!r}; "
                "resume with the same, or start anew."
            )
        self.timeline = tuple(PlanChange(**change) for change in kept["timeline"])
        # read from no text where it need not be: a pattern of the user's own has none that is safe to read
        if plan is not None and plan.to_json() == kept["plan"]:
            return plan
        if self._asked is not None:
            raise PlanError(
                f"the checkpoint was trained towards {kept['plan']}, but PlanCallback(plan=) is "
                f"{self._asked.to_json()}; resume with the same, or start anew."
            )
        try:
            return Plan.from_json(kept["plan"])
        except OpenworkError as error:
            raise PlanError(f"{error} Say PlanCallback(schedule, plan) with the plan that it leads to.") from None

    def _use(self, model: nn.Module, state: TrainerState) -> None:
        course = self._course
        assert course is not None
        measured = [
            Measurement(int(entry["step"]), float(entry[self.metric]))
            for entry in state.log_history
            if self.metric in entry
        ]
        plan, reason = self.schedule.decide(
            state.global_step,
            course.target,
            seq_len=self._seq_len,
            num_layers=course.num_layers,
            measured=measured,
            dense=course.dense,
        )
        if model_plan(model).plan != plan or not self.timeline:
            set_plan(model, plan)
        text = plan.to_json()
        if not self.timeline or self.timeline[-1].plan != text:
            self.timeline = (*self.timeline, PlanChange(state.global_step, reason, text))
            _log.info("step %d: %s", state.global_step, reason)
        _kept(state)[_STATE] = {
            "schedule": repr(self.schedule),
            "plan": course.target.to_json(),
            "timeline": [asdict(change) for change in self.timeline],
        }


def _kept(state: TrainerState) -> dict[str, Any]:
    """What the trainer's state keeps for callbacks, a table whatever its annotation says."""
    return cast(dict[str, Any], state.stateful_callbacks)
