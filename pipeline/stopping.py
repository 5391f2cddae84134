"""The one stop flag of this process: a signal sets it, and every loop and every wait looks at it.

    with listening(saves=True):     from here on SIGTERM, Ctrl-C and SIGUSR1 set the flag
        check()                     in a loop: raises if the flag is set
        wait(1.0)                   instead of time.sleep: raises as soon as it is set
        with held():                in here neither raises: the training loop looks at `received()` between its steps

Imports, native code and collective operations that wait for other ranks cannot look at a flag. So a program of its own
also has a thread that hears of the signal at once and ends the process if the main thread has not done so in a second.
"""

from __future__ import annotations

import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from types import FrameType
from typing import NoReturn

from pipeline.errors import Interrupted, PipelineError, StopRequested, Terminated

TRAINING_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)
SIGNALS = TRAINING_SIGNALS[:2]
"""Those that stop a command. SIGUSR1 asks to save and stop, which only training can do."""
SECONDS_BETWEEN_INTERRUPTS = 1.0
"""A second Ctrl-C counts as one only after this time: a terminal and a launcher may both pass on the first one."""
SECONDS_TO_LOOK = 1.0
"""How long a program may take to look at the flag before it is ended."""
SECONDS_TO_END = 1.8
"""How long it may take in all, once it has looked: it closes files and ends its workers."""
SECONDS_TO_SPEAK = 5.0
"""How long its last words may take."""
SECONDS_BETWEEN_LOOKS = 0.1

LastWords = Callable[[PipelineError], None]


@dataclass
class _Flag:
    """What is known of a request to stop, in this process."""

    saves: bool
    """Whether the program is training."""
    number: int | None = None
    """The first signal."""
    at: float = 0.0
    quits_at: float | None = None
    """When Ctrl-C came again."""
    holds: int = 0
    held_until: float = 0.0
    is_seen: bool = False
    """Whether the main thread has looked at it."""
    is_settled: bool = False
    """Whether what the signal asked for is done."""
    exit_code: int | None = None
    """That of a program whose main thread is ending, and has told the user why."""
    hearers: list[Callable[[int], None]] = field(default_factory=list)
    last_words: list[LastWords] = field(default_factory=list)
    wakeup: socket.socket | None = None
    """Where Python writes the number of each signal, at once and whatever the main thread does."""
    _handled_at: float | None = None

    @property
    def raises(self) -> bool:
        """Whether `check` raises now."""
        return self.number is not None and not self.is_settled and not self.holds

    def note(self, number: int) -> None:
        """Take a signal, in any thread."""
        now = time.monotonic()
        if self.number is None:
            self.at, self.number = now, number
        elif number == signal.SIGINT and now - self.at > SECONDS_BETWEEN_INTERRUPTS:
            self.quits_at = self.quits_at or now

    def handle(self, number: int, frame: FrameType | None) -> None:
        """Take a signal in the main thread, maybe long after it came. Raises KeyboardInterrupt for a second Ctrl-C."""
        self.note(number)
        for hearer in self.hearers:
            hearer(number)
        if self._handled_at is None:
            self._handled_at = time.monotonic()
        elif number == signal.SIGINT and time.monotonic() - self._handled_at > SECONDS_BETWEEN_INTERRUPTS:
            raise KeyboardInterrupt

    def error(self) -> PipelineError:
        """What `check` raises."""
        if self.quits_at is not None:
            return Interrupted("Ctrl-C came twice. What was not saved before it is lost.")
        assert self.number is not None
        return stop_error(self.number, self.saves)

    def is_overdue(self) -> bool:
        """Whether the main thread should have ended the program by now."""
        now = time.monotonic()
        if self.quits_at is not None and now - self.quits_at > SECONDS_TO_LOOK:
            return True
        is_free = self.number is not None and not self.holds and not self.is_settled
        limit = SECONDS_TO_END if self.is_seen else SECONDS_TO_LOOK
        return is_free and now - max(self.at, self.held_until) > limit


_flag: _Flag | None = None


def stop_error(number: int, saves: bool) -> PipelineError:
    """The error that ends a program because of this signal; `saves` if it is training."""
    name = signal.Signals(number).name
    if saves:
        return StopRequested(
            f"Stopped by {name} while no step was under way, so nothing is lost. The same command goes on from the "
            "last checkpoint, or starts again if there is none."
        )
    kind = Interrupted if number == signal.SIGINT else Terminated
    return kind(f"Stopped by {name}. Every file is complete or absent, and the same command starts again.")


