"""Energy and CO2e as time x stated watts: an estimate, and called one wherever it is shown.

A meter would be better, and most machines that this runs on have none that a program may read: RAPL counters are
hidden in virtual machines, and a GPU's own counter speaks of the whole device. Tools that fall back on a share of the
TDP there (CodeCarbon 3 among them) state errors of -60 % to +190 % for it without showing them beside the figure. Here
the watts are stated, the figure is called estimated, and between two plans on one machine the watts cancel: their
ratio is that of their times.

Energy is `watts * seconds * pue`, CO2e is energy times the intensity of the region's electricity. Making the hardware
and cooling it are not in it, unless `pue` says so (power usage effectiveness: all that a data centre draws over what
its computers draw; 1.0 leaves it out, 1.1 to 1.6 is usual).
"""

from __future__ import annotations

import re
from dataclasses import dataclass

__all__ = ["WORLD_GCO2_PER_KWH", "Power", "co2e_g", "energy_wh", "stated_power"]

WORLD_GCO2_PER_KWH = 475.0
"""Grams of CO2e for each kWh of electricity, world average (IEA, Global Energy & CO2 Status Report 2019: 475 g/kWh in
2018; CodeCarbon's default too). Regions range from below 30 (hydro) to above 700 (coal): give your own."""

_BOARD_WATTS = (
    # what the maker states for the board at full load; the first whose words are in the name counts
    ("H200", 700.0),
    ("H100 PCIe", 350.0),
    ("H100", 700.0),
    ("B200", 1000.0),
    ("A100-PCIE-40GB", 250.0),
    ("A100 80GB PCIe", 300.0),
    ("A100", 400.0),
    ("V100-PCIE", 250.0),
    ("V100", 300.0),
    ("RTX 4090", 450.0),
    ("RTX 3090", 350.0),
    ("L40S", 350.0),
    ("L40", 300.0),
    ("A10G", 300.0),
    ("A10", 150.0),
    ("L4", 72.0),
    ("T4", 70.0),
)
_OTHER_BOARD_WATTS = 300.0
_WATTS_PER_THREAD = 4.0
_WATTS_OF_THE_REST = 10.0
_APPLE_WATTS = 40.0


@dataclass(frozen=True)
class Power:
    """What a device draws while it works, as stated.

    Attributes:
        watts: Watts.
        reason: Where the number comes from, in words, for reports.
    """

    watts: float
    reason: str


def stated_power(device: str, threads: int = 1, watts: float | None = None) -> Power:
    """The watts to multiply time with.

    Given watts are taken as they are. A CUDA device has the maker's full-load figure for its board (an upper bound;
    300 W where the name is unknown). A CPU has 4 W for each thread in use, and 10 W for memory and board: makers state
    2.2 W for each hardware thread of a server (EPYC 7763: 280 W, 128 threads), 3.1 (Xeon 8480+: 350 W, 112) and up to
    7.9 of a desktop (Core i9-13900K: 253 W, 32), so expect half to twice of it. Apple's GPUs have 40 W.

    Args:
        device: `cpu`, `mps`, or the name of a CUDA device as torch gives it.
        threads: Threads that a CPU works with.
        watts: The caller's own figure.

    Examples:
        >>> stated_power("cpu", threads=2).watts, stated_power("NVIDIA H100 80GB HBM3").watts
        (18.0, 700.0)
        >>> stated_power("cpu", watts=65).reason
        'as given'
    """
    if watts is not None:
        return Power(watts, "as given")
    if device == "cpu":
        return Power(
            _WATTS_PER_THREAD * threads + _WATTS_OF_THE_REST,
            f"{_WATTS_PER_THREAD:g} W for each of {threads} threads and {_WATTS_OF_THE_REST:g} W for memory and board",
        )
    if device == "mps":
        return Power(_APPLE_WATTS, f"{_APPLE_WATTS:g} W for an Apple GPU")
    for name, board in _BOARD_WATTS:
        if re.search(rf"\b{name}\b", device, re.IGNORECASE):
            return Power(board, f"the maker's full-load figure for {name}")
    return Power(_OTHER_BOARD_WATTS, f"{_OTHER_BOARD_WATTS:g} W for a board whose name is not known")


def energy_wh(seconds: float, watts: float, pue: float = 1.0) -> float:
    """Watt-hours of so many seconds at so many watts.

    >>> energy_wh(3600, 65, pue=1.2)
    78.0
    """
    return seconds * watts * pue / 3600


def co2e_g(wh: float, gco2_per_kwh: float = WORLD_GCO2_PER_KWH) -> float:
    """Grams of CO2e of so many watt-hours.

    >>> co2e_g(2000, gco2_per_kwh=56)
    112.0
    """
    return wh / 1000 * gco2_per_kwh
