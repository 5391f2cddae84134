"""Files mapped into memory, whose reading survives that somebody cuts them short.

Reading a mapped page that the file no longer has raises SIGBUS, which ends the process without a message. Reading with
system calls instead costs 3% of the time of loading for images of 64 pixels, and 10% to 40% for smaller ones. So the
signal is caught: the rest of the map is replaced by zeros, the reader goes on, and finds `is_cut` set when it is done.
SIGBUS of anything else is left to the handler that was there before.
"""

from __future__ import annotations

import ctypes
import mmap
import signal
import sys
import threading
import weakref
from typing import IO

import numpy as np
import numpy.typing as npt


class MappedFile:
    """The bytes of an open file, uint8 (bytes,), which stay mapped as long as anything refers to them.

    Raises OSError or ValueError if the file cannot be mapped, such as an empty one.
    """

    def __init__(self, file: IO[bytes]) -> None:
        _catch_cuts()
        memory = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        self.content: npt.NDArray[np.uint8] = np.frombuffer(memory, dtype=np.uint8)
        self._map = _Map(self.content.ctypes.data, len(memory))
        _note(self._map, memory)

    @property
    def is_cut(self) -> bool:
        """Whether bytes were read that the file no longer had; they were read as zeros."""
        return self._map.is_cut


class _Map:
    """Where a file is mapped."""

    def __init__(self, first: int, count: int) -> None:
        self.first, self.end, self.is_cut = first, first + count, False


def _note(place: _Map, memory: object) -> None:
    """Know of a map for as long as its memory is there.

    Python gives memory back, without its lock, before it finalizes the object: another thread may have a map at the
    same place by then. So a map is never forgotten by its address.
    """
    _maps[place] = None
    weakref.finalize(memory, _maps.pop, place)


class _SignalInfo(ctypes.Structure):
    """The beginning of Linux's siginfo_t on 64-bit machines."""

    _fields_ = (
        ("number_errno_code", ctypes.c_int * 3),
        ("padding", ctypes.c_int),
        ("address", ctypes.c_size_t),
    )


class _Action(ctypes.Structure):
    """Linux's struct sigaction, as glibc and musl define it on 64-bit machines."""

    _fields_ = (
        ("handler", ctypes.c_void_p),
        ("mask", ctypes.c_ubyte * 128),
        ("flags", ctypes.c_int),
        ("restorer", ctypes.c_void_p),
    )


SA_SIGINFO, SA_NODEFER, MAP_FIXED = 4, 0x40000000, 0x10
_maps: dict[_Map, None] = {}
"""The newest one last, which is the one that is there if several have the same place"""
_installing = threading.Lock()
_previous: _Action | None = None
_libc: ctypes.PyDLL | None = None


def _catch_cuts() -> None:
    """Install the handler, once in a process. Only Linux's structures are known here."""
    global _previous, _libc
    with _installing:
        if _previous is not None or sys.platform != "linux" or sys.maxsize < 2**32:
            return
        # A PyDLL keeps the GIL, so that nothing else runs while the handler replaces pages.
        _libc = ctypes.PyDLL(None)
        _libc.mmap.restype = ctypes.c_void_p
        _libc.mmap.argtypes = (ctypes.c_size_t, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long)
        action, _previous = _Action(), _Action()
        action.handler, action.flags = (
            ctypes.cast(_handler, ctypes.c_void_p).value,
            SA_SIGINFO | SA_NODEFER,
        )
        _libc.sigaction(signal.SIGBUS, ctypes.byref(action), ctypes.byref(_previous))


def _on_bus_error(number: int, info: ctypes._Pointer[_SignalInfo], context: int) -> None:
    """Put zeros in the place of the rest of a map that was cut, and let the instruction that failed run again.

    The thread that failed was reading a map, in a checksum, a copy or a decoder. It holds no lock of the interpreter or
    of the allocator there, which is why Python code can run in this handler. If that fails, the process ends as it
    would have without the handler.
    """
    assert _libc is not None
    is_mended = False
    try:
        is_mended = _put_zeros(info.contents.address)
    finally:
        if not is_mended:
            _libc.sigaction(number, ctypes.byref(_previous), None)  # type: ignore[arg-type]


def _put_zeros(address: int) -> bool:
    """Replace the map that has this address by zeros from its page on. Returns whether that was done."""
    found = next((each for each in reversed(list(_maps)) if each.first <= address < each.end), None)
    if found is None or _libc is None:
        return False
    found.is_cut = True
    page = address & -mmap.PAGESIZE
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | MAP_FIXED
    return bool(_libc.mmap(page, found.end - page, mmap.PROT_READ, flags, -1, 0) == page)


_handler = ctypes.CFUNCTYPE(None, ctypes.c_int, ctypes.POINTER(_SignalInfo), ctypes.c_void_p)(_on_bus_error)
"""Kept here, because the process has only its address"""
