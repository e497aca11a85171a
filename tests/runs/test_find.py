"""Where studies are, and whether somebody works in one."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from openwork.errors import DataError
from openwork.runs import Lock, find_studies, in_use, is_locked


def make(path: Path) -> Path:
    path.mkdir(parents=True)
    (path / "study.json").write_text("{}")
    return path


def test_studies_are_found_below_and_not_inside_each_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = make(tmp_path / "b" / "deep"), make(tmp_path / "a")
    make(second / "runs" / "0-dense-seed0")
    make(tmp_path / ".hidden" / "study")
    assert find_studies([tmp_path]) == [second, first]
    assert find_studies([first, tmp_path]) == [first, second]
    monkeypatch.chdir(tmp_path)
    assert find_studies() == [Path("a"), Path("b/deep")]


def test_a_place_that_does_not_exist_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"gone is not a directory; name the --out of a study, or a directory above"):
        find_studies([tmp_path / "gone"])


def test_a_held_lock_is_seen_and_stays_held(tmp_path: Path) -> None:
    study = make(tmp_path / "study")
    assert not in_use(study)
    script = "import sys; from pathlib import Path; from openwork.runs import Lock\n"
    script += "with Lock(Path(sys.argv[1]), holder='x'): print('held', flush=True); sys.stdin.read()"
    command = [sys.executable, "-c", script, str(study / "lock")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None and other.stdin is not None and other.stdout.readline() == "held\n"
        assert in_use(study) and in_use(study)
        other.stdin.close()
    assert not is_locked(study / "lock")
    with Lock(study / "lock", holder="x"):
        assert is_locked(study / "lock")
