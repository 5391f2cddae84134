"""Errors of files that cannot be written: what they say, and the advice in them."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from pipeline.durable import storage_errors, write_text
from pipeline.errors import StorageError


@pytest.mark.parametrize(
    ("number", "advice"),
    [
        (errno.ENOSPC, "Free some space"),
        (errno.EDQUOT, "Free some space"),
        (errno.EROFS, "Mount the file system for writing"),
        (errno.EACCES, "Get permission"),
        (errno.ENOTDIR, "Move away what is there"),
        (errno.ENAMETOOLONG, "Choose a shorter name"),
        (errno.EIO, "Choose another place"),
    ],
)
def test_the_advice_fits_the_failure(number: int, advice: str) -> None:
    reason = os.strerror(number)
    with (
        pytest.raises(StorageError, match=f"run/x cannot be written: {reason}. {advice}"),
        storage_errors(Path("run/x")),
    ):
        raise OSError(number, reason)


def test_a_file_in_place_of_a_directory_is_not_called_a_full_disk(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match=r"file/x cannot be written: Not a directory\. Move away"):
        write_text(tmp_path / "file" / "x", "text")
