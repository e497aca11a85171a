"""The tree as a whole: what is written in one place and must hold in another."""

from __future__ import annotations

import gzip
import re
import subprocess
import tomllib
from itertools import chain
from pathlib import Path

import pytest

import openwork
from openwork.cli.main import app

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
DOCUMENTS = ["README.md", "DESIGN.md", "CONTRIBUTING.md", "CHANGELOG.md", "LOG.md"]


@pytest.fixture(scope="module")
def tracked() -> list[Path]:
    """Every text file that is committed, or would be."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if listed.returncode:
        pytest.skip("this is no git work tree, so what is committed is not known")
    paths = [ROOT / name for name in listed.stdout.split("\0") if name]
    return [path for path in paths if path.is_file() and path.suffix not in {".png", ".svg", ".pdf", ".npy", ".pt"}]


def machine_paths(text: str) -> list[str]:
    """Absolute paths that exist on one machine only."""
    return re.findall(r"(?<![\w.])/(?:work|root|home|Users)/\w[\w./-]*", text)


def text_of(path: Path) -> str:
    """What a committed file says, unpacked."""
    content = path.read_bytes()
    return (gzip.decompress(content) if path.suffix == ".gz" else content).decode()


def test_no_path_of_one_machine_is_committed(tracked) -> None:
    found = {str(p.relative_to(ROOT)): machine_paths(text_of(p)) for p in tracked if p != Path(__file__)}
    assert not {name: paths for name, paths in found.items() if paths}


def test_the_search_for_machine_paths_can_fail() -> None:
    assert machine_paths("see /home/someone/data and https://x.org/root/y") == ["/home/someone/data"]


def test_code_is_ascii(tracked) -> None:
    code = [p for p in tracked if p.suffix in {".py", ".sh", ".toml", ".txt"} or p.name in {"Makefile", "run"}]
    assert len(code) > 50
    assert not [str(p.relative_to(ROOT)) for p in code if not p.read_text().isascii()]


def names(requirements: list[str]) -> set[str]:
    found = {re.match(r"[\w-]+", requirement).group().lower() for requirement in requirements}
    return found - {"openwork"}


def test_every_dependency_is_pinned_and_explained() -> None:
    wanted = names([*PROJECT["dependencies"], *chain(*PROJECT["optional-dependencies"].values())])
    pinned = names([line for line in (ROOT / "constraints.txt").read_text().splitlines() if "==" in line])
    assert wanted <= pinned
    explained = (ROOT / "docs" / "dependencies.md").read_text()
    assert not {name for name in wanted if name not in explained}


def test_torch_has_no_upper_bound() -> None:
    (torch,) = (line for line in PROJECT["dependencies"] if line.startswith("torch"))
    assert re.fullmatch(r"torch>=[\d.]+", torch)


def readme_map() -> dict[str, str]:
    """The map of the tree in the README: path to what it says of it."""
    block = re.search(r"## The tree\n.*?```\n(.*?)```", (ROOT / "README.md").read_text(), flags=re.DOTALL).group(1)
    return dict(line.split(None, 1) for line in block.splitlines() if line.strip())


def test_the_map_in_the_readme_is_the_tree(tracked) -> None:
    shown = readme_map()
    assert not [path for path in shown if not (ROOT / path).exists()]
    packages = {f"src/openwork/{p.parent.name}/" for p in tracked if p.match("src/openwork/*/__init__.py")}
    folders = {f"{p.relative_to(ROOT).parts[0]}/" for p in tracked if len(p.relative_to(ROOT).parts) > 1}
    wanted = packages | {folder for folder in folders if not folder.startswith((".", "src"))}
    assert not wanted - set(shown)


def test_documents_name_only_commands_that_work() -> None:
    groups = {group.typer_instance.info.name for group in app.registered_groups}
    known = {command.name for command in app.registered_commands} | groups
    for document in DOCUMENTS:
        text = (ROOT / document).read_text()
        named = set(re.findall(r"(?:^|`|-m |bin/)openwork ([a-z]+)", text, flags=re.MULTILINE))
        assert named <= known, document


def test_documents_link_to_what_exists(tracked) -> None:
    missing = []
    for path in (p for p in tracked if p.suffix == ".md"):
        for target in re.findall(r"\]\(([^)#\s]+)", path.read_text()):
            if "://" not in target and not (path.parent / target).exists():
                missing.append(f"{path.relative_to(ROOT)}: {target}")
    assert not missing


def test_make_has_the_targets_that_documents_name() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE))
    assert {"demo", "test", "test-all", "check", "bench", "clean"} <= targets
    for document in DOCUMENTS:
        assert set(re.findall(r"`make ([a-z-]+)", (ROOT / document).read_text())) <= targets


def test_the_front_door_names_what_the_design_promises() -> None:
    section = (ROOT / "DESIGN.md").read_text().split("## Public names")[1].split("## ")[0]
    promised = set(re.findall(r"\bow\.([A-Za-z_]\w*)", section))
    assert len(promised) >= 12
    assert promised <= set(openwork.__all__)


def test_promised_imports_work() -> None:
    section = (ROOT / "DESIGN.md").read_text().split("## Public names")[1].split("## ")[0]
    lines = [line for line in section.splitlines() if line.startswith("from openwork")]
    assert len(lines) >= 3
    for line in lines:
        exec(line, {})
