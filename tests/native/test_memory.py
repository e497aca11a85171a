"""Guard pages around every tensor, and scratch memory full of NaN: nothing is read that nobody wrote or gave."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from openwork.ops import registry
from openwork.ops.backends.cpu import CpuBackend
from openwork.testing.contract import CASES, case_inputs, results
from openwork.testing.poison import poisoned_memory

pytestmark = pytest.mark.native

GUARDED = Path(__file__).with_name("guarded.py")
SOME = [case for case in CASES if "everything" in case.name or "63" in case.name or "grouped" in case.name]


def run_guarded(isa: str, side: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(GUARDED), isa, side]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)


@pytest.mark.parametrize("side", ["end", "start"])
def test_no_pass_touches_memory_beyond_its_tensors(isa, side):
    done = run_guarded(isa, side)
    assert done.returncode == 0, done.stderr or f"ended by signal {-done.returncode}"


def test_the_guard_sees_one_row_too_many(isa):
    assert run_guarded(isa, "overrun").returncode in (-signal.SIGSEGV, -signal.SIGBUS)


@pytest.mark.parametrize("case", SOME, ids=str)
def test_unwritten_memory_changes_no_bit(case, isa, monkeypatch):
    """Scratch memory holds NaN, and so do outputs before they are written."""
    found = []
    for poisoned in (False, True):
        backend = CpuBackend(isa=isa, poisoned=poisoned)
        monkeypatch.setattr(registry, "BACKENDS", (backend,))
        inputs = case_inputs(case, torch.float32)
        if poisoned:
            with poisoned_memory():
                found.append(results(case, inputs, "cpu"))
        else:
            found.append(results(case, inputs, "cpu"))
    for name, tensor in found[0].items():
        assert torch.equal(tensor, found[1][name]), name
