"""What the compiled objects hold: no copy of an inline function that another instruction set's code could end up in."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
WEAK = set("WwVvu")


def weak_symbols(path: Path) -> list[str]:
    listing = subprocess.run(["nm", "-C", str(path)], capture_output=True, text=True, check=True).stdout
    symbols = (line.rsplit(None, 2) if line[0] == " " else line.split(None, 2) for line in listing.splitlines() if line)
    return [symbol[-1] for symbol in symbols if symbol[-2] in WEAK]


@pytest.fixture
def nm():
    if shutil.which("nm") is None:
        pytest.skip("needs nm, which reads object files")


def test_variants_share_no_inline_functions(nm):
    """The linker keeps one copy of a weak symbol for the whole binary, from whichever variant comes first."""
    objects = [
        path
        for build in (ROOT / "build" / "native", ROOT / "csrc")
        for path in build.glob("CMakeFiles/passes_*.dir/passes/*.o")
    ]
    if not objects:
        pytest.skip("no object files: the kernels were not built in this tree")
    assert {path.parents[1].name for path in objects} >= {"passes_plain.dir"} or len(objects) >= 2
    assert {str(path): weak_symbols(path) for path in objects if weak_symbols(path)} == {}


def test_the_search_for_weak_symbols_can_find_one(nm, tmp_path):
    compiler = shutil.which("c++")
    if compiler is None:
        pytest.skip("needs a C++ compiler")
    source = tmp_path / "weak.cpp"
    source.write_text("inline int shared(int x) { return x + 1; }\nint (*taken)(int) = shared;\n")
    subprocess.run([compiler, "-c", str(source), "-o", str(tmp_path / "weak.o")], check=True)
    assert weak_symbols(tmp_path / "weak.o") == ["shared(int)"]
