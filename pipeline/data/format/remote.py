"""Shards at a URL: whole files are downloaded ahead of their use, checked against the manifest, and kept on disk."""

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
from pipeline.wording import counted

SCHEMES = ("https", "http", "s3", "gs", "hf")
# No spaces, and nothing that has a special meaning in a shell or in fsspec.
PLAIN = re.compile(r"[A-Za-z0-9._~/:%+=,@-]+")
MAX_MANIFEST_BYTES = 1 << 28
FIRST_PAUSE, LONGEST_PAUSE = 0.5, 30.0
INDEX_HEADER_BYTES = 128
BLOCK = 1 << 22


def is_url(location: str) -> bool:
    """Whether the location of shards looks like a URL, supported or not, rather than a directory."""
    return re.match(r"[A-Za-z][A-Za-z0-9+.-]+:", location) is not None and not Path(location).exists()


def check_url(url: str) -> str:
    """Return the URL without a trailing slash. Raises ConfigError unless it is a plain URL of a supported kind."""
    parts = urlsplit(url)
    if parts.scheme not in SCHEMES or "://" not in url:
        raise ConfigError(
            f"data.shards: {url} is a kind of URL that is not supported. Give a directory, or a URL that starts with "
            f"{', '.join(f'{scheme}://' for scheme in SCHEMES)}."
        )
    if parts.scheme != "hf" and "@" in parts.netloc:
        raise ConfigError(
            "data.shards: the URL contains a user name or a password, which would be saved in the run directory. "
            "Remove it, and set the credentials in the environment."
        )
    if not PLAIN.fullmatch(url) or "::" in url or not parts.netloc:
        raise ConfigError(
            f"data.shards: {url!r} has more than a host and a path, or special characters. Give only the address of "
            "the directory, without a query or a pattern."
        )
    return url.rstrip("/")


def check_capacity(manifest: Manifest, options: RemoteOptions, window_shards: int) -> None:
    """Raise ConfigError if the capacity is too small for two windows of shuffled shards and one more shard.

    Two windows, because a batch may hold the last samples of one window and the first of the next.
    """
    shards = min(2 * window_shards, len(manifest.shards)) + 1
    needed = shards * max(shard.bytes + _index_bytes(shard.count) for shard in manifest.shards)
    if needed > options.capacity_gb * 1e9:
        raise ConfigError(
            f"data.remote.capacity_gb: {options.capacity_gb} is too small: {counted(shards, 'shard')} must fit at "
            f"once (twice data.shuffle_shards, and one more), which takes {needed / 1e9:.3g} GB. Raise it, or lower "
            "data.shuffle_shards."
        )


def fetch_manifest(url: str, options: RemoteOptions) -> bytes:
    """Download the text of the manifest in the directory at `url`. Raises DataError if that fails."""
    url = check_url(url)
    transport = Transport(url, options)

    def fetch() -> bytes:
        text: bytes = transport.read(FILE_NAME, MAX_MANIFEST_BYTES)
        json.loads(text)  # a truncated answer is worth another attempt
        return text

    text: bytes = _Attempts(f"{url}/{FILE_NAME}", options.deadline_seconds, threading.Event()).run(fetch)
    return text


class Transport:
    """Downloads files below a URL with fsspec."""

    def __init__(self, url: str, options: RemoteOptions) -> None:
        """Raises ConfigError if the library for this kind of URL is not installed."""
        self._url, self._scheme = url, urlsplit(url).scheme
        try:
            # Not a cached instance: that may have been created with other timeouts.
            self._files = fsspec.filesystem(
                self._scheme, skip_instance_cache=True, **_timeouts(self._scheme, options.stall_seconds)
            )
        except ImportError as error:
            raise ConfigError(
                f"data.shards: {self._scheme}:// URLs need a library that is not installed ({error}). Install it: "
                "pip install 'wgan-pipeline[remote]'"
            ) from None
        if self._scheme == "s3":
            self._files.retries = 1  # `_Attempts` retries

    def read(self, name: str, limit: int) -> bytes:
        """The content of a small file. Raises DataError if it has more than `limit` bytes."""
        with tempfile.TemporaryDirectory() as directory:
            path = Path(directory) / "file"
            try:
                self.save(name, path, limit)
            except _TooLargeError:
                raise DataError(
                    f"{self._url}/{name} is larger than {limit >> 20} MiB, so it is not a manifest. Correct "
                    "data.shards."
                ) from None
            return path.read_bytes()

    def save(self, name: str, path: Path, size: int) -> None:
        """Download a file to `path`, and stop if it is larger than `size` bytes."""
        self._files.get_file(f"{self._url}/{name}", str(path), callback=_Bound(size))


class _TooLargeError(Exception):
    """A file is larger than expected."""


class _Bound(Callback):  # type: ignore[misc]
    def __init__(self, limit: int) -> None:
        super().__init__()
        self._limit = limit

    def relative_update(self, inc: int = 1) -> None:
        super().relative_update(inc)
        if self.value > self._limit:
            raise _TooLargeError(f"the file is larger than {counted(self._limit, 'byte')}")


