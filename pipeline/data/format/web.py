"""Files on a web server: no redirect, no name and no encoding leads to anything but the file that the user named."""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import urljoin, urlsplit

from pipeline.data.format.downloads import Progress
from pipeline.errors import DataError
from pipeline.foreign_text import printable
from pipeline.option_data import RemoteOptions

if TYPE_CHECKING:
    from aiohttp import ClientResponse, ClientSession

REDIRECTS = (301, 302, 303, 307, 308)
MOST_REDIRECTS = 5
BLOCK = 1 << 20
IPV4_IN_IPV6 = ipaddress.ip_network("64:ff9b::/96")


class AnswerError(Exception):
    """An answer of a server that is not the file. `status` is its HTTP status."""

    def __init__(self, response: ClientResponse) -> None:
        super().__init__(f"the server answered {response.status} {response.reason or ''}".rstrip())
        self.status = response.status


class UnknownSizeError(Exception):
    """An answer that does not say how large the file is, so that its end could not be told from a cut."""


class FileFacts(NamedTuple):
    """What is known of a file before it is read: its size in bytes, and a text that changes when its content does."""

    bytes: int
    stamp: str


class Address(NamedTuple):
    """Where a file is on a web server."""

    url: str
    token: str | None = None
    """Sent to the server of this URL, and to no other that it redirects to."""
    hosts: Sequence[str] = ()
    """Hosts that its redirects may lead to, besides data.remote.redirect_hosts."""


async def fetch(address: Address, path: Path, progress: Progress, options: RemoteOptions) -> None:
    """Download the file at an http:// or https:// address to `path`.

    Raises DataError if the server redirects to a place that is not allowed or compresses the file; AnswerError, OSError
    or an error of aiohttp if it does not send it; and as `progress` does.
    """
    async with _answer(address, options) as response:
        progress.set_size(response.content_length)
        with path.open("wb") as file:
            while block := await response.content.read(BLOCK):
                progress.relative_update(len(block))
                file.write(block)


async def look_at(address: Address, options: RemoteOptions) -> FileFacts:
    """The size of the file at an address, and what changes with it, as the server says.

    The request is for the file itself, because some servers, and signed addresses, answer no other; its content is not
    read. Raises errors as `fetch` does, and UnknownSizeError.
    """
    async with _answer(address, options) as response:
        size = response.content_length
        if size is None:
            raise UnknownSizeError("the server does not say how large the file is (no Content-Length)")
        headers = response.headers
        return FileFacts(size, headers.get("ETag") or headers.get("Last-Modified") or f"{size} bytes")


@asynccontextmanager
async def _answer(address: Address, options: RemoteOptions) -> AsyncIterator[ClientResponse]:
    """The answer that has the file, before its content is read."""
    import aiohttp

    url = address.url
    trip = Trip(url, [*options.redirect_hosts, *address.hosts], address.token)
    seconds = options.stall_seconds
    session = aiohttp.ClientSession(
        # A bomb would grow while it is unpacked.
        auto_decompress=False,
        headers={"Accept-Encoding": "identity"},
        timeout=aiohttp.ClientTimeout(total=None, sock_connect=seconds, sock_read=seconds),
        cookie_jar=aiohttp.DummyCookieJar(),
        connector=aiohttp.TCPConnector(socket_factory=trip.open_socket, happy_eyeballs_delay=None),
    )
    async with session, await trip.get(session) as response:
        if response.status != 200:
            raise AnswerError(response)
        encoding = response.headers.get("Content-Encoding", "identity")
        if encoding.lower() != "identity":
            raise DataError(
                f"{url}: the server compresses the file (Content-Encoding: {printable(encoding)}), although it was "
                "asked not to. Switch that off for these files."
            )
        yield response


