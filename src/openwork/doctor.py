"""What this installation can do: versions, packages, devices, and which backends run here and why not.

>>> from openwork.doctor import examine
>>> [finding.name for finding in examine() if finding.topic == "python"]
['Python']
"""

from __future__ import annotations

import platform
import re
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import import_module, metadata
from typing import Any, Literal

__all__ = ["TESTED", "Finding", "Status", "examine"]

Status = Literal["ok", "info", "warning", "broken"]

TESTED = {"python": ("3.11", "3.13"), "torch": ("2.11", "2.15"), "transformers": ("5.23", "5.23")}
"""First and last version that the tests ran with."""

OPTIONAL = {
    "tokenizers": ("reads a tokenizer.json (--tokenizer FILE)", "pip install 'openwork[tokenizers]'"),
    "hypothesis": ("drives the strategies of openwork.testing", "pip install 'openwork[test]'"),
    "transformers": ("Hugging Face models", "pip install transformers"),
}
"""Packages that openwork runs without: what each is for, and how to get it."""


@dataclass(frozen=True)
class Finding:
    """One thing that the doctor looked at.

    Attributes:
        topic: `"python"`, `"packages"`, `"devices"` or `"backends"`.
        name: What was looked at.
        status: `"ok"`; `"info"`: it is not here and nothing needs it; `"warning"`: it may fail; `"broken"`: it
            does fail.
        detail: What was found, and what to do about it.
    """

    topic: str
    name: str
    status: Status
    detail: str


def examine() -> list[Finding]:
    """Look at this installation and report; what is broken is a finding, not an error."""
    findings = [_python(platform.python_version())]
    findings += [_required(name) for name in ("openwork", "numpy", "typer", "rich", "jinja2", "matplotlib")]
    torch, about_torch = _torch()
    findings.append(about_torch)
    findings += [_optional(name, *about) for name, about in OPTIONAL.items()]
    if torch is not None:
        findings += _devices(torch)
        findings += _backends(torch)
    return findings


def _python(version: str) -> Finding:
    status, note = _tested("python", version)
    return Finding("python", "Python", status, f"{version} on {platform.system()} {platform.machine()}{note}")


def _tested(name: str, version: str) -> tuple[Status, str]:
    """Whether the tests ran with this version, and what to say when they did not."""
    first, last = TESTED[name]
    numbers = _numbers(version)[:2]
    if _numbers(first) <= numbers <= _numbers(last):
        return "ok", ""
    tested = first if first == last else f"{first} to {last}"
    return "warning", f"; the tests ran with {name} {tested}, so this version is untested"


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(number) for number in re.findall(r"\d+", version.split("+")[0]))


