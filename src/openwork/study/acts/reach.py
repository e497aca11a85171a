"""Act 2: what reaches what decides what can be learnt. Lookups in code, predicted from the mask and then measured."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, fields
from statistics import fmean
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from openwork.check import predicted_accuracy
from openwork.errors import ArgumentError, StudyError
from openwork.layout import BlockLayout
from openwork.nn import Decoder, DecoderConfig, set_plan
from openwork.nn.convolution import ShortConvolution
from openwork.patterns import parse_pattern
from openwork.plan import Plan
from openwork.study.acts.lookups import Planted, names_of, numbers_of, plant
from openwork.study.acts.stack import links_through
from openwork.study.environment import environment
from openwork.study.tokenizer import TextTokenizer
from openwork.train.optimizer import make_optimizer

__all__ = ["PLANS", "ReachConfig", "ReachResult", "ReachRow", "measure_reach"]

PLANS: Mapping[str, str] = {
    "dense": "Causal()",
    "window": "Causal() & Window(before=31)",
    "window + definitions": "Causal() & (Window(before=31) | Keys('definition') | Linked('use'))",
}
"""What is trained, by name."""

_PREDICTION_ERROR = 0.05
"""Accuracies closer than this to what was predicted are called equal to it."""

Progress = Callable[[float, str], None]
"""Told the share of the work that is done, 0 to 1, and what comes next."""


@dataclass(frozen=True, kw_only=True)
class ReachConfig:
    """Everything that decides what act 2 does."""

    length: int = 256
    """Tokens of each text."""
    num_far: int = 4
    """Lookups of each text whose definition is far above."""
    num_near: int = 4
    """Lookups of each text whose definition is just above."""
    texts: int = 512
    """Texts to train on."""
    test_texts: int = 64
    """Texts to judge on; none of them is trained on."""
    steps: int = 120
    """Optimizer steps of each plan."""
    batch_size: int = 16
    """Texts in each step."""
    dim: int = 64
    """Channels of the residual stream."""
    num_layers: int = 2
    """Blocks of the model."""
    heads: int = 2
    """Query, key and value heads."""
    conv_width: int = 4
    """Tokens that the short convolution mixes, itself counted."""
    conv_start: float = 1.0
    """Weight of each token in the convolution before training."""
    lr: float = 2e-2
    """Highest learning rate of AdamW."""
    matrix_lr: float = 2e-2
    """Highest learning rate of Muon."""
    warmup_steps: int = 10
    """Optimizer steps in which the rates rise."""
    eval_every: int = 15
    """Optimizer steps between measurements of the accuracy."""
    seed: int = 0
    """Decides texts, first weights and order."""

    def __post_init__(self) -> None:
        for name in ("num_far", "num_near", "texts", "test_texts", "steps", "batch_size", "eval_every", "num_layers"):
            if getattr(self, name) < 1:
                raise ArgumentError(f"ReachConfig {name} must be 1 or more; got {getattr(self, name)}.")
        if self.num_near % 2:
            raise ArgumentError(f"ReachConfig num_near counts in pairs; got {self.num_near}, give an even number.")
        if self.conv_width < 2:
            raise ArgumentError(f"ReachConfig conv_width counts the token itself, so 2 or more; got {self.conv_width}.")


@dataclass(frozen=True, kw_only=True)
class ReachRow:
    """One plan."""

    name: str
    """What it is called."""
    pattern: str
    """Its text."""
    reached: float
    """Share of the judged lookups whose definition is reached in the model's layers."""
    reached_far: float
    """The same for far definitions."""
    predicted: float
    """Accuracy that follows from `reached`: what is reached is found, the rest guessed."""
    curve: tuple[tuple[int, float], ...]
    """Measured accuracy on the judged texts: optimizer step, share of right answers."""
    accuracy_far: float
    """Of far lookups, at the end."""
    accuracy_near: float
    """Of near lookups, at the end."""
    seconds: float
    """Training time, layouts included, in seconds."""

    @property
    def accuracy(self) -> float:
        """Of all lookups, at the end."""
        return self.curve[-1][1]

    @property
    def as_predicted(self) -> bool:
        """Whether training came out where the mask said it would."""
        return abs(self.accuracy - self.predicted) <= _PREDICTION_ERROR

    def steps_to(self, accuracy: float) -> int | None:
        """First measured step at which the accuracy was at least so high."""
        return next((step for step, value in self.curve if value >= accuracy), None)


