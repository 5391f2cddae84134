"""Writes shards with several processes, one shard per task."""

from __future__ import annotations

import multiprocessing
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, ThreadPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import psutil

from pipeline import stopping
from pipeline.data.making.plan import Plan
from pipeline.data.making.shard_writer import Record, write_shard
from pipeline.errors import PipelineError

PROGRESS_SECONDS = 0.2


@dataclass(frozen=True)
class Job:
    """What every worker process needs to know."""

    plan: Plan
    out: Path
    skip_bad: int

    def write(self, number: int, advance: Callable[[int], object]) -> Record:
        """Write one shard."""
        return write_shard(self.plan, number, self.out, self.skip_bad, advance)


def write_shards(
    job: Job, numbers: Sequence[int], workers: int, advance: Callable[[int], object]
) -> Iterator[Record]:
    """Write these shards and yield the record of each one when it is finished.

    `advance(count)` is called as images are written. The first error stops all workers. The bytes of the shards do
    not depend on the number of workers.
    """
    workers = min(workers, len(numbers))
    if workers <= 1:
        yield from (job.write(number, partial(_advance_or_stop, advance)) for number in numbers)
        return
    # Not forked: libraries may have started threads, and a forked process would keep their locks locked forever.
    context = multiprocessing.get_context("spawn")
    written = context.Value("q", 0)
    pool = ProcessPoolExecutor(workers, context, _start_worker, (job, written))
    starting = _start(pool, numbers)
    with _ending_workers(pool, starting):
        while not wait([starting], PROGRESS_SECONDS).done:
            stopping.check()
        pending, reported = starting.result(), 0
        while pending:
            stopping.check()
            done, pending = wait(pending, PROGRESS_SECONDS, FIRST_COMPLETED)
            advance(written.value - reported)
            reported = written.value
            yield from (_result(future) for future in done)


def _advance_or_stop(advance: Callable[[int], object], count: int) -> None:
    stopping.check()
    advance(count)


def _result(future: Future[Record]) -> Record:
    try:
        return future.result()
    except BrokenProcessPool:
        stopping.check()
        raise PipelineError(
            "A worker process was killed, perhaps because memory ran out. Run the same command again with fewer "
            "--workers: finished shards are kept."
        ) from None


def _start(pool: ProcessPoolExecutor, numbers: Sequence[int]) -> Future[set[Future[Record]]]:
    """Begin to start the workers and give them these shards.

    In a thread, because each worker must have imported a part of the program before the next one starts.
    """

    def start() -> set[Future[Record]]:
        with stopping.delayed():
            return {pool.submit(_write_in_worker, number) for number in numbers}

    threads = ThreadPoolExecutor(1)
    starting = threads.submit(start)
    threads.shutdown(wait=False)
    return starting


@contextmanager
def _ending_workers(pool: ProcessPoolExecutor, starting: Future[set[Future[Record]]]) -> Iterator[None]:
    """If the body fails, kill the workers at once instead of letting them finish the queue."""
    others = set(psutil.Process().children())

    def kill() -> None:
        for child in set(psutil.Process().children()) - others:
            with suppress(psutil.Error):
                if any("spawn_main" in word for word in child.cmdline()):
                    child.kill()

    with stopping.last_words(lambda error: kill()):
        try:
            yield
        except BaseException:
            while not wait([starting], PROGRESS_SECONDS).done:
                kill()
            pool.shutdown(wait=False, cancel_futures=True)
            kill()
            raise
        finally:
            pool.shutdown(wait=True)


_job: Job
_written: Any


def _start_worker(job: Job, written: Any) -> None:
    global _job, _written
    _job, _written = job, written
    stopping.leave_to_parent()
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """End this worker if its parent is killed; it would otherwise wait for its next shard forever."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _write_in_worker(number: int) -> Record:
    return _job.write(number, _count)


def _count(images: int) -> None:
    with _written.get_lock():
        _written.value += images
