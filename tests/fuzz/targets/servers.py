"""Answers of web servers, byte by byte: status, headers and body, to the request for a manifest."""

from __future__ import annotations

import functools
import socket
import threading
import time
from contextlib import suppress
from pathlib import Path

from pipeline.data.format import downloads
from pipeline.data.format.downloads import Patience
from pipeline.data.format.manifest import parse_manifest
from pipeline.data.format.remote import fetch_manifest
from pipeline.data.format.transport import Transport
from pipeline.option_data import RemoteOptions
from tests.fuzz.attempts import try_each
from tests.fuzz.engine import target
from tests.fuzz.targets.manifests import manifest_seeds

SIZE = 5000
"""The bytes that a shard may have."""


class Server:
    """Sends one answer to whatever is asked, and closes the connection."""

    def __init__(self) -> None:
        self.answer = b""
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._socket.getsockname()[1]}/set"
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            connected, _ = self._socket.accept()
            # A client that has had enough closes the connection.
            with connected, suppress(OSError):
                connected.settimeout(2)
                connected.recv(1 << 16)
                connected.sendall(self.answer)
                connected.shutdown(socket.SHUT_WR)


@functools.cache
def server() -> Server:
    """The server of this process. A download is tried once: the first pause is longer than any deadline."""
    downloads.FIRST_PAUSE = 1e9
    return Server()


def answer(*headers: str, body: bytes = b"", status: str = "200 OK") -> bytes:
    return "\r\n".join([f"HTTP/1.1 {status}", *headers, "", ""]).encode() + body


def answer_seeds() -> list[bytes]:
    body = manifest_seeds()[0]
    sized = f"Content-Length: {len(body)}"
    chunks = b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in (body[:100], body[100:])) + b"0\r\n\r\n"
    return [
        answer(sized, "Content-Type: application/json", "ETag: x", "Connection: close", body=body),
        answer("Transfer-Encoding: chunked", "Trailer: X-Sum", body=chunks),
        b"HTTP/1.0 200 OK\r\n\r\n" + body,
        answer("Location: /set/elsewhere.json", "Content-Length: 0", status="302 Found"),
        answer("Location: http://169.254.169.254/latest", status="307 Temporary Redirect"),
        answer("Content-Encoding: gzip", sized, "Set-Cookie: a=b", body=body),
        answer(status="404 Not Found", body=b"<html>"),
        answer("Retry-After: 5", 'WWW-Authenticate: Basic realm="x"', status="401 Unauthorized"),
        answer(status="100 Continue") + answer(sized, body=body),
        answer("Content-Range: bytes 0-9/10", "Upgrade: h2c", status="206 Partial Content", body=body[:10]),
    ]


@target("http", answer_seeds)
def fetch_from_a_server(data: bytes, directory: Path) -> None:
    """A manifest is taken or refused, and a shard never has more bytes than its manifest says."""
    place = server()
    place.answer = data
    options = RemoteOptions(directory=str(directory), stall_seconds=3, deadline_seconds=5)
    transport, path = Transport(place.url, options), directory / "shard"

    def save() -> None:
        patience = Patience(f"{place.url}/0.tar", options, time.monotonic() + 5)
        patience.repeat(lambda: transport.save("0.tar", path, SIZE, patience))

    try_each(lambda: parse_manifest(fetch_manifest(place.url, options), place.url), save)
    assert not path.exists() or path.stat().st_size <= SIZE
