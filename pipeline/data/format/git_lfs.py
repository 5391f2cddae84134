"""Pointers of Git LFS: small text files in the place of large ones that were not fetched."""

from __future__ import annotations

from pathlib import Path

from pipeline.errors import DataError

POINTER = b"version https://git-lfs.github.com/spec/"
REASON = "a Git LFS pointer, the file itself was not fetched: run `git lfs pull` in its repository"


def is_pointer(start: bytes) -> bool:
    """Whether a file that starts like this is a pointer."""
    return start.startswith(POINTER)


def refuse_pointer(path: Path, start: bytes) -> None:
    """Raise DataError if a file that starts like this is a pointer."""
    if is_pointer(start):
        raise DataError(f"{path} is {REASON}.")
