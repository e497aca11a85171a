"""Held-out quality of a run on the way and at its end, a batch at a time, so that a kill loses no more than one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from openwork.study.batches import Batch, Batches
from openwork.study.config import StudyConfig
from openwork.study.record import USE_CLASSES, position_edges
from openwork.study.state import RunState
from openwork.study.uses import UseTokens

__all__ = ["Evaluator", "evaluation_due"]

_MARKS = 8
"""Evaluations of a run where `eval_every` leaves it open, the last one included."""


def evaluation_due(config: StudyConfig, state: RunState) -> bool:
    """Whether the curve wants a point before the next step; the end of a run is not asked about here.

    With `eval_every` a number, after each so many steps; without one, whenever another eighth of the steps or of the
    seconds, whichever is further, is done.
    """
    if state.step == 0 or (state.evaluated and state.evaluated[-1][0] == state.step):
        return False
    if config.eval_every is not None:
        return config.eval_every > 0 and state.step % config.eval_every == 0
    share = max(
        state.step / config.steps if config.steps is not None else 0.0,
        state.spent_s / config.seconds if config.seconds is not None else 0.0,
    )
    return share * _MARKS >= len(state.evaluated) + 1


class Evaluator:
    """Measures a model on the held-out sequences, the same ones in the same order each time.

    On the way it takes the first of them, `StudyConfig.num_curve_sequences`; at the end all, and the sum over the first
    ones is the curve's last point. What is summed is in `state.tally` after each batch, in float64 and in a fixed
    order, so that an evaluation which was stopped anywhere ends with the bits of an unbroken one.

    Args:
        config: The study.
        batches: The held-out sequences, with the annotations that the plan reads.
        available: How many of them there are.
        uses: Sorts tokens by the uses that they belong to; `None` where the data has none.
    """

    def __init__(self, config: StudyConfig, batches: Batches, available: int, uses: UseTokens | None = None) -> None:
        self._batches, self._batch_size, self._seq_len = batches, config.micro_batch_size, config.seq_len
        self._total = config.num_eval_sequences(available)
        self._curve = config.num_curve_sequences(available)
        self._edges = np.array(position_edges(config.seq_len)[:-1])
        self._uses = uses

    @torch.no_grad()
    def run(
        self,
        state: RunState,
        losses_of: Callable[[Batch], Tensor],
        after: Callable[[int, int], None] = lambda done, total: None,
        *,
        whole: bool = True,
        untuned: bool = False,
    ) -> None:
        """Goes on with the evaluation that `state` is in, or begins one.

        Appends to `state.evaluated`, where that has no point of this step yet, and with `whole` sets `state.final`.
        What is measured of an untuned checkpoint goes to `state.untuned` alone.

        Args:
            state: The run; what is measured so far is in it after each batch.
            losses_of: The model's negative log-likelihoods of a batch's targets in nats, [batch, seq_len].
            after: Called after each batch with the sequences done and those in all. Whatever it raises ends the
                evaluation where it is.
            whole: Whether all held-out sequences count, as at the end of a run, not only those of the curve.
            untuned: Whether it is the checkpoint before its first step that is measured.
        """
        tally = state.tally or self._blank()
        total = self._total if whole else self._curve
        while tally["sequences"] < total:
            first = tally["sequences"]
            numbers = list(range(first, min(first + self._batch_size, total)))
            losses = losses_of(self._batches.sequences(numbers)).cpu().double()
            state.tally = tally = self._added(tally, numbers, losses)
            after(tally["sequences"], total)
        state.tally = {}
        if untuned:
            state.untuned = {"nats": tally["nats"]}
            return
        if not (state.evaluated and state.evaluated[-1][0] == state.step):
            state.evaluated.append((state.step, state.spent_s, tally["curve_nats"]))
        if whole:
            state.final = {name: tally[name] for name in ("nats", "position_nats", "use_nats", "use_tokens")}
            state.final["use_window"] = self._uses.window if self._uses is not None else None

    def _blank(self) -> dict[str, Any]:
        num_classes = len(USE_CLASSES) if self._uses is not None else 0
        return {
            "sequences": 0,
            "nats": 0.0,
            "curve_nats": 0.0,
            "position_nats": [0.0] * len(self._edges),
            "use_nats": [0.0] * num_classes,
            "use_tokens": [0] * num_classes,
        }

    def _added(self, tally: dict[str, Any], numbers: list[int], losses: Tensor) -> dict[str, Any]:
        """The tally with one batch more: a new value, so that a half-made one is never saved."""
        nats = tally["nats"] + float(losses.sum())
        values: npt.NDArray[np.float64] = losses.numpy()
        positions = np.add.reduceat(values.sum(axis=0), self._edges)
        added = {
            "sequences": numbers[-1] + 1,
            "nats": nats,
            "curve_nats": nats if numbers[-1] < self._curve else tally["curve_nats"],
            "position_nats": [old + float(new) for old, new in zip(tally["position_nats"], positions, strict=True)],
        }
        if self._uses is None:
            return {**tally, **added}
        classes = np.concatenate([self._uses.classes(number * self._seq_len, self._seq_len) for number in numbers])
        size = len(USE_CLASSES)
        use_nats = np.bincount(classes, weights=values.ravel(), minlength=size)
        use_tokens = np.bincount(classes, minlength=size)
        return {
            **added,
            "use_nats": [old + float(new) for old, new in zip(tally["use_nats"], use_nats, strict=True)],
            "use_tokens": [old + int(new) for old, new in zip(tally["use_tokens"], use_tokens, strict=True)],
        }
