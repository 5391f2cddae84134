"""Files at URLs whose content is not known yet: found by a pattern, and downloaded once into the cache of shards.

After its download a file is known by its SHA-256, under which `RemoteFiles` finds it in the cache again.
"""

from __future__ import annotations

import hashlib
import threading
import time
from pathlib import Path
from typing import IO, NamedTuple

from pipeline.data.format.disk_cache import DiskCache, sha256_of
from pipeline.data.format.downloads import FIRST_PAUSE, NoRoomError, Outage, Patience
from pipeline.data.format.remote import check_url
from pipeline.data.format.transport import Transport
from pipeline.data.format.web import FileFacts, UnknownSizeError
from pipeline.durable import storage_errors
from pipeline.errors import ConfigError, DataError
from pipeline.option_data import RemoteOptions

MOST_UNKNOWN = 3
"""Answers without a size before a file is given up"""


class Arrived(NamedTuple):
    """A file that was downloaded, open for reading, and the SHA-256 of its content."""

    file: IO[bytes]
    sha256: str


class Arrivals:
    """Downloads files by their URLs. Any thread may use it."""

    def __init__(self, options: RemoteOptions) -> None:
        self._options, self._outage = options, Outage()
        self._transports: dict[str, Transport] = {}
        self._lock = threading.Lock()

    def find(self, directory: str, pattern: str) -> dict[str, FileFacts | None]:
        """The files in the directory at a URL whose names fit the pattern, by URL, in their order.

        Raises ConfigError for a URL that cannot be read, DataError if the server does not answer.
        """
        transport, patience = self._transport(directory), self._patience(f"{directory}/{pattern}")
        found = patience.repeat(lambda: transport.find(pattern, patience))
        return {f"{directory}/{name}": facts for name, facts in found.items()}

    def look_at(self, url: str) -> FileFacts:
        """The size of a file, and what changes with it. Raises ConfigError or DataError."""
        base, _, name = url.rpartition("/")
        transport, patience, attempts = self._transport(base), self._patience(url), iter(range(MOST_UNKNOWN))

        def look() -> FileFacts:
            try:
                return transport.look_at(name, patience)
            except UnknownSizeError as error:
                # It may be an answer that was damaged on its way, and then the next one is whole.
                if next(attempts, None) is not None:
                    raise
                raise DataError(
                    f"{url}: {error}, so a cut could not be told from its end. Copy the file to another server, or "
                    "to a disk."
                ) from None

        return patience.repeat(look)

    def open(self, url: str, size: int) -> Arrived:
        """Download a file of this size. Raises DataError if that fails or takes too long, ConfigError without room."""
        options, patience = self._options, self._patience(url)
        if size > options.capacity_gb * 1e9:
            raise ConfigError(
                f"data.remote.capacity_gb: {options.capacity_gb:g} is less than the {size / 1e9:.3g} GB of {url}. "
                "Raise it."
            )
        cache = DiskCache(Path(options.directory).expanduser(), int(options.capacity_gb * 1e9))
        with storage_errors(cache.directory):
            while True:
                try:
                    digest = patience.repeat(lambda: self._fetch(url, size, cache, patience))
                except NoRoomError:
                    if time.monotonic() + FIRST_PAUSE > patience.deadline:
                        raise DataError(
                            f"There is no room for {url}: the {options.capacity_gb:g} GB of {cache.directory} are full "
                            "of files that are in use. Raise data.remote.capacity_gb."
                        ) from None
                    patience.wait(FIRST_PAUSE)
                else:
                    if (file := cache.open(digest, patience.check)) is not None:
                        return Arrived(file, digest)

    def _fetch(self, url: str, size: int, cache: DiskCache, patience: Patience) -> str:
        base, _, name = url.rpartition("/")
        token = hashlib.sha256(url.encode()).hexdigest()
        with cache.writing(token, size, patience.wait) as (path, keep):
            self._transport(base).save(name, path, size, patience)
            if (found := path.stat().st_size) != size:
                raise ValueError(f"only {found:,} of {size:,} bytes arrived")
            digest = sha256_of(path, patience.check)
            keep(digest)
        return digest

    def _patience(self, what: str) -> Patience:
        return Patience.of(what, self._options, threading.Event(), self._outage)

    def _transport(self, base: str) -> Transport:
        with self._lock:
            if base not in self._transports:
                self._transports[base] = Transport(check_url(base), self._options)
            return self._transports[base]
