"""Files that others wrote: only regular files are opened, at once, and no link leads out of a set."""

from __future__ import annotations

import os
import tracemalloc
from pathlib import Path

import pytest

from pipeline.regular_files import open_regular, read_regular


def test_a_regular_file_is_read(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"content")
    assert read_regular(tmp_path / "a", 7) == b"content"


def test_a_file_beyond_the_limit_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"content!")
    with pytest.raises(OSError, match="it has more than the 7 bytes"):
        read_regular(tmp_path / "a", 7)


def test_a_named_pipe_is_refused_without_waiting_for_a_writer(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(OSError, match="it is a named pipe"):
        open_regular(tmp_path / "pipe")


@pytest.mark.parametrize(("path", "reason"), [("/dev/zero", "it is a device"), ("/tmp", "it is a directory")])
def test_devices_and_directories_are_refused(path: str, reason: str) -> None:
    with pytest.raises(OSError, match=reason):
        open_regular(Path(path))


def test_a_link_may_stay_within_the_set_but_not_leave_it(tmp_path: Path) -> None:
    inside = tmp_path / "set"
    inside.mkdir()
    (inside / "a").write_bytes(b"a")
    (tmp_path / "secret").write_bytes(b"secret")
    (inside / "near").symlink_to("a")
    (inside / "far").symlink_to("../secret")
    assert read_regular(inside / "near", 10, within=inside) == b"a"
    with pytest.raises(OSError, match=r"it is a link to .*secret, outside of"):
        read_regular(inside / "far", 10, within=inside)
    assert read_regular(inside / "far", 10) == b"secret"  # the user named it


def test_memory_is_taken_for_the_file_and_not_for_the_limit(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"content")
    tracemalloc.start()
    try:
        assert read_regular(tmp_path / "a", 1 << 34) == b"content"
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


def test_a_file_that_does_not_know_its_size_is_read_to_its_end() -> None:
    path = Path("/proc/self/status")
    assert b"VmHWM" in read_regular(path, 1 << 20)
    with pytest.raises(OSError, match="it has more than the 9 bytes"):
        read_regular(path, 9)
