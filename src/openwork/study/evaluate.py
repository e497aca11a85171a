"""Held-out quality of a run on the way and at its end, a batch at a time, so that a kill loses no more than one."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from openwork.study.batches import Batch, Batches
from openwork.study.config import StudyConfig
from openwork.study.state import RunState

__all__ = ["Evaluator"]


class Evaluator:
    """Measures a model on the held-out sequences, the same ones in the same order each time.

    Args:
        config: The study.
        batches: The held-out sequences, with the annotations that the plan reads.
        available: How many of them there are.
    """

    def __init__(self, config: StudyConfig, batches: Batches, available: int) -> None:
        self._batches, self._batch_size = batches, config.batch_size
        self._total = config.num_eval_sequences(available)

    @torch.no_grad()
    def run(
        self, state: RunState, losses_of: Callable[[Batch], Tensor], after: Callable[[int, int], None] = lambda *_: None
    ) -> None:
        """Goes on with the evaluation that `state` is in, or begins one, and appends its result to `state.evaluated`.

        Args:
            state: The run; what is measured so far is in it after each batch.
            losses_of: The model's negative log-likelihoods of a batch's targets in nats, [batch, seq_len].
            after: Called after each batch with the sequences done and those in all. Whatever it raises ends the
                evaluation where it is.
        """
        first, nats = state.evaluating
        while first < self._total:
            numbers = list(range(first, min(first + self._batch_size, self._total)))
            nats += float(losses_of(self._batches.sequences(numbers)).cpu().double().sum())
            first += len(numbers)
            state.evaluating = first, nats
            after(first, self._total)
        state.evaluating = 0, 0.0
        state.evaluated.append((state.step, state.spent_s, nats))
