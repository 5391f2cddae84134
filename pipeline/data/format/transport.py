"""Downloads of whole files below a URL, of each supported kind."""

from __future__ import annotations

import asyncio
import logging
import tempfile
from collections.abc import Coroutine, Mapping
from concurrent.futures import Future
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import unquote, urlsplit

import fsspec
from fsspec.asyn import get_loop

from pipeline.data.format import hub, listing, web
from pipeline.data.format.downloads import Patience, Progress, TooLargeError
from pipeline.data.format.redirects import redirect_rule, s3_session
from pipeline.data.format.web import FileFacts
from pipeline.errors import ConfigError, DataError
from pipeline.foreign_text import printable, without_credentials
from pipeline.option_data import RemoteOptions

LIBRARIES = (
    "aiohttp",
    "aiobotocore",
    "asyncio",
    "botocore",
    "fsspec",
    "gcsfs",
    "httpx",
    "huggingface_hub",
    "s3fs",
)
"""Those whose logs can hold URLs."""
STAMPS = ("ETag", "etag", "md5Hash", "LastModified", "updated")
"""Where these libraries say what changes with a file"""
ONE_STREAM = {"s3": {"max_concurrency": 1}, "gs": {"concurrency": 1}}
"""For each kind, what makes its library read a file piece by piece, and not in parts that it keeps in memory."""

Result = TypeVar("Result")


class Transport:
    """Downloads files below a URL: from web servers and the Hugging Face Hub with aiohttp, from others with fsspec."""

    def __init__(self, url: str, options: RemoteOptions) -> None:
        """Raises ConfigError if the library for this kind of URL is not installed."""
        self._url, self._options, self._scheme = url, options, urlsplit(url).scheme
        try:
            self._files = self._open()
        except ImportError as error:
            raise ConfigError(
                f"data.shards: {self._scheme}:// URLs need a library that is not installed ({error}). Install it: "
                "pip install 'wgan-pipeline[remote]'"
            ) from None
        if self._scheme == "s3":
            self._files.retries = 1  # `Patience.repeat` tries again
        guard_logs()

    def _open(self) -> Any:
        if self._scheme in ("http", "https"):
            import aiohttp  # noqa: F401 - an ImportError is to come now

            return None
        if self._scheme == "hf":
            hub.web_address(f"{self._url}/x")
            return None
        # Not a cached instance: that may have been created with other timeouts.
        return fsspec.filesystem(
            self._scheme, skip_instance_cache=True, **_settings(self._scheme, self._options)
        )

    def read(self, name: str, limit: int, patience: Patience) -> bytes:
        """The content of a small file. Raises DataError if it has more than `limit` bytes, and as `save` does."""
        with tempfile.TemporaryDirectory() as directory:
            path = Path(directory) / "file"
            try:
                self.save(name, path, limit, patience)
            except TooLargeError:
                raise DataError(
                    f"{self._url}/{name} is larger than {limit >> 20} MiB, so it is not a manifest. Correct "
                    "data.shards."
                ) from None
            return path.read_bytes()

    def save(self, name: str, path: Path, size: int, patience: Patience) -> None:
        """Download a file to `path`.

        Raises TooLargeError as soon as it is larger than `size` bytes, TimeoutError if that is too slow for `patience`,
        what `patience.check` raises, and any error of the library.
        """
        progress = Progress(size)
        patience.follow(self._start(f"{self._url}/{name}", path, progress), progress)

    def look_at(self, name: str, patience: Patience) -> FileFacts:
        """The size of a file, and what changes with it. Raises errors as `save` does, and DataError without a size."""
        url = f"{self._url}/{name}"
        if self._files is None:
            return self._ask(web.look_at(self._address(url), self._options), patience)
        return _facts(self._ask(self._files._info(url), patience))

    def find(self, pattern: str, patience: Patience) -> dict[str, FileFacts | None]:
        """The files in the directory whose names fit a pattern with *, ? and [...], by name, in their order.

        Hidden ones are none of them, as in a shell.

        What is known of them is None where the listing does not tell. Raises errors as `save` does.
        """
        if self._scheme == "hf":
            found = self._ask(asyncio.to_thread(hub.list_files, self._url), patience)
        elif self._files is None:
            found = dict.fromkeys(listing.links_in(self._url, self.read("", listing.MOST_BYTES, patience)))
        else:
            entries = self._ask(self._files._ls(self._url, detail=True), patience)
            files = (entry for entry in entries if entry["type"] == "file")
            found = {entry["name"].rpartition("/")[2]: _facts(entry) for entry in files}
        visible = (name for name in sorted(found) if not name.startswith("."))
        return {name: found[name] for name in visible if fnmatchcase(unquote(name), pattern)}

    def _ask(self, question: Coroutine[Any, Any, Result], patience: Patience) -> Result:
        """The answer of a server to something other than a file."""
        return patience.follow(_in_loop(question), Progress(0))

    def _address(self, url: str) -> web.Address:
        return hub.web_address(url) if self._scheme == "hf" else web.Address(url)

    def _start(self, url: str, path: Path, progress: Progress) -> Future[None]:
        if self._files is None:
            return _in_loop(web.fetch(self._address(url), path, progress, self._options))
        return _in_loop(
            self._files._get_file(url, str(path), callback=progress, **ONE_STREAM.get(self._scheme, {}))
        )


def _in_loop(coroutine: Coroutine[Any, Any, Result]) -> Future[Result]:
    """Run it in the loop of fsspec's own thread, where the libraries have their connections."""
    return asyncio.run_coroutine_threadsafe(coroutine, get_loop())


def _facts(entry: Mapping[str, Any]) -> FileFacts:
    """What a library of an object store says of a file."""
    stamp = next((entry[name] for name in STAMPS if entry.get(name)), f"{entry['size']} bytes")
    return FileFacts(int(entry["size"]), str(stamp))


def _settings(scheme: str, options: RemoteOptions) -> dict[str, Any]:
    """Settings of a library: a connection that sends nothing for `stall_seconds` is an error, and so are redirects."""
    seconds, hosts = options.stall_seconds, options.redirect_hosts
    if scheme == "s3":
        limits = {"connect_timeout": seconds, "read_timeout": seconds, "retries": {"max_attempts": 1}}
        return {"config_kwargs": {**limits, "http_session_cls": s3_session(hosts)}}
    if scheme == "gs":
        from aiohttp import ClientTimeout

        return {
            "requests_timeout": ClientTimeout(total=None, sock_connect=seconds, sock_read=seconds),
            "session_kwargs": {"trace_configs": [redirect_rule(hosts)]},
        }
    return {}


class _WithoutSecrets(logging.Filter):
    """Takes what could be a secret out of what libraries log, whoever prints it."""

    def filter(self, record: logging.LogRecord) -> bool:
        record.msg, record.args = _safe(record.getMessage()), ()
        if record.exc_info:
            record.exc_text = _safe(logging.Formatter().formatException(record.exc_info))
        return True


_FILTER = _WithoutSecrets()


def guard_logs() -> None:
    """Filter the logs of the libraries that are imported by now."""
    for name in list(logging.root.manager.loggerDict):
        if name.partition(".")[0] in LIBRARIES:
            logging.getLogger(name).addFilter(_FILTER)


def _safe(text: str) -> str:
    return "\n".join(printable(line, 2000) for line in without_credentials(text).splitlines())
