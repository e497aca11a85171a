"""A whole study: data, every plan with every seed, the report."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

import openwork
from openwork import errors
from openwork.errors import OpenworkError, StudyError
from openwork.patterns import Pattern
from openwork.plan import Plan
from openwork.runs import read_json, write_json
from openwork.study.checkpoint_inputs import check_checkpoint, libraries_of
from openwork.study.checkpoint_source import CheckpointSource
from openwork.study.config import StudyConfig, with_contenders, with_digests
from openwork.study.contender import Contender
from openwork.study.corpus import Corpus
from openwork.study.environment import environment, resolve_device
from openwork.study.folder import RunPlace, StudyFolder
from openwork.study.masks import load_mask, read_mask
from openwork.study.model import model_facts
from openwork.study.model_source import model_source
from openwork.study.prepare import (
    corpus_of,
    data_facts,
    measure_held_out,
    prepare_data,
    require_facts,
)
from openwork.study.proposals import data_in_words, proposals
from openwork.study.record import RunRecord
from openwork.study.report import study_report, write_report
from openwork.study.result import StudyResult
from openwork.study.shapes import ModelFacts
from openwork.study.tokenizer import load_tokenizer, parse_tokenizer, require_tokenizers
from openwork.study.trainer import StudyData
from openwork.study.worker import STOPPED, perform

__all__ = ["run"]

Report = Callable[[dict[str, Any]], None]
_STOP_SECONDS = 60.0
_WORKER = (
    "import sys; sys.path.append(sys.argv[1]); from openwork.study.worker import main; sys.exit(main(sys.argv[2:]))"
)
_PACKAGES = Path(openwork.__file__).parents[1]


def run(
    config: StudyConfig | None = None,
    *,
    patterns: Sequence[str | Pattern | Plan] = (),
    fresh: bool = False,
    propose: bool = False,
    report: Report = lambda event: None,
    **options: Any,
) -> StudyResult:
    """Trains one model under several plans, dense attention always among them, and says what each saved and cost.

    Every plan starts from the same weights and sees the same batches. What is done is kept in `config.out`: a study
    that was stopped, by whatever, goes on when it is run again with the same configuration, and ends with the losses
    of an unbroken one, bit for bit on a CPU. With `config.isolate` each run has a process of its own. docs/study.md has
    an example.

    Args:
        config: What to train on what; `None` where the options say it all.
        patterns: More plans to compare, each named by its text (`"name: pattern"` names it).
        fresh: Remove an earlier study in `config.out` first.
        propose: Where no plan is given, compare those that `openwork.study.proposals` has for this kind of data.
        report: Told of progress, as dictionaries with an `event`.
        options: Fields of `StudyConfig`, in place of those of `config`.

    Returns:
        Figures, verdict, and where record and page are.

    Raises:
        DataError: There is no text, or too little.
        AnnotationError: A plan reads facts that nothing gives for this data.
        StudyError: `config.out` cannot be written, is in use or holds another study; or a run cannot go on.
        KeyboardInterrupt: Stopped by Ctrl-C, after saving.
    """
    config = StudyConfig(**options) if config is None else replace(config, **options)
    config = with_contenders(config, patterns)
    device = resolve_device(config.device)
    config = with_digests(config)
    expected, model = _check_inputs(config, device)
    corpus = corpus_of(config)
    proposed = proposals(corpus, config.seq_len) if propose and not config.contenders else ()
    config = replace(config, contenders=config.contenders or proposed)
    require_facts(config, corpus)
    folder = StudyFolder(config.out)
    folder.create()
    with folder.lock():
        study, data = _begin(config, folder, corpus, device, proposed, fresh, report)
        config = replace(config, device=resolve_device(study["device"]))
        if data.tokenizer.vocab_size != expected:
            model = model_facts(config, data.tokenizer.vocab_size)
        places = folder.places(config)
        records = []
        for number, place in enumerate(places):
            report(
                {
                    "event": "run",
                    "number": number,
                    "total": len(places),
                    "name": place.contender.name,
                    "seed": place.seed,
                }
            )
            records.append(_one_run(config, folder, place, number, data, study["threads"], report))
        result = StudyResult(
            config=config,
            records=tuple(records),
            held_out=measure_held_out(data, config),
            training_bytes_per_token=data.training.num_bytes / len(data.training.ids),
            data=study["data"],
            environment=study["environment"],
            vocab_size=data.tokenizer.vocab_size,
            model_facts=model,
        )
        write_json(folder.record, result.to_dict())
        write_report(folder.page, study_report(result, data))
        return result


def _begin(
    config: StudyConfig,
    folder: StudyFolder,
    corpus: Corpus,
    device: str,
    proposed: tuple[Contender, ...],
    fresh: bool,
    report: Report,
) -> tuple[dict[str, Any], StudyData]:
    """What is recorded of the study, and its tokens; who cannot begin leaves nothing. For who holds the lock."""
    began = not folder.study.exists() or fresh
    try:
        facts: dict[str, Any] = {"data": data_facts(corpus, report, began=began), "device": device}
        facts |= {"threads": torch.get_num_threads(), "environment": environment(device, libraries_of(config))}
        study = folder.begin(config, facts, fresh=fresh)
        if not began:
            report({"event": "resume", "out": str(config.out)})
        report({"event": "data", "lines": data_in_words(study["data"], proposed)})
        return study, prepare_data(config, corpus, folder, report)
    except errors.DataError:
        if began:
            folder.undo()
        raise
    except StudyError:
        if folder.made and not folder.study.exists():
            folder.undo()
        raise


def _check_inputs(config: StudyConfig, device: str) -> tuple[int, ModelFacts]:
    """Whatever can be refused before anything is written; gives the token ids that are expected, and the model's facts.

    A trained tokenizer may have fewer ids than were asked for.
    """
    kind, vocabulary = parse_tokenizer(config.tokenizer)
    if kind == "bpe":
        require_tokenizers()
    elif kind == "file":
        vocabulary = load_tokenizer(Path(config.tokenizer)).vocab_size
    source = model_source(config.model)
    if isinstance(source, CheckpointSource):
        vocabulary = check_checkpoint(config, source) or vocabulary
    masks = {contender.mask for contender in config.contenders if contender.mask is not None}
    for mask in masks:
        load_mask(mask)
    vocabulary = vocabulary or load_tokenizer(None).vocab_size
    model = model_facts(replace(config, device=device), vocabulary)
    for contender in config.contenders:
        if contender.plan is not None:
            model.check(contender.plan)
    for mask in masks:
        read_mask(mask, config.seq_len, model.heads)
    return vocabulary, model


def _one_run(
    config: StudyConfig,
    folder: StudyFolder,
    place: RunPlace,
    number: int,
    data: Any,
    threads: int,
    report: Report,
) -> RunRecord:
    known = read_json(place.record)
    if known is not None:
        return RunRecord.from_dict(known)
    if config.isolate:
        _run_in_process(folder, place, number, report)
        return RunRecord.from_dict(read_json(place.record))
    place.directory.mkdir(parents=True, exist_ok=True)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        return perform(config, place, data, report=report)
    finally:
        torch.set_num_threads(before)


def _run_in_process(folder: StudyFolder, place: RunPlace, number: int, report: Report) -> None:
    # -P: a user's own `random.py` in the working directory is data here, not a module to import
    command = [sys.executable, "-P", "-c", _WORKER, str(_PACKAGES), str(folder.path.absolute()), str(number)]
    # threads that sleep while they wait: where other processes run too, spinning ones make a step ten times as long
    environment = {"OMP_WAIT_POLICY": "passive", **os.environ}
    # a session of its own: Ctrl-C reaches this process, which asks the worker to save and stop
    with _interrupts_held():
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True, env=environment)
    try:
        failure = _follow(process, report)
    except BaseException:
        _stop(process, report)
        raise
    code = process.wait()
    if failure is not None:
        raise failure
    if code == STOPPED:
        raise KeyboardInterrupt
    if code != 0:
        raise StudyError(_ended(place, code))


@contextlib.contextmanager
def _interrupts_held() -> Iterator[None]:
    """A process started here hears an interrupt when it asks for it: the worker, once it can save and stop."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _follow(process: subprocess.Popen[str], report: Report) -> OpenworkError | None:
    failure: OpenworkError | None = None
    for event in _events(process):
        if event["event"] == "error":
            failure = getattr(errors, event["kind"], StudyError)(event["message"])
        else:
            report(event)
    return failure


def _events(process: subprocess.Popen[str]) -> Iterator[dict[str, Any]]:
    assert process.stdout is not None
    with process.stdout:
        for line in process.stdout:
            if line.startswith("{"):
                yield json.loads(line)


def _stop(process: subprocess.Popen[str], report: Report) -> None:
    """Asks a worker to save and stop, and ends it where it does not; a second Ctrl-C ends it at once."""
    try:
        if process.poll() is None:
            report({"event": "stopping"})
            process.send_signal(signal.SIGINT)
            process.wait(timeout=_STOP_SECONDS)
    except BaseException:
        process.kill()
        process.wait()
    finally:
        if process.stdout is not None:
            with contextlib.suppress(OSError):
                process.stdout.close()


def _ended(place: RunPlace, code: int) -> str:
    name = f"the process of plan {place.contender.name!r} (seed {place.seed})"
    if code == -signal.SIGKILL:
        return (
            f"{name} was killed, most likely for lack of memory: lower --batch-size or --seq-len. The same command "
            "goes on from its last checkpoint."
        )
    return f"{name} ended with code {code} before its run was done; its last words are above."
