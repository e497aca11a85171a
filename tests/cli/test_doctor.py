"""The doctor: on this machine as it is, and on machines that a test describes."""

from __future__ import annotations

import json
import re
import tomllib
import warnings
from pathlib import Path
from types import SimpleNamespace

import pytest

import openwork as ow
import openwork.doctor as doctor
from openwork.cli.main import main
from openwork.doctor import Finding, examine

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def here() -> dict[str, Finding]:
    return {finding.name: finding for finding in examine()}


def test_nothing_is_broken_where_the_tests_run(here) -> None:
    assert not [finding for finding in here.values() if finding.status == "broken"]


def test_every_backend_is_asked_and_the_sparse_ones_run(here) -> None:
    from openwork.ops.backends.cpu_native import absence
    from openwork.ops.registry import backend_names

    for name in backend_names():
        built = name != "cpu" or absence() is None
        assert here[f"{name} on cpu"].status == ("ok" if built else "info")
    assert here["gather on cpu"].detail == "runs causal, a window"
    assert here["reference on cpu"].detail == "runs causal, a window"
    assert here["sdpa on cpu"].detail.startswith("runs causal; not a window: ")


def test_native_kernels_are_named_with_what_they_use(here, monkeypatch) -> None:
    from openwork.ops.backends import cpu_native

    found = here["native kernels"]
    if cpu_native.absence() is None:
        assert found.status == "ok" and re.match(r"use \w+; OPENWORK_CPU_ISA forces one of \w+", found.detail)
        monkeypatch.setenv("OPENWORK_CPU_ISA", "mmx")
        assert doctor._native().status == "broken"
        assert "OPENWORK_CPU_ISA='mmx': the kernels have no such variant" in doctor._native().detail
    monkeypatch.setattr(cpu_native, "_load", lambda: (None, "is not built"))
    lacking = "the extension openwork._native is not built; install again where there is a C++20 compiler"
    assert doctor._native() == Finding("backends", "native kernels", "info", f"{lacking}; gather serves")
    layouts = {"dense": None, "causal": None}
    monkeypatch.setattr(doctor, "_refusal", lambda name, device, layout: lacking)
    assert doctor._backend("cpu", "cpu", layouts) == Finding("backends", "cpu on cpu", "info", lacking)


