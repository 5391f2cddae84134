"""The process in which inputs run: it watches time, memory, files and the console."""

from __future__ import annotations

import io
import os
import resource
import shutil
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Sequence
from contextlib import redirect_stderr, redirect_stdout
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from tests.fuzz.engine import TARGETS, Campaign, Result, load_targets, make_input

ADDRESS_SPACE = 12 << 30
"""Protects the machine: an input that asks for more gets a MemoryError."""
STARTS_PROGRAMS = ("subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "pty.spawn")
CHANGES_PATHS = {
    **{f"os.{name}": ((0, 1),) for name in ("remove", "rmdir")},
    **{f"os.{name}": ((0, 2),) for name in ("mkdir", "chmod")},
    **{f"os.{name}": ((0, 3),) for name in ("chown", "utime")},
    **{f"os.{name}": ((0, 2), (1, 3)) for name in ("rename", "link")},
    "os.symlink": ((1, 2),),
    "os.truncate": ((0, 2),),
}
"""The audit events of calls that change files; for each path, its place among the arguments and its directory's."""
WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND


def work(connection: Connection, campaign: Campaign, place: Path) -> None:
    """Answer (target, first, count) with "ready" and one result per input, until the connection is closed.

    Inputs and all that libraries keep lie in the empty directory `place`.
    """
    sandbox = Sandbox(place)
    load_targets(campaign.package)
    sandbox.close()
    seeds: dict[str, Sequence[bytes]] = {}
    try:
        while True:
            name, first, count = connection.recv()
            chosen = TARGETS[name]
            if name not in seeds:
                try:
                    seeds[name] = chosen.seeds()
                except Exception as error:
                    connection.send(_describe(error))
                    raise
            connection.send("ready")
            for number in range(first, first + count):
                data = make_input(chosen, seeds[name], campaign.seed, number)
                connection.send(sandbox.run(chosen.run, data, number, campaign.limits.growth))
    except (EOFError, ConnectionError):
        sandbox.open()


class Sandbox:
    """Runs one input after the other, each in an empty directory, and says what it did that it must not do."""

    def __init__(self, top: Path) -> None:
        self._directory, self._scratch = top / "input", top / "scratch"
        self._scratch.mkdir()
        self._escapes: list[str] = []
        self._is_closed = False
        if (fonts := Path.home() / ".cache" / "matplotlib").is_dir():
            os.environ["MPLCONFIGDIR"] = str(fonts)  # making its list of fonts again takes seconds
        for name in ("HOME", "TMPDIR", "XDG_CACHE_HOME", "HF_HOME", "TORCHINDUCTOR_CACHE_DIR"):
            os.environ[name] = str(self._scratch)
        tempfile.tempdir = str(self._scratch)
        sys.dont_write_bytecode = True
        # What libraries print without Python goes to a file, which must stay empty.
        self._console = os.open(self._scratch / "console", os.O_RDWR | os.O_CREAT)
        self._memory = _PeakMemory()

    def close(self) -> None:
        """From now on, every write outside of the directory and every program is noted and refused."""
        for number in (1, 2):
            os.dup2(self._console, number)
        resource.setrlimit(resource.RLIMIT_AS, (ADDRESS_SPACE, resource.RLIM_INFINITY))
        self._is_closed = True
        sys.addaudithook(self._audit)

    def open(self) -> None:
        """Allow everything again."""
        self._is_closed = False

    def run(self, run: Callable[[bytes, Path], None], data: bytes, number: int, most_growth: int) -> Result:
        """Run one input."""
        self._directory.mkdir()
        before = self._memory.reset()
        started = time.monotonic()
        kind, text = self._call(run, data)
        seconds, growth = time.monotonic() - started, max(0, self._memory.peak() - before)
        if growth > most_growth:
            kind, text = "memory", f"{growth >> 20} MiB; {text}"
        if self._escapes:
            kind, text = "escape", "; ".join(self._escapes)
            self._escapes.clear()
        if chatter := self._read_console():
            kind, text = "chatter", chatter
        self._is_closed = False
        shutil.rmtree(self._directory)
        self._is_closed = True
        return Result(number, kind, seconds, growth, text)

    def _call(self, run: Callable[[bytes, Path], None], data: bytes) -> tuple[str, str]:
        from pipeline.errors import PipelineError

        try:
            with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
                run(data, self._directory)
        except PipelineError as error:
            return ("refused", str(error)) if str(error).strip() else ("error", "an error without a message")
        except BaseException as error:
            return "error", _describe(error)
        return "taken", ""

    def _read_console(self) -> str:
        size = os.fstat(self._console).st_size
        if not size:
            return ""
        text = os.pread(self._console, 2000, 0).decode(errors="replace")
        os.ftruncate(self._console, 0)
        os.lseek(self._console, 0, os.SEEK_SET)
        return text

    def _audit(self, event: str, arguments: tuple[Any, ...]) -> None:
        if not self._is_closed:
            return
        what: Any = None
        if event == "open" and arguments[2] is not None and arguments[2] & WRITES:
            is_followed = not arguments[2] & os.O_NOFOLLOW
            what = arguments[0] if self._is_outside(arguments[0], follow=is_followed) else None
        elif event in CHANGES_PATHS:
            places = (
                arguments[path : path + 1] + arguments[place : place + 1]
                for path, place in CHANGES_PATHS[event]
            )
            what = next((path for path, *place in places if self._is_outside(path, *place)), None)
        elif event in STARTS_PROGRAMS or (event == "socket.connect" and not _is_here(arguments[1])):
            what = arguments
        if what is not None:
            self._escapes.append(f"{event} {what!r}")
            raise PermissionError(f"fuzzing forbids {event} {what!r}")

    def _is_outside(self, path: Any, directory: int = -1, follow: bool = False) -> bool:
        """Whether this path does not belong to the input; `follow` if the call changes what a link leads to."""
        if not isinstance(path, str | bytes | os.PathLike):
            return False  # a descriptor
        text = os.fsdecode(path)
        if "\0" in text or text == os.devnull:
            return False
        if directory >= 0:
            text = f"{os.readlink(f'/proc/self/fd/{directory}')}/{text}"  # noqa: PTH115
        folder, name = os.path.split(text)
        real = Path(os.path.realpath(text)) if follow else Path(os.path.realpath(folder or "."), name)
        return not any(real.is_relative_to(place) for place in (self._directory, self._scratch))


class _PeakMemory:
    """The peak of this process's memory since the last reset, in bytes; always 0 where the system does not tell."""

    def __init__(self) -> None:
        self._status, reset = Path("/proc/self/status"), Path("/proc/self/clear_refs")
        self._reset = os.open(reset, os.O_WRONLY) if reset.exists() else None

    def reset(self) -> int:
        """Begin again, and return the memory in use."""
        if self._reset is not None:
            os.write(self._reset, b"5")
        return self.peak()

    def peak(self) -> int:
        """The peak, which is VmHWM, in kB, in the process's status."""
        if self._reset is None:
            return 0
        text = self._status.read_text()
        return int(text.partition("VmHWM:")[2].split()[0]) << 10


def _is_here(address: Any) -> bool:
    """Whether an address is on this machine: a target may have its own server."""
    return isinstance(address, str | bytes) or address[0] in ("127.0.0.1", "::1", "localhost")


def _describe(error: BaseException) -> str:
    """The error and where it came from: the last line of the product, which distinguishes findings."""
    frames = traceback.extract_tb(error.__traceback__)
    ours = [frame for frame in frames if "/pipeline/" in frame.filename]
    where = ours[-1] if ours else frames[-1]
    place = f"{where.filename.rpartition('/pipeline/')[2]}:{where.lineno}"
    return f"{place}: {type(error).__name__}: {str(error)[:300]}"
