"""Independent jobs on as many threads as torch may use, each job on one."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier
from typing import TypeVar

import torch

__all__ = ["run_jobs"]

T = TypeVar("T")


def run_jobs(jobs: Sequence[Callable[[], T]], *, threads: bool = True) -> Iterator[T]:
    """The results of independent jobs, in their order.

    A job that multiplies small matrices loses to waiting when each of its steps is spread over threads, the more so
    where other processes run; a job for itself waits for nobody. With one job, or one thread, it runs here.

    Args:
        jobs: What to run.
        threads: False runs everything here: an accelerator has threads of its own.
    """
    count = torch.get_num_threads() if threads else 1
    inference = torch.is_inference_mode_enabled()
    workers = min(count, len(jobs))
    if workers < 2:
        for job in jobs:
            yield job()
        return
    started = Barrier(workers + 1)

    def begin() -> None:
        torch.set_num_threads(1)
        # a thread takes the global number when it first asks: it asks now, while that is 1
        torch.get_num_threads()
        started.wait()

    def run(job: Callable[[], T]) -> T:
        # what is set for a thread is set for the caller's alone
        with torch.inference_mode(inference), torch.no_grad():
            return job()

    with ThreadPoolExecutor(workers, initializer=begin) as pool:
        futures = [pool.submit(run, job) for job in jobs]
        started.wait()
        # the workers keep their 1; threads that others start meanwhile get what they would have got
        torch.set_num_threads(count)
        for future in futures:
            yield future.result()