def test_json_carries_the_findings(capsys) -> None:
    assert main(["doctor", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["ok"] is True
    assert {"topic", "name", "status", "detail"} == set(report["findings"][0])
    assert {finding["topic"] for finding in report["findings"]} == {"python", "packages", "devices", "backends"}


def test_the_page_ends_in_a_count(capsys) -> None:
    assert main(["doctor"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "python"
    assert re.fullmatch(r"0 broken, \d+ warnings", lines[-1])


def test_a_broken_finding_is_exit_code_1(monkeypatch, capsys) -> None:
    monkeypatch.setattr(doctor, "examine", lambda: [Finding("backends", "gather on cpu", "broken", "ValueError: x")])
    assert main(["doctor"]) == 1
    assert main(["doctor", "--json"]) == 1
    assert "1 broken" in capsys.readouterr().out


@pytest.mark.parametrize("version", ["3.10.4", "3.14.0"])
def test_an_untested_python_is_a_warning(version) -> None:
    finding = doctor._python(version)
    assert finding.status == "warning"
    assert finding.detail.endswith("; the tests ran with python 3.11 to 3.13, so this version is untested")
    assert doctor._python("3.12.9").status == "ok"


def test_an_untested_torch_is_a_warning(monkeypatch) -> None:
    newer = SimpleNamespace(__version__="9.1.0+cu150", version=SimpleNamespace(cuda="15.0"))
    monkeypatch.setattr(doctor, "import_module", lambda name: newer)
    finding = doctor._torch()[1]
    assert finding.status == "warning"
    assert finding.detail.startswith("9.1.0+cu150, built for CUDA 15.0; the tests ran with torch ")


def test_an_untested_transformers_is_a_warning(monkeypatch) -> None:
    monkeypatch.setattr(doctor, "_installed", lambda name: "4.40.0")
    assert doctor._optional("transformers", "models", "").status == "warning"
    assert doctor._optional("hypothesis", "tests", "") == Finding("packages", "hypothesis", "ok", "4.40.0; tests")


def test_a_torch_that_does_not_load_is_broken_and_named(monkeypatch) -> None:
    def refuse(name: str) -> None:
        raise OSError("libcudart.so.13: cannot open shared object file\nmore")

    monkeypatch.setattr(doctor, "import_module", refuse)
    findings = examine()
    torch = next(finding for finding in findings if finding.name == "torch")
    assert torch.status == "broken"
    assert torch.detail == (
        "cannot be imported: libcudart.so.13: cannot open shared object file; run: pip install torch"
    )
    assert not [finding for finding in findings if finding.topic == "backends"]


def test_what_is_not_installed_says_how_to_get_it(monkeypatch) -> None:
    monkeypatch.setattr(doctor, "_installed", lambda name: None)
    assert doctor._optional("tokenizers", *doctor.OPTIONAL["tokenizers"]) == Finding(
        "packages",
        "tokenizers",
        "info",
        "is not installed; reads a tokenizer.json (--tokenizer FILE): pip install 'openwork[tokenizers]'",
    )
    assert doctor._required("numpy").status == "broken"


def machine(*, available=True, capability=(9, 0), archs=("sm_80", "sm_90"), cudnn=91002, complaint=None):
    """A torch on a machine with a GPU, as far as the doctor looks."""

    def is_available() -> bool:
        if complaint:
            warnings.warn(complaint, stacklevel=1)
        return available

    def cudnn_version():
        if isinstance(cudnn, Exception):
            raise cudnn
        return cudnn

    return SimpleNamespace(
        version=SimpleNamespace(cuda="13.0"),
        get_num_threads=lambda: 2,
        cuda=SimpleNamespace(
            is_available=is_available,
            get_device_name=lambda index: "H200",
            get_device_capability=lambda index: capability,
            get_arch_list=lambda: [*archs, "compute_90"],
            device_count=lambda: 1,
        ),
        backends=SimpleNamespace(
            cudnn=SimpleNamespace(version=cudnn_version), mps=SimpleNamespace(is_available=lambda: False)
        ),
    )


@pytest.mark.parametrize("capability", [(9, 0), (8, 0), (8, 9)])
def test_a_gpu_that_torch_has_code_for_is_ok(monkeypatch, capability) -> None:
    monkeypatch.setattr(doctor, "_installed", lambda name: "9.10.2.21")
    cpu, cuda, cudnn = doctor._devices(machine(capability=capability))
    assert (cpu.status, cuda.status, cudnn.status) == ("ok", "ok", "ok")
    assert cuda.detail == f"1 x H200 (sm_{capability[0]}{capability[1]})"
    assert cudnn.detail == "9.10.2"


@pytest.mark.parametrize("capability", [(7, 5), (10, 0), (12, 0)])
def test_a_gpu_that_torch_has_no_code_for_is_a_warning(capability) -> None:
    finding = doctor._cuda(machine(capability=capability))
    assert finding.status == "warning"
    assert "but this torch has code for sm_80, sm_90 only; install a torch built for this GPU" in finding.detail


def test_an_old_driver_is_a_warning_with_its_remedy() -> None:
    complaint = "CUDA initialization: The NVIDIA driver on your system is too old (found version 12020). Please update."
    finding = doctor._cuda(machine(available=False, complaint=complaint))
    assert finding.status == "warning"
    assert "too old (found version 12020); update the driver, or install a torch built for an older" in finding.detail
    assert doctor._cuda(machine(available=False)).status == "info"


def test_two_cudnns_are_a_warning_and_a_refusing_one_is_broken(monkeypatch) -> None:
    monkeypatch.setattr(doctor, "_installed", lambda name: "9.8.0.87" if name == "nvidia-cudnn-cu13" else None)
    finding = doctor._cudnn(machine())
    assert finding.status == "warning"
    assert finding.detail.startswith("9.10.2 is loaded, but nvidia-cudnn-cu13 9.8.0.87 is installed")
    clash = RuntimeError("cuDNN version incompatibility:\nPyTorch was compiled against (9, 10, 2)")
    assert doctor._cudnn(machine(cudnn=clash)).status == "broken"
    assert doctor._cudnn(machine(cudnn=None)).status == "info"


def test_a_backend_that_crashes_is_broken_and_one_that_refuses_is_not(monkeypatch) -> None:
    def crash(name, device, layout):
        raise IndexError("block 4 of 3")

    monkeypatch.setattr(doctor, "_refusal", crash)
    assert doctor._backend("gather", "cpu", {"causal": None}) == Finding(
        "backends", "gather on cpu", "broken", "IndexError: block 4 of 3"
    )
    monkeypatch.setattr(doctor, "_refusal", lambda name, device, layout: "needs a compiler")
    assert doctor._backend("cpu", "cpu", {"causal": None}) == Finding(
        "backends", "cpu on cpu", "info", "not causal: needs a compiler"
    )


def test_tested_versions_are_those_of_the_constraints() -> None:
    pinned = dict(line.split("==") for line in (ROOT / "constraints.txt").read_text().splitlines() if "==" in line)
    first, last = doctor.TESTED["torch"]
    assert doctor._numbers(first) <= doctor._numbers(pinned["torch"])[:2] <= doctor._numbers(last)
    wanted = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    floor = next(line for line in wanted["dependencies"] if line.startswith("torch"))
    assert floor == f"torch>={first}"
    assert wanted["requires-python"] == f">={doctor.TESTED['python'][0]}"


def test_a_backend_without_a_gradient_is_broken(monkeypatch) -> None:
    import openwork.ops as ops
    from openwork.ops.api import sparse_attention

    def detached(*tensors, backend):
        result = sparse_attention(*tensors, backend=backend)
        return result._replace(output=result.output.detach() + tensors[0])

    monkeypatch.setattr(ops, "sparse_attention", detached)
    layout = ow.compile_layout(ow.Causal(), q_len=8, kv_len=8)
    assert doctor._backend("reference", "cpu", {"causal": layout}) == Finding(
        "backends", "reference on cpu", "broken", "RuntimeError: a gradient is missing or not finite"
    )