@dataclass(frozen=True, kw_only=True)
class ReachResult:
    """What act 2 found."""

    config: ReachConfig
    """What was asked for."""
    rows: tuple[ReachRow, ...]
    """Every plan."""
    num_lookups: int
    """Lookups that were judged."""
    num_choices: int
    """Numbers that a definition may return: guessing is right once in so many times."""
    example: str
    """One of the texts, up to its last lookup."""
    environment: Mapping[str, Any]
    """Machine and versions."""

    def to_dict(self) -> dict[str, Any]:
        """The result as JSON values."""
        return asdict(self)

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> ReachResult:
        """The result that `to_dict` wrote."""
        values = {f.name: content[f.name] for f in fields(cls)}
        values["config"] = ReachConfig(**content["config"])
        values["rows"] = tuple(
            ReachRow(**{**row, "curve": tuple((step, value) for step, value in row["curve"])})
            for row in content["rows"]
        )
        return cls(**values)


def measure_reach(
    files: Sequence[str],
    tokenizer: TextTokenizer,
    tokenizer_json: str,
    config: ReachConfig | None = None,
    *,
    progress: Progress = lambda share, what: None,
) -> ReachResult:
    """Trains one small model under each plan for equal steps, and sets its accuracy beside what the mask predicts.

    The prediction is made before training and knows the mask alone: with a share `f` of lookups whose definition
    reaches the asking token in as many layers as the model has, `f + (1 - f) / V` of the answers can be right, where
    `V` numbers are drawn from. The
    short convolution counts as a layer of its own, `Window(before=width - 1)`.

    Args:
        files: Texts of Python files, real ones.
        tokenizer: Makes tokens.
        tokenizer_json: Its `tokenizer.json`, for the names of definitions.
        config: Sizes and steps.
        progress: Told of every few steps.

    Raises:
        DataError: The files cannot hold the lookups.
        StudyError: A loss is no longer finite.
    """
    config = config or ReachConfig()
    progress(0.0, "planting lookups")
    names, choices = names_of(tokenizer_json), numbers_of(tokenizer_json)
    sizes = {"length": config.length, "num_far": config.num_far, "num_near": config.num_near}
    train = plant(files, tokenizer, names, choices, count=config.texts, seed=config.seed, **sizes)
    test = plant(files, tokenizer, names, choices, count=config.test_texts, seed=config.seed + 1, **sizes)
    rows = _in_threads(config, tokenizer.vocab_size, len(choices), train, test, progress)
    progress(1.0, "done")
    last = max(link.query_line for link in test[0].lookups)
    return ReachResult(
        config=config,
        rows=tuple(rows),
        num_choices=len(choices),
        num_lookups=sum(len(planted.lookups) for planted in test),
        example="\n".join(test[0].text.split("\n")[:last]),
        environment=environment("cpu"),
    )


def _in_threads(
    config: ReachConfig,
    vocab_size: int,
    num_choices: int,
    train: Sequence[Planted],
    test: Sequence[Planted],
    progress: Progress,
) -> list[ReachRow]:
    """All plans, as many at a time as there are threads: so small a model is no faster on two."""
    shares = dict.fromkeys(PLANS, 0.0)
    stop = threading.Event()

    def one(name: str, model: Decoder) -> ReachRow:
        def tell(share: float, what: str) -> None:
            if stop.is_set():
                raise KeyboardInterrupt
            shares[name] = share
            progress(sum(shares.values()) / len(shares), f"{name}: {what}")

        # a thread takes the setting for its own only once it has been asked for it
        torch.get_num_threads()
        torch.set_num_threads(1)
        return _row(name, model, num_choices, train, test, config, tell)

    models = {name: _model(Plan(default=parse_pattern(text)), vocab_size, config) for name, text in PLANS.items()}
    before = torch.get_num_threads()
    try:
        with ThreadPoolExecutor(max_workers=before) as pool:
            futures = [pool.submit(one, name, model) for name, model in models.items()]
            try:
                return [future.result() for future in futures]
            except BaseException:
                stop.set()
                raise
    finally:
        # what a thread set for itself is what threads that come later would start with
        torch.set_num_threads(before)


def _row(
    name: str,
    model: Decoder,
    num_choices: int,
    train: Sequence[Planted],
    test: Sequence[Planted],
    config: ReachConfig,
    progress: Progress,
) -> ReachRow:
    plan = model.plan
    reached = [flag for planted in test for flag in _reached(plan, planted, config)]
    far = [flag for planted in test for flag in planted.far]
    started = time.perf_counter()
    curve, right = _train(model, train, test, config, progress)
    share = fmean(reached)
    return ReachRow(
        name=name,
        pattern=repr(plan.default),
        reached=share,
        reached_far=fmean(flag for flag, is_far in zip(reached, far, strict=True) if is_far),
        predicted=predicted_accuracy(share, num_choices),
        curve=curve,
        accuracy_far=fmean(good for good, is_far in zip(right, far, strict=True) if is_far),
        accuracy_near=fmean(good for good, is_far in zip(right, far, strict=True) if not is_far),
        seconds=time.perf_counter() - started,
    )


