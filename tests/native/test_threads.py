"""The pool: every unit once, errors that cross threads, the same bits for any number of threads, fork, DataLoader."""

from __future__ import annotations

import os
import subprocess
import sys
import threading

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, Dataset

import openwork as ow
from openwork.ops import sparse_attention
from openwork.ops.backends.cpu_native import kernels
from openwork.testing.contract import CASES, case_inputs, results
from openwork.testing.inputs import make_inputs

pytestmark = pytest.mark.native

LAYOUT = ow.compile_layout(ow.Causal() & (ow.Window(before=40) | ow.Strided(16)), q_len=200, kv_len=200)
SOME = [case for case in CASES if "everything" in case.name or "per-head" in case.name or case.name == "grouped"]


@pytest.mark.parametrize("threads", [1, 2, 3, 7])
@pytest.mark.parametrize("units", [1, 2, 100, 5000])
def test_every_unit_runs_once(threads, units):
    assert kernels().count_units(threads, units) == [1] * units


def test_threads_are_kept_between_calls():
    kernels().count_units(3, 100)
    size = kernels().pool_size()
    assert size >= 2
    kernels().count_units(3, 100)
    assert kernels().pool_size() == size


@pytest.mark.parametrize("threads", [1, 3])
def test_what_a_unit_throws_reaches_the_caller_and_the_pool_goes_on(threads):
    for _ in range(20):
        with pytest.raises(RuntimeError, match="unit 37 failed"):
            kernels().count_units(threads, 100, 37)
    assert kernels().count_units(threads, 100) == [1] * 100


def test_calls_at_the_same_time_do_not_mix():
    found: list[list[int]] = []
    workers = [
        threading.Thread(target=lambda: found.extend(kernels().count_units(3, 300) for _ in range(20)))
        for _ in range(4)
    ]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert found == [[1] * 300] * 80


@pytest.mark.parametrize("case", SOME, ids=str)
def test_bits_are_the_same_for_any_number_of_threads_and_run(case):
    inputs = case_inputs(case, torch.float32)
    torch.set_num_threads(1)
    first = results(case, inputs, "cpu")
    for threads in (1, 2, 3, 5):
        torch.set_num_threads(threads)
        again = results(case, inputs, "cpu")
        for name, tensor in first.items():
            assert torch.equal(tensor, again[name]), f"{name} with {threads} threads"


def attend(seed: int) -> torch.Tensor:
    inputs = make_inputs(q_len=200, q_heads=4, seed=seed)
    return sparse_attention(inputs.query, inputs.key, inputs.value, LAYOUT, backend="cpu").output


FORK = """
import os, sys, torch
torch.set_num_threads(3)
from tests.native.test_threads import attend
from openwork.ops.backends.cpu_native import kernels
kernels().count_units(3, 100)
before = attend(1)
assert kernels().pool_size() == 2
children = []
for _ in range(3):
    pid = os.fork()
    if pid == 0:
        # the threads stayed behind: the child starts its own, and leaves without torch's clean-up
        started = kernels().pool_size()
        right = kernels().count_units(3, 100) == [1] * 100 and torch.equal(attend(1), before)
        os._exit(0 if right and started == 0 and kernels().pool_size() == 2 else 1)
    children.append(pid)
codes = [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in children]
assert torch.equal(attend(1), before)
sys.exit(0 if codes == [0, 0, 0] else f"children ended with {codes}")
"""


def test_children_of_a_fork_have_threads_of_their_own():
    root = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    path = os.pathsep.join([root, *sys.path])
    done = subprocess.run(
        [sys.executable, "-c", FORK],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr


class Attended(Dataset):
    def __len__(self) -> int:
        return 6

    def __getitem__(self, index: int) -> torch.Tensor:
        return attend(index)


@pytest.mark.filterwarnings(
    "ignore:This process.*is multi-threaded:DeprecationWarning",
    "ignore:This DataLoader will create:UserWarning",  # on one core
)
def test_workers_of_a_data_loader_can_use_the_kernels():
    torch.set_num_threads(3)
    expected = torch.cat([attend(index) for index in range(6)])
    loader = DataLoader(Attended(), batch_size=2, num_workers=2, multiprocessing_context="fork")
    found = torch.cat([batch.flatten(0, 1) for batch in loader])
    assert torch.equal(found, expected)


@pytest.mark.parametrize("threads", [1, 3])
def test_denormals_come_back_for_the_caller(threads):
    torch.set_num_threads(threads)
    tiny = np.float32(1e-30)
    assert tiny * np.float32(1e-10) > 0
    attend(0)
    assert tiny * np.float32(1e-10) > 0
    assert (torch.full((8,), 1e-30) * 1e-10 > 0).all()
