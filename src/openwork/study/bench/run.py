"""The micro-run itself: every way once for its memory, then round after round for its time."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from openwork.errors import StudyError
from openwork.measure import PeakMemory, free_memory, release_free_memory
from openwork.plan import Plan
from openwork.study.bench.config import DENSE, EAGER, MASK, SPARSE, BenchConfig
from openwork.study.bench.figures import (
    attention_bytes,
    attention_flops,
    eager_bytes,
    gradient_bytes,
    kept_bytes,
    other_flops,
)
from openwork.study.bench.generation import time_generation
from openwork.study.bench.gradients import GradientCheck, check_gradients, gradients_of
from openwork.study.bench.result import BenchResult, BenchRow
from openwork.study.bench.source import bench_model
from openwork.study.bench.subject import BenchModel, Inputs, Way
from openwork.study.environment import environment

__all__ = ["run_bench"]

Progress = Callable[[int, int, str], None]
"""Told how many steps are done, of how many, and what comes next."""

_USUAL_TOKENS = 2048
_CHECK_TOKENS = 512
"""Tokens that gradients are compared at: the reference keeps its scores in float64."""
_COUNT_TOKENS = 256
"""Tokens that what autograd keeps is counted on."""
_MASK_COPIES = 5
"""Bytes of a pair under a mask: its boolean, and the float that torch makes of it."""
_OVER_THEORY = 1.4
"""What a step needs over what arithmetic says that it holds, at most: 1.2 to 1.4 were measured
(reports/2026-11-26-model-steps.md), for what is let go of after what follows is there."""
_GENERATIONS = 3
_THEORY = (
    "gradients of the parameters; what autograd keeps of the dense step for its backward pass, and the gradient of the "
    "largest of it (counted on {tokens} tokens of one sequence, and taken as linear in tokens); the mask or the layouts"
)
_THEORY_FORWARD = "query, key, value and output of the widest attention layer; the mask or the layouts"


@dataclass
class _Trial:
    """One way of one run, on its way to a row."""

    plan: str
    way: Way
    row: BenchRow
    samples_s: list[float] = field(default_factory=list)
    processor_s: list[float] = field(default_factory=list)


def run_bench(config: BenchConfig, progress: Progress = lambda done, total, what: None) -> BenchResult:
    """Measures one model dense, with each plan as a mask, and sparse under each plan.

    At each length and batch size every way runs once untimed, for its memory and as a warm-up; then rounds follow in
    which each way runs once, in an order that turns from round to round, so that what else the machine does meets all.

    Args:
        config: What to measure.
        progress: Told before each step.

    Raises:
        StudyError: The model is none that can be measured, or a sequence is longer than it reads.
        PlanError: A plan does not fit the model.
    """
    model = bench_model(config)
    lengths = config.seq_lens or (min(_USUAL_TOKENS, model.most_tokens or _USUAL_TOKENS),)
    plans = {contender.name: _plan_of(contender) for contender in config.contenders}
    _require_sensible(config, model, lengths, plans)
    runs = [(seq_len, batch_size) for seq_len in lengths for batch_size in config.batch_sizes]
    bench = _Bench(config, model, plans, progress, len(runs))
    checks = {} if config.forward_only else {name: bench.check(name, max(lengths)) for name in plans}
    rows: list[BenchRow] = []
    eager: dict[str, int] = {}
    for number, (seq_len, batch_size) in enumerate(runs):
        dense = bench.measure(seq_len, batch_size, rows, checks, last=number + 1 == len(runs))
        eager[f"{seq_len} x {batch_size}"] = eager_bytes(model, dense, batch_size)
    bench.tell("done", finished=True)
    meaning = PeakMemory(config.device).meaning.replace(" of the plan's own process, libraries included", "")
    tokens = min(_COUNT_TOKENS, min(lengths))
    return BenchResult(
        model=model.title,
        weights=model.weights,
        num_parameters=model.num_parameters,
        num_layers=len(model.shapes),
        causal=model.causal,
        forward_only=config.forward_only,
        plans={name: repr(plan) for name, plan in plans.items()},
        rows=tuple(rows),
        checks=tuple(checks.values()),
        memory_meaning=f"{meaning}, beyond what was there before the step",
        theory_meaning=_THEORY_FORWARD if config.forward_only else _THEORY.format(tokens=tokens),
        eager_bytes=eager,
        environment=environment(config.device),
    )


def _plan_of(contender: Any) -> Plan:
    if contender.plan is None:
        raise StudyError(f"{contender.name!r} is a mask file; openwork bench takes patterns and plans.")
    plan: Plan = contender.plan
    return plan


def _require_sensible(config: BenchConfig, model: BenchModel, lengths: tuple[int, ...], plans: dict[str, Plan]) -> None:
    """Whatever can be refused before anything is computed."""
    for seq_len in lengths:
        most = model.most_tokens
        if most is not None and seq_len + config.new_tokens > most:
            asked = f"{seq_len:,}" + (f" and --generate {config.new_tokens}" if config.new_tokens else "")
            raise StudyError(f"--seq-len {asked}: {model.title} reads at most {most:,} tokens.")
    if config.new_tokens and not model.generates:
        raise StudyError(f"--generate: {model.title} cannot continue a prompt; it takes a causal transformers model.")
    for name, plan in plans.items():
        if plan.needs:
            fact, kind = next(iter(plan.needs.items()))
            raise StudyError(
                f"{name!r} reads the {kind} {fact!r}, but a micro-run is on random tokens, which say nothing; "
                "`openwork study` trains such a plan on a text."
            )
        model.require_fits(plan)


class _Bench:
    """What the runs of one call share."""

    def __init__(
        self, config: BenchConfig, model: BenchModel, plans: dict[str, Plan], progress: Progress, num_runs: int
    ) -> None:
        self._config, self._model, self._plans, self._progress = config, model, plans, progress
        num_ways = 1 + (3 if config.eager else 2) * len(plans)
        self._done = 0
        checks = 0 if config.forward_only else len(plans)
        generations = (1 + len(plans)) * _GENERATIONS if config.new_tokens else 0
        self._total = checks + num_runs * (num_ways * (1 + config.steps) + generations)
        self._kept: float | None = None

    def tell(self, what: str, *, finished: bool = False) -> None:
        """Says what comes next."""
        self._progress(self._total if finished else self._done, self._total, what)
        self._done += 1

    def check(self, name: str, longest: int) -> GradientCheck:
        """Gradients of one plan beside the reference."""
        self.tell(f"gradients of {name}")
        seq_len = min(_CHECK_TOKENS, longest)
        return check_gradients(
            self._model,
            self._plans[name],
            name=name,
            seq_len=seq_len,
            backend=self._config.backend,
            seed=self._config.seed,
        )

    def measure(
        self, seq_len: int, batch_size: int, rows: list[BenchRow], checks: dict[str, GradientCheck], *, last: bool
    ) -> Way:
        """One run: appends its rows, and gives the dense way."""
        self._count_kept(min(_COUNT_TOKENS, seq_len))
        inputs = self._model.inputs(batch_size, seq_len, self._config.seed)
        trials = self._trials(seq_len, batch_size)
        where = f"{seq_len:,} tokens x {batch_size}"
        found: dict[tuple[str, str], dict[str, Tensor]] = {}
        for trial in trials:
            self.tell(f"{where}: {_label(trial)}, memory")
            if trial.row.skipped:
                continue
            gradients, extra = self._memory(trial.way, inputs)
            trial.row = replace(trial.row, extra_bytes=extra)
            if last and trial.way.name in (MASK, SPARSE):
                found[trial.plan, trial.way.name] = gradients
                if trial.way.name == SPARSE and trial.plan in checks:
                    checks[trial.plan] = _with_largest(checks[trial.plan], gradients, found.get((trial.plan, MASK)))
                    found.clear()
            del gradients
        started = time.monotonic()
        for turn in range(self._config.steps):
            limit = self._config.seconds
            if turn and limit is not None and time.monotonic() - started > limit:
                self._done += (self._config.steps - turn) * len(trials)
                break
            # no way is always the first after the pause between two rounds
            shift = turn % len(trials)
            for trial in (*trials[shift:], *trials[:shift]):
                self.tell(f"{where}: {_label(trial)}, round {turn + 1}")
                if not trial.row.skipped:
                    self._timed(trial, inputs)
        if self._config.new_tokens:
            self._generate(trials, inputs, where)
        rows += [
            replace(trial.row, samples_s=tuple(trial.samples_s), processor_s=tuple(trial.processor_s))
            for trial in trials
        ]
        return trials[0].way

    def _trials(self, seq_len: int, batch_size: int) -> list[_Trial]:
        model, backend = self._model, self._config.backend
        trials = [self._trial("", model.dense(seq_len), batch_size)]
        for name, plan in self._plans.items():
            trials.append(self._trial(name, model.masked(plan, seq_len), batch_size))
            if self._config.eager:
                trials.append(self._trial(name, model.masked(plan, seq_len, eager=True), batch_size))
            trials.append(self._trial(name, model.sparse(plan, seq_len, backend), batch_size))
        return trials

    def _trial(self, plan: str, way: Way, batch_size: int) -> _Trial:
        config, model, seq_len = self._config, self._model, way.layouts[0].q_len
        flops = attention_flops(model, way, batch_size, forward_only=config.forward_only)
        theory = 0 if way.name == DENSE else way.held_bytes
        if way.name == EAGER:
            # a pass without gradients has scores and probabilities of one layer at a time
            kept = eager_bytes(model, way, batch_size)
            theory += 2 * kept // len(model.shapes) if config.forward_only else kept
        if config.forward_only:
            theory += attention_bytes(model, batch_size, seq_len)
        else:
            theory += gradient_bytes(model) + int((self._kept or 0.0) * batch_size * seq_len)
        row = BenchRow(
            way=way.name,
            plan=plan,
            seq_len=seq_len,
            batch_size=batch_size,
            backend=", ".join(flops.backends),
            useful_flops=flops.useful,
            executed_flops=flops.executed,
            other_flops=other_flops(model, batch_size, seq_len, forward_only=config.forward_only),
            held_bytes=way.held_bytes,
            theory_bytes=theory,
            compile_s=way.compile_s,
            skipped=self._too_much(way, theory),
        )
        return _Trial(plan, way, row)

    def _too_much(self, way: Way, theory: int) -> str:
        """Why a way is left out; empty where it fits."""
        there = free_memory(self._config.device)
        # the weights are there already
        needed = _OVER_THEORY * theory + (way.held_bytes * (_MASK_COPIES - 1) if way.name in (MASK, EAGER) else 0)
        if there is None or needed <= there:
            return ""
        return f"needs about {needed / 1e9:.1f} GB, and {there / 1e9:.1f} GB are free"

    def _count_kept(self, seq_len: int) -> None:
        """Bytes for each token that the dense step keeps for its backward pass."""
        if self._kept is None and not self._config.forward_only:
            way, inputs = self._model.dense(seq_len), self._model.inputs(1, seq_len, self._config.seed)
            self._kept = kept_bytes(way.loss, way.module, inputs) / seq_len

    def _step(self, way: Way, inputs: Inputs) -> None:
        if self._config.forward_only:
            with torch.no_grad():
                way.forward(inputs)
        else:
            way.loss(inputs).backward()

    def _memory(self, way: Way, inputs: Inputs) -> tuple[dict[str, Tensor], int | None]:
        """The gradients, and the most memory beyond what was there."""
        # what an earlier step freed is given back first, or this one would take it and count nothing
        release_free_memory()
        with PeakMemory(self._config.device) as memory:
            held = memory.start_bytes or _allocated(self._config.device)
            if self._config.forward_only:
                self._step(way, inputs)
                gradients: dict[str, Tensor] = {}
            else:
                gradients = gradients_of(way, inputs)
            self._synchronize()
        return gradients, None if memory.peak_bytes is None else max(0, memory.peak_bytes - held)

    def _timed(self, trial: _Trial, inputs: Inputs) -> None:
        trial.way.module.zero_grad(set_to_none=True)
        self._synchronize()
        processor, started = time.process_time(), time.perf_counter()
        self._step(trial.way, inputs)
        self._synchronize()
        trial.samples_s.append(time.perf_counter() - started)
        trial.processor_s.append(time.process_time() - processor)

    def _generate(self, trials: list[_Trial], inputs: Inputs, where: str) -> None:
        """Time to the first token and of each later one, dense and sparse, generations interleaved."""
        able = [trial for trial in trials if trial.way.name in (DENSE, SPARSE)]
        for turn in range(_GENERATIONS):
            for trial in able:
                self.tell(f"{where}: {_label(trial)}, generation {turn + 1}")
                if trial.row.skipped:
                    continue
                first, later = time_generation(self._model, trial.way, inputs, self._config.new_tokens)
                trial.row = replace(
                    trial.row,
                    first_token_s=(*trial.row.first_token_s, first),
                    token_s=(*trial.row.token_s, *later),
                )

    def _synchronize(self) -> None:
        if self._config.device == "cuda":
            torch.cuda.synchronize()


def _label(trial: _Trial) -> str:
    return trial.way.name if not trial.plan else f"{trial.plan}, {trial.way.name}"


def _with_largest(check: GradientCheck, sparse: dict[str, Tensor], masked: dict[str, Tensor] | None) -> GradientCheck:
    """The check with what the largest run's gradients say."""
    finite = all(bool(gradient.isfinite().all()) for gradient in sparse.values())
    difference = None
    if masked is not None:
        # a parameter that one of the two does not reach has a gradient of zero there
        apart = sum(float((masked[name] - sparse.get(name, 0.0)).double().square().sum()) for name in masked)
        size = sum(float(gradient.double().square().sum()) for gradient in masked.values())
        difference = (apart / size) ** 0.5 if size else apart**0.5
    return replace(check, largest_finite=finite, largest_difference=difference)


def _allocated(device: str) -> int:
    return int(torch.cuda.memory_allocated()) if device == "cuda" else 0
