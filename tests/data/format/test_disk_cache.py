"""The disk cache of downloaded files: which files it keeps, and what it does where there is no room."""

from __future__ import annotations

import fcntl
import hashlib
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.data.format.disk_cache import DiskCache, NoRoomError
from pipeline.data.format.manifest import Manifest, Shard
from pipeline.data.format.remote import RemoteFiles
from pipeline.errors import DataError
from tests.chaos_server import chaos
from tests.data.format.downloads import options
from tests.ranks import wait_until


def files_of(sizes: dict[str, int], root: Path) -> tuple[Manifest, dict[str, str]]:
    """Write files of these sizes, and a manifest that lists them; the index files are not real indexes."""
    entries = []
    for name, size in sizes.items():
        (root / name).write_bytes(name.encode() * (size // len(name)) + b"x" * (size % len(name)))
        digest = hashlib.sha256((root / name).read_bytes()).hexdigest()
        entries.append(Shard(name, 1, size, digest, name + "-index", "0" * 64))
    return Manifest("x", (8, 8), 1, (), "png", tuple(entries)), {
        shard.name: shard.sha256 for shard in entries
    }


@pytest.fixture
def three(tmp_path: Path) -> Iterator[tuple[RemoteFiles, Path, dict[str, str]]]:
    """Three files of 1,000 bytes, a cache for two, and the files' digests."""
    (tmp_path / "root").mkdir()
    manifest, digests = files_of(dict.fromkeys(("a.tar", "b.tar", "c.tar"), 1000), tmp_path / "root")
    with chaos(tmp_path / "root") as server:
        place = tmp_path / "cache"
        files = RemoteFiles(server.url, manifest, options(place, capacity_gb=2.1e-6, deadline_seconds=1.0))
        yield files, place, digests
        files.close()


Three = tuple[RemoteFiles, Path, dict[str, str]]


def test_the_least_recently_used_file_is_deleted_first(three: Three) -> None:
    files, place, digests = three
    for name in ("a.tar", "b.tar", "a.tar", "c.tar"):
        files.open(name).close()
        time.sleep(0.01)
    assert {name for name, digest in digests.items() if (place / digest).exists()} == {"a.tar", "c.tar"}


def test_files_in_use_are_kept_and_a_full_cache_is_reported(three: Three) -> None:
    files, place, digests = three
    with files.open("a.tar"), files.open("b.tar") as b:
        with pytest.raises(
            DataError, match=r"no room for .*c\.tar: the 2\.1e-06 GB of .*cache are full of shards"
        ):
            files.open("c.tar")
        assert len(b.read()) == 1000
    files.open("c.tar").close()
    assert (place / digests["c.tar"]).exists()


def test_announced_files_are_kept_until_others_are_announced(three: Three) -> None:
    files, place, digests = three
    files.expect(["a.tar", "b.tar"], ["c.tar"])
    wait_until(lambda: all((place / digests[name]).exists() for name in ("a.tar", "b.tar")))
    time.sleep(0.1)
    with pytest.raises(DataError, match="There is no room for"):
        files.open("c.tar")
    files.expect(["c.tar"], [])
    wait_until(lambda: (place / digests["c.tar"]).exists())


def test_files_that_another_process_reads_are_kept(three: Three) -> None:
    files, place, digests = three
    for name in ("a.tar", "b.tar"):
        files.open(name).close()
    program = (
        "import sys, fcntl; file = open(sys.argv[1]); fcntl.flock(file, fcntl.LOCK_SH); "
        "print('locked', flush=True); sys.stdin.read()"
    )
    reading = subprocess.Popen(
        [sys.executable, "-c", program, place / digests["a.tar"]],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    try:
        assert reading.stdout is not None
        assert reading.stdout.readline() == b"locked\n"
        files.open("c.tar").close()
        # "a" was the older one.
        assert {name for name, digest in digests.items() if (place / digest).exists()} == {"a.tar", "c.tar"}
    finally:
        reading.communicate()


def test_a_permanent_failure_names_the_file_and_the_last_reason(three: Three) -> None:
    files, _, _ = three
    with pytest.raises(DataError, match=r"http://127.*/a\.tar-index does not exist\. Correct data\.shards"):
        files.open("a.tar-index")


def test_a_file_that_is_not_kept_is_removed_and_takes_no_room(tmp_path: Path) -> None:
    cache = DiskCache(tmp_path, 100)
    with cache.writing("0" * 64, 80) as (path, _):
        path.write_bytes(b"half")
        # The file that is being written counts with the size that it will have.
        with pytest.raises(NoRoomError), cache.writing("1" * 64, 80):
            pass
    assert [path.name for path in tmp_path.iterdir()] == [".lock"]


def test_no_file_is_renamed_while_another_process_counts_files(tmp_path: Path) -> None:
    cache = DiskCache(tmp_path, 100)
    with cache.writing("0" * 64, 80) as (path, keep):
        path.write_bytes(b"x" * 80)
        keeper = threading.Thread(target=keep)
        with (tmp_path / ".lock").open("ab") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            keeper.start()
            keeper.join(0.2)
            assert path.exists()
            assert not cache.has("0" * 64)
        keeper.join()
        assert cache.has("0" * 64)
