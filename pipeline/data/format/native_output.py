"""What libraries in C print: libpng and libtiff write errors to the console, whatever their callers do with them.

They print to C's variable `stderr`. While it holds another stream, only they are silent: Python, and whatever else
writes to the file descriptor, reaches the console as before. So this costs two assignments, may be used from any
number of threads, and disturbs no progress bar.
"""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

NAMES = ("stderr", "__stderrp")
"""The variable's name on Linux and on macOS"""
MOST_CAUGHT_BYTES = 1000


class NativeStderr:
    """C's `stderr` in this process. Without such a variable, nothing is hidden and nothing is caught."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._hiding = 0
        self._shown: int | None = None
        libc = ctypes.CDLL(None)
        self._variable = next((_pointer(libc, name) for name in NAMES if hasattr(libc, name)), None)
        if self._variable is None:
            return
        libc.fopen.restype = ctypes.c_void_p
        libc.fopen.argtypes = (ctypes.c_char_p, ctypes.c_char_p)
        libc.open_memstream.restype = ctypes.c_void_p
        libc.open_memstream.argtypes = (ctypes.POINTER(ctypes.c_void_p), ctypes.POINTER(ctypes.c_size_t))
        libc.fflush.argtypes = libc.fclose.argtypes = libc.free.argtypes = (ctypes.c_void_p,)
        self._libc = libc
        # Never closed: threads of a library may still be writing to it.
        self._nowhere = libc.fopen(b"/dev/null", b"w")

    @contextmanager
    def hidden(self) -> Iterator[None]:
        """See `hidden_native_output`."""
        if self._variable is None:
            yield
            return
        with self._lock:
            self._hiding += 1
            if self._hiding == 1:
                self._shown, self._variable.value = self._variable.value, self._nowhere
        try:
            yield
        finally:
            with self._lock:
                self._hiding -= 1
                if self._hiding == 0:
                    self._variable.value = self._shown

    @contextmanager
    def caught(self) -> Iterator[Callable[[], str]]:
        """See `caught_native_output`. Other threads that begin or end to hide output wait for its end."""
        if self._variable is None:
            yield lambda: ""
            return
        content, size = ctypes.c_void_p(), ctypes.c_size_t()

        def printed() -> str:
            self._libc.fflush(stream)
            kept = min(size.value, MOST_CAUGHT_BYTES)
            return ctypes.string_at(content.value or 0, kept).decode(errors="replace") if kept else ""

        with self._lock:
            stream = self._libc.open_memstream(ctypes.byref(content), ctypes.byref(size))
            before, self._variable.value = self._variable.value, stream
            try:
                yield printed
            finally:
                self._variable.value = before
                self._libc.fclose(stream)
                self._libc.free(content)


def _pointer(libc: ctypes.CDLL, name: str) -> ctypes.c_void_p:
    return ctypes.c_void_p.in_dll(libc, name)


_STDERR = NativeStderr()


@contextmanager
def hidden_native_output() -> Iterator[None]:
    """Inside this context, what libraries in C print does not reach the console. It holds for the whole process."""
    with _STDERR.hidden():
        yield


@contextmanager
def caught_native_output() -> Iterator[Callable[[], str]]:
    """Inside this context, the function that it yields returns what libraries have printed so far."""
    with _STDERR.caught() as printed:
        yield printed
