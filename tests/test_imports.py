"""Which modules load what: asked of a fresh interpreter, because in this one everything is loaded already."""

from __future__ import annotations

import ast
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import openwork

SOURCE = Path(openwork.__file__).parent
HEAVY = {"torch", "matplotlib", "tokenizers", "transformers", "jinja2", "pytest", "hypothesis", "pandas"}
NUMPY_ONLY = ["patterns", "layout", "annotate", "plan", "check"]
FORBIDDEN = {
    "openwork": HEAVY | {"numpy", "typer", "rich"},
    "openwork.errors": HEAVY | {"numpy", "typer", "rich"},
    "openwork.cli.main": HEAVY | {"numpy"},
    "openwork.doctor": HEAVY | {"numpy"},
    **{f"openwork.{name}": HEAVY for name in NUMPY_ONLY},
    # what `openwork show` and `openwork check` take from the study
    **{name: {"torch"} for name in ("openwork.study", "openwork.study.masks", "openwork.study.tokenizer")},
    "openwork.ops.api": HEAVY - {"torch", "jinja2"},  # torch itself loads jinja2 where it compiles
    "openwork.nn": HEAVY - {"torch", "jinja2"},
}


def loaded_after(statement: str) -> set[str]:
    """Top-level packages in a fresh interpreter after it ran `statement`."""
    script = f"{statement}\nimport json, sys\nprint(json.dumps(sorted({{name.split('.')[0] for name in sys.modules}})))"
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    return set(json.loads(run.stdout))


@pytest.mark.parametrize("module", FORBIDDEN)
def test_import_stays_light(module: str) -> None:
    assert not loaded_after(f"import {module}") & FORBIDDEN[module]


def test_the_probe_sees_torch() -> None:
    assert "torch" in loaded_after("import openwork.ops.api")


def test_a_pattern_is_made_and_compiled_without_torch() -> None:
    use = "import openwork as ow; ow.compile_layout(ow.Causal() & ow.Window(before=3), q_len=9, kv_len=9)"
    assert "torch" not in loaded_after(use)


@pytest.mark.parametrize("command", [["-c", "import openwork"], ["-m", "openwork", "--help"]])
def test_a_newcomer_does_not_wait(command: list[str]) -> None:
    # processor time: on a machine that is idle this is the wait, and where others work it is the same
    def seconds() -> float:
        before = os.times()
        subprocess.run([sys.executable, *command], check=True, stdout=subprocess.DEVNULL)
        after = os.times()
        return after.children_user - before.children_user + after.children_system - before.children_system

    assert min(seconds() for _ in range(5)) < 0.5


def test_every_public_name_is_there_and_says_where_it_lives() -> None:
    assert openwork.__all__ == sorted(openwork.__all__)
    for name in openwork.__all__:
        assert getattr(openwork, name).__module__.startswith("openwork."), name
        assert name in dir(openwork)


def test_type_checkers_see_the_same_names() -> None:
    tree = ast.parse((SOURCE / "__init__.py").read_text())
    block = next(node for node in tree.body if isinstance(node, ast.If))
    shown = {alias.name: node.module for node in block.body if isinstance(node, ast.ImportFrom) for alias in node.names}
    assert shown == {name: openwork._home(name) for name in openwork.__all__}


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="has no attribute 'Windw'"):
        openwork.Windw  # noqa: B018


def front_door_uses(source: str) -> list[str]:
    """Public names that a module takes through the package's front door, where the import contract sees nothing."""
    nodes = list(ast.walk(ast.parse(source)))
    imported = [node for node in nodes if isinstance(node, ast.ImportFrom) and node.module == "openwork"]
    doors = {
        alias.asname or alias.name
        for node in nodes
        if isinstance(node, ast.Import)
        for alias in node.names
        if alias.name == "openwork"
    }
    names = [alias.name for node in imported for alias in node.names]
    names += [
        node.attr
        for node in nodes
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in doors
    ]
    return sorted(set(names) & set(openwork.__all__))


def test_no_layer_goes_through_the_front_door() -> None:
    found = {str(p.relative_to(SOURCE)): front_door_uses(p.read_text()) for p in SOURCE.rglob("*.py")}
    assert not {name: names for name, names in found.items() if names}


def test_the_front_door_probe_can_fail() -> None:
    source = "import numpy\nimport openwork as ow\nfrom openwork import Window, __version__\now.Causal() & numpy.Keys\n"
    assert front_door_uses(source) == ["Causal", "Window"]


def broken_contracts(folder: Path) -> list[str]:
    """What import-linter says of the package in `folder`, by the contracts of pyproject.toml."""
    script = "from importlinter.cli import lint_imports_command; lint_imports_command()"
    run = subprocess.run(
        [sys.executable, "-c", script, "--no-cache"],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(folder), "NO_COLOR": "1", "COLUMNS": "200"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert "Contracts:" in run.stdout, run.stdout + run.stderr
    return re.findall(r"^(.+) BROKEN", run.stdout, flags=re.MULTILINE)


@pytest.fixture
def copied(tmp_path: Path) -> Path:
    """The package and its contracts, to break."""
    pytest.importorskip("importlinter", reason="import-linter is in the dev extra")
    shutil.copytree(SOURCE, tmp_path / "openwork", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(SOURCE.parent.parent / "pyproject.toml", tmp_path)
    return tmp_path


def test_imports_point_down(copied: Path) -> None:
    assert broken_contracts(copied) == []


@pytest.mark.parametrize(
    ("module", "statement", "contract"),
    [
        ("patterns/causal.py", "import openwork.layout", "imports point down"),
        ("layout/data.py", "def later():\n    import openwork.ops.api", "imports point down"),
        ("nn/__init__.py", "import openwork.testing", "imports point down"),
        ("interop/masks.py", "import openwork.measure", "imports point down"),
        ("surplus.py", "import numpy", "imports point down"),
        ("layout/data.py", "import torch", "patterns, layouts, annotations, plans and checks need no torch"),
        ("check/walk.py", "import torch", "patterns, layouts, annotations, plans and checks need no torch"),
        ("ops/backends/gather.py", "import openwork.ops.backends.reference", "a backend knows no other backend"),
        ("ops/backends/gather.py", "import openwork.ops.api", "a backend knows nothing of the front door"),
    ],
)
def test_the_import_contract_can_break(copied: Path, module: str, statement: str, contract: str) -> None:
    with (copied / "openwork" / module).open("a") as file:
        file.write(f"\n{statement}\n")
    assert contract in broken_contracts(copied)
