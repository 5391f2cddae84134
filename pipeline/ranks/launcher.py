"""Start a program as several ranks of this machine, watch them, and tell once how they ended.

Each rank is a process of its own session, so that Ctrl-C in a terminal reaches the launcher alone, which passes it on.
Ranks hand their errors to the launcher through a pipe (see `speaker`). They meet at a socket that the launcher
opened on the loopback address (see `meeting`): nothing listens to the network, and no file is left anywhere.
"""

from __future__ import annotations

import ctypes
import os
import selectors
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from types import TracebackType
from typing import Self

import psutil

from pipeline import stopping
from pipeline.cores import share_of_cores
from pipeline.errors import Interrupted, PeerLostError, PipelineError, StopRequested, Terminated
from pipeline.ranks.meeting import LOOPBACK
from pipeline.ranks.speaker import Report, has_launcher
from pipeline.ranks.variables import refuse_several_launchers

SECONDS_ALONE = 5.0
"""How long ranks may take to end by themselves, after one has failed, before they are told to."""
SECONDS_TO_END = 5.0
"""How long ranks that were told to end may take before they are killed."""
SECONDS_BETWEEN_LOOKS = 0.5
STOPS = {kind.exit_code for kind in (StopRequested, Interrupted, Terminated)}


def launch(processes: int, module: str, words: Sequence[str]) -> int:
    """Run `module.main(words)` as this many ranks of this machine. Returns the exit code of the cause.

    The cause is the first failure that is no consequence of another one; its text is printed. Raises PeerLostError if
    a signal that nobody sent through the launcher ended a rank, and what `stopping.check` raises if a signal to the
    launcher ended ranks that could not report it, and ConfigError if Slurm runs this command several times.
    """
    refuse_several_launchers()
    with stopping.listening(saves=module != "pipeline.cli"):
        stopping.check()
        with stopping.held(), Launch(processes, module, words) as ranks:
            ranks.watch()
        return ranks.conclude()


MEANINGS = {
    signal.SIGKILL: "If nobody sent that signal, the machine may have run out of memory: start fewer processes.",
    signal.SIGABRT: "A library ended it and says why above: NCCL does, for example, if another rank does not answer.",
    signal.SIGSEGV: "It crashed in a library: see its last lines above, and `wgan doctor` for the versions.",
    signal.SIGBUS: "It crashed in a library; that is how a full /dev/shm or a disk that fails can end a process.",
}
"""What the signal that ended a rank usually means."""


@dataclass
class Rank:
    """One process that was started, and what is known of its end."""

    number: int
    process: subprocess.Popen[bytes]
    pipe: int
    """Where its report arrives."""
    received: bytes = b""
    report: Report | None = None
    was_told_to_end: bool = False

    def hear(self) -> bool:
        """Read what has arrived. Returns False once nothing more can come."""
        content = os.read(self.pipe, 1 << 16)
        self.received += content
        if self.report is None and b"\n" in self.received:
            self.report = Report.from_line(self.received.partition(b"\n")[0])
        return bool(content)

    @property
    def exit_code(self) -> int:
        """The process's exit code (minus the signal that ended it); what it reported, if a signal ended it later."""
        if self.report is not None and (self.was_told_to_end or self.process.returncode < 0):
            return self.report.exit_code
        return self.process.returncode


