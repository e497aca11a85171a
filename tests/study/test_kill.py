"""Real kills of real processes: what is left, and that the study goes on from it bit for bit."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from openwork.errors import StudyError
from openwork.runs import Lock
from openwork.study import StudyConfig, conduct, contender_from_text, run
from openwork.study.state import load_checkpoint

pytestmark = pytest.mark.slow

SCRIPT = """
import sys
from openwork.study import StudyConfig, contender_from_text, run
config = StudyConfig(
    data=sys.argv[1], out=sys.argv[2], contenders=(contender_from_text("window: Causal() & Window(before=15)"),),
    tokenizer="bytes", model="tiny", device="cpu", seq_len=256, batch_size=4, steps=24, warmup_steps=5,
    eval_tokens=1000, checkpoint_seconds=0.0,
)
if __name__ == "__main__":
    run(config)
"""
PATIENCE_S = 60.0


@contextlib.contextmanager
def started(*command: str, **options: object) -> Iterator[subprocess.Popen[str]]:
    """A process that does not outlive the test, and that an interrupt reaches."""

    def heed_interrupts() -> None:
        # a shell starts its background jobs with interrupts ignored, and every child would inherit that
        signal.signal(signal.SIGINT, signal.SIG_DFL)

    process = subprocess.Popen(command, text=True, preexec_fn=heed_interrupts, **options)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def wait_until(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline, f"waited in vain until {what}"
        time.sleep(0.01)


def steps_done(place: Path) -> int:
    saved = load_checkpoint(place / "checkpoint.pt")
    return saved[0].step if saved else 0


def test_killed_and_interrupted_it_ends_like_an_unbroken_study(texts: Path, tmp_path: Path) -> None:
    config = StudyConfig(
        data=texts,
        out=tmp_path / "killed",
        contenders=(contender_from_text("window: Causal() & Window(before=15)"),),
        tokenizer="bytes",
        model="tiny",
        device="cpu",
        seq_len=256,
        batch_size=4,
        steps=24,
        warmup_steps=5,
        eval_tokens=1000,
        isolate=False,
    )
    command = (sys.executable, "-c", SCRIPT, str(texts), str(config.out))
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    dense, window = (config.out / "runs" / name for name in ("0-dense-seed0", "1-window-seed0"))

    with started(*command, env=environment) as process:
        wait_until(lambda: steps_done(dense) >= 5, "five steps are saved")
        process.send_signal(signal.SIGKILL)
        process.wait()

    # the worker ends with the study, and leaves its lock
    def free() -> bool:
        with contextlib.suppress(StudyError), Lock(dense / "lock", holder="the test"):
            return True
        return False

    wait_until(free, "the worker has ended")
    left = steps_done(dense)
    assert 5 <= left < 24 and not (dense / "record.json").exists()

    with started(*command, env=environment, stderr=subprocess.PIPE) as process:
        wait_until(lambda: steps_done(window) >= 5, "five steps of the next plan are saved")
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == -signal.SIGINT and "KeyboardInterrupt" in errors
    stopped = load_checkpoint(window / "checkpoint.pt")
    assert stopped is not None and 5 <= stopped[0].step < 24

    finished = run(config)
    unbroken = run(replace(config, out=tmp_path / "unbroken"))
    for ours, theirs in zip(finished.records, unbroken.records, strict=True):
        assert ours.losses == theirs.losses
        assert ours.nats == theirs.nats
        assert ours.sessions == 2


def test_ctrl_c_before_a_worker_is_ready_saves_and_stops_without_a_traceback(
    tiny: Callable[..., StudyConfig], monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    early = "import os, signal; os.kill(os.getpid(), signal.SIGINT); "
    monkeypatch.setattr(conduct, "_WORKER", early + conduct._WORKER)
    config = tiny(isolate=True)
    with pytest.raises(KeyboardInterrupt):
        run(config)
    assert "Traceback" not in capfd.readouterr().err
    assert steps_done(config.out / "runs" / "0-dense-seed0") == 1


def test_what_lies_in_the_working_directory_is_not_imported(
    tiny: Callable[..., StudyConfig], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "random.py").write_text("raise SystemExit('imported from the working directory')")
    monkeypatch.chdir(tmp_path)
    assert [row.name for row in run(tiny(isolate=True)).rows] == ["dense"]


def test_a_full_disk_is_one_line_and_a_code(texts: Path, tmp_path: Path) -> None:
    limit = "import resource, sys; resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, 300_000)); "
    limit += "from openwork.cli.main import main; sys.exit(main(sys.argv[1:]))"
    options = f"--data {texts} --out {tmp_path / 'out'} --tokenizer bytes --model tiny --seq-len 96 --steps 3"
    done = subprocess.run(
        [sys.executable, "-c", limit, "study", *options.split(), "--device", "cpu"],
        capture_output=True,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1", "COLUMNS": "400"},
    )
    assert done.returncode == 2
    (line,) = (line for line in done.stderr.splitlines() if line.startswith("error: "))
    assert line.startswith("error: no space left to write ") and "checkpoint.pt" in line
    assert "Traceback" not in done.stderr
    assert [path.name for path in (tmp_path / "out").rglob("*") if "writing" in path.name] == []
