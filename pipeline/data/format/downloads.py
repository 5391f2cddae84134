"""How long a download may take, and how often it is tried again."""

from __future__ import annotations

import errno
import random
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, wait
from dataclasses import dataclass, field
from typing import Any, TypeVar

from fsspec.callbacks import Callback

from pipeline import stopping
from pipeline.errors import DataError, PipelineError, StorageError
from pipeline.foreign_text import printable, without_credentials
from pipeline.option_data import RemoteOptions
from pipeline.stderr import say_warning
from pipeline.wording import counted

FIRST_PAUSE, LONGEST_PAUSE = 0.5, 30.0
SECONDS_BETWEEN_LOOKS = 0.1
LEAST_RATE = 1000
"""Bytes per second. Less than that, averaged over `stall_seconds`, counts as a connection that sends nothing."""
LONGEST_REASON = 400

Result = TypeVar("Result")


class TooLargeError(Exception):
    """A file is larger than expected."""


class NoRoomError(Exception):
    """There is not enough room on the disk, and every file that could be removed is in use."""


class Progress(Callback):  # type: ignore[misc]
    """How many bytes of a file have arrived. It is told by whatever downloads the file, and stops it at the limit."""

    def __init__(self, limit: int) -> None:
        super().__init__()
        self._limit, self._is_abandoned = limit, False

    def set_size(self, size: int | None) -> None:
        """The size that the server announces, if it does."""
        self._refuse(size or 0)
        super().set_size(size)

    def relative_update(self, inc: int = 1) -> None:
        """More bytes have arrived. Raises TooLargeError if they are more than the limit."""
        super().relative_update(inc)
        self._refuse(self.value)

    def abandon(self) -> None:
        """Nobody waits for the file any more."""
        self._is_abandoned = True

    def _refuse(self, size: int) -> None:
        if self._is_abandoned:
            raise TimeoutError("nobody waits for the file any more")
        if size > self._limit:
            raise TooLargeError(f"the file is larger than {counted(self._limit, 'byte')}")


@dataclass
class Outage:
    """Tells the user of the first download that fails, and is silent until one works again."""

    _is_said: bool = False
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def begin(self, text: str) -> None:
        """A download has failed and will be tried again."""
        with self._lock:
            is_new, self._is_said = not self._is_said, True
        if is_new:
            say_warning(text)

    def end(self) -> None:
        """A download has worked."""
        with self._lock:
            self._is_said = False


@dataclass(frozen=True)
class Patience:
    """How long to wait for the download of one file. `what` names it in messages."""

    what: str
    options: RemoteOptions
    deadline: float
    """By time.monotonic()."""
    is_closed: threading.Event = field(default_factory=threading.Event)
    outage: Outage = field(default_factory=Outage)

    @classmethod
    def of(cls, what: str, options: RemoteOptions, *others: Any) -> Patience:
        """That of a download that starts now."""
        return cls(what, options, time.monotonic() + options.deadline_seconds, *others)

    def check(self) -> None:
        """Raise DataError if the files are no longer needed, and as `stopping.check` does."""
        stopping.check()
        if self.is_closed.is_set():
            raise DataError(f"The download of {self.what} was stopped because the run is ending.")

    def wait(self, seconds: float) -> None:
        """Wait, and raise DataError if the time for this file is up."""
        end = time.monotonic() + seconds
        self.check()
        if time.monotonic() > self.deadline:
            raise DataError(
                f"{self.what} was not complete after {self.options.deadline_seconds:g} s of waiting for this or "
                "another process to download it. Check the network, or raise data.remote.deadline_seconds."
            )
        while (left := end - time.monotonic()) > 0:
            self.is_closed.wait(min(left, SECONDS_BETWEEN_LOOKS))
            self.check()

    def follow(self, download: Future[Result], progress: Progress) -> Result:
        """Wait until the download ends. Cancels it, and raises TimeoutError, if it is too slow or the time is up."""
        stall = self.options.stall_seconds
        since, before = time.monotonic(), 0
        try:
            while not wait([download], SECONDS_BETWEEN_LOOKS).done:
                self.check()
                now = time.monotonic()
                if now > self.deadline:
                    arrived = counted(progress.value, "byte") if progress.value else "nothing"
                    raise TimeoutError(f"{arrived} had arrived by then")
                # Until the first byte, the libraries' own time limits hold.
                if not progress.value:
                    since = now
                elif now - since > stall:
                    if progress.value - before < LEAST_RATE * (now - since):
                        arrived = counted(progress.value - before, "byte")
                        raise TimeoutError(f"only {arrived} arrived in {now - since:.3g} s")
                    since, before = now, progress.value
        except BaseException:
            download.cancel()
            progress.abandon()
            raise
        return download.result()

    def repeat(self, attempt: Callable[[], Result]) -> Result:
        """Return what `attempt` returns, after as many attempts as it takes, with growing pauses.

        Raises DataError if it cannot work, or did not work before the deadline.
        """
        pause, count = FIRST_PAUSE, 0
        while True:
            count += 1
            try:
                result = attempt()
            except (PipelineError, NoRoomError):
                raise
            except Exception as error:  # each library raises its own errors
                if (refusal := _refusal_in(error)) is not None:
                    raise refusal from None
                reason = _reason(error)
                _refuse_hopeless(error, self.what, reason)
            else:
                self.outage.end()
                return result
            # A random pause, so that the ranks do not all try again at the same moment.
            delay = pause * random.uniform(0.5, 1.0)
            if time.monotonic() + delay > self.deadline:
                raise DataError(
                    f"{self.what} could not be downloaded within {self.options.deadline_seconds:g} s, in "
                    f"{counted(count, 'attempt')}; the last error: {reason}. Check the server and the network, or "
                    "raise data.remote.deadline_seconds."
                )
            self.outage.begin(
                f"{self.what} could not be downloaded: {reason}. The next attempt is in {delay:.1f} s; attempts end "
                f"after {self.options.deadline_seconds:g} s (data.remote.deadline_seconds)"
            )
            self.wait(delay)
            pause = min(2 * pause, LONGEST_PAUSE)


def _reason(error: Exception) -> str:
    """What a library or a server says, in one line and without what could be a secret."""
    text = " ".join(str(error).split()) or type(error).__name__
    return printable(without_credentials(text), LONGEST_REASON).rstrip(".")


def _refusal_in(error: BaseException | None) -> PipelineError | None:
    """An error of ours that a library has put into one of its own."""
    while error is not None:
        if isinstance(error, PipelineError):
            return error
        error = error.__cause__ or error.__context__
    return None


def _refuse_hopeless(error: Exception, what: str, reason: str) -> None:
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        raise StorageError(
            f"{what} cannot be stored: {reason}. Free some space, or lower data.remote.capacity_gb."
        ) from None
    # fsspec raises the same error for a server that it cannot reach, but then with an OSError as its cause.
    is_absent = isinstance(error, FileNotFoundError) and not isinstance(error.__cause__, OSError)
    if is_absent or getattr(error, "status", None) == 404:
        raise DataError(f"{what} does not exist. Correct the address, or copy the file there.") from None
    is_denied = isinstance(error, PermissionError) or getattr(error, "status", None) in (401, 403)
    if is_denied or type(error).__name__ == "NoCredentialsError":
        raise DataError(
            f"{what} may not be read: access was denied ({reason}). Set the credentials that its library reads from "
            "the environment, or use the https:// address of a public bucket."
        ) from None
