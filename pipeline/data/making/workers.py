"""Makes shards with several processes, one shard at a time in each, or in this process.

A worker that crashes, or takes too long for an image, is replaced. Its image then counts as one that cannot be used.
"""

from __future__ import annotations

import multiprocessing
import signal
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import wait as wait_for_futures
from contextlib import contextmanager, suppress
from multiprocessing import forkserver, resource_tracker
from multiprocessing.connection import wait
from typing import Any, Final

import psutil

from pipeline import stopping
from pipeline.data.making.shard_writer import Job, bad_image, too_many
from pipeline.data.making.worker import (
    BEGUN,
    DONE,
    FIELDS,
    NO_IMAGE,
    PLACE,
    InThisProcess,
    Task,
    perform,
    serve,
)
from pipeline.errors import PipelineError

PROGRESS_SECONDS = 0.2
SECONDS_FOR_IMAGE = 60.0
"""More than any image takes on a busy machine. Larger ones take 2 seconds."""
START_METHOD: Final = "forkserver"
"""Forked by a process without threads, which has imported the modules: a new worker takes milliseconds, and no lock of
a library's thread stays locked in it for ever."""
Advance = Callable[[int], object]


class Worker:
    """A process, the task that it works on, and what is known of its progress."""

    def __init__(self, job: Job) -> None:
        context = multiprocessing.get_context(START_METHOD)
        if not _has_own_preload():
            context.set_forkserver_preload([serve.__module__])
        self.connection, self._theirs = context.Pipe()
        self.state = context.RawArray("q", FIELDS)
        self.state[PLACE] = NO_IMAGE
        self.process = context.Process(target=serve, args=(job, self.state, self._theirs), daemon=True)
        self.task: Task | None = None
        self._told, self._told_before = 0, 0
        self._seen, self._stalled = 0, 0.0

    def start(self) -> None:
        """Start the process."""
        # Which unblocks signals in this thread when it starts.
        resource_tracker.ensure_running()
        with stopping.delayed():
            self.process.start()
        # From now on only the process holds it, so that its end is noticed.
        self._theirs.close()

    def give(self, task: Task, spoilt: dict[int, str]) -> None:
        """Let the process, which has none, do a task."""
        self.task, self._told_before = task, self._told
        with suppress(BrokenPipeError):  # it has ended, which is noticed when its answer is read
            self.connection.send((task, spoilt))

    def progress(self) -> int:
        """The images that it has written since the last call."""
        done = int(self.state[DONE])
        self._told, news = done, done - self._told
        return news

    def lost(self) -> int:
        """The images that were counted, and whose task has to be done again."""
        return self._told - self._told_before

    def is_stuck(self, seconds: float) -> bool:
        """Whether it has worked on one image for too long; `seconds` are those since the last call."""
        # Not by a clock: the time in which both processes were suspended does not count.
        begun = int(self.state[BEGUN])
        is_same = self.state[PLACE] != NO_IMAGE and begun == self._seen
        self._seen, self._stalled = begun, self._stalled + seconds if is_same else 0.0
        return self._stalled > SECONDS_FOR_IMAGE

    def kill(self) -> None:
        """End the process, if it has been started."""
        if self.process.pid is not None:
            self.process.kill()

    def why(self) -> str:
        """Why the process has ended while it worked on an image."""
        self.process.join()
        if self._stalled > SECONDS_FOR_IMAGE:
            return f"it takes longer than {SECONDS_FOR_IMAGE:g} seconds"
        if self.process.exitcode == -signal.SIGKILL:
            return "the process that read it was killed, perhaps because memory ran out; try fewer --workers"
        return f"it crashes the process that reads it ({self.how()})"

    def how(self) -> str:
        """How the process has ended."""
        self.process.join()
        code = self.process.exitcode or 0
        return signal.Signals(-code).name if code < 0 else f"exit code {code}"


def _has_own_preload() -> bool:
    """Whether the program has said what the process imports that forks all others; there is one for all its parts."""
    # The modules of a program that has said nothing. Python has no public way to ask.
    return getattr(forkserver._forkserver, "_preload_modules", ["__main__"]) not in (
        ["__main__"],
        [serve.__module__],
    )


