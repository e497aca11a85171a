"""The most memory that something needed, read from the system and not from our own bookkeeping."""

from __future__ import annotations

import contextlib
import ctypes
import os
import platform
import sys
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import nn, optim

__all__ = ["PeakMemory", "device_memory", "free_memory", "release_free_memory", "training_bytes"]

_STATUS = Path("/proc/self/status")
_SYSTEM = Path("/proc/meminfo")
_CLEAR = Path("/proc/self/clear_refs")
_RESET_PEAK = "5"
_GROUP_LIMITS = (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"))


class PeakMemory:
    """Peak memory while the context is open, on the device that does the work.

    On CUDA it is the most that torch had allocated (`max_memory_allocated`). Elsewhere it is the high-water mark of
    the process's resident memory, which counts everything: parameters, optimizer, data, libraries, and what
    allocators keep. It is a figure for one plan only where that plan has the process to itself.

    Attributes:
        peak_bytes: The high-water mark; `None` where the system does not tell.
        start_bytes: What was in use when the context was opened, libraries included; 0 on CUDA.
        meaning: What was measured, in words, for reports.

    Examples:
        >>> with PeakMemory() as memory:
        ...     block = bytearray(64 << 20)
        >>> memory.peak_bytes is None or memory.peak_bytes - memory.start_bytes > 32 << 20
        True
    """

    def __init__(self, device: str = "cpu") -> None:
        self._cuda: Any = None
        if device.startswith("cuda"):
            import torch

            self._cuda = torch.cuda
        self.peak_bytes: int | None = None
        self.start_bytes = 0

    @property
    def meaning(self) -> str:
        """What is measured, in words."""
        if self._cuda:
            return "most memory allocated by torch on the device"
        if platform.system() == "Linux":
            return "high-water mark of resident memory of the plan's own process, libraries included"
        return "high-water mark of resident memory of the plan's own process since it started"

    def __enter__(self) -> PeakMemory:
        self.restart()
        if not self._cuda:
            self.start_bytes = _current_bytes()
        return self

    def restart(self) -> None:
        """Forgets the mark so far: what was needed up to here is not part of the measurement."""
        if self._cuda:
            self._cuda.reset_peak_memory_stats()
        elif _CLEAR.exists():
            # where the system refuses, the mark counts from the start of the process: still an upper bound
            with contextlib.suppress(OSError):
                _CLEAR.write_text(_RESET_PEAK)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.read()

    def read(self) -> int | None:
        """The high-water mark so far."""
        self.peak_bytes = int(self._cuda.max_memory_allocated()) if self._cuda else _peak_bytes()
        return self.peak_bytes


def _status_bytes(name: str) -> int | None:
    # getrusage would do, but on Linux a child started by a large parent inherits the parent's mark
    if not _STATUS.exists():
        return None
    for line in _STATUS.read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) * 1024
    return None


def _current_bytes() -> int:
    resident = _status_bytes("VmRSS")
    return resident if resident is not None else (_peak_bytes() or 0)


def _peak_bytes() -> int | None:
    mark = _status_bytes("VmHWM")
    if mark is not None:
        return mark
    try:
        import resource
    except ImportError:
        return None
    used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return int(used if sys.platform == "darwin" else used * 1024)


def device_memory(device: str = "cpu") -> int | None:
    """Bytes that a process here can have at most on this device; `None` where the system does not tell.

    On CUDA it is what the device has. Elsewhere it is what the machine has, or what its container may use where that
    is less.

    >>> (device_memory() or 1 << 40) > 1 << 20
    True
    """
    if device.startswith("cuda"):
        import torch

        return int(torch.cuda.get_device_properties(device).total_memory)
    found = [limit for limit in (_machine_bytes(), *map(_group_limit, _GROUP_LIMITS)) if limit is not None]
    return min(found, default=None)


def free_memory(device: str = "cpu") -> int | None:
    """Bytes that a process here can still take on this device without harm; `None` where the system does not tell.

    On CUDA it is what the driver calls free. On Linux it is what the system calls available, which counts the caches
    that it would give up, within what the container may use at all. Elsewhere it is `device_memory`.

    >>> (free_memory() or 1) <= (device_memory() or 1 << 60)
    True
    """
    if device.startswith("cuda"):
        import torch

        return int(torch.cuda.mem_get_info(device)[0])
    there, limit = _available_bytes(), device_memory(device)
    return limit if there is None or limit is None else min(there, limit)


def _available_bytes() -> int | None:
    if not _SYSTEM.exists():
        return None
    found = [line.split()[1] for line in _SYSTEM.read_text().splitlines() if line.startswith("MemAvailable:")]
    return int(found[0]) * 1024 if found else None


def _machine_bytes() -> int | None:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return None


def _group_limit(path: Path) -> int | None:
    try:
        text = path.read_text().strip()
    except OSError:
        return None
    # "max" is no limit, and so is a number near the largest that there is
    return int(text) if text.isdecimal() and int(text) < 1 << 60 else None


def training_bytes(model: nn.Module, *optimizers: optim.Optimizer) -> int:
    """Bytes of parameters, their gradients, buffers and the optimizers' state: what no smaller batch saves.

    Examples:
        >>> import torch
        >>> layer = torch.nn.Linear(10, 10, bias=False)
        >>> training_bytes(layer), training_bytes(layer, torch.optim.AdamW(layer.parameters()))
        (800, 800)
    """
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    states = [
        value
        for optimizer in optimizers
        for state in optimizer.state.values()
        for value in state.values()
        if hasattr(value, "untyped_storage")
    ]
    tensors: list[Any] = [*model.parameters(), *model.buffers(), *parameters, *states]
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def release_free_memory() -> bool:
    """Gives memory that the C library keeps for later back to the system; whether it did.

    What an earlier computation freed would otherwise count as in use when a measurement starts, and the next
    computation, which takes it again, would seem to need none. Only glibc can be asked.

    Examples:
        >>> release_free_memory() in (True, False)
        True
    """
    if sys.platform != "linux":
        return False
    try:
        library = ctypes.CDLL(None)
        library.malloc_trim(0)
    except (OSError, AttributeError):
        return False
    return True
