"""Two studies side by side: what differs in what was asked, and what differs in what came out, beyond noise."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from openwork.measure import Interval, paired_interval, separate_interval
from openwork.study.config import CONTROL
from openwork.study.history import StudyEntry
from openwork.study.result import StudyResult
from openwork.study.rows import Row

__all__ = ["Comparison", "Difference", "Outcome", "compare_studies"]

_NO_DIFFERENCE = {"out", "isolate", "checkpoint_seconds", "watts", "gco2_per_kwh", "pue", "memory_gb"}
"""Options that change no loss and no speed."""
_MODEL = ("model", "model_sha256", "tune")
_PAIRED = ("seed", "seeds", "seq_len", "batch_size", "tokenizer", "steps", "seconds", *_MODEL, "data")
"""Options that must agree for runs of one seed to be pairs: same first weights, same order of the same data."""
_SPEED = ("seq_len", "batch_size", "accumulate", "checkpointing", *_MODEL, "dtype", "optimizer")
_MACHINE = ("processor", "device", "threads", "torch")
_NOT_RECORDED = "not recorded"


@dataclass(frozen=True)
class Difference:
    """One thing that differs in what was asked, or in where it ran.

    Attributes:
        what: Its name: an option, a plan, or a fact about data, code or machine.
        first: What it was in the first study.
        second: What it was in the second.
    """

    what: str
    first: str
    second: str


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """One plan of the first study beside one of the second."""

    first: str
    """The plan's name in the first study."""
    second: str
    """Its name in the second, or that of the plan which stands in its place there."""
    same_plan: bool
    """Whether both are the same plan."""
    bits_per_byte: tuple[float, float] | None
    """Held-out quality of both; `None` where it was measured on other text."""
    interval: Interval | None
    """Second minus first in bits per byte, 95 %; `None` where a study has one seed, or they cannot be compared."""
    paired: bool
    """Whether the interval is of pairs: runs of one seed on the same data in the same order."""
    perplexity: tuple[float, float] | None
    """Perplexity of both; `None` with other text or another tokenizer."""
    step_ms: tuple[float, float] | None
    """Median step times; `None` where steps or machines are not alike."""
    steps_overlap: bool
    """Whether each median lies between the other's 10th and 90th percentile: within the spread of the steps."""
    peak_bytes: tuple[int, int] | None
    """Peak memory; `None` where it was not measured, or steps are not alike."""

    @property
    def quality(self) -> str:
        """`better`, `worse`, `within noise`, `one seed` (nobody knows the noise) or `not comparable`."""
        if self.bits_per_byte is None:
            return "not comparable"
        if self.interval is None:
            return "one seed"
        if self.interval.holds_zero:
            return "within noise"
        return "better" if self.interval.mean < 0 else "worse"

    def to_dict(self) -> dict[str, Any]:
        """The outcome as JSON values."""
        interval = None if self.interval is None else self.interval._asdict()
        return {**asdict(self), "interval": interval, "quality": self.quality}


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Two studies that are done."""

    differences: tuple[Difference, ...]
    """What differs in options, plans, data, code and machine."""
    outcomes: tuple[Outcome, ...]
    """Plans that both have, and one pair of plans that only one of them has each, where that is all that is left."""
    only_first: tuple[str, ...]
    """Plans that stand beside none of the second study."""
    only_second: tuple[str, ...]
    """The same of the first."""
    not_comparable: tuple[str, ...]
    """Which figures say nothing side by side, and why, in words."""

    def to_dict(self) -> dict[str, Any]:
        """The comparison as JSON values."""
        return {
            "differences": [asdict(difference) for difference in self.differences],
            "outcomes": [outcome.to_dict() for outcome in self.outcomes],
            "only_first": list(self.only_first),
            "only_second": list(self.only_second),
            "not_comparable": list(self.not_comparable),
        }


@dataclass(frozen=True)
class _Grounds:
    """What may be set side by side."""

    text: bool
    tokens: bool
    speed: bool
    memory: bool
    pairs: bool


def compare_studies(first: StudyEntry, second: StudyEntry) -> Comparison:
    """What differs between two studies that are done, in what was asked and in what came out.

    Figures that cannot be compared are left out and named: quality where the held-out text is not the same, perplexity
    with another tokenizer, step times where a step or the machine is not alike, memory where a step or the device is
    not.
    """
    a, b = first.result, second.result
    assert a is not None and b is not None, "require_done gives entries with a result"
    grounds, reasons = _grounds(a, b, first.recorded, second.recorded)
    pairs, only_first, only_second = _matched(a, b)
    return Comparison(
        differences=tuple(_differences(a, b, first.recorded, second.recorded)),
        outcomes=tuple(_outcome(a, b, one, other, grounds) for one, other in pairs),
        only_first=only_first,
        only_second=only_second,
        not_comparable=tuple(reasons),
    )


def _grounds(
    a: StudyResult, b: StudyResult, first: Mapping[str, Any], second: Mapping[str, Any]
) -> tuple[_Grounds, list[str]]:
    reasons = []
    data = a.data.get("fingerprint") == b.data.get("fingerprint")
    text = data and a.held_out.num_bytes == b.held_out.num_bytes
    if not data:
        reasons.append(
            "quality: the studies read different data, so bits per byte and perplexity are of different text"
        )
    elif not text:
        reasons.append(
            f"quality: it was measured on {a.held_out.num_bytes:,} and on {b.held_out.num_bytes:,} bytes of the "
            "held-out text"
        )
    tokenizer = first.get("tokenizer") == second.get("tokenizer") and a.vocab_size == b.vocab_size
    if text and not tokenizer:
        reasons.append("perplexity: the tokenizers differ, so a token is not the same; bits per byte are comparable")
    step = [name for name in _SPEED if first.get(name) != second.get(name)]
    machine = [name for name in _MACHINE if a.environment.get(name) != b.environment.get(name)]
    if step or machine:
        reasons.append(f"speed: {_and([*step, *machine])} differ, so a step is not the same work or machine")
    if step or a.environment.get("device") != b.environment.get("device"):
        reasons.append("memory: a step or the device is not the same")
    paired = text and all(first.get(name) == second.get(name) for name in _PAIRED if name not in ("data", "seeds"))
    memory = not step and a.environment.get("device") == b.environment.get("device")
    return _Grounds(text, text and tokenizer, not step and not machine, memory, paired), reasons


def _matched(a: StudyResult, b: StudyResult) -> tuple[list[tuple[Row, Row]], tuple[str, ...], tuple[str, ...]]:
    """Rows of the same plan, by what it is and then by name; and what is left of both."""
    left, right = list(a.rows), list(b.rows)
    of_a, of_b = _plans(a), _plans(b)
    pairs: list[tuple[Row, Row]] = []

    def pair(alike: Callable[[Row, Row], bool]) -> None:
        for one in list(left):
            other = next((row for row in right if alike(one, row)), None)
            if other is not None:
                pairs.append((one, other))
                left.remove(one)
                right.remove(other)

    pair(lambda one, other: one.name == other.name and of_a[one.name] == of_b[other.name])
    pair(lambda one, other: of_a[one.name] == of_b[other.name])
    pair(lambda one, other: one.name == other.name)
    if sum(row.name != CONTROL for row in left) == sum(row.name != CONTROL for row in right) == 1:
        pair(lambda one, other: CONTROL not in (one.name, other.name))
    order = {row.name: number for number, row in enumerate(a.rows)}
    pairs.sort(key=lambda rows: order[rows[0].name])
    return pairs, tuple(row.name for row in left), tuple(row.name for row in right)


def _plans(result: StudyResult) -> dict[str, dict[str, Any]]:
    """What each plan is, by its name: plan or mask content, and the schedule that leads to it."""
    entries = [contender.to_dict() for contender in result.config.everyone]
    # a mask is what its file holds, wherever that lies
    return {entry["name"]: {key: entry[key] for key in entry.keys() - {"name", "mask"}} for entry in entries}


def _plan_texts(result: StudyResult) -> dict[str, str]:
    texts = {}
    for row in result.rows:
        plan = _plans(result)[row.name]
        content = f" (SHA-256 {plan['mask_sha256'][:12]})" if "mask_sha256" in plan else ""
        texts[row.name] = row.pattern + content + (f", by {plan['schedule']}" if "schedule" in plan else "")
    return texts


def _outcome(a: StudyResult, b: StudyResult, one: Row, other: Row, grounds: _Grounds) -> Outcome:
    first, second = ({r.seed: r.bits_per_byte(s.held_out) for r in s.of(row.name)} for s, row in ((a, one), (b, other)))
    shared = sorted(first.keys() & second.keys())
    paired = grounds.pairs and len(shared) >= 2
    interval = None
    if grounds.text and paired:
        interval = paired_interval([second[seed] - first[seed] for seed in shared])
    elif grounds.text:
        interval = separate_interval(list(first.values()), list(second.values()))
    times = one.step_ms, other.step_ms
    timed = grounds.speed and times[0] is not None and times[1] is not None
    memory = one.peak_bytes, other.peak_bytes
    return Outcome(
        first=one.name,
        second=other.name,
        same_plan=_plans(a)[one.name] == _plans(b)[other.name],
        bits_per_byte=(one.bits_per_byte, other.bits_per_byte) if grounds.text else None,
        interval=interval,
        paired=interval is not None and paired,
        perplexity=(one.perplexity, other.perplexity) if grounds.tokens else None,
        step_ms=(times[0].median, times[1].median) if timed and times[0] and times[1] else None,
        steps_overlap=bool(
            times[0]
            and times[1]
            and (times[0].low <= times[1].median <= times[0].high or times[1].low <= times[0].median <= times[1].high)
        ),
        peak_bytes=(memory[0], memory[1]) if grounds.memory and memory[0] and memory[1] else None,
    )


def _differences(
    a: StudyResult, b: StudyResult, first: Mapping[str, Any], second: Mapping[str, Any]
) -> list[Difference]:
    found = []
    for name in sorted((first.keys() | second.keys()) - _NO_DIFFERENCE - {"contenders"}):
        old, new = first.get(name, _NOT_RECORDED), second.get(name, _NOT_RECORDED)
        if old != new:
            found.append(Difference(name.replace("_", " "), _text(old), _text(new)))
    plans, texts = (_plans(a), _plans(b)), (_plan_texts(a), _plan_texts(b))
    for name in dict.fromkeys((*plans[0], *plans[1])):
        if plans[0].get(name) != plans[1].get(name):
            found.append(Difference(f"plan {name}", *(side.get(name, "not in it") for side in texts)))
    for what, key in (("data fingerprint", "fingerprint"), ("training bytes", "training_bytes")):
        old, new = a.data.get(key, _NOT_RECORDED), b.data.get(key, _NOT_RECORDED)
        if old != new:
            found.append(Difference(what, _text(old)[:12], _text(new)[:12]))
    if a.vocab_size != b.vocab_size:
        found.append(Difference("vocabulary", str(a.vocab_size), str(b.vocab_size)))
    for name in dict.fromkeys((*a.environment, *b.environment)):
        old, new = a.environment.get(name, _NOT_RECORDED), b.environment.get(name, _NOT_RECORDED)
        if old != new:
            found.append(Difference(f"environment: {name.replace('_', ' ')}", _text(old), _text(new)))
    return found


def _text(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(map(str, value)) or "none"
    return "none" if value is None else str(value)


def _and(names: Sequence[str]) -> str:
    words = [name.replace("_", " ") for name in names]
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"
