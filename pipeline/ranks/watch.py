"""What ends a rank whose main thread waits in vain: for a rank that is gone, or in a library that hangs.

The ranks form a ring. In a thread of its own, each waits for a word from the one before it, which comes when that rank
ends: with its exit code if something has failed, and only after all have finished if all is well. A rank that is killed
says nothing, but its connections close, which ends the wait just as well; so does a vote that ran into its time limit.
Whoever hears of an end passes it on, so all ranks know within milliseconds, wherever their main threads are.

NCCL's own watchdog only comes after that (see `meeting`), because it ends a process with SIGABRT and says nothing to
the user.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from pipeline import stopping
from pipeline.errors import Interrupted, PeerLostError, PipelineError, StopRequested
from pipeline.ranks.failures import as_rank_failure, is_timeout
from pipeline.ranks.hang_traces import write_traces

SECONDS_FOR_OWN_ERROR = 1.0
"""How long the main thread may take to find by itself that something has failed."""
SECONDS_TO_END = 10.0
"""How long the main thread may take to end by itself, once another rank is gone or a step has hung."""
SECONDS_TO_WRITE = 10.0
"""How long notes about a failure may take."""
SECONDS_TO_STOP = 2.0
"""The same, if the other rank has ended because of a signal, or before all have met."""
SECONDS_BEYOND = 60.0
"""A step may take this much longer than one wait for other ranks."""
TAG = 4711
FOR_EVER = timedelta(days=365)
FINISHED, WITHOUT_A_WORD = 0, -1
"""What stands in a word instead of an exit code."""


class Watch:
    """The watch of one rank over the others and over its own main thread.

    `note` is called at once, and in another thread, with the error of a rank that is lost. If the main thread does not
    end by itself soon after, the process is ended with that error. Files about a hang get names that begin with
    `traces`.
    """

    def __init__(self, note: Callable[[PipelineError], None], traces: Path | None) -> None:
        self._note, self._traces = note, traces
        self._is_over = threading.Event()
        self._group: Any = None
        self._rank, self._world_size = 0, 1
        self._hearing: threading.Thread | None = None
        self._said: Any = None
        """The latest word, which must live until it is sent"""
        self._latest = 0.0
        """When the main thread has last got on, in seconds"""

    def start(self, group: Any, rank: int, world_size: int) -> None:
        """Watch the other ranks of a gloo group. All ranks call this together."""
        self._group, self._rank, self._world_size = group, rank, world_size
        self._hearing = threading.Thread(target=self._hear, name="ranks", daemon=True)
        self._hearing.start()

    def _hear(self) -> None:
        """Wait for the rank before this one, in a thread."""
        before = (self._rank - 1) % self._world_size
        word = torch.zeros(2, dtype=torch.int64)
        is_hang = False
        try:
            arriving: Any = dist.irecv(word, src=before, group=self._group, tag=TAG)
            arriving.wait(FOR_EVER)
        except RuntimeError as failure:
            loss: PipelineError = as_rank_failure(failure) or _loss(before, WITHOUT_A_WORD)
            word, is_hang = torch.tensor([before, WITHOUT_A_WORD]), is_timeout(failure)
        else:
            rank, exit_code = word.tolist()
            if exit_code == FINISHED:
                return
            loss = _loss(rank, exit_code)
        if self._is_over.is_set():
            return
        self._say(word)
        # What ends all ranks alike reaches the main thread as well, with better words. NCCL's watchdog may be quicker.
        patience = 0.0 if dist.get_backend() == "nccl" else SECONDS_FOR_OWN_ERROR
        if not self._is_over.wait(patience):
            self._lose(loss, is_hang)

    def _say(self, word: torch.Tensor) -> None:
        # The next rank may be gone, too; then there is nobody to tell.
        with suppress(RuntimeError):
            self._said = dist.isend(word, (self._rank + 1) % self._world_size, group=self._group, tag=TAG)

    def leave(self, error: BaseException) -> None:
        """Tell the other ranks that this one ends because of an error. Any thread may call it."""
        if self._group is not None and not self._is_over.is_set():
            ending = Interrupted if isinstance(error, KeyboardInterrupt) else error
            self._say(torch.tensor([self._rank, getattr(ending, "exit_code", 1)]))
        self._is_over.set()
        cause = error.__cause__
        if isinstance(cause, RuntimeError) and is_timeout(cause) and self._traces is not None:
            write_traces(self._traces, self._rank)

    def finish(self) -> None:
        """Wait for the other ranks to be done as well. From then on none misses another one."""
        if self._group is None or self._is_over.is_set():
            return
        self._is_over.set()
        # Nothing is left to do together, so a rank that is lost only now is no failure of the others.
        with suppress(RuntimeError):
            dist.barrier(group=self._group)
            self._say(torch.tensor([self._rank, FINISHED]))
        assert self._hearing is not None
        self._hearing.join(SECONDS_TO_END)

    @contextmanager
    def limited(self, timeout: float) -> Iterator[Callable[[], None]]:
        """Within it, end the process if the main thread gets stuck.

        `timeout` is the limit of a wait for other ranks, in seconds. Gives a function to call at each step; messages
        between ranks call it by themselves.
        """
        stopped, seconds = threading.Event(), timeout + SECONDS_BEYOND

        def look() -> None:
            while not stopped.wait(max(self._latest + seconds - time.monotonic(), 0.01)):
                if time.monotonic() - self._latest > seconds:
                    self._lose(_hang(seconds), is_hang=True)

        self.beat()
        if self._group is not None:
            threading.Thread(target=look, name="steps", daemon=True).start()
        try:
            yield self.beat
        finally:
            stopped.set()

    def beat(self) -> None:
        """Note that the main thread gets on."""
        self._latest = time.monotonic()

    def _lose(self, error: PipelineError, is_hang: bool) -> None:
        """Note the error, and leave the main thread some time to end. In a thread."""
        if isinstance(error, StopRequested):
            self.end_early(error)
            return
        # In a thread, because a file system may be what hangs.
        writing = threading.Thread(target=self._leave_notes, args=(error, is_hang), daemon=True)
        writing.start()
        writing.join(SECONDS_TO_WRITE)
        self._end_unless_over(error, SECONDS_TO_END)

    def _leave_notes(self, error: PipelineError, is_hang: bool) -> None:
        self._note(error)
        if is_hang and self._traces is not None:
            write_traces(self._traces, self._rank)

    def end_early(self, error: PipelineError) -> None:
        """End the process soon, because nothing of this run has happened yet that takes time to end. In a thread."""
        self._end_unless_over(error, SECONDS_TO_STOP)

    def _end_unless_over(self, error: PipelineError, seconds: float) -> None:
        if not self._is_over.wait(seconds):
            stopping.end(error)


def _loss(rank: int, exit_code: int) -> PipelineError:
    """The error of ranks that another one has left."""
    if exit_code == StopRequested.exit_code:
        return stopping.request()
    how = "is gone without a word" if exit_code == WITHOUT_A_WORD else f"has ended with exit code {exit_code}"
    return PeerLostError(
        f"Rank {rank} {how}. If it left a message, that is above or in the log of its machine. Run the same command "
        "again to resume from the last checkpoint."
    )


def _hang(seconds: float) -> PipelineError:
    return PeerLostError(
        f"This rank has not got on for {seconds:.0f} seconds, more than runtime.timeout_seconds allows, so it hangs: "
        "in a library, or because another rank does not answer. The files hang_rank_* of the run say where each thread "
        "was. Run the same command again to resume from the last checkpoint."
    )
