"""A small corpus of real-looking code, and studies of a second."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from openwork.study import StudyConfig

FUNCTION = '''
def {name}_{number}(value, other):
    """Add {number} to what {name} gives."""
    total = value * {number} + other
    return total


class {title}{number}:
    def run(self, items):
        return [{name}_{number}(item, {number}) for item in items]
'''


@pytest.fixture(scope="session")
def texts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve Python files in two directories."""
    root = tmp_path_factory.mktemp("texts")
    for number, name in enumerate("parse read write join split scan load save pack find sort walk".split()):
        parts = [FUNCTION.format(name=name, title=name.title(), number=number * 10 + part) for part in range(6)]
        place = root / ("tools" if number % 2 else "core") / f"{name}.py"
        place.parent.mkdir(exist_ok=True)
        place.write_text("".join(parts), encoding="utf-8")
    return root


@pytest.fixture
def tiny(texts: Path, tmp_path: Path) -> Callable[..., StudyConfig]:
    """A study of a few small steps in this process."""

    def make(**options: Any) -> StudyConfig:
        defaults: dict[str, Any] = {
            "data": texts,
            "out": tmp_path / "out",
            "tokenizer": "bytes",
            "model": "tiny",
            "device": "cpu",
            "seq_len": 96,
            "batch_size": 2,
            "steps": 6,
            "warmup_steps": 2,
            "eval_tokens": 400,
            "eval_every": 0,
            "isolate": False,
        }
        return StudyConfig(**(defaults | options))

    return make
