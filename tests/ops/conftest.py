"""What the tests of the operation share."""

from __future__ import annotations

import pytest
import torch

from openwork.errors import BackendError
from openwork.ops import registry
from openwork.ops.backends.cpu import CpuBackend
from openwork.ops.backends.cpu_native import available_isas
from openwork.ops.backends.gather import GatherBackend
from openwork.ops.backends.gather_plan import Tuning

NAMES = tuple(backend.name for backend in registry.BACKENDS)
# the units that long sequences and other devices lead to, at lengths that a test can afford
VARIANTS = {
    "gather-bundled": GatherBackend(Tuning(bundle_all=True, max_width=48, score_pairs=10_000, mask_bytes=0)),
    "gather-small-slabs": GatherBackend(
        Tuning(overhead_pairs=0, max_rows=32, max_width=32, score_pairs=1, bundle_below=0)
    ),
    "gather-mixed": GatherBackend(
        Tuning(overhead_pairs=300, max_rows=48, max_width=64, bundle_below=2_000, mask_bytes=3_000)
    ),
    # the widest instruction set is plain "cpu"; every other one that this machine can run, with poisoned scratch memory
    **{
        f"cpu-{isa}": CpuBackend(isa=isa, poisoned=True)
        for isa in [name for name, runs_here in available_isas().items() if runs_here][1:]
    },
}


def pytest_generate_tests(metafunc):
    if "backend" in metafunc.fixturenames:
        metafunc.parametrize("backend", [*NAMES, *VARIANTS], indirect=True)


@pytest.fixture
def backend(request, monkeypatch):
    """The name of a backend; some come with other sizes of their units, or for other machines, too."""
    variant = VARIANTS.get(request.param)
    if variant is None:
        return request.param
    others = tuple(variant if other.name == variant.name else other for other in registry.BACKENDS)
    monkeypatch.setattr(registry, "BACKENDS", others)
    return variant.name


@pytest.fixture
def refused_is_skipped():
    """Runs a function; a refusal of the named backend skips the test with its reason."""

    def run(function, *args, **kwargs):
        try:
            return function(*args, **kwargs)
        except BackendError as error:
            pytest.skip(str(error))

    return run


@pytest.fixture(autouse=True)
def one_seed_and_one_thread():
    """Small tensors gain nothing from threads; what is said about threads has its own tests."""
    threads = torch.get_num_threads()
    torch.manual_seed(0)
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
