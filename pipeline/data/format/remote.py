"""Shards at a URL: whole files are downloaded ahead of their use, checked against the manifest, and kept on disk."""

from __future__ import annotations

import json
import re
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import IO, NamedTuple
from urllib.parse import urlsplit

from pipeline.data.format.disk_cache import DiskCache, sha256_of
from pipeline.data.format.downloads import FIRST_PAUSE, NoRoomError, Outage, Patience
from pipeline.data.format.indexes import index_bytes
from pipeline.data.format.manifest import FILE_NAME, Manifest
from pipeline.data.format.transport import Transport
from pipeline.durable import storage_errors
from pipeline.errors import ConfigError, DataError, PipelineError
from pipeline.option_data import RemoteOptions
from pipeline.wording import counted

SCHEMES = ("https", "http", "s3", "gs", "hf")
BUCKET, WEB_HOST, REPOSITORY = re.compile(r"[^:@]*"), re.compile(r"[^:@]*(:\d+)?"), re.compile(r"[^:]*")
HOSTS = {"https": WEB_HOST, "http": WEB_HOST, "hf": REPOSITORY}
"""What may stand after the :// of an address. Anything else is a user name or a password, which may hold a slash."""
# No spaces, and nothing that has a special meaning in a shell or in fsspec.
PLAIN = re.compile(r"[A-Za-z0-9._~/:%+=,@-]+")
MAX_MANIFEST_BYTES = 1 << 28
OTHER_CONTENT = (
    "its SHA-256 is not the one in the manifest, so it was altered on the way, or replaced on the server (then run "
    "`wgan shards index` or `make` again)"
)


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
    if not (HOSTS.get(parts.scheme) or BUCKET).fullmatch(parts.netloc):
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
    needed = shards * max(shard.bytes + index_bytes(shard.count) for shard in manifest.shards)
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
    patience = Patience.of(f"{url}/{FILE_NAME}", options)

    def fetch() -> bytes:
        text = transport.read(FILE_NAME, MAX_MANIFEST_BYTES, patience)
        json.loads(text)  # a truncated answer is worth another attempt
        return text

    return patience.repeat(fetch)


class RemoteFile(NamedTuple):
    """A file at a URL, with its size in bytes and the SHA-256 of its content."""

    url: str
    bytes: int
    sha256: str


def remote_set(url: str, manifest: Manifest, options: RemoteOptions) -> RemoteFiles:
    """The files of a set in the directory at `url`. Raises ConfigError or DataError as `RemoteFiles` does."""
    url, files = check_url(url), dict[str, RemoteFile]()
    for shard in manifest.shards:
        files[shard.name] = RemoteFile(f"{url}/{shard.name}", shard.bytes, shard.sha256)
        files[shard.index] = RemoteFile(f"{url}/{shard.index}", index_bytes(shard.count), shard.index_sha256)
    return RemoteFiles(files, options)


class RemoteFiles:
    """`ShardFiles` of files at URLs, by their names in a manifest."""

    def __init__(self, files: Mapping[str, RemoteFile], options: RemoteOptions) -> None:
        """Raises ConfigError for a URL that cannot be read, DataError for a hash that is none."""
        self._files, self._options = files, options
        self._cache = DiskCache(Path(options.directory).expanduser(), int(options.capacity_gb * 1e9))
        self._transports: dict[str, Transport] = {}
        for name, file in files.items():
            # Hashes are used as file names.
            if not re.fullmatch(r"[0-9a-f]{64}", file.sha256):
                raise DataError(
                    f"The manifest is damaged: the SHA-256 of {file.url} is {file.sha256!r}, which is not 64 "
                    "hexadecimal digits. Copy it again."
                )
            base, _ = self._parts(name)
            if base not in self._transports:
                self._transports[base] = Transport(check_url(base), options)
        self._is_closed, self._outage = threading.Event(), Outage()
        self._ahead = _Ahead(self._open_now, options.parallel, self._is_closed)

    def open(self, name: str) -> IO[bytes]:
        """Open the file, downloading it if it is not on disk. Raises DataError if that fails or takes too long."""
        return self._open(name, is_patient=True)

    def expect(self, now: Sequence[str], later: Sequence[str]) -> None:
        """Download these files ahead, in this order, and keep them until the next call."""
        self._ahead.want(now, later)

    def renew(self, names: Sequence[str]) -> bool:
        """Remove those of these files whose copies here have changed. Returns whether there were any."""
        check = Patience.of("a shard", self._options, self._is_closed).check
        removed = [name for name in names if self._cache.distrust(self._files[name].sha256, check)]
        return bool(removed)

    def where(self, name: str) -> str:
        """The file's URL."""
        return self._files[name].url

    def close(self) -> None:
        """Stop all downloads and release all files."""
        self._is_closed.set()
        self._ahead.want([], [])

    def _open_now(self, name: str) -> IO[bytes]:
        return self._open(name, is_patient=False)

    def _open(self, name: str, is_patient: bool) -> IO[bytes]:
        patience = Patience.of(self.where(name), self._options, self._is_closed, self._outage)
        digest = self._files[name].sha256
        with storage_errors(self._cache.directory):
            while True:
                patience.wait(0)
                if (file := self._cache.open(digest, patience.check)) is not None:
                    return file
                with self._cache.alone(digest, patience.wait):
                    if not self._cache.has(digest):
                        self._fetch(name, is_patient, patience)

    def _fetch(self, name: str, is_patient: bool, patience: Patience) -> None:
        while True:
            try:
                patience.repeat(lambda: self._fetch_once(name, patience))
                return
            except NoRoomError:
                if not is_patient:
                    raise
                # Files that are needed now come before files that are needed later, here and in other processes.
                self._ahead.drop_later()
                if time.monotonic() + FIRST_PAUSE > patience.deadline:
                    raise DataError(
                        f"There is no room for {self.where(name)}: the {self._options.capacity_gb:g} GB of "
                        f"{self._cache.directory} are full of shards that are in use. Raise data.remote.capacity_gb, "
                        "or lower data.shuffle_shards."
                    ) from None
                patience.wait(FIRST_PAUSE)

    def _parts(self, name: str) -> tuple[str, str]:
        """The URL of the directory that the file is in, and its name there."""
        base, _, last = self._files[name].url.rpartition("/")
        return base, last

    def _fetch_once(self, name: str, patience: Patience) -> None:
        _, size, digest = self._files[name]
        base, last = self._parts(name)
        with self._cache.writing(digest, size, patience.wait) as (path, keep):
            self._transports[base].save(last, path, size, patience)
            found = path.stat().st_size
            if found != size:
                raise ValueError(f"only {found:,} of {size:,} bytes arrived")
            if sha256_of(path, patience.check) != digest:
                raise ValueError(OTHER_CONTENT)
            keep(digest)


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