def _timeouts(scheme: str, seconds: float) -> dict[str, Any]:
    """Options with which a connection that sends nothing for so many seconds is an error."""
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
    """Repeats something until it works, with growing pauses, for a limited time. `what` names it in messages."""

    what: str
    seconds: float
    stop: threading.Event

    def run(self, attempt: Callable[[], Any], deadline: float | None = None) -> Any:
        """Return what `attempt` returns. Raises DataError if it cannot work, or did not work before the deadline."""
        deadline = deadline or time.monotonic() + self.seconds
        pause, count = FIRST_PAUSE, 0
        while True:
            count += 1
            try:
                return attempt()
            except (PipelineError, NoRoomError):
                raise
            except Exception as error:  # each library raises its own errors
                reason = " ".join(str(error).split()) or type(error).__name__
                self._refuse_hopeless(error, reason)
            # A random pause, so that the ranks do not all try again at the same moment.
            delay = pause * random.uniform(0.5, 1.0)
            if time.monotonic() + delay > deadline:
                raise DataError(
                    f"{self.what} could not be downloaded within {self.seconds:g} s, in {counted(count, 'attempt')}; "
                    f"the last error: {reason}. Check the server and the network, or raise "
                    "data.remote.deadline_seconds."
                )
            if self.stop.wait(delay):
                raise DataError(f"The download of {self.what} was stopped because the run is ending.")
            pause = min(2 * pause, LONGEST_PAUSE)

    def _refuse_hopeless(self, error: Exception, reason: str) -> None:
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise StorageError(
                f"{self.what} cannot be stored: {reason}. Free some space, or lower data.remote.capacity_gb."
            ) from None
        # fsspec raises the same error for a server that it cannot reach, but then with an OSError as its cause.
        is_absent = isinstance(error, FileNotFoundError) and not isinstance(error.__cause__, OSError)
        if is_absent or getattr(error, "status", None) == 404:
            raise DataError(
                f"{self.what} does not exist. Correct data.shards, or copy the file there."
            ) from None
        is_denied = isinstance(error, PermissionError) or getattr(error, "status", None) in (401, 403)
        if is_denied or type(error).__name__ == "NoCredentialsError":
            raise DataError(
                f"{self.what} may not be read: access was denied ({reason}). Set the credentials that its library "
                "reads from the environment, or use the https:// address of a public bucket."
            ) from None


class RemoteFiles:
    """`ShardFiles` of a set at a URL."""

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
            # Hashes are used as file names.
            if not re.fullmatch(r"[0-9a-f]{64}", digest):
                raise DataError(
                    f"{self.where(FILE_NAME)} is damaged: the SHA-256 of {name} is {digest!r}, which is not 64 "
                    "hexadecimal digits. Copy it to the URL again."
                )
        self._stop = threading.Event()
        self._ahead = _Ahead(self._open_now, options.parallel, self._stop)

    def open(self, name: str) -> IO[bytes]:
        """Open the file, downloading it if it is not on disk. Raises DataError if that fails or takes too long."""
        return self._open(name, is_patient=True)

    def expect(self, now: Sequence[str], later: Sequence[str]) -> None:
        """Download these files ahead, in this order, and keep them until the next call."""
        self._ahead.want(now, later)

    def where(self, name: str) -> str:
        """The file's URL."""
        return f"{self._url}/{name}"

    def close(self) -> None:
        """Stop all downloads and release all files."""
        self._stop.set()
        self._ahead.want([], [])

    def _open_now(self, name: str) -> IO[bytes]:
        return self._open(name, is_patient=False)

    def _open(self, name: str, is_patient: bool) -> IO[bytes]:
        deadline = time.monotonic() + self._options.deadline_seconds
        digest = self._digests[name]

        def wait(seconds: float) -> None:
            if self._stop.wait(seconds):
                raise DataError(f"The download of {self.where(name)} was stopped because the run is ending.")
            if time.monotonic() > deadline:
                raise DataError(
                    f"{self.where(name)} was not complete after {self._options.deadline_seconds:g} s of waiting for "
                    "this or another process to download it. Check the network, or raise "
                    "data.remote.deadline_seconds."
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
                # Files that are needed now come before files that are needed later, here and in other processes.
                self._ahead.drop_later()
                if time.monotonic() > deadline or self._stop.wait(FIRST_PAUSE):
                    raise DataError(
                        f"There is no room for {self.where(name)}: the {self._options.capacity_gb:g} GB of "
                        f"{self._cache.directory} are full of shards that are in use. Raise data.remote.capacity_gb, "
                        "or lower data.shuffle_shards."
                    ) from None

    def _fetch_once(self, name: str) -> None:
        size, digest = self._sizes[name], self._digests[name]
        with self._cache.writing(digest, size) as (path, keep):
            self._transport.save(name, path, size)
            found = path.stat().st_size
            if found != size:
                raise ValueError(f"only {found:,} of {size:,} bytes arrived")
            if _sha256(path) != digest:
                raise ValueError("its SHA-256 is not the one in the manifest")
            keep()


class _Ahead:
    """Threads that open wanted files in advance and hold them open while they are wanted.

    Files for later are only started when all files for now are held, so they never take the room of those.
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
        """Hold these files, and release all others."""
        with self._changed:
            self._now, self._later = list(now), list(later)
            self._release({*now, *later})
            self._tried = {*self._held, *self._opening}
            self._changed.notify_all()
            if now and not self._has_started:
                self._has_started = True
                for _ in range(self._threads):
                    # Daemon threads: they must not keep the process alive while they wait for a server.
                    threading.Thread(target=self._work, name="fetch", daemon=True).start()

    def drop_later(self) -> None:
        """Release the files that are only needed later, and download no more of them."""
        with self._changed:
            self._later = []
            self._release(set(self._now))

    def _release(self, kept: set[str]) -> None:
        for name in [name for name in self._held if name not in kept]:
            self._held.pop(name).close()

    def _next(self) -> str | None:
        """The next file to open; one for later only when all files for now are held."""
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
            return None  # the same error is raised again where the file is really needed

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
