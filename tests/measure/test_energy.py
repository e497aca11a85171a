"""Energy: arithmetic, and which watts are stated for what."""

from __future__ import annotations

import pytest

from openwork.measure import WORLD_GCO2_PER_KWH, co2e_g, energy_wh, stated_power


def test_energy_is_time_times_watts() -> None:
    assert energy_wh(7200, 100) == pytest.approx(200)
    assert energy_wh(7200, 100, pue=1.5) == pytest.approx(300)
    assert co2e_g(200) == pytest.approx(0.2 * WORLD_GCO2_PER_KWH) == pytest.approx(95)


@pytest.mark.parametrize(
    ("device", "watts"),
    [
        ("NVIDIA H100 80GB HBM3", 700),
        ("NVIDIA H100 PCIe", 350),
        ("NVIDIA H200", 700),
        ("NVIDIA A100-SXM4-80GB", 400),
        ("NVIDIA A100-PCIE-40GB", 250),
        ("Tesla T4", 70),
        ("NVIDIA L4", 72),
        ("NVIDIA L40S", 350),
        ("NVIDIA A10G", 300),
        ("NVIDIA RTX A1000", 300),
        ("NVIDIA GeForce RTX 9999", 300),
        ("mps", 40),
    ],
)
def test_boards_have_their_makers_figure(device: str, watts: float) -> None:
    assert stated_power(device).watts == watts


def test_a_cpu_draws_by_the_threads_in_use_and_says_so() -> None:
    power = stated_power("cpu", threads=8)
    assert power.watts == 42 and power.reason == "4 W for each of 8 threads and 10 W for memory and board"
    assert stated_power("NVIDIA H100", watts=300).watts == 300
