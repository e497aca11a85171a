"""Files are whole or absent: full disks, damaged paths, and two writers."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from openwork.errors import StudyError
from openwork.runs import Lock, read_json, write_file, write_json


def test_the_new_content_replaces_the_old_and_nothing_else_is_left(tmp_path: Path) -> None:
    place = tmp_path / "deep" / "file"
    write_file(place, b"old")
    write_file(place, b"new")
    assert place.read_bytes() == b"new"
    assert os.listdir(place.parent) == ["file"]


@pytest.mark.parametrize("failing", ["write", "fsync"])
def test_a_full_disk_leaves_the_old_content(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failing: str) -> None:
    place = tmp_path / "checkpoint"
    write_file(place, b"old")

    def full(*ignored: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    if failing == "fsync":
        monkeypatch.setattr(os, "fsync", full)
    else:
        monkeypatch.setattr("builtins.open", _open_then(full))
    with pytest.raises(
        StudyError, match=r"no space left to write .*checkpoint \(0.0 MB\): what it held before is untou"
    ):
        write_file(place, b"new")
    assert place.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["checkpoint"]


def _open_then(full):
    real = open

    def opened(path, mode="r", **options):
        file = real(path, mode, **options)
        if "w" in mode:
            return _Full(file, full)
        return file

    return opened


class _Full:
    def __init__(self, file, write):
        self._file, self.write = file, write

    def __enter__(self):
        return self

    def __exit__(self, *ignored):
        self._file.close()


def test_a_real_limit_on_file_size_leaves_the_old_content(tmp_path: Path) -> None:
    script = """
import resource, signal, sys
from pathlib import Path
from openwork.errors import StudyError
from openwork.runs import write_file
place = Path(sys.argv[1])
write_file(place, b"old")
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
try:
    write_file(place, b"x" * 5_000_000)
except StudyError as error:
    print(error)
"""
    run = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path / "file")], capture_output=True, text=True, check=True
    )
    assert "no space left to write" in run.stdout and "(5.0 MB)" in run.stdout
    assert (tmp_path / "file").read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["file"]


def test_the_old_content_is_there_until_the_new_one_is_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = tmp_path / "file"
    write_file(place, b"old")
    real = os.replace

    def replace(source: Path, target: Path) -> None:
        assert (source.read_bytes(), target.read_bytes()) == (b"new", b"old")
        seen.append(target)
        real(source, target)

    seen: list[Path] = []
    monkeypatch.setattr(os, "replace", replace)
    write_file(place, b"new")
    assert seen == [place] and place.read_bytes() == b"new"


def test_a_path_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StudyError, match=r"cannot write .*file/below: .*; nothing was written"):
        write_file(tmp_path / "file" / "below", b"")


def test_an_interruption_leaves_no_temporary_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(handle: int) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", interrupt)
    with pytest.raises(KeyboardInterrupt):
        write_file(tmp_path / "file", b"new")
    assert os.listdir(tmp_path) == []


def test_json_survives_and_nan_is_refused(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {"x": [1, 2.5, None]})
    assert read_json(tmp_path / "a.json") == {"x": [1, 2.5, None]}
    assert read_json(tmp_path / "absent.json") is None
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(tmp_path / "a.json", {"x": float("nan")})
    assert json.loads((tmp_path / "a.json").read_text()) == {"x": [1, 2.5, None]}


def test_damaged_json_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text("{")
    with pytest.raises(StudyError, match=r"a.json is not JSON \(.*\); it was not written by openwork"):
        read_json(tmp_path / "a.json")


def test_a_second_writer_is_refused_until_the_first_is_done(tmp_path: Path) -> None:
    place = tmp_path / "lock"
    with Lock(place, holder="--out here"):
        with pytest.raises(StudyError, match=f"--out here is in use by process {os.getpid()}: wait for it"):
            with Lock(place, holder="--out here"):
                pass
    with Lock(place, holder="--out here"):
        pass


def test_a_lock_outlives_no_process(tmp_path: Path) -> None:
    script = "import os, sys; from pathlib import Path; from openwork.runs import Lock\n"
    script += "Lock(Path(sys.argv[1]), holder='x').__enter__(); os.kill(os.getpid(), 9)"
    subprocess.run([sys.executable, "-c", script, str(tmp_path / "lock")], check=False)
    with Lock(tmp_path / "lock", holder="x"):
        pass
