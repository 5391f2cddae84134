"""How this process holds memory on the host."""

from __future__ import annotations

import ctypes
import sys

M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4
"""The C library's own numbers for these settings (mallopt(3))."""
LARGEST = 2**31 - 1


def keep_freed_memory() -> bool:
    """Let memory that is freed stay with the process, ready for the next tensor. Returns whether it does.

    A step on a CPU takes and frees the same large tensors again and again. Given back to the system, each comes
    as pages that are filled with zeros at first touch, which can take as long as what is computed in them. Only
    glibc's allocator has these settings.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is None:
        return False
    return bool(mallopt(M_MMAP_MAX, 0)) and bool(mallopt(M_TRIM_THRESHOLD, LARGEST))
