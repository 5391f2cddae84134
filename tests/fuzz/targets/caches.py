"""The directory of downloaded shards, and leases: files that other processes and users may have put there."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest

from pipeline.data.format.disk_cache import DiskCache
from pipeline.data.format.downloads import NoRoomError
from pipeline.errors import DataError
from pipeline.file_lock import FileLock, HeldError
from tests.fuzz.attempts import try_each
from tests.fuzz.engine import target

CONTENT = b"a shard"
DIGEST = hashlib.sha256(CONTENT).hexdigest()
NAMES = (DIGEST, f"{DIGEST}.fetch", ".lock", f"{DIGEST}.7.0a1b2c3d", f"{'0' * 64}")


def place_seeds() -> list[bytes]:
    """Lines of a kind of file, its name, and what it holds or leads to."""
    texts = [f"file {DIGEST} {CONTENT.decode()}", f"file {DIGEST} rotten\nage {DIGEST} 5\nfile .lock x"]
    texts += [f"{kind} {name} {to}" for name in NAMES for kind, to in (("link", "/etc/passwd"), ("fifo", ""))]
    texts += [f"directory {name} x\nfile {DIGEST} {CONTENT.decode()}" for name in NAMES]
    return [text.encode() for text in texts]


def put(directory: Path, line: bytes) -> None:
    """Put one file into the directory, as the line says; others are passed over."""
    kind, _, rest = line.partition(b" ")
    name, _, content = rest.partition(b" ")
    path = directory / os.fsdecode(name)
    if not name or b"/" in name or b"\0" in line or len(name) > 200 or name in (b".", b".."):
        return
    if kind == b"age":
        if path.is_file() and not path.is_symlink():
            os.utime(path, (int(content) if content.isdigit() and len(content) < 10 else 0,) * 2)
    elif os.path.lexists(path):
        return
    elif kind == b"file":
        path.write_bytes(content)
    elif kind == b"link" and 0 < len(content) < 200:
        path.symlink_to(os.fsdecode(content))
    elif kind == b"fifo":
        os.mkfifo(path)
    elif kind == b"directory":
        path.mkdir()
        (path / "inside").touch()


@target("cache", place_seeds)
def use_a_cache(data: bytes, directory: Path) -> None:
    """A file that the cache opens has the content that its name says, whatever else lies there."""
    for line in data.splitlines()[:50]:
        put(directory, line)
    cache = DiskCache(directory, 20)

    def check() -> None:
        """Nothing is interrupted."""

    def wait(seconds: float) -> None:
        raise DataError("Another process holds the lock.")

    def open_it() -> None:
        if (file := cache.open(DIGEST, check)) is not None:
            with file:
                assert file.read() == CONTENT

    def download() -> None:
        with cache.alone(DIGEST, wait):
            try:
                with cache.writing(DIGEST, len(CONTENT), wait) as (path, keep):
                    path.write_bytes(CONTENT)
                    keep(DIGEST)
            except NoRoomError:
                return
        open_it()

    try_each(open_it, lambda: cache.distrust(DIGEST, check), download)


LEASE = b'{"holder": "process 7 on host", "is_shared": false}'


@target("lock", lambda: [LEASE, b"process 7 on host", LEASE.replace(b"false", b"true")])
def take_a_lock(data: bytes, directory: Path) -> None:
    """The note of a holder is shown, whatever it holds."""
    path = directory / "lock"
    with FileLock(path, is_shared=True):
        path.write_bytes(data)
        with pytest.raises(HeldError) as caught, FileLock(path):
            """Another process holds it."""
    assert str(caught.value).isprintable()
