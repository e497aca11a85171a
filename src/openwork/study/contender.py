"""A plan of a study, by name, with the schedule that leads to it."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from openwork.errors import PlanError, StudyError
from openwork.patterns import And, Causal, Pattern, PerHead, parse_pattern
from openwork.plan import Plan, read_plan
from openwork.train import DenseThenSparse, Schedule, parse_schedule

__all__ = [
    "Contender",
    "contender_from_text",
    "file_digest",
    "made_causal",
    "read_plan",
    "with_digest",
    "with_schedules",
]

_NAMED = re.compile(r"(\w[\w +.-]*):\s+(.+)", re.DOTALL)
"""A name before a pattern text; the space after the colon tells it from an import path."""


@dataclass(frozen=True, kw_only=True)
class Contender:
    """One plan of a study: a `Plan`, or a fixed mask from a file."""

    name: str
    """What tables and files call it; unique in a study."""
    plan: Plan | None = None
    """What every layer uses; `None` where `mask` says it."""
    mask: Path | None = None
    """A boolean mask [seq_len, seq_len], or with heads before it, in a `.npy` or `.pt` file; True = attend."""
    mask_sha256: str | None = field(default=None, compare=False)
    """Digest of the mask's file; the study fills it in."""
    schedule: Schedule | None = None
    """From optimizer step to plan, on the way to this one; `None` where the plan is used from the first step."""

    def __post_init__(self) -> None:
        if not self.name or (self.plan is None) == (self.mask is None):
            raise PlanError(f"a contender has a name and either a plan or a mask file; got {self.name!r}.")
        if self.mask is not None and not isinstance(self.schedule, DenseThenSparse | None):
            raise PlanError(
                f"{type(self.schedule).__name__} makes plans from a plan, but {self.name!r} is a mask; a mask takes "
                "DenseThenSparse(steps=...) only."
            )

    @property
    def plan_of_layers(self) -> Plan | None:
        """The plan as the model uses it: a plan only removes pairs, so what is not causal is made so."""
        return None if self.plan is None else self.plan.map(made_causal)

    @property
    def needs(self) -> Mapping[str, str]:
        """The annotations that the plan and its schedule read, name to kind."""
        needs: dict[str, str] = {}
        for source in (self.plan, self.schedule):
            for name, kinds in source.needs.items() if source is not None else ():
                known = [*needs[name].split("+"), *kinds.split("+")] if name in needs else kinds.split("+")
                needs[name] = "+".join(dict.fromkeys(known))
        return needs

    def to_dict(self) -> dict[str, Any]:
        """The contender as JSON values."""
        scheduled = {} if self.schedule is None else {"schedule": repr(self.schedule)}
        if self.plan is not None:
            return {"name": self.name, "plan": json.loads(self.plan.to_json()), **scheduled}
        assert self.mask is not None
        digest = self.mask_sha256 or _mask_digest(self.mask)
        return {"name": self.name, "mask": str(self.mask), "mask_sha256": digest, **scheduled}

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> Contender:
        """The contender that `to_dict` wrote."""
        schedule = parse_schedule(content["schedule"]) if "schedule" in content else None
        if "plan" in content:
            return cls(name=content["name"], plan=Plan.from_json(json.dumps(content["plan"])), schedule=schedule)
        digest = content.get("mask_sha256")
        return cls(name=content["name"], mask=Path(content["mask"]), mask_sha256=digest, schedule=schedule)


def with_digest(contender: Contender) -> Contender:
    """The contender with the digest that its mask file has now, if it can be read."""
    if contender.mask is None:
        return contender
    return replace(contender, mask_sha256=file_digest(contender.mask))


def file_digest(path: Path) -> str | None:
    """SHA-256 of a file's bytes; `None` where it cannot be read, for whoever reads it has the words for that."""
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError:
        return None


def contender_from_text(text: str) -> Contender:
    """A contender for one pattern text, for all layers; `name: pattern` gives it a name of its own."""
    named = _NAMED.fullmatch(text.strip())
    name, rest = named.groups() if named else (text.strip(), text.strip())
    return Contender(name=name, plan=Plan(default=parse_pattern(rest)))


def with_schedules(contenders: Sequence[Contender], texts: Sequence[str]) -> tuple[Contender, ...]:
    """The contenders with the schedules that the texts describe.

    `NAME: SCHEDULE` is for the contender of that name, a schedule alone for all that have none of their own.

    Raises:
        PlanError: A text is not that of a schedule, two are for the same contender, or nobody is left for one.
    """
    own: dict[str, Schedule] = {}
    shared: list[Schedule] = []
    for text in texts:
        name = max((c.name for c in contenders if text.strip().startswith(f"{c.name}: ")), key=len, default=None)
        named = _NAMED.fullmatch(text.strip())
        if name is None and named is not None:
            names = ", ".join(contender.name for contender in contenders) or "none"
            raise PlanError(f"--schedule {text!r} is for the plan {named[1]!r}, which there is not; plans are {names}.")
        if name is None:
            shared.append(parse_schedule(text))
        elif name in own:
            raise PlanError(f"--schedule is given twice for the plan {name!r}.")
        else:
            own[name] = parse_schedule(text.strip()[len(name) + 2 :])
    if len(shared) > 1 or (shared and len(own) == len(contenders)):
        what = "given twice for all plans" if len(shared) > 1 else f"{shared[0]!r}, but no plan is left for it"
        raise PlanError(f"--schedule is {what}; write NAME: SCHEDULE for the plan of that name.")
    common = shared[0] if shared else None
    return tuple(replace(c, schedule=own.get(c.name, c.schedule or common)) for c in contenders)


def made_causal(pattern: Pattern) -> Pattern:
    """The pattern without the pairs that look ahead; one that is causal is given back as it is."""
    if isinstance(pattern, PerHead):
        return PerHead(*map(made_causal, pattern.patterns))
    parts = pattern.patterns if isinstance(pattern, And) else (pattern,)
    return pattern if any(isinstance(part, Causal) for part in parts) else Causal() & pattern


def _mask_digest(path: Path) -> str:
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as error:
        raise StudyError(f"cannot read the mask {path}: {error.strerror or error}.") from None