def _installed(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _required(name: str) -> Finding:
    version = _installed(name)
    if version is None:
        return Finding("packages", name, "broken", "is not installed; run: pip install openwork")
    return Finding("packages", name, "ok", version)


def _optional(name: str, purpose: str, remedy: str) -> Finding:
    version = _installed(name)
    if version is None:
        return Finding("packages", name, "info", f"is not installed; {purpose}: {remedy}")
    status, note = _tested(name, version) if name in TESTED else ("ok", "")
    return Finding("packages", name, status, f"{version}; {purpose}{note}")


def _torch() -> tuple[Any, Finding]:
    """The module and what to say of it; `None` where it cannot be imported."""
    try:
        torch = import_module("torch")
    except (ImportError, OSError) as error:
        reason = str(error).splitlines()[0]
        return None, Finding("packages", "torch", "broken", f"cannot be imported: {reason}; run: pip install torch")
    version = str(torch.__version__)
    build = f"built for CUDA {torch.version.cuda}" if torch.version.cuda else "built without CUDA"
    status, note = _tested("torch", version)
    return torch, Finding("packages", "torch", status, f"{version}, {build}{note}")


def _devices(torch: Any) -> Iterator[Finding]:
    yield Finding("devices", "cpu", "ok", f"{torch.get_num_threads()} threads")
    if torch.version.cuda is None:
        yield Finding("devices", "cuda", "info", "this torch is built without CUDA")
    else:
        yield _cuda(torch)
        yield _cudnn(torch)
    if torch.backends.mps.is_available():
        yield Finding("devices", "mps", "ok", "available")


def _cuda(torch: Any) -> Finding:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        available = torch.cuda.is_available()
    if not available:
        if not caught:
            return Finding("devices", "cuda", "info", "no CUDA device or no NVIDIA driver was found")
        # torch warns here when the driver is older than the CUDA that it was built for
        reason = " ".join(str(caught[0].message).split()).split(". ")[0]
        remedy = f"update the driver, or install a torch built for an older CUDA than {torch.version.cuda}"
        return Finding("devices", "cuda", "warning", f"{reason}; {remedy}")
    name = torch.cuda.get_device_name(0)
    capability = "sm_{}{}".format(*torch.cuda.get_device_capability(0))
    built = [arch for arch in torch.cuda.get_arch_list() if arch.startswith("sm_")]
    # code for sm_80 runs on every sm_8x; anything newer needs code of its own or PTX
    if built and not any(arch[:-1] == capability[:-1] and arch <= capability for arch in built):
        detail = f"{name} is {capability}, but this torch has code for {', '.join(built)} only"
        return Finding("devices", "cuda", "warning", f"{detail}; install a torch built for this GPU")
    count = torch.cuda.device_count()
    return Finding("devices", "cuda", "ok", f"{count} x {name} ({capability})")


def _cudnn(torch: Any) -> Finding:
    try:
        version = torch.backends.cudnn.version()
    except RuntimeError as error:
        # torch raises where the library that it finds is another one than it was compiled against
        reason = " ".join(str(error).split())
        return Finding("devices", "cudnn", "broken", f"{reason} (look for a second cuDNN in LD_LIBRARY_PATH)")
    if version is None:
        return Finding("devices", "cudnn", "info", "this torch is built without cuDNN")
    major = str(torch.version.cuda).split(".")[0]
    package = _installed(f"nvidia-cudnn-cu{major}")
    loaded = f"{version // 10000}.{version // 100 % 100}.{version % 100}"
    if package is not None and _numbers(package)[:3] != _numbers(loaded):
        detail = f"{loaded} is loaded, but nvidia-cudnn-cu{major} {package} is installed"
        return Finding("devices", "cudnn", "warning", f"{detail}; another cuDNN comes first in LD_LIBRARY_PATH")
    return Finding("devices", "cudnn", "ok", loaded)


def _backends(torch: Any) -> Iterator[Finding]:
    """Run each backend forward and backward on each device here, on a layout that all have and on a sparse one."""
    from openwork.layout import compile_layout
    from openwork.ops.registry import backend_names
    from openwork.patterns import Causal, Window

    layouts = {
        "causal": compile_layout(Causal(), q_len=8, kv_len=8),
        "a window": compile_layout(Causal() & Window(before=2), q_len=8, kv_len=8),
    }
    devices = ["cpu"]
    devices += ["cuda"] if torch.cuda.is_available() else []
    devices += ["mps"] if torch.backends.mps.is_available() else []
    yield _native()
    for name in backend_names():
        for device in devices:
            yield _backend(name, device, layouts)


def _native() -> Finding:
    """The compiled kernels of the backend `cpu`: there, or what it takes to have them."""
    from openwork.errors import BackendError
    from openwork.ops.backends.cpu_native import VARIABLE, absence, available_isas, chosen_isa

    missing = absence()
    if missing is not None:
        return Finding("backends", "native kernels", "info", f"{missing}; gather serves")
    try:
        chosen = chosen_isa()
    except BackendError as error:
        return Finding("backends", "native kernels", "broken", str(error))
    able = ", ".join(name for name, runs_here in available_isas().items() if runs_here)
    return Finding("backends", "native kernels", "ok", f"use {chosen}; {VARIABLE} forces one of {able}")


def _backend(name: str, device: str, layouts: dict[str, Any]) -> Finding:
    runs, refuses = [], []
    try:
        for described, layout in layouts.items():
            reason = _refusal(name, device, layout)
            if reason is None:
                runs.append(described)
            else:
                refuses.append(f"not {described}: {reason}")
    except Exception as error:  # a backend that crashes is what the doctor is there to find
        return Finding("backends", f"{name} on {device}", "broken", f"{type(error).__name__}: {error}")
    if not runs and len(refuses) > 1 and len({text.partition(": ")[2] for text in refuses}) == 1:
        # one reason for all of them
        refuses = [refuses[0].partition(": ")[2]]
    detail = "; ".join([*(["runs " + ", ".join(runs)] if runs else []), *refuses])
    return Finding("backends", f"{name} on {device}", "ok" if runs else "info", detail)


def _refusal(name: str, device: str, layout: Any) -> str | None:
    """Why the backend refuses this small call, or `None` after it ran forward and backward."""
    import torch

    from openwork.ops import sparse_attention
    from openwork.ops.backends.call import Call
    from openwork.ops.registry import refusals

    query, key, value = (torch.ones(1, 2, 8, 16, device=device, requires_grad=True) for _ in range(3))
    if reasons := refusals(Call(query=query, key=key, value=value, layout=layout, scale=0.25))[name]:
        return "; ".join(reasons)
    torch.autograd.backward(sparse_attention(query, key, value, layout, backend=name).output.sum())
    for tensor in (query, key, value):
        if tensor.grad is None or not bool(torch.isfinite(tensor.grad).all()):
            raise RuntimeError("a gradient is missing or not finite")
    return None