@contextmanager
def listening(saves: bool, ends_process: bool = False, last_words: LastWords | None = None) -> Iterator[None]:
    """Let signals set the flag until the end. Within another `listening`, and outside the main thread, do nothing.

    With `saves`, for training, the error of `check` is StopRequested; otherwise Interrupted after Ctrl-C, and
    Terminated after SIGTERM. With `ends_process`, for a program whose process is its own, the process ends if it does
    not look at the flag within SECONDS_TO_LOOK, or not end within SECONDS_TO_END: it calls `last_words` with the error,
    and exits with its code. Its handlers stay until it has ended.
    """
    global _flag
    if _flag is not None or threading.current_thread() is not threading.main_thread():
        yield
        return
    _flag = flag = _Flag(saves, last_words=[last_words] if last_words else [])
    if ends_process:
        _watch(flag)
    signals = TRAINING_SIGNALS if saves else SIGNALS
    previous = {number: signal.signal(number, flag.handle) for number in signals}
    signal.pthread_sigmask(signal.SIG_UNBLOCK, signals)
    try:
        yield
    finally:
        if not ends_process:
            for number, handler in previous.items():
                signal.signal(number, handler)
            _flag = None


def received() -> str | None:
    """The name of the signal that set the flag, such as "SIGTERM"; None if it is not set."""
    return signal.Signals(_flag.number).name if _flag is not None and _flag.number is not None else None


def request() -> PipelineError:
    """What `check` raises; also for a process that has no signal itself, and stops because another rank has one."""
    if _flag is None or _flag.number is None:
        return StopRequested("A signal has stopped another rank, and with it this one.")
    return _flag.error()


def check() -> None:
    """Raise StopRequested, Interrupted or Terminated if the flag is set and not held. Any thread may call it."""
    if _flag is not None and _flag.raises:
        _flag.is_seen = _flag.is_seen or threading.current_thread() is threading.main_thread()
        raise _flag.error()


def wait(seconds: float) -> None:
    """Sleep for this time. Raises like `check`, as soon as the flag is set."""
    end = time.monotonic() + seconds
    check()
    while (left := end - time.monotonic()) > 0:
        time.sleep(min(left, SECONDS_BETWEEN_LOOKS))
        check()


@contextmanager
def held() -> Iterator[None]:
    """Within it `check` raises nothing and nothing ends the process, except for a second Ctrl-C. Main thread only."""
    if (flag := _flag_of_main_thread()) is None:
        yield
        return
    flag.holds += 1
    try:
        yield
    finally:
        flag.held_until = time.monotonic()
        flag.holds -= 1


def _flag_of_main_thread() -> _Flag | None:
    return _flag if threading.current_thread() is threading.main_thread() else None


def settle() -> None:
    """What the signal asked for is done: the program ends now, and takes the time that it needs for that."""
    if _flag is not None:
        _flag.is_settled = True


def is_settled() -> bool:
    """Whether `settle` was called."""
    return _flag is not None and _flag.is_settled


def leave(exit_code: int) -> None:
    """The user knows how the program ends. If the main thread then hangs, the process still ends, with this code."""
    if _flag is not None:
        _flag.exit_code = exit_code


@contextmanager
def last_words(say: LastWords) -> Iterator[None]:
    """Call this first, if the process has to be ended within the block."""
    if _flag is None:
        yield
        return
    _flag.last_words.insert(0, say)
    try:
        yield
    finally:
        _flag.last_words.remove(say)


@contextmanager
def heard_by(hearer: Callable[[int], None]) -> Iterator[None]:
    """Within it, call this with the number of each signal, in the main thread; at once for one that came before."""
    if _flag is None:
        yield
        return
    _flag.hearers.append(hearer)
    try:
        if _flag.number is not None:
            hearer(_flag.number)
        yield
    finally:
        _flag.hearers.remove(hearer)


@contextmanager
def delayed() -> Iterator[None]:
    """Within it, processes start with all signals blocked: one that comes early waits until they listen."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, TRAINING_SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def leave_to_parent() -> None:
    """In a worker process: ignore the signals, which reach every process of a group. The parent ends its workers."""
    for number in TRAINING_SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, TRAINING_SIGNALS)


def _watch(flag: _Flag) -> None:
    """Start the thread that hears of signals while the main thread is busy, and ends the process when it is time."""
    hears, flag.wakeup = socket.socketpair()
    flag.wakeup.setblocking(False)
    signal.set_wakeup_fd(flag.wakeup.fileno(), warn_on_full_buffer=False)

    def watch() -> None:
        while not flag.is_overdue():
            hears.settimeout(None if flag.number is None else SECONDS_BETWEEN_LOOKS)
            with suppress(TimeoutError):
                for number in hears.recv(16):
                    if number in TRAINING_SIGNALS:
                        flag.note(number)
        _end(flag)

    threading.Thread(target=watch, name="stop", daemon=True).start()


def _end(flag: _Flag) -> None:
    """End the process, whose main thread has not looked at the flag."""
    if flag.exit_code is not None:
        os._exit(flag.exit_code)
    end(flag.error())


def end(error: PipelineError) -> NoReturn:
    """Say the last words for this error and end the process with its code, while the main thread is stuck.

    The words may not be heard either, for example if they are for a file system that does not answer.
    """
    words = list(_flag.last_words) if _flag is not None else []

    def speak() -> None:
        for say in words:
            # For example that a note cannot be written: nobody is left who could act on it.
            with suppress(PipelineError):
                say(error)

    speaking = threading.Thread(target=speak, name="last words", daemon=True)
    speaking.start()
    speaking.join(SECONDS_TO_SPEAK)
    os._exit(error.exit_code)
