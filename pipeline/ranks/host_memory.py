"""Host memory that tensors free stays with the process."""

from __future__ import annotations

import ctypes
import sys

M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4
"""The numbers of these settings in the C library (mallopt(3))"""
LARGEST = 2**31 - 1


def keep_freed_memory() -> bool:
    """Keep freed memory in this process for the next tensors. Returns whether that worked: only glibc can do it.

    A step on a CPU allocates and frees the same large tensors again and again. If the operating system gets the
    memory back each time, it fills every page with zeros when it is next used. That can take as long as the
    computation itself.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is None:
        return False
    return bool(mallopt(M_MMAP_MAX, 0)) and bool(mallopt(M_TRIM_THRESHOLD, LARGEST))
