"""One run: one plan, one seed, from the first step or from its last checkpoint to its held-out quality."""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from torch import Tensor

from openwork.errors import AnnotationWarning, OpenworkError, StudyError
from openwork.layout import BlockLayout
from openwork.measure import PeakMemory, training_bytes
from openwork.study.batches import Batch, Batches
from openwork.study.checkpoint_source import CheckpointSource
from openwork.study.config import DENSE, StudyConfig
from openwork.study.contender import Contender
from openwork.study.corpus import Corpus
from openwork.study.environment import code_version
from openwork.study.evaluate import Evaluator, evaluation_due
from openwork.study.masks import read_mask
from openwork.study.metric import metric_of
from openwork.study.model import make_model
from openwork.study.model_source import model_source
from openwork.study.notes import SequenceNotes
from openwork.study.planned import PlanOfRun
from openwork.study.schedule import rate_share
from openwork.study.state import RunState, load_checkpoint, save_checkpoint
from openwork.study.tokenizer import TextTokenizer
from openwork.study.tokens import TokenStream
from openwork.study.uses import find_uses
from openwork.train.optimizer import make_optimizer

__all__ = ["Interrupted", "StudyData", "Trainer"]

_REPORT_SECONDS = 0.2

Report = Callable[[dict[str, Any]], None]
"""Takes what happened, as JSON values."""


class Interrupted(KeyboardInterrupt):
    """The run was asked to stop and has saved its state."""


@dataclass(frozen=True)
class StudyData:
    """What every run of a study reads."""

    corpus: Corpus
    tokenizer: TextTokenizer
    training: TokenStream
    held_out: TokenStream