class Workers:
    """At most `most` processes for a job, which start when there is work for them; this process, if that is None."""

    def __init__(self, job: Job, most: int | None) -> None:
        self._job, self._most = job, most
        self._workers: list[Worker] = []
        self._spoilt: dict[int, str] = {}
        self._starting: Future[None] | None = None
        self._is_closed = False
        self._others = set(psutil.Process().children(recursive=True))

    def run(self, tasks: Sequence[Task], advance: Advance) -> Iterator[Any]:
        """Do these tasks, and yield the result of each when it is done, in any order; `advance(images)` as they are.

        Raises the first error of a task. Raises DataError if more images than the job may skip crash their worker or
        take too long, and PipelineError if a worker ends while it works on none.
        """
        if self._most is None:
            watch = InThisProcess(advance)
            yield from (perform(task, self._job, watch, {}) for task in tasks)
            return
        waiting = deque(tasks)
        self._start(min(self._most, len(tasks)) - len(self._workers))
        looked = time.monotonic()
        while waiting or any(worker.task for worker in self._workers):
            stopping.check()
            for worker in self._workers:
                if worker.task is None and waiting:
                    worker.give(waiting.popleft(), self._spoilt)
            busy = {worker.connection: worker for worker in self._workers if worker.task}
            answered = wait([*busy], PROGRESS_SECONDS)
            now = time.monotonic()
            elapsed, looked = min(now - looked, 2 * PROGRESS_SECONDS), now
            advance(sum(worker.progress() for worker in busy.values()))
            for connection, worker in busy.items():
                if connection in answered:
                    yield from self._take(worker, waiting, advance)
                elif worker.is_stuck(elapsed):
                    worker.kill()

    def _take(self, worker: Worker, waiting: deque[Task], advance: Advance) -> Iterator[Any]:
        """The answer of a worker; nothing if it has ended, because its task is then done by another one."""
        task = worker.task
        assert task is not None
        try:
            answer = worker.connection.recv()
        except (EOFError, OSError):
            self._note_crash(worker)
            advance(-worker.lost())
            waiting.appendleft(task)
            self._workers.remove(worker)
            self._start(1)
            return
        worker.task = None
        if isinstance(answer, Exception):
            raise answer
        yield answer

    def _note_crash(self, worker: Worker) -> None:
        """Count the image that a worker has ended with among those that cannot be used."""
        stopping.check()
        place, why = int(worker.state[PLACE]), worker.why()
        if place == NO_IMAGE:
            raise PipelineError(
                f"A worker process has ended while it read no image ({worker.how()}), perhaps because memory ran out. "
                "Run the same command again with fewer --workers: finished shards are kept."
            )
        self._spoilt[place] = why
        if len(self._spoilt) > self._job.skip_bad:
            bad = [bad_image(self._job.plan, at, reason) for at, reason in self._spoilt.items()]
            raise too_many(self._job.plan.source.name, bad, self._job.skip_bad)

    def _start(self, count: int) -> None:
        """Start more workers, in a thread: the first one waits until a part of the program is imported."""
        new = [Worker(self._job) for _ in range(count)]
        if not new:
            return
        self._workers += new

        def start() -> None:
            for worker in new:
                if not self._is_closed:
                    worker.start()

        threads = ThreadPoolExecutor(1)
        self._starting = threads.submit(start)
        threads.shutdown(wait=False)
        while not wait_for_futures([self._starting], PROGRESS_SECONDS).done:
            stopping.check()
        stopping.check()
        self._starting.result()

    def kill(self) -> None:
        """End all workers at once, instead of letting them finish what they do."""
        self._is_closed = True
        for worker in self._workers:
            worker.kill()
        if self._starting and not self._starting.done():
            # One that is just being started is known to the system alone.
            for child in set(psutil.Process().children(recursive=True)) - self._others:
                with suppress(psutil.Error):
                    if any(START_METHOD in word for word in child.cmdline()):
                        child.kill()

    def close(self) -> None:
        """End all workers, also those that are just being started."""
        self.kill()
        while self._starting and not wait_for_futures([self._starting], PROGRESS_SECONDS).done:
            self.kill()
        self.kill()
        for worker in self._workers:
            if worker.process.pid is not None:
                worker.process.join()
            worker.connection.close()


@contextmanager
def workers_for(job: Job, most: int | None) -> Iterator[Workers]:
    """Workers that have ended when the body has, also by a signal."""
    workers = Workers(job, most)
    with stopping.last_words(lambda error: workers.kill()):
        try:
            yield workers
        finally:
            workers.close()