@dataclass
class Trip:
    """The way from the URL that the user gave, through the redirects of its server."""

    start: str
    hosts: Sequence[str]
    """Other hosts that redirects may lead to; each stands for its subdomains too."""
    token: str | None = None
    """What the first server asks for"""
    _kinds: set[str] = field(default_factory=set)
    """The kinds of the addresses that the first host has."""
    _is_redirected: bool = False
    _refused: str | None = None

    async def get(self, session: ClientSession) -> ClientResponse:
        """The answer at the end of the redirects. Raises DataError for one that is not allowed."""
        url = self.start
        for _ in range(MOST_REDIRECTS + 1):
            response = await self._request(session, url)
            if response.status not in REDIRECTS:
                return response
            location = response.headers.get("Location", "")
            response.close()
            url = self.follow(url, location)
        raise DataError(
            f"{self.start}: the server redirects more than {MOST_REDIRECTS} times. Correct the address in data.shards."
        )

    async def _request(self, session: ClientSession, url: str) -> ClientResponse:
        import aiohttp
        from yarl import URL

        # The signature of an address is of its exact text.
        is_exact = self._is_redirected and url.isascii() and url.isprintable() and " " not in url
        try:
            return await session.get(
                URL(url, encoded=is_exact), headers=self._headers(url), allow_redirects=False
            )
        except aiohttp.ClientConnectionError:
            if self._refused is None:
                raise
            raise DataError(
                f"{self.start}: the server redirects to {urlsplit(url).hostname}, which is at the {self._refused}, and "
                "such addresses are not reached by way of others. If the files are there, name that address in "
                "data.shards."
            ) from None

    def _headers(self, url: str) -> dict[str, str]:
        """The token, if this is the server that it is for."""
        is_first = urlsplit(url)[:2] == urlsplit(self.start)[:2]
        return {"Authorization": f"Bearer {self.token}"} if self.token and is_first else {}

    def follow(self, url: str, location: str) -> str:
        """Where a redirect from `url` leads. Raises DataError unless it may be followed."""
        target = urlsplit(urljoin(url, location))
        host = _host(target.hostname)
        if target.scheme not in ("http", "https") or host is None:
            raise DataError(
                f"{self.start}: the server redirects to something that is no web address. Correct the address in "
                "data.shards."
            )
        if urlsplit(url).scheme == "https" and target.scheme == "http":
            raise DataError(
                f"{self.start}: the server redirects from https to http, where anyone on the way could read and change "
                "the files. Correct the address in data.shards, or ask those who run the server."
            )
        if host != _host(urlsplit(self.start).hostname) and not self._is_listed(host):
            raise DataError(
                f"{self.start}: the server redirects to another host, {printable(host)}. If you trust it, add it to "
                "data.remote.redirect_hosts."
            )
        self._is_redirected = True
        return target._replace(netloc=target.netloc.rpartition("@")[2]).geturl()

    def _is_listed(self, host: str) -> bool:
        listed = [_host(name) for name in self.hosts]
        return any(host == name or host.endswith(f".{name}") for name in listed)

    def open_socket(self, address: Any) -> socket.socket:
        """A socket for a connection to the address that a host has, as it is now.

        Raises OSError if a redirect leads to an address of this machine or of an internal network, unless the first
        address was of that kind: such servers often trust whoever can reach them.
        """
        family, kind, protocol, _, place = address
        found = kind_of(place[0])
        if not self._is_redirected:
            self._kinds.add(found)
        elif found != "public" and found not in self._kinds:
            self._refused = f"{found} address {place[0]}"
            raise OSError(f"the redirect leads to the {self._refused}")
        return socket.socket(family, kind, protocol)


def kind_of(address: str) -> str:
    """Who can reach an IP address: "loopback", "link-local", "private" or "public"."""
    found: Any = ipaddress.ip_address(address.partition("%")[0])
    if found.version == 6:
        inner = found.ipv4_mapped or found.sixtofour
        if found in IPV4_IN_IPV6:
            inner = ipaddress.ip_address(int(found) & 0xFFFFFFFF)
        found = inner or found
    if found.is_loopback or found.is_unspecified:
        return "loopback"
    if found.is_link_local:
        return "link-local"
    return "public" if found.is_global and not found.is_multicast else "private"


def _host(name: str | None) -> str | None:
    return name.lower().rstrip(".") or None if name else None
