"""A study's directory: what a kill or a second command at the same instant may leave, and what is never taken over."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from itertools import combinations, count
from pathlib import Path
from typing import Any

import pytest

from openwork.errors import StudyError
from openwork.runs import Lock
from openwork.study import StudyConfig, run
from openwork.study.folder import StudyFolder

Tiny = Callable[..., StudyConfig]
PARTS = ("record.json", "report.html", "tokenizer.json", "tokens/training.ids", "runs/0-dense-seed0/record.json")
DIRECTORIES = {"tokens": ("training.ids", "training.firsts"), "runs": ("0-dense-seed0", "1-window-seed0")}
FACTS = {"data": {"fingerprint": "x"}}


def fill(path: Path, parts: tuple[str, ...] = PARTS) -> StudyFolder:
    """Files of an old study, and one that is not a study's."""
    for part in (*parts, "lock", "notes.txt"):
        place = path / part
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text("old")
    return StudyFolder(path)


def names(path: Path) -> list[str]:
    return sorted(place.name for place in path.iterdir())


def test_whatever_is_left_without_its_study_is_removed_before_another_begins(tiny: Tiny, tmp_path: Path) -> None:
    config = tiny()
    for number in range(len(PARTS) + 1):
        for left in combinations(PARTS, number):
            folder = fill(tmp_path / "out", left)
            folder.create()
            assert folder.begin(config, FACTS, fresh=False)["data"] == FACTS["data"]
            assert names(folder.path) == ["lock", "notes.txt", "study.json"]
            shutil.rmtree(folder.path)


def test_a_study_whose_removal_was_cut_short_gives_nothing_to_the_next(tiny: Tiny) -> None:
    old = run(tiny(steps=2))
    (old.config.out / "study.json").unlink()
    new = run(tiny(steps=2, lr=0.5))
    shutil.rmtree(old.config.out)
    assert new.records[0].losses == run(tiny(steps=2, lr=0.5)).records[0].losses != old.records[0].losses


def test_a_kill_at_any_moment_of_a_removal_leaves_whole_parts_or_no_study(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    states = set()
    for moment in count():
        folder = fill(tmp_path / str(moment))
        folder.begin(tiny(), FACTS, fresh=True)
        for name, inside in DIRECTORIES.items():
            fill(folder.path, tuple(f"{name}/{part}/file" for part in inside))
        fill(folder.path, PARTS[:3])
        steps = count()

        def killed(step: Callable[..., Any], steps: Any = steps, moment: int = moment) -> Callable[..., Any]:
            def act(*arguments: Any, **options: Any) -> Any:
                if next(steps) == moment:
                    raise KeyboardInterrupt
                return step(*arguments, **options)

            return act

        with monkeypatch.context() as patch:
            for name in ("unlink", "rmdir", "rename"):
                patch.setattr(os, name, killed(getattr(os, name)))
            try:
                folder.clear()
            except KeyboardInterrupt:
                pass
            else:
                break
        left = [name for name in names(folder.path) if name not in ("lock", "notes.txt") and name[0] != "."]
        states.add(tuple(left))
        if left:
            assert "study.json" in left
        for name in set(left) & set(DIRECTORIES):
            assert sorted(place.name for place in (folder.path / name).iterdir()) == sorted(DIRECTORIES[name])
        # the command that comes next: it goes on in the old study, or is refused, and --fresh removes the rest
        folder.begin(tiny(), FACTS, fresh=True)
        assert names(folder.path) == ["lock", "notes.txt", "study.json"]
    assert names(folder.path) == ["lock", "notes.txt"]
    assert len(states) == 6, states


def test_a_directory_with_names_like_a_studys_is_not_taken_for_one(tiny: Tiny, tmp_path: Path) -> None:
    (tmp_path / "mine" / "runs").mkdir(parents=True)
    (tmp_path / "mine" / "tokenizer.json").write_text("mine")
    for fresh in (False, True):
        with pytest.raises(StudyError, match=r"holds other files \(runs, ...\) and no study; name an empty or a new"):
            run(tiny(out=tmp_path / "mine"), fresh=fresh)
    assert names(tmp_path / "mine") == ["runs", "tokenizer.json"]


@pytest.mark.parametrize("step", ["mkdir", "write_bytes"])
def test_of_two_that_start_at_once_one_made_the_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    ours, theirs = StudyFolder(tmp_path / "out"), StudyFolder(tmp_path / "out")
    real = getattr(Path, step)

    def meanwhile(path: Path, *arguments: Any, **options: Any) -> Any:
        # the other command does all of its part just before ours makes the directory, or just after our probe
        if path.parent == tmp_path / "out" or path == tmp_path / "out":
            monkeypatch.setattr(Path, step, real)
            if step == "mkdir":
                theirs.create()
                return real(path, *arguments, **options)
            real(path, *arguments, **options)
            return theirs.create()
        return real(path, *arguments, **options)

    monkeypatch.setattr(Path, step, meanwhile)
    ours.create()
    assert (ours.made, theirs.made) == ((False, True) if step == "mkdir" else (True, False))
    assert names(tmp_path / "out") == []


def test_who_is_refused_the_lock_removes_nothing(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    config, real, held = tiny(), StudyFolder.create, []

    def create(folder: StudyFolder) -> None:
        real(folder)
        assert folder.made
        # between our making of the directory and our lock another command takes it
        held.append(Lock(folder.path / "lock", holder="x").__enter__())
        fill(folder.path, ("tokens/training.ids",))

    monkeypatch.setattr(StudyFolder, "create", create)
    with pytest.raises(StudyError, match="is in use by process"):
        run(config)
    assert names(config.out) == ["lock", "notes.txt", "tokens"]
    held[0].__exit__(None, None, None)