class Trainer:
    """Trains one plan from one seed and measures it.

    Args:
        config: The study; its `device` is resolved.
        contender: The plan.
        seed: Decides first weights and order of data.
        data: Tokens and texts.
        directory: Where checkpoints go.
        report: Told of every few steps.
        stop: Asked after each step; where it says yes the state is saved and `Interrupted` raised.
    """

    def __init__(
        self,
        config: StudyConfig,
        contender: Contender,
        seed: int,
        data: StudyData,
        directory: Path,
        *,
        report: Report = lambda event: None,
        stop: Callable[[], bool] = lambda: False,
    ) -> None:
        self.config, self.contender, self.seed, self.data = config, contender, seed, data
        self._checkpoint = directory / "checkpoint.pt"
        self._report, self._stop = report, stop
        self._device = torch.device(config.device)
        self._last_save = self._last_report = -math.inf
        self.state = RunState()

    def run(self) -> RunState:
        """Trains to the end and measures held-out quality; goes on from the last checkpoint where there is one.

        Raises:
            StudyError: A loss, of training or of held-out text, is no longer finite, memory is short, or a checkpoint
                cannot be written.
            Interrupted: `stop` said so.
        """
        loaded = load_checkpoint(self._checkpoint)
        devices = [self._device] if self._device.type == "cuda" else []
        with self._explained(), PeakMemory(self._device.type) as memory, torch.random.fork_rng(devices):
            torch.manual_seed(self.seed)
            self._build()
            if loaded is not None:
                self._restore(*loaded)
                del loaded
            self.state.sessions += 1
            if (code := code_version()) not in self.state.code:
                self.state.code.append(code)
            self._memory = memory
            memory.restart()
            self._last_save = time.monotonic()
            try:
                self._train()
            except Interrupted:
                self._save()
                raise
        return self.state

    def save_model(self, directory: Path) -> None:
        """Writes the model that was trained to a folder, where it is one of transformers; the run is over then."""
        if isinstance(self._model.source, CheckpointSource):
            from openwork.study.saved import save_model

            # of a run that was stopped after its last step, nothing has plugged in the plan yet
            self._use()
            save_model(self._model, self.config, self.contender, self.data.tokenizer, directory)

    def _build(self) -> None:
        config = self.config
        assert config.lr is not None
        self._model = make_model(config, self.data.tokenizer.vocab_size)
        self.model = self._model.module.to(self._device)
        self._optimizer = make_optimizer(
            self.model,
            config.optimizer,
            lr=config.lr,
            matrix_lr=config.matrix_lr or config.lr,
            weight_decay=config.weight_decay,
        )
        needs = self.contender.needs
        annotator = None if self.contender.plan is None else self.contender.plan.annotator
        root, tokenizer, features = self.data.corpus.root, self.data.tokenizer, self.data.corpus.features

        def batches(stream: TokenStream) -> Batches:
            notes = SequenceNotes(stream, root, tokenizer, needs, annotator, features) if needs else None
            return Batches(stream, seq_len=config.seq_len, batch_size=config.batch_size, seed=self.seed, notes=notes)

        self._training = batches(self.data.training)
        available = self.data.held_out.num_sequences(config.seq_len)
        uses = find_uses(config, self.data.held_out, root, tokenizer)
        self._evaluator = Evaluator(config, batches(self.data.held_out), available, uses)
        mask, heads = self.contender.mask, {layer.q_heads for layer in self._model.layers}
        layout = None if mask is None else read_mask(mask, config.seq_len, heads)
        self._metric = metric_of(config, self.contender, self.data.corpus, self.data.tokenizer)
        eval_tokens = config.num_curve_sequences(available) * config.seq_len
        self._planned = PlanOfRun(config, self.contender, self._model, eval_tokens, layout)

    def _restore(self, state: RunState, content: dict[str, Any]) -> None:
        self.state = state
        self._model.load_trained_state(content["model"])
        self._optimizer.load_state_dict(content["optimizer"])
        torch.set_rng_state(content["rng"])
        if self._device.type == "cuda":
            torch.cuda.set_rng_state(content["cuda_rng"], self._device)

    def _save(self) -> None:
        peak = self._memory.read()
        self.state.peak_bytes = max(self.state.peak_bytes, peak or 0)
        start = self._memory.start_bytes
        self.state.start_bytes = min(self.state.start_bytes or start, start)
        self.state.fixed_bytes = training_bytes(self.model, *self._optimizer.parts.values())
        tensors: dict[str, Any] = {
            "model": self._model.trained_state(),
            "optimizer": self._optimizer.state_dict(),
            "rng": torch.get_rng_state(),
        }
        if self._device.type == "cuda":
            tensors["cuda_rng"] = torch.cuda.get_rng_state(self._device)
        save_checkpoint(self._checkpoint, self.state, tensors)
        # a checkpoint's copy in memory is not what the plan needs
        self._memory.restart()
        self._last_save = time.monotonic()

    def _pause(self) -> None:
        """Between two pieces of work: stops where asked to, saves where it is time."""
        if self._stop():
            raise Interrupted
        if time.monotonic() - self._last_save >= self.config.checkpoint_seconds:
            self._save()

    @property
    def _done(self) -> bool:
        config, state = self.config, self.state
        out_of_steps = config.steps is not None and state.step >= config.steps
        return out_of_steps or (config.seconds is not None and state.spent_s >= config.seconds)

    def _train(self) -> None:
        state = self.state
        if self.config.tune is not None and not state.untuned:
            self._evaluate(whole=True, untuned=True)
        while True:
            if self._done:
                if not state.final:
                    self._evaluate(whole=True)
                break
            if evaluation_due(self.config, state):
                self._evaluate(whole=False)
            self._step()
            self._tell("step", loss=state.losses[-1])
            self._pause()
        self._save()

    def _use(self) -> None:
        """Plugs in the plan of the next step."""
        reason = self._planned.use(self.state)
        if reason is not None:
            self._report({"event": "schedule", "step": self.state.step, "reason": reason})

    def _layouts(self, batch: Batch) -> list[BlockLayout]:
        facts = None if self._planned.is_dense else batch.annotations
        with warnings.catch_warnings():
            # whether the data has a fact at all was asked before; one window of it may well have none
            warnings.simplefilter("ignore", AnnotationWarning)
            return self._model.prepare(self.config.seq_len, annotations=facts)

    def _step(self) -> None:
        config, state = self.config, self.state
        started = time.perf_counter()
        batch = self._training.training(state.step)
        began = time.perf_counter()
        self._use()
        parts = [(part, self._layouts(part)) for part in batch.split(config.accumulate)]
        compiled = time.perf_counter()
        share = rate_share(state.step, warmup_steps=config.warmup_steps, steps=config.steps)
        self._optimizer.set_rate(share)
        self._optimizer.zero_grad()
        value = 0.0
        for part, layouts in parts:
            loss = self._loss(part, layouts).mean() / len(parts)
            loss.backward()
            value += float(loss.detach())
        norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), config.clip_norm)
        for what, number in (("loss", value), ("gradient norm", float(norm))):
            self._require_finite(what, number)
        self._optimizer.step()
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        ended = time.perf_counter()
        if not state.backend and self._planned.is_dense == (self.contender.name == DENSE):
            state.backend = self._backend_of(parts[0][1][0])
        state.step += 1
        state.spent_s += ended - started
        state.losses.append(value)
        state.data_ms.append(1e3 * (began - started))
        state.layout_ms.append(1e3 * (compiled - began))
        state.step_ms.append(1e3 * (ended - began))
        everywhere = [layout for _, layouts in parts for layout in layouts]
        state.density.append(fmean(layout.density for layout in everywhere))
        state.block_density.append(fmean(layout.block_density for layout in everywhere))

    def _require_finite(self, what: str, number: float) -> None:
        if not math.isfinite(number):
            raise StudyError(
                f"the {what} became {number} at step {self.state.step} of plan {self.contender.name!r} (seed "
                f"{self.seed}). Start anew with --fresh and {self._lower_rates}, or a longer warm-up."
            )

    @property
    def _lower_rates(self) -> str:
        rates = {"--lr": self.config.lr, "--matrix-lr": self.config.matrix_lr}
        return " or ".join(f"a lower {name} (now {rate:g})" for name, rate in rates.items() if rate is not None)

    def _backend_of(self, layout: BlockLayout) -> str:
        """The backend that `"auto"` takes for the plan's attention."""
        dtype = torch.bfloat16 if self.config.dtype == "bfloat16" else torch.float32
        return self._model.backend_of(layout, batch=self.config.micro_batch_size, dtype=dtype, device=self._device)

    def _loss(self, batch: Batch, layouts: list[BlockLayout]) -> Tensor:
        tokens = torch.from_numpy(batch.tokens).to(self._device)
        targets = torch.from_numpy(batch.targets).to(self._device)
        with self._autocast():
            return self._model.token_losses(tokens, targets, layouts)

    def _autocast(self) -> AbstractContextManager[Any]:
        return torch.autocast(self._device.type, torch.bfloat16, enabled=self.config.dtype == "bfloat16")

    def _evaluate(self, *, whole: bool, untuned: bool = False) -> None:
        if not self.state.tally:
            # a checkpoint here keeps the training that led up to an evaluation, which may be long
            self._save()
        if untuned:
            self._planned.use_target()
        else:
            self._use()
        with self._model.evaluating():
            if self._metric is not None and whole:
                when = "untuned" if untuned else "final"
                if when not in self.state.metrics:
                    self._report({"event": "metric", "what": f"{self._metric.source.text}"})
                    self.state.metrics[when] = self._metric(self._model, self.seed)
            self._evaluator.run(
                self.state,
                lambda batch: self._loss(batch, self._layouts(batch)),
                self._after_batch,
                whole=whole,
                untuned=untuned,
            )

    def _after_batch(self, done: int, total: int) -> None:
        self._require_finite("held-out loss", self.state.tally["nats"])
        self._tell("evaluate", done=done, total=total)
        self._pause()

    def _tell(self, kind: str, **facts: Any) -> None:
        now = time.monotonic()
        if now - self._last_report >= _REPORT_SECONDS or self._done:
            self._last_report = now
            self._report({"event": kind, "step": self.state.step, "spent_s": self.state.spent_s, **facts})

    @contextmanager
    def _explained(self) -> Iterator[None]:
        """Turns a lack of memory, and what the user's own model raises, into one line."""
        try:
            yield
        except OpenworkError:
            raise
        except Exception as error:
            text = str(error).lower()
            if not isinstance(error, MemoryError | torch.OutOfMemoryError) and "can't allocate memory" not in text:
                source = model_source(self.config.model)
                if source is None or source.line_of(error) is None:
                    raise
                raise source.explain(error) from error
            raise StudyError(
                f"not enough memory for plan {self.contender.name!r} at --batch-size {self.config.batch_size} and "
                f"--seq-len {self.config.seq_len}; lower one of them, or try --accumulate and --checkpointing."
            ) from None
