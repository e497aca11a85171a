"""What the tests of the native kernels share; without the kernels they are skipped, with the reason."""

from __future__ import annotations

import pytest
import torch

from openwork.ops.backends.cpu_native import absence, available_isas

ISAS = [name for name, runs_here in available_isas().items() if runs_here]


def pytest_collection_modifyitems(items):
    missing = absence()
    for item in items:
        if missing is not None and "native" in item.keywords:
            item.add_marker(pytest.mark.skip(reason=missing))


def pytest_generate_tests(metafunc):
    if "isa" in metafunc.fixturenames:
        metafunc.parametrize("isa", ISAS or ["none"])


@pytest.fixture(autouse=True)
def threads_and_seed_come_back():
    threads = torch.get_num_threads()
    torch.manual_seed(0)
    yield
    torch.set_num_threads(threads)
