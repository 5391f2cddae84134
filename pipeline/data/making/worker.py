"""A process that converts images for another one, which sees which image it works on, and may end it.

A decoder that crashes, hangs or takes all memory ends this process alone.
"""

from __future__ import annotations

import multiprocessing
import os
import threading
import traceback
from collections.abc import Callable, Mapping
from multiprocessing.connection import Connection
from typing import Any, NamedTuple

from pipeline import stopping
from pipeline.data.making.shard_writer import Job, Record, Tried, Watch, try_images, write_shard
from pipeline.errors import PipelineError

PLACE, BEGUN, DONE = range(3)
"""The fields of a worker's state: its image or NO_IMAGE, how many images it has begun, and how many it has written."""
FIELDS, NO_IMAGE = 3, -1


class Task(NamedTuple):
    """A shard to be written, if it has a number, or images to be tried."""

    number: int | None
    places: tuple[int, ...] = ()


class InThisProcess:
    """What is told of each image where nobody else looks: a signal stops the work between two of them."""

    def __init__(self, advance: Callable[[int], object]) -> None:
        self._advance = advance

    def begin(self, place: int) -> None:
        """The image at this place of the plan is read."""

    def end(self) -> None:
        """It is converted, or cannot be used."""

    def written(self) -> None:
        """It is in the shard."""
        stopping.check()
        self._advance(1)


class InWorker:
    """The same for a worker: three numbers in memory that it shares with the process that started it."""

    def __init__(self, state: Any) -> None:
        self._state = state

    def begin(self, place: int) -> None:
        """See InThisProcess."""
        state = self._state
        state[PLACE] = place
        state[BEGUN] += 1

    def end(self) -> None:
        """See InThisProcess."""
        self._state[PLACE] = NO_IMAGE

    def written(self) -> None:
        """See InThisProcess."""
        self._state[DONE] += 1


def perform(task: Task, job: Job, watch: Watch, spoilt: Mapping[int, str]) -> Record | Tried:
    """Do a task: the record of its shard, or what became of its images. `spoilt` are places that crash a worker."""
    if task.number is None:
        return try_images(job, task.places, watch, spoilt)
    return write_shard(job, task.number, watch, spoilt)


def serve(job: Job, state: Any, connection: Connection) -> None:
    """Do each task that comes, and send its result or its error, until no more can come."""
    stopping.leave_to_parent()
    threading.Thread(target=_end_with_parent, daemon=True).start()
    watch = InWorker(state)
    while True:
        try:
            task, spoilt = connection.recv()
        except EOFError:
            return
        answer: object
        try:
            answer = perform(task, job, watch, spoilt)
        except PipelineError as error:
            answer = error
        except Exception as error:
            # A defect of the program: it goes on in the other process, with this traceback.
            error.add_note(f"In a worker process:\n{traceback.format_exc()}")
            answer = error
        watch.end()
        connection.send(answer)


def _end_with_parent() -> None:
    """End this worker if its parent is killed, also in the middle of a shard."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
