"""A study that is done: what was asked, every raw sample, and the figures and words that follow from them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from functools import cached_property
from typing import Any

from openwork.errors import StudyError
from openwork.measure import PeakMemory, Power, stated_power
from openwork.study.config import StudyConfig
from openwork.study.record import HeldOut, RunRecord
from openwork.study.rows import Row, make_row
from openwork.study.shapes import ModelFacts, facts_of_shape

__all__ = ["Row", "StudyResult"]

FORMAT = 1
_GIGABYTE = 1e9


@dataclass(frozen=True, kw_only=True)
class StudyResult:
    """A study that is done: raw samples, figures, verdict."""

    config: StudyConfig
    """What was asked for."""
    records: tuple[RunRecord, ...]
    """Every run."""
    held_out: HeldOut
    """The text that quality was measured on."""
    training_bytes_per_token: float
    """UTF-8 bytes of training text for each token."""
    vocab_size: int
    """Number of token ids."""
    data: dict[str, Any]
    """The files, and how they were split."""
    environment: dict[str, Any]
    """Machine and versions."""
    model_facts: ModelFacts | None = None
    """Layers and sizes of the model; `None` in records from before they were kept, of the study's own shapes."""

    @cached_property
    def model(self) -> ModelFacts:
        """Layers and sizes of the model that every plan trained."""
        return self.model_facts or facts_of_shape(self.config.model, self.vocab_size)

    @cached_property
    def rows(self) -> tuple[Row, ...]:
        """One row for each plan, dense attention first."""
        names = [contender.name for contender in self.config.everyone]
        return tuple(make_row(self, name) for name in names)

    @property
    def verdict(self) -> str:
        """What was saved, what it cost and whether it paid, in words."""
        from openwork.study.verdict import verdict

        return "\n".join(verdict(self))

    @property
    def power(self) -> Power:
        """The watts that energy is estimated with."""
        device = str(self.environment.get("device", self.config.device))
        return stated_power(device, int(self.environment.get("threads", 1)), self.config.watts)

    @property
    def memory_bytes(self) -> float | None:
        """The memory that batches have to fit into; `None` where nobody knows."""
        if self.config.memory_gb is not None:
            return self.config.memory_gb * _GIGABYTE
        return self.environment.get("memory_bytes")

    @property
    def training_tokens(self) -> float:
        """Tokens of the training text, documents' separators included."""
        return float(self.data["training_bytes"] / self.training_bytes_per_token)

    @property
    def memory_meaning(self) -> str:
        """What the memory figures are."""
        if not self.config.isolate:
            return "not measured: the plans shared one process"
        return PeakMemory(self.config.device).meaning

    def of(self, name: str) -> tuple[RunRecord, ...]:
        """The runs of one plan."""
        return tuple(record for record in self.records if record.name == name)

    def to_dict(self) -> dict[str, Any]:
        """Everything as JSON values: figures, verdict, environment and raw samples."""
        return {
            "openwork_study": FORMAT,
            "verdict": self.verdict.split("\n"),
            "rows": [_finite(asdict(row)) for row in self.rows],
            "held_out": asdict(self.held_out),
            "memory": self.memory_meaning,
            "memory_bytes": self.memory_bytes,
            "energy": {
                "estimated": "time x stated watts",
                **asdict(self.power),
                "gco2_per_kwh": self.config.gco2_per_kwh,
                "pue": self.config.pue,
            },
            "training_bytes_per_token": self.training_bytes_per_token,
            "vocab_size": self.vocab_size,
            "model": self.model.to_dict(),
            "config": self.config.to_dict(),
            "data": self.data,
            "environment": self.environment,
            "runs": [record.to_dict() for record in self.records],
        }

    def summary(self) -> dict[str, Any]:
        """The same without raw samples, for one line of JSON."""
        content = self.to_dict()
        del content["runs"]
        content["out"] = str(self.config.out)
        return content

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> StudyResult:
        """The study that `to_dict` wrote; figures and verdict follow from its raw samples anew.

        Raises:
            StudyError: It was written by another version, or changed.
        """
        if content.get("openwork_study") != FORMAT:
            raise StudyError(f"it is not a record of a study in format {FORMAT}.")
        try:
            held_out = {f.name: content["held_out"][f.name] for f in fields(HeldOut) if f.name in content["held_out"]}
            return cls(
                config=StudyConfig.from_dict(content["config"]),
                records=tuple(map(RunRecord.from_dict, content["runs"])),
                held_out=HeldOut(**held_out),
                training_bytes_per_token=content["training_bytes_per_token"],
                vocab_size=content["vocab_size"],
                data=content["data"],
                environment=content["environment"],
                model_facts=ModelFacts.from_dict(content["model"]) if "model" in content else None,
            )
        except (KeyError, TypeError, AttributeError) as error:
            raise StudyError(f"it was changed, or written by another version of openwork ({error}).") from None


def _finite(value: Any) -> Any:
    """JSON has no infinity: such a figure is null."""
    if isinstance(value, dict):
        return {key: _finite(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