@dataclass
class Launch:
    """The ranks of one launch. As a context manager it has started them, and leaves none behind."""

    processes: int
    module: str
    words: Sequence[str]
    ranks: list[Rank] = field(default_factory=list)
    failures: list[Rank] = field(default_factory=list)
    """The ranks that reported an error or ended with one, in this order."""
    stopped_by: int | None = None
    """The first signal that asked the launcher to stop."""
    _compiled: TemporaryDirectory[str] = field(default_factory=lambda: TemporaryDirectory(prefix="wgan-"))
    """For code that torch.compile makes: it loads what it finds, so only this user may write there."""
    _hearing: ExitStack = field(default_factory=ExitStack)
    _deadline: float | None = None

    def __enter__(self) -> Self:
        self._hearing.enter_context(stopping.heard_by(self._pass_on))
        # If this process has to be ended, by Ctrl-C twice, no rank may be left.
        self._hearing.enter_context(stopping.last_words(lambda error: self._kill()))
        try:
            self._start()
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._kill()
        for rank in self.ranks:
            rank.process.wait()
            os.close(rank.pipe)
        self._hearing.close()
        self._compiled.cleanup()

    def _kill(self) -> None:
        for rank in self.ranks:
            if rank.process.poll() is None:
                rank.process.kill()

    def _start(self) -> None:
        with socket.create_server((LOOPBACK, 0), backlog=self.processes) as meeting:
            environment = {
                # Importing torch creates this directory. Its default stays in the temporary directory.
                "TORCHINDUCTOR_CACHE_DIR": self._compiled.name,
                **rank_environment(self.processes, meeting.getsockname()[1]),
            }
            for number in range(self.processes):
                if self.stopped_by is None:
                    self.ranks.append(self._start_rank(number, environment, meeting.fileno()))
        if self.stopped_by is not None:
            # It may have come while a rank was being started, which then did not hear of it.
            for rank in self.ranks:
                rank.process.send_signal(self.stopped_by)

    def _start_rank(self, number: int, environment: dict[str, str], meeting: int) -> Rank:
        store = meeting if number == 0 else -1
        pipe, reports = os.pipe()
        arguments = [str(os.getpid()), str(reports), str(store), self.module, *self.words]
        try:
            with stopping.delayed():
                process = subprocess.Popen(
                    [sys.executable, "-P", "-u", str(Path(__file__).with_name("rank.py")), *arguments],
                    env=environment | {"RANK": str(number), "LOCAL_RANK": str(number)},
                    pass_fds=[reports] if store == -1 else [reports, store],
                    stdin=subprocess.DEVNULL,
                    start_new_session=True,
                )
        except BaseException:
            os.close(pipe)
            raise
        finally:
            os.close(reports)
        return Rank(number, process, pipe)

    def watch(self) -> None:
        """Return once all ranks have ended. After the first failure the others get little time."""
        running = list(self.ranks)
        with selectors.DefaultSelector() as selector:
            for rank in running:
                selector.register(rank.pipe, selectors.EVENT_READ, rank)
            while running:
                for key, _ in selector.select(SECONDS_BETWEEN_LOOKS):
                    self._hear(key.data, selector)
                for rank in [rank for rank in running if rank.process.poll() is not None]:
                    running.remove(rank)
                    # What it reported just before it ended.
                    while any(key.data is rank for key, _ in selector.select(0)):
                        self._hear(rank, selector)
                    if rank.exit_code != 0:
                        self._note_failure(rank)
                self._enforce(running)

    def _hear(self, rank: Rank, selector: selectors.BaseSelector) -> None:
        if not rank.hear():
            selector.unregister(rank.pipe)
            # The pipe closes a moment before the process can be waited for.
            with suppress(subprocess.TimeoutExpired):
                rank.process.wait(SECONDS_BETWEEN_LOOKS)
        if rank.report is not None:
            self._note_failure(rank)

    def _note_failure(self, rank: Rank) -> None:
        if rank not in self.failures:
            self.failures.append(rank)
        if self._deadline is None:
            self._deadline = time.monotonic() + SECONDS_ALONE
            if (rank.report.exit_code if rank.report else rank.exit_code) in STOPS:
                # A rank that was stopped alone: the others need not find out by themselves. Those that save go on.
                for other in self.ranks:
                    other.process.terminate()

    def _enforce(self, running: Sequence[Rank]) -> None:
        """Once their time is over, tell the ranks to end, and later kill them."""
        if self._deadline is None or time.monotonic() < self._deadline:
            return
        for rank in running:
            if rank.was_told_to_end:
                rank.process.kill()
            else:
                rank.was_told_to_end = True
                rank.process.terminate()
        self._deadline = time.monotonic() + SECONDS_TO_END

    def _pass_on(self, number: int) -> None:
        """Give the signal to all ranks. They save and end in their own time, unless Ctrl-C comes again."""
        self.stopped_by = self.stopped_by or number
        for rank in self.ranks:
            rank.process.send_signal(number)

    def conclude(self) -> int:
        """Print the text of the cause, and return its exit code. Raises as `launch` does."""
        cause = self._cause()
        if cause is None:
            if self.stopped_by is not None and len(self.ranks) < self.processes:
                raise self._stop_error()
            return 0
        if text := self._text_of(cause):
            print(text, file=sys.stderr, flush=True)
        elif cause.exit_code < 0 and self.stopped_by is not None and self._was_ended(cause):
            raise self._stop_error()
        elif cause.exit_code < 0:
            number = signal.Signals(-cause.exit_code)
            meaning = MEANINGS.get(number, "See its last lines above.")
            raise PeerLostError(f"Rank {cause.number} was ended by {number.name}. {meaning}")
        return cause.exit_code

    def _cause(self) -> Rank | None:
        """The first failure that another one did not cause; if there is none, the first of all."""
        causes = [rank for rank in self.failures if not self._is_consequence(rank)]
        interrupted = [rank for rank in self.failures if self.stopped_by and self._was_ended(rank)]
        return next(iter([*causes, *interrupted, *self.failures]), None)

    def _is_consequence(self, rank: Rank) -> bool:
        return rank.exit_code == PeerLostError.exit_code or self._was_ended(rank)

    def _was_ended(self, rank: Rank) -> bool:
        """Whether the launcher's own signal ended the rank before it could report anything."""
        was_sent = self.stopped_by is not None and -rank.exit_code in stopping.TRAINING_SIGNALS
        return rank.report is None and (rank.was_told_to_end or was_sent)

    def _text_of(self, cause: Rank) -> str | None:
        """What to print: of ranks that end for the same reason, not all report it."""
        alike = [rank.report for rank in [cause, *self.failures] if rank.exit_code == cause.exit_code]
        return next((report.text for report in alike if report is not None), None)

    def _stop_error(self) -> PipelineError:
        """What ends the launcher after a signal that its ranks could not report."""
        return stopping.stop_error(self.stopped_by or signal.SIGTERM, saves=self.module != "pipeline.cli")