def _reached(plan: Plan, planted: Planted, config: ReachConfig) -> list[bool]:
    """Which lookups of a text the model could answer."""
    hops = links_through(
        plan,
        planted.lookups,
        config.length,
        num_layers=config.num_layers,
        conv_width=config.conv_width,
        annotations=planted.annotations,
    )
    return [layers is not None for layers in hops]


class _Batches:
    """The texts in fixed groups, each with its layouts, which are compiled once."""

    def __init__(self, texts: Sequence[Planted], size: int) -> None:
        self.groups = [texts[first : first + size] for first in range(0, len(texts), size)]
        self._layouts: dict[int, list[BlockLayout]] = {}

    def layouts(self, model: Decoder, number: int, length: int) -> list[BlockLayout]:
        shared = not model.plan.needs
        place = 0 if shared else number
        if place not in self._layouts:
            facts = None if shared else [planted.annotations for planted in self.groups[number]]
            self._layouts[place] = model.prepare(length, annotations=facts)
        return self._layouts[place]


def _model(plan: Plan, vocab_size: int, config: ReachConfig) -> Decoder:
    """The same first weights for every plan."""
    with torch.random.fork_rng([]):
        torch.manual_seed(config.seed)
        model = Decoder(
            DecoderConfig(
                vocab_size=vocab_size,
                dim=config.dim,
                num_layers=config.num_layers,
                q_heads=config.heads,
                kv_heads=config.heads,
                mlp_dim=2 * config.dim,
                qk_norm=True,
                zero_outputs=True,
                conv_width=config.conv_width,
            )
        )
    # a convolution that starts as the identity leaves queries and keys without names to compare for many steps
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, ShortConvolution):
                module.weight.fill_(config.conv_start)
    set_plan(model, plan)
    return model


def _train(
    model: Decoder,
    train: Sequence[Planted],
    test: Sequence[Planted],
    config: ReachConfig,
    progress: Progress,
) -> tuple[tuple[tuple[int, float], ...], list[bool]]:
    optimizer = make_optimizer(model, lr=config.lr, matrix_lr=config.matrix_lr, weight_decay=0.0)
    batches, tests = _Batches(train, config.batch_size), _Batches(test, config.batch_size)
    order = np.random.default_rng(config.seed)
    queue: list[int] = []
    curve: list[tuple[int, float]] = []
    right: list[bool] = []
    for step in range(config.steps):
        progress(step / config.steps, f"step {step}, accuracy {curve[-1][1]:.2f}" if curve else f"step {step}")
        queue = queue or order.permutation(len(batches.groups)).tolist()
        number = queue.pop()
        scores, answers = _answers(model, batches, number, config.length)
        loss = F.cross_entropy(scores, answers)
        if not torch.isfinite(loss):
            raise StudyError(f"the loss of lookups became {float(loss)} at step {step}; use lower learning rates.")
        # up over the warm-up, down to a tenth at the end
        rise = min(1.0, (step + 1) / max(1, config.warmup_steps))
        optimizer.set_rate(min(rise, max(0.1, 2 * (1 - step / config.steps))))
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        if (step + 1) % config.eval_every == 0 or step + 1 == config.steps:
            right = _right(model, tests, config.length)
            curve.append((step + 1, fmean(right)))
    return tuple(curve), right


def _answers(model: Decoder, batches: _Batches, number: int, length: int) -> tuple[Tensor, Tensor]:
    """Scores of the next token where a lookup asks, and the tokens that are right."""
    group = batches.groups[number]
    tokens = torch.from_numpy(np.stack([planted.ids for planted in group]))
    hidden = model.embed(tokens, batches.layouts(model, number, length))
    rows = [row for row, planted in enumerate(group) for _ in planted.lookups]
    places = [link.query for planted in group for link in planted.lookups]
    scores = F.linear(hidden[rows, places], model.embedding.weight)
    return scores, torch.from_numpy(np.concatenate([planted.answers for planted in group]))


@torch.no_grad()
def _right(model: Decoder, tests: _Batches, length: int) -> list[bool]:
    found: list[bool] = []
    for number in range(len(tests.groups)):
        scores, answers = _answers(model, tests, number, length)
        found += (scores.argmax(dim=-1) == answers).tolist()
    return found
