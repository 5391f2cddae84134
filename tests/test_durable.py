"""Errors of files that cannot be written: what they say, and the advice in them."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from pipeline.durable import create_file, make_directory, open_for_append, storage_errors, write_text
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


def test_a_link_in_the_place_of_a_file_is_replaced_and_not_followed(tmp_path: Path) -> None:
    (tmp_path / "precious").write_text("precious")
    for name in ("report.html", ".report.html.tmp"):
        (tmp_path / name).symlink_to("precious")
    write_text(tmp_path / "report.html", "report")
    assert (tmp_path / "precious").read_text() == "precious"
    assert not (tmp_path / "report.html").is_symlink()
    assert (tmp_path / "report.html").read_text() == "report"


@pytest.mark.parametrize("target", ["precious", "nowhere"])
def test_nothing_is_created_or_appended_through_a_link(tmp_path: Path, target: str) -> None:
    (tmp_path / "precious").write_text("precious")
    (tmp_path / "link").symlink_to(target)
    with pytest.raises(OSError, match="which is not followed"):
        open_for_append(tmp_path / "link")
    with pytest.raises(FileExistsError):
        create_file(tmp_path / "link")
    assert (tmp_path / "precious").read_text() == "precious"
    assert not (tmp_path / "nowhere").exists()


def test_a_named_pipe_is_not_appended_to(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "log")
    with pytest.raises(OSError, match="it is a named pipe"):
        open_for_append(tmp_path / "log")


def test_a_directory_is_not_made_through_a_link(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "checkpoints").symlink_to("elsewhere")
    with pytest.raises(OSError, match="it is a link to"):
        make_directory(tmp_path / "checkpoints")
