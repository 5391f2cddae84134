"""Shards at a URL: fetched whole and ahead of their use, compared with the manifest, and kept on disk."""

from __future__ import annotations

import errno
import hashlib
import json
import random
import re
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any
from urllib.parse import urlsplit

import fsspec
from fsspec.callbacks import Callback

from pipeline.data.format.disk_cache import DiskCache, NoRoomError
from pipeline.data.format.manifest import FILE_NAME, INDEX_COLUMNS, Manifest
from pipeline.durable import storage_errors
from pipeline.errors import ConfigError, DataError, PipelineError, StorageError
from pipeline.options import RemoteOptions

SCHEMES = ("https", "http", "s3", "gs", "hf")
# Neither whitespace nor anything that a shell or fsspec would read as more than a name.
PLAIN = re.compile(r"[A-Za-z0-9._~/:%+=,@-]+")
MAX_MANIFEST_BYTES = 1 << 28
FIRST_PAUSE, LONGEST_PAUSE = 0.5, 30.0
INDEX_HEADER_BYTES = 128
BLOCK = 1 << 22


def is_url(location: str) -> bool:
    """Whether a place for shards is meant as a URL, of a kind that is read or not."""
    return re.match(r"[A-Za-z][A-Za-z0-9+.-]+:", location) is not None and not Path(location).exists()


def check_url(url: str) -> str:
    """Return the URL without a slash at its end. Raises ConfigError unless it is a plain one of a known kind."""
    parts = urlsplit(url)
    if parts.scheme not in SCHEMES or "://" not in url:
        raise ConfigError(
            f"data.shards: {url} is of a kind that is not read. Give a directory, or a URL that starts with "
            f"{', '.join(f'{scheme}://' for scheme in SCHEMES)}."
        )
    if parts.scheme != "hf" and "@" in parts.netloc:
        raise ConfigError(
            "data.shards: the URL holds a user name or a password, which would be written to the run's directory. "
            "Take it out, and give the credentials in the environment."
        )
    if not PLAIN.fullmatch(url) or "::" in url or not parts.netloc:
        raise ConfigError(
            f"data.shards: {url!r} has parts other than a host and a path of plain characters. Give the directory's "
            "address alone, without queries or patterns."
        )
    return url.rstrip("/")


def check_capacity(manifest: Manifest, options: RemoteOptions, window_shards: int) -> None:
    """Raise ConfigError where two windows of shuffled shards, and one shard more, do not fit on disk.

    A batch may hold samples of the end of one window and of the start of the next.
    """
    shards = min(2 * window_shards, len(manifest.shards)) + 1
    needed = shards * max(shard.bytes + _index_bytes(shard.count) for shard in manifest.shards)
    if needed > options.capacity_gb * 1e9:
        raise ConfigError(
            f"data.remote.capacity_gb: {options.capacity_gb} is too little for {shards} shards, {needed / 1e9:.3g} GB: "
            "two windows of data.shuffle_shards and one more. Raise it, or lower data.shuffle_shards."
        )


def fetch_manifest(url: str, options: RemoteOptions) -> bytes:
    """The text of the manifest in the directory at `url`. Raises DataError where it cannot be had."""
    url = check_url(url)
    transport = Transport(url, options)

    def fetch() -> bytes:
        text: bytes = transport.read(FILE_NAME, MAX_MANIFEST_BYTES)
        json.loads(text)  # a body that was cut short is worth another try
        return text

    text: bytes = _Attempts(f"{url}/{FILE_NAME}", options.deadline_seconds, threading.Event()).run(fetch)
    return text


class Transport:
    """Reads files below a URL through fsspec."""

    def __init__(self, url: str, options: RemoteOptions) -> None:
        """Raises ConfigError where the library for that kind of URL is missing."""
        self._url, self._scheme = url, urlsplit(url).scheme
        try:
            # An instance of its own: others may have been made with other time limits.
            self._files = fsspec.filesystem(
                self._scheme, skip_instance_cache=True, **_timeouts(self._scheme, options.stall_seconds)
            )
        except ImportError as error:
            raise ConfigError(
                f"data.shards: {self._scheme}:// needs a library that is missing ({error}). Install it: "
                "pip install 'wgan-pipeline[remote]'"
            ) from None
        if self._scheme == "s3":
            self._files.retries = 1  # they are counted here

    def read(self, name: str, limit: int) -> bytes:
        """A small file's content."""
        with tempfile.TemporaryDirectory() as directory:
            path = Path(directory) / "file"
            try:
                self.save(name, path, limit)
            except _TooLargeError:
                raise DataError(
                    f"{self._url}/{name} is larger than {limit >> 20} MiB, so it is no manifest."
                ) from None
            return path.read_bytes()

    def save(self, name: str, path: Path, size: int) -> None:
        """Write a file of so many bytes to `path`; more are not taken."""
        self._files.get_file(f"{self._url}/{name}", str(path), callback=_Bound(size))


