"""One run in a process of its own, started by the study with `main([DIRECTORY, NUMBER])`.

What happens is told as JSON lines on stdout. The process ends with the one that started it.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import signal
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from openwork.errors import OpenworkError
from openwork.runs import Lock, read_json, write_json
from openwork.study.config import StudyConfig, refuse_changes, with_digests
from openwork.study.folder import RunPlace, StudyFolder
from openwork.study.prepare import load_data, measure_held_out
from openwork.study.record import RunRecord
from openwork.study.trainer import Interrupted, StudyData, Trainer

__all__ = ["main", "perform"]

FAILED = 2
STOPPED = 130
_SET_PARENT_DEATH_SIGNAL = 1
_PATIENCE_SECONDS = 30.0


def perform(config: StudyConfig, place: RunPlace, data: StudyData, **hooks: Any) -> RunRecord:
    """Does one run to its end and writes its record; goes on from its last checkpoint where there is one."""
    trainer = Trainer(config, place.contender, place.seed, data, place.directory, **hooks)
    state = trainer.run()
    held_out = measure_held_out(data, config)
    tokens_per_step = config.batch_size * config.seq_len
    record = RunRecord.of(place.contender.name, place.seed, state, tokens_per_step=tokens_per_step, held_out=held_out)
    trainer.save_model(place.directory)
    write_json(place.record, record.to_dict())
    return record


def main(arguments: list[str]) -> int:
    """Does the run and gives the exit code: 0 done, 2 what the caller can mend, 130 stopped and saved."""
    parent = os.getppid()
    _end_with_parent()
    stopping = False

    def ask_to_stop(number: int, frame: Any) -> None:
        nonlocal stopping
        stopping = True

    signal.signal(signal.SIGINT, ask_to_stop)
    signal.signal(signal.SIGTERM, ask_to_stop)
    if hasattr(signal, "pthread_sigmask"):
        # an interrupt that came while torch was being imported was held back until here
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    folder = StudyFolder(Path(arguments[0]))
    # what a model of the user's own prints is no event
    events, sys.stdout = sys.stdout, sys.stderr

    def tell(event: dict[str, Any]) -> None:
        print(json.dumps(event), file=events, flush=True)

    try:
        study = read_json(folder.study)
        config = StudyConfig.from_dict(study["config"])
        refuse_changes(study["config"], with_digests(config).to_dict())
        config = replace(config, device=study["device"])
        place = folder.places(config)[int(arguments[1])]
        torch.set_num_threads(study["threads"])
        place.directory.mkdir(parents=True, exist_ok=True)
        # a run that was left behind by a killed study may need a moment to notice
        with Lock(place.directory / "lock", holder=f"{place.directory}", patience_s=_PATIENCE_SECONDS):
            data = load_data(config, folder, fingerprint=study["data"]["fingerprint"])
            perform(config, place, data, report=tell, stop=lambda: stopping or os.getppid() != parent)
    except Interrupted:
        return STOPPED
    except OpenworkError as error:
        tell({"event": "error", "kind": type(error).__name__, "message": str(error)})
        return FAILED
    except BrokenPipeError:
        return STOPPED
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        tell({"event": "error", "kind": "StudyError", "message": f"{where}{error.strerror or error}."})
        return FAILED
    return 0


def _end_with_parent() -> None:
    """On Linux the system kills this process when its parent dies; elsewhere `stop` notices after a step."""
    if sys.platform == "linux":
        with contextlib.suppress(OSError, AttributeError):
            ctypes.CDLL(None).prctl(_SET_PARENT_DEATH_SIGNAL, signal.SIGKILL)
