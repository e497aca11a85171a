"""Units and instruments: known answers, and what they refuse."""

from __future__ import annotations

import gzip
import math
import subprocess
import sys

import pytest
import torch

from openwork.errors import DataError
from openwork.measure import (
    PeakMemory,
    bits_per_byte,
    device_memory,
    free_memory,
    gzip_bits_per_byte,
    perplexity,
    spread,
    training_bytes,
)


def test_a_uniform_guess_costs_its_bits() -> None:
    assert bits_per_byte(100 * math.log(256), 100) == pytest.approx(8)
    assert bits_per_byte(100 * math.log(256), 400) == pytest.approx(2)
    assert perplexity(100 * math.log(256), 100) == pytest.approx(256)


def test_a_hopeless_model_has_infinite_perplexity() -> None:
    assert perplexity(1e6, 1) == math.inf


def test_gzip_agrees_with_gzip() -> None:
    text = b"".join(b"line %d of a text\n" % number for number in range(2000))
    packed = len(gzip.compress(text, 9))
    # the header of `gzip.compress` may differ by a few bytes
    assert gzip_bits_per_byte([text[:777], text[777:]]) == pytest.approx(8 * packed / len(text), abs=0.01)


@pytest.mark.parametrize("measure", [lambda: bits_per_byte(1.0, 0), lambda: gzip_bits_per_byte([])])
def test_no_text_is_refused(measure) -> None:
    with pytest.raises(DataError, match="bits per byte need at least 1 byte of text; got 0"):
        measure()


def test_no_token_is_refused() -> None:
    with pytest.raises(DataError, match="perplexity needs at least 1 token; got 0"):
        perplexity(1.0, 0)


def test_a_spread_does_not_follow_one_slow_step() -> None:
    found = spread([10.0] * 19 + [1000.0])
    assert found is not None and found.median == 10 and found.high < 100
    assert spread([]) is None


def test_peak_memory_sees_what_was_freed_again() -> None:
    script = """
from openwork.measure import PeakMemory
before = bytearray(200 << 20)
before = None
with PeakMemory() as memory:
    block = bytearray(96 << 20)
    block = None
print(memory.peak_bytes - memory.start_bytes)
"""
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    # the 200 MB from before the context count on systems that cannot reset their mark
    assert 90 << 20 <= int(run.stdout) <= (110 << 20 if sys.platform == "linux" else 400 << 20)


def test_a_child_does_not_inherit_the_mark_of_its_parent() -> None:
    block = b"\0" * (400 << 20)
    script = "from openwork.measure import PeakMemory\nwith PeakMemory() as m: pass\nprint(m.peak_bytes)"
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert len(block) and int(run.stdout) < 300 << 20


def test_the_report_says_what_was_measured() -> None:
    assert "resident memory" in PeakMemory().meaning


def test_what_came_before_a_restart_is_not_counted() -> None:
    script = """
from openwork.measure import PeakMemory
with PeakMemory() as memory:
    block = bytearray(200 << 20)
    block = None
    memory.restart()
print(memory.peak_bytes - memory.start_bytes)
"""
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    if sys.platform != "linux":
        pytest.skip("only Linux forgets the mark of a process")
    assert int(run.stdout) < 20 << 20


def test_training_needs_parameters_gradients_and_optimizer_state() -> None:
    layer = torch.nn.Linear(8, 4, bias=True)
    optimizer = torch.optim.AdamW(layer.parameters())
    assert training_bytes(layer, optimizer) == 2 * 36 * 4
    layer(torch.ones(1, 8)).sum().backward()
    optimizer.step()
    # two moments for each parameter, and one step count for each of its two tensors
    assert training_bytes(layer, optimizer) == 4 * 36 * 4 + 2 * 4
    layer.requires_grad_(False)
    assert training_bytes(layer) == 36 * 4


def test_a_container_may_have_less_memory_than_its_machine(tmp_path, monkeypatch) -> None:
    whole = device_memory()
    assert whole is None or whole > 1 << 28
    for text, expected in (("123456789\n", 123456789), ("max\n", None), ("9223372036854771712\n", None)):
        (tmp_path / "limit").write_text(text)
        monkeypatch.setattr("openwork.measure.memory._GROUP_LIMITS", (tmp_path / "limit", tmp_path / "absent"))
        monkeypatch.setattr("openwork.measure.memory._machine_bytes", lambda: None)
        assert device_memory() == expected


def test_free_memory_is_what_is_available_within_the_limit(tmp_path, monkeypatch) -> None:
    (tmp_path / "meminfo").write_text("MemTotal:  9000 kB\nMemFree:  1000 kB\nMemAvailable:  3000 kB\n")
    monkeypatch.setattr("openwork.measure.memory._SYSTEM", tmp_path / "meminfo")
    for limit, expected in ((1 << 30, 3000 * 1024), (2000, 2000)):
        monkeypatch.setattr("openwork.measure.memory.device_memory", lambda device, limit=limit: limit)
        assert free_memory() == expected
    monkeypatch.setattr("openwork.measure.memory._SYSTEM", tmp_path / "absent")
    monkeypatch.setattr("openwork.measure.memory.device_memory", lambda device: 5000)
    assert free_memory() == 5000
