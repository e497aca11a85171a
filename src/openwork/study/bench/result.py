"""What a micro-run found: figures without words, which survive JSON."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from statistics import median
from typing import Any

from openwork.measure import Spread, spread
from openwork.study.bench.config import DENSE, MASK, SPARSE
from openwork.study.bench.gradients import GradientCheck

__all__ = ["BenchResult", "BenchRow"]


@dataclass(frozen=True, kw_only=True)
class BenchRow:
    """One way to compute the model at one length and batch size."""

    way: str
    """`DENSE`, `MASK`, `EAGER` or `SPARSE`."""
    plan: str
    """The plan's name; empty for dense attention."""
    seq_len: int
    """Tokens of each sequence."""
    batch_size: int
    """Sequences in a step."""
    backend: str
    """What computed attention."""
    useful_flops: float
    """FLOPs of attention's allowed pairs in a step."""
    executed_flops: float
    """FLOPs of what attention computes in a step: whole blocks, or every pair under a mask."""
    other_flops: float
    """FLOPs of the rest of the model in a step."""
    held_bytes: int
    """The mask or the layouts, in bytes; in memory before the step begins."""
    theory_bytes: int
    """What a step has to hold beyond weights and batch, in bytes: see `BenchResult.theory_meaning`."""
    compile_s: float
    """Time to compile the layouts or to make the mask, in seconds; no step repeats it."""
    skipped: str = ""
    """Why it was not run; empty where it was."""
    samples_s: tuple[float, ...] = ()
    """Time of each timed step, in seconds, round by round."""
    processor_s: tuple[float, ...] = ()
    """Processor time of each timed step over all threads, in seconds: what else runs changes it less."""
    extra_bytes: int | None = None
    """Most memory of a step beyond what was there before it, in bytes; `None` where unknown."""
    first_token_s: tuple[float, ...] = ()
    """Time from a prompt of `seq_len` tokens to the first token, in seconds, of each generation."""
    token_s: tuple[float, ...] = ()
    """Time of each later token, in seconds."""

    @property
    def seconds(self) -> float:
        """Median time of a step."""
        return median(self.samples_s)

    @property
    def times(self) -> Spread | None:
        """Median with 10th and 90th percentile, in seconds; `None` where it was not run."""
        return spread(self.samples_s)

    @property
    def flops(self) -> float:
        """FLOPs that a step needs: attention's useful ones and the rest."""
        return self.useful_flops + self.other_flops

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> BenchRow:
        """The row that `asdict` wrote."""
        values: dict[str, Any] = {
            name: tuple(value) if isinstance(value, list) else value for name, value in content.items()
        }
        return cls(**values)


@dataclass(frozen=True, kw_only=True)
class BenchResult:
    """What a micro-run found."""

    model: str
    """What the model is called."""
    weights: str
    """Where its numbers come from."""
    num_parameters: int
    """Numbers in its parameters."""
    num_layers: int
    """Its self-attention layers."""
    causal: bool
    """Whether a token sees none after it."""
    forward_only: bool
    """Whether a step is a forward pass without gradients."""
    plans: Mapping[str, str]
    """Name of each plan to its text."""
    rows: tuple[BenchRow, ...]
    """Every way at every length and batch size."""
    checks: tuple[GradientCheck, ...]
    """One for each plan; none for a forward pass alone."""
    memory_meaning: str
    """What was measured as memory."""
    theory_meaning: str
    """What is counted as theory."""
    eager_bytes: Mapping[str, int]
    """`length x batch` to what attention that keeps all scores would keep of them, in bytes, by arithmetic."""
    environment: Mapping[str, Any]
    """Machine and versions."""

    def row(self, way: str, plan: str, seq_len: int, batch_size: int) -> BenchRow:
        """The figures of one way."""
        wanted = (way, plan if way != DENSE else "", seq_len, batch_size)
        return next(row for row in self.rows if (row.way, row.plan, row.seq_len, row.batch_size) == wanted)

    @property
    def runs(self) -> tuple[tuple[int, int], ...]:
        """Sequence length and batch size of every run."""
        return tuple(dict.fromkeys((row.seq_len, row.batch_size) for row in self.rows))

    def speedup(self, row: BenchRow, over: str = DENSE) -> Spread | None:
        """Time of another way over this row's, round by round: median, 10th and 90th percentile.

        Rounds are compared one by one, so that what else the machine did in a round meets both sides. `None` where one
        of the two was not run.
        """
        other = self.row(over, row.plan, row.seq_len, row.batch_size)
        return spread([theirs / own for theirs, own in zip(other.samples_s, row.samples_s, strict=False)])

    def attention_ideal(self, row: BenchRow) -> float:
        """Dense pairs over allowed pairs, weighted by each layer's heads and channels."""
        dense = self.row(DENSE, "", row.seq_len, row.batch_size)
        return dense.useful_flops / max(1.0, row.useful_flops)

    def step_ideal(self, row: BenchRow) -> float:
        """FLOPs of the dense step over those that the row's pairs need."""
        return self.row(DENSE, "", row.seq_len, row.batch_size).flops / row.flops

    @property
    def passed(self) -> bool:
        """Whether no gradient check speaks against a plan."""
        return all(check.passed for check in self.checks)

    def to_dict(self) -> dict[str, Any]:
        """All figures as JSON values, with the medians and ratios that follow from the samples."""
        content = asdict(self)
        for row, written in zip(self.rows, content["rows"], strict=True):
            written["times_s"] = row.times and row.times._asdict()
            written["attention_ideal"], written["step_ideal"] = self.attention_ideal(row), self.step_ideal(row)
            for over, name in ((DENSE, "over_dense"), (MASK, "over_mask")):
                ratio = self.speedup(row, over) if row.way == SPARSE else None
                written[name] = ratio and ratio._asdict()
        return {"openwork_bench": 1, **content, "passed": self.passed}

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> BenchResult:
        """The result that `to_dict` wrote."""
        values = {f.name: content[f.name] for f in fields(cls)}
        own = {f.name for f in fields(BenchRow)}
        values["rows"] = tuple(
            BenchRow.from_dict({name: value for name, value in row.items() if name in own}) for row in content["rows"]
        )
        values["checks"] = tuple(map(GradientCheck.from_dict, content["checks"]))
        return cls(**values)
