"""The disk cache of downloaded files: which files it keeps, and what it does where there is no room."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO

import pytest

from pipeline.data.format import disk_cache
from pipeline.data.format.disk_cache import DiskCache
from pipeline.data.format.downloads import NoRoomError
from pipeline.data.format.manifest import Manifest, Shard
from pipeline.data.format.remote import RemoteFiles, remote_set
from pipeline.errors import ConfigError, DataError, StorageError
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
        files = remote_set(
            server.url, manifest, options(place, capacity_gb=2.1e-6, deadline_seconds=2, stall_seconds=30)
        )
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
    with pytest.raises(DataError, match=r"http://127.*/a\.tar-index does not exist\. Correct the address"):
        files.open("a.tar-index")


def test_a_file_that_is_not_kept_is_removed_and_takes_no_room(tmp_path: Path) -> None:
    cache = DiskCache(tmp_path, 100)
    with cache.writing("0" * 64, 80, time.sleep) as (path, _):
        path.write_bytes(b"half")
        # The file that is being written counts with the size that it will have.
        with pytest.raises(NoRoomError), cache.writing("1" * 64, 80, time.sleep):
            pass
    assert [path.name for path in tmp_path.iterdir()] == [".lock"]


def test_no_file_is_renamed_while_another_process_counts_files(tmp_path: Path) -> None:
    cache = DiskCache(tmp_path, 100)
    with cache.writing("0" * 64, 80, time.sleep) as (path, keep):
        path.write_bytes(b"x" * 80)
        keeper = threading.Thread(target=keep, args=["0" * 64])
        with (tmp_path / ".lock").open("ab") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            keeper.start()
            keeper.join(0.2)
            assert path.exists()
            assert not cache.has("0" * 64)
        keeper.join()
        assert cache.has("0" * 64)


def flip_a_byte(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[500] ^= 1
    path.write_bytes(content)


def cut_short(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:500])


def link_away(path: Path) -> None:
    path.rename(path.parents[1] / "elsewhere")
    path.symlink_to(path.parents[1] / "elsewhere")


def make_pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


@pytest.mark.parametrize("damage", [flip_a_byte, cut_short, link_away, make_pipe])
@pytest.mark.parametrize("is_new_process", [False, True])
def test_a_file_that_is_not_sound_is_removed_and_downloaded_again(
    damage: Callable[[Path], None], is_new_process: bool, three: Three, capfd: pytest.CaptureFixture[str]
) -> None:
    files, place, digests = three
    with files.open("a.tar") as file:
        content = file.read()
    path = place / digests["a.tar"]
    damage(path)
    if is_new_process:
        files._cache._verified.clear()
    with files.open("a.tar") as file:
        assert file.read() == content
    assert path.read_bytes() == content
    assert not path.is_symlink()
    (told,) = capfd.readouterr().err.splitlines()
    assert told.startswith(f"warning: {path} ")
    assert told.endswith(
        ("is downloaded again", "which is not followed", "outside of " + str(place), "not a file")
    )


def test_a_sound_file_is_hashed_by_each_process_unless_it_is_marked(
    three: Three, monkeypatch: pytest.MonkeyPatch
) -> None:
    files, place, digests = three
    files.open("a.tar").close()
    hashed: list[object] = []

    def hash_and_count(file: IO[bytes], check: object) -> str:
        hashed.append(file)
        return hashlib.sha256(file.read()).hexdigest()

    monkeypatch.setattr(disk_cache, "_sha256", hash_and_count)
    path = place / digests["a.tar"]
    files.open("a.tar").close()
    assert hashed == [], "this process has downloaded it"

    def open_in_another_process(block: int) -> None:
        files._cache._verified.clear()
        monkeypatch.setattr(disk_cache, "SMALL", block)
        files.open("a.tar").close()

    open_in_another_process(block=1000)
    assert len(hashed) == 1, "a small file"
    open_in_another_process(block=999)
    assert len(hashed) == 1, "a large one, which has the mark"
    os.utime(path)
    open_in_another_process(block=999)
    assert len(hashed) == 2, "the mark is gone"
    open_in_another_process(block=999)
    assert len(hashed) == 2, "and is back"


@pytest.mark.parametrize("name", [".lock", "{digest}.fetch"])
@pytest.mark.parametrize("make", [os.mkfifo, lambda path: path.symlink_to("/dev/zero")])
def test_what_is_no_lock_file_is_replaced_by_one(
    name: str, make: Callable[[Path], None], three: Three, capfd: pytest.CaptureFixture[str]
) -> None:
    files, place, digests = three
    path = place / name.format(digest=digests["a.tar"])
    make(path)
    files.open("a.tar").close()
    assert not path.is_symlink()
    assert not path.is_fifo()
    assert f"warning: {path} is removed, because it is a" in capfd.readouterr().err


@pytest.mark.parametrize("name", ["{digest}", ".lock", "{digest}.fetch"])
def test_a_directory_in_the_place_of_a_file_is_named(name: str, three: Three) -> None:
    files, place, digests = three
    (place / name.format(digest=digests["a.tar"])).mkdir()
    with pytest.raises(
        StorageError, match=r"is in the way of a downloaded file, and cannot be removed: ([Ii]t i|I)s a dir"
    ):
        files.open("a.tar")


def test_strange_entries_take_no_room_and_stop_nothing(three: Three) -> None:
    files, place, _ = three
    (place / f"{'a' * 64}.99999999999.12345678").touch()
    os.mkfifo(place / f"{'b' * 64}.1000.12345678")
    (place / f"{'c' * 64}.1000.12345678").symlink_to("/dev/zero")
    (place / ("d" * 64)).symlink_to("/dev/zero")
    (place / ("e" * 64 + "." + "9" * 100 + ".12345678")).touch()
    (place / "notes").mkdir()
    for name in ("a.tar", "b.tar", "c.tar"):
        files.open(name).close()
    left = {path.name for path in place.iterdir()}
    assert left >= {"notes"}
    assert not any(name.startswith(("a" * 64, "b" * 64, "c" * 64)) for name in left)


def test_a_lock_that_is_never_released_ends_the_wait_at_the_deadline(three: Three) -> None:
    files, place, _ = three
    with (place / ".lock").open("ab") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(
            DataError, match=r"a\.tar was not complete after 2 s of waiting for this or another process"
        ):
            files.open("a.tar")


def test_the_directory_is_private(tmp_path: Path) -> None:
    DiskCache(tmp_path / "new" / "cache", 100)
    assert (tmp_path / "new" / "cache").stat().st_mode & 0o777 == 0o700
    (tmp_path / "shared").mkdir()
    for mode in (0o777, 0o775, 0o1777):
        (tmp_path / "shared").chmod(mode)
        with pytest.raises(ConfigError, match=rf"its mode is {mode:o}\), and so .* `chmod go-w .*shared`"):
            DiskCache(tmp_path / "shared", 100)
    (tmp_path / "shared").chmod(0o755)
    DiskCache(tmp_path / "shared", 100)


@pytest.fixture
def nobody() -> Iterator[None]:
    """This process without the rights of root."""
    if os.geteuid() != 0:
        pytest.skip("only root can become another user")
    os.seteuid(65534)
    yield
    os.seteuid(0)


@pytest.mark.usefixtures("nobody")
def test_files_of_another_user_stop_nothing() -> None:
    os.seteuid(0)
    with tempfile.TemporaryDirectory() as folder, chaos(Path(folder) / "root") as server:
        root, place = Path(folder) / "root", Path(folder) / "cache"
        root.mkdir()
        place.mkdir()
        manifest, digests = files_of({"a.tar": 1000}, root)
        for name in (".lock", f"{digests['a.tar']}.fetch", digests["a.tar"]):
            (place / name).write_bytes(b"x")
            (place / name).chmod(0o600)
        for path in (Path(folder), place):
            os.chown(path, 65534, 65534)
        os.seteuid(65534)
        files = remote_set(server.url, manifest, options(place, deadline_seconds=10))
        with files.open("a.tar") as file:
            assert len(file.read()) == 1000
        files.close()
        os.seteuid(0)


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP])
def test_a_file_system_without_locks_is_one_warning(
    number: int, three: Three, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(file: object, kind: int) -> None:
        raise OSError(number, os.strerror(number))

    files, place, digests = three
    monkeypatch.setattr("fcntl.flock", refuse)
    fresh, old = (place / f"{letter * 64}.100.12345678" for letter in "ef")
    for path in (fresh, old):
        path.write_bytes(b"x")
    os.utime(old, (0, 0))
    with files.open("a.tar") as first:
        for name in ("b.tar", "c.tar"):
            files.open(name).close()
        assert len(first.read()) == 1000, "also after it was removed"
    assert {name for name, digest in digests.items() if (place / digest).exists()} == {"b.tar", "c.tar"}
    assert fresh.exists(), "another process may be writing it"
    assert not old.exists()
    warnings = capsys.readouterr().err.splitlines()
    assert len(warnings) == 1
    assert f"has no locks ({os.strerror(number)}). The cache does without" in warnings[0]
