"""Micro-runs before the marathon: what a step of a model costs dense, as a mask and sparse, and whether it is right.

Names load when they are first used: only what measures needs torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from openwork.study.bench.config import BenchConfig
    from openwork.study.bench.result import BenchResult, BenchRow
    from openwork.study.bench.run import run_bench

_HOMES = {"config": ("BenchConfig",), "result": ("BenchResult", "BenchRow"), "run": ("run_bench",)}

__all__ = ["BenchConfig", "BenchResult", "BenchRow", "run_bench"]


def __getattr__(name: str) -> Any:
    for module, names in _HOMES.items():
        if name in names:
            return getattr(import_module(f"openwork.study.bench.{module}"), name)
    raise AttributeError(f"module 'openwork.study.bench' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