class _TooLargeError(Exception):
    """More came than was to come."""


class _Bound(Callback):  # type: ignore[misc]
    def __init__(self, limit: int) -> None:
        super().__init__()
        self._limit = limit

    def relative_update(self, inc: int = 1) -> None:
        super().relative_update(inc)
        if self.value > self._limit:
            raise _TooLargeError(f"more than {self._limit} bytes came")


def _timeouts(scheme: str, seconds: float) -> dict[str, Any]:
    """What makes a silent connection an error."""
    if scheme in ("http", "https"):
        from aiohttp import ClientTimeout

        return {
            "client_kwargs": {"timeout": ClientTimeout(total=None, sock_connect=seconds, sock_read=seconds)}
        }
    if scheme == "s3":
        limits = {"connect_timeout": seconds, "read_timeout": seconds, "retries": {"max_attempts": 1}}
        return {"config_kwargs": limits}
    if scheme == "gs":
        return {"requests_timeout": seconds}
    return {}


@dataclass(frozen=True)
class _Attempts:
    """Tries something until it works, with growing pauses, for a limited time."""

    what: str
    seconds: float
    stop: threading.Event

    def run(self, attempt: Callable[[], Any], deadline: float | None = None) -> Any:
        """What `attempt` returns. Raises DataError where it cannot work, or did not in time."""
        deadline = deadline or time.monotonic() + self.seconds
        pause, count = FIRST_PAUSE, 0
        while True:
            count += 1
            try:
                return attempt()
            except (PipelineError, NoRoomError):
                raise
            except Exception as error:  # every library has errors of its own
                reason = " ".join(str(error).split()) or type(error).__name__
                self._refuse_hopeless(error, reason)
            # At random, so that ranks do not come back all at once.
            delay = pause * random.uniform(0.5, 1.0)
            if time.monotonic() + delay > deadline:
                raise DataError(
                    f"{self.what} could not be fetched within {self.seconds:g} s, in {count} attempts; the last "
                    f"failure: {reason}. Look at the server and the network, or raise data.remote.deadline_seconds."
                )
            if self.stop.wait(delay):
                raise DataError(f"{self.what} is not fetched any more: the run is ending.")
            pause = min(2 * pause, LONGEST_PAUSE)

    def _refuse_hopeless(self, error: Exception, reason: str) -> None:
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise StorageError(
                f"{self.what} cannot be kept: {reason}. Lower data.remote.capacity_gb."
            ) from None
        # fsspec says the same of a server that cannot be reached, but then names that as the cause.
        is_absent = isinstance(error, FileNotFoundError) and not isinstance(error.__cause__, OSError)
        if is_absent or getattr(error, "status", None) == 404:
            raise DataError(
                f"{self.what} does not exist. Correct data.shards, or copy the file there."
            ) from None
        is_denied = isinstance(error, PermissionError) or getattr(error, "status", None) in (401, 403)
        if is_denied or type(error).__name__ == "NoCredentialsError":
            raise DataError(
                f"{self.what} may not be read ({reason}). Give the credentials that its library looks for in the "
                "environment, or use the https:// address of a public bucket."
            ) from None


