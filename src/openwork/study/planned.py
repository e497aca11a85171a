"""The plan of each step of a run: what its schedule says, plugged in, and every change written down."""

from __future__ import annotations

import json
from typing import Any

from openwork.layout import BlockLayout
from openwork.patterns import Dense
from openwork.plan import Plan
from openwork.study.config import DENSE, StudyConfig
from openwork.study.contender import Contender, made_causal
from openwork.study.model import StudyModel
from openwork.study.state import RunState
from openwork.train.schedules import DENSE_PLAN, Measurement

__all__ = ["PlanOfRun"]

_MASKED = Plan(default=Dense())
"""Stands for a mask from a file where a schedule speaks of plans; no plan in use equals it, for those are causal."""


class PlanOfRun:
    """Keeps a model at the plan of its step.

    Args:
        config: The study.
        contender: Its plan or mask, and its schedule.
        model: The model, which takes the plans.
        eval_tokens: Held-out tokens that a measurement on the way is made on.
        mask: The layout of the contender's mask, where it is one.

    Attributes:
        is_dense: Whether the model attends densely now, by torch's fastest path.
    """

    def __init__(
        self,
        config: StudyConfig,
        contender: Contender,
        model: StudyModel,
        eval_tokens: int,
        mask: BlockLayout | None = None,
    ) -> None:
        self._config, self._contender, self._model, self._eval_tokens = config, contender, model, eval_tokens
        self._mask = mask
        self._schedule = config.schedule_of(contender)
        self._target = contender.plan_of_layers or _MASKED
        self._plan: Plan | None = None
        self.is_dense = False

    def use(self, state: RunState) -> str | None:
        """Plugs in the plan of the next step.

        The schedule is asked with the step and the measurements so far and nothing else, so a resumed run gets the
        same plans. A plan that was not in use before is appended to `state.timeline`.

        Returns:
            Why the plan changed, where the schedule changed it.
        """
        plan, reason = self._target, None
        if self._schedule is not None:
            measured = [Measurement(step, nats / self._eval_tokens) for step, _, nats in state.evaluated]
            decision = self._schedule.decide(
                state.step,
                self._target,
                seq_len=self._config.seq_len,
                num_layers=len(self._model.layers),
                measured=measured,
            )
            plan = decision.plan if decision.plan == _MASKED else decision.plan.map(made_causal)
            reason = self._note(state, plan, decision.reason)
        self._plug_in(plan)
        return reason

    def use_target(self) -> None:
        """Plugs in the plan itself, whatever the schedule says of this step."""
        self._plug_in(self._target)

    def _plug_in(self, plan: Plan) -> None:
        if plan == self._plan:
            return
        self._plan = plan
        self.is_dense = self._contender.name == DENSE or (plan == DENSE_PLAN and self._target != DENSE_PLAN)
        if plan == _MASKED:
            assert self._mask is not None
            self._model.set_mask(self._mask)
        else:
            self._model.set_plan(plan)
        # for dense attention that is torch's flash attention, wherever it runs
        self._model.set_backend("auto")

    def _note(self, state: RunState, plan: Plan, reason: str) -> str | None:
        content: Any = {"mask": str(self._contender.mask)} if plan == _MASKED else json.loads(plan.to_json())
        if state.timeline and state.timeline[-1]["plan"] == content:
            return None
        state.timeline.append({"step": state.step, "reason": reason, "plan": content})
        return reason
