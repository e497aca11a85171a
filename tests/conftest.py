"""What every test runs under: hypothesis without a clock, and GPU tests that say why they did not run."""

from __future__ import annotations

import os

import pytest
from hypothesis import HealthCheck, settings

# how long an example takes says something about the machine, nothing about the code
settings.register_profile("openwork", deadline=None, suppress_health_check=[HealthCheck.too_slow])
# the same examples every time where a failure would stop somebody else's change
settings.register_profile("ci", settings.get_profile("openwork"), derandomize=True)
settings.load_profile("ci" if os.environ.get("CI") else "openwork")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for_gpu = [item for item in items if item.get_closest_marker("gpu")]
    if not for_gpu:
        return
    import torch

    if not torch.cuda.is_available():
        for item in for_gpu:
            item.add_marker(pytest.mark.skip(reason="needs a CUDA device, and torch finds none here"))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    skipped = [
        report for report in terminalreporter.stats.get("skipped", []) if "gpu" in getattr(report, "keywords", ())
    ]
    if skipped:
        terminalreporter.write_line(f"GPU tests: {len(skipped)} not run, for want of a CUDA device")