def rank_environment(processes: int, port: int) -> dict[str, str]:
    """The environment of all ranks: how they meet on this machine alone, and a fair share of its cores.

    Names of network interfaces that the user has set stay as they are.
    """
    loopback = next(
        (name for name, found in psutil.net_if_addrs().items() if any(a.address == LOOPBACK for a in found)),
        "lo",
    )
    defaults = {
        "OMP_NUM_THREADS": str(share_of_cores(processes)),
        "GLOO_SOCKET_IFNAME": loopback,
        "NCCL_SOCKET_IFNAME": loopback,
        # A rank that refuses to start makes the others log C++ stacks, which would bury what it says.
        "TORCH_CPP_LOG_LEVEL": "ERROR",
    }
    return {
        **defaults,
        **os.environ,
        "WORLD_SIZE": str(processes),
        "LOCAL_WORLD_SIZE": str(processes),
        "MASTER_ADDR": LOOPBACK,
        "MASTER_PORT": str(port),
        # What Accelerate's launcher may have left in the user's shell is not meant for these ranks.
        "ACCELERATE_MIXED_PRECISION": "no",
        "ACCELERATE_DYNAMO_BACKEND": "no",
    }


def is_launched() -> bool:
    """Whether this process is a rank that our launcher, torchrun, or one built on torchrun has started.

    WORLD_SIZE does not tell: clusters set it for processes that are no ranks, too.
    """
    return has_launcher() or "TORCHELASTIC_RUN_ID" in os.environ


def follow_launcher() -> None:
    """Be told to stop when the launcher dies, which then cannot pass on any signal.

    Does nothing without a launcher, so that `nohup python -m pipeline.train ... &` outlives its shell.
    """
    if (is_launched() or "ACCELERATE_DYNAMO_BACKEND" in os.environ) and sys.platform == "linux":
        parent_death_signal = 1
        ctypes.CDLL(None).prctl(parent_death_signal, signal.SIGTERM)