class RemoteFiles:
    """The shards of a manifest at a URL, as `ShardFiles`."""

    def __init__(self, url: str, manifest: Manifest, options: RemoteOptions) -> None:
        self._url, self._options = check_url(url), options
        self._transport = Transport(self._url, options)
        self._cache = DiskCache(Path(options.directory).expanduser(), int(options.capacity_gb * 1e9))
        self._digests: dict[str, str] = {}
        self._sizes: dict[str, int] = {}
        for shard in manifest.shards:
            self._digests |= {shard.name: shard.sha256, shard.index: shard.index_sha256}
            self._sizes |= {shard.name: shard.bytes, shard.index: _index_bytes(shard.count)}
        for name, digest in self._digests.items():
            # They become file names.
            if not re.fullmatch(r"[0-9a-f]{64}", digest):
                raise DataError(
                    f"{self.where(FILE_NAME)} gives {name} the SHA-256 {digest!r}, which is none."
                )
        self._stop = threading.Event()
        self._ahead = _Ahead(self._open_now, options.parallel, self._stop)

    def open(self, name: str) -> IO[bytes]:
        """The file, fetched where it is not on disk. Raises DataError where it cannot be had in time."""
        return self._open(name, is_patient=True)

    def expect(self, now: Sequence[str], later: Sequence[str]) -> None:
        """Fetch these ahead, in this order, and keep them until others are expected."""
        self._ahead.want(now, later)

    def where(self, name: str) -> str:
        """The file's URL."""
        return f"{self._url}/{name}"

    def close(self) -> None:
        """Fetch nothing more, and let go of all files."""
        self._stop.set()
        self._ahead.want([], [])

    def _open_now(self, name: str) -> IO[bytes]:
        return self._open(name, is_patient=False)

    def _open(self, name: str, is_patient: bool) -> IO[bytes]:
        deadline = time.monotonic() + self._options.deadline_seconds
        digest = self._digests[name]

        def wait(seconds: float) -> None:
            if self._stop.wait(seconds):
                raise DataError(f"{self.where(name)} is not fetched any more: the run is ending.")
            if time.monotonic() > deadline:
                raise DataError(
                    f"{self.where(name)} was waited for in vain for {self._options.deadline_seconds:g} s, while "
                    "this or another process fetched it. Look at the network, or raise data.remote.deadline_seconds."
                )

        with storage_errors(self._cache.directory):
            while True:
                wait(0)
                if (file := self._cache.open(digest)) is not None:
                    return file
                with self._cache.alone(digest, wait):
                    if not self._cache.has(digest):
                        self._fetch(name, is_patient, deadline)

    def _fetch(self, name: str, is_patient: bool, deadline: float) -> None:
        attempts = _Attempts(self.where(name), self._options.deadline_seconds, self._stop)
        while True:
            try:
                attempts.run(lambda: self._fetch_once(name), deadline)
                return
            except NoRoomError:
                if not is_patient:
                    raise
                # What is needed now goes before what would be needed later, here and in other processes.
                self._ahead.drop_later()
                if time.monotonic() > deadline or self._stop.wait(FIRST_PAUSE):
                    raise DataError(
                        f"{self.where(name)} finds no room: the {self._options.capacity_gb:g} GB of "
                        f"{self._cache.directory} are full of shards in use. Raise data.remote.capacity_gb, or lower "
                        "data.shuffle_shards."
                    ) from None

    def _fetch_once(self, name: str) -> None:
        size, digest = self._sizes[name], self._digests[name]
        with self._cache.writing(digest, size) as (path, keep):
            self._transport.save(name, path, size)
            found = path.stat().st_size
            if found != size:
                raise ValueError(f"{found} of {size} bytes came")
            if _sha256(path) != digest:
                raise ValueError("what came is not what the manifest describes")
            keep()


class _Ahead:
    """Threads that open wanted files before they are asked for, and hold them while they are wanted.

    What is needed later is only begun when all that is needed now is held, and so never takes its room.
    """

    def __init__(self, open_now: Callable[[str], IO[bytes]], threads: int, stop: threading.Event) -> None:
        self._open_now, self._threads, self._stop = open_now, threads, stop
        self._held: dict[str, IO[bytes]] = {}
        self._now: list[str] = []
        self._later: list[str] = []
        self._tried: set[str] = set()
        self._opening: set[str] = set()
        self._changed = threading.Condition()
        self._has_started = False

    def want(self, now: Sequence[str], later: Sequence[str]) -> None:
        """Hold these, and let go of all others."""
        with self._changed:
            self._now, self._later = list(now), list(later)
            self._release({*now, *later})
            self._tried = {*self._held, *self._opening}
            self._changed.notify_all()
            if now and not self._has_started:
                self._has_started = True
                for _ in range(self._threads):
                    # Daemons: the process may end while a server keeps one waiting.
                    threading.Thread(target=self._work, name="fetch", daemon=True).start()

    def drop_later(self) -> None:
        """Let go of what is not needed yet, and fetch no more of it."""
        with self._changed:
            self._later = []
            self._release(set(self._now))

    def _release(self, kept: set[str]) -> None:
        for name in [name for name in self._held if name not in kept]:
            self._held.pop(name).close()

    def _next(self) -> str | None:
        """The next file to open: of those for later only when none for now is missing."""
        for name in self._now:
            if name not in self._tried:
                return name
        if all(name in self._held for name in self._now):
            return next((name for name in self._later if name not in self._tried), None)
        return None

    def _try_to_open(self, name: str) -> IO[bytes] | None:
        try:
            return self._open_now(name)
        except (NoRoomError, PipelineError):
            return None  # met again, and told, where the file is really needed

    def _work(self) -> None:
        while True:
            with self._changed:
                while (name := self._next()) is None and not self._stop.is_set():
                    self._changed.wait()
                if self._stop.is_set() or name is None:
                    return
                self._tried.add(name)
                self._opening.add(name)
            file = self._try_to_open(name)
            with self._changed:
                self._opening.discard(name)
                if file is None:
                    continue
                if name in (*self._now, *self._later) and name not in self._held and not self._stop.is_set():
                    self._held[name] = file
                    self._changed.notify_all()
                else:
                    file.close()


def _index_bytes(count: int) -> int:
    return INDEX_HEADER_BYTES + 8 * len(INDEX_COLUMNS) * count


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(BLOCK):
            digest.update(block)
    return digest.hexdigest()
