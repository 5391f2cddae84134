"""An HTTP server that fails at random, in every way that a network can, and otherwise serves a directory or server."""

from __future__ import annotations

import random
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

FAULTS = ("dropped", "cut", "stalled", "unavailable", "altered")


class ChaosServer(ThreadingHTTPServer):
    """Serves the files of `root` or the answers of `upstream`; a fraction `rate` of the requests for shards fails."""

    daemon_threads = True

    def __init__(
        self, root: Path | None, upstream: str | None, rate: float, seed: int, faults: tuple[str, ...]
    ) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.root, self.upstream, self.rate, self.faults = root, upstream, rate, faults
        self.dice, self.lock = random.Random(seed), threading.Lock()
        self.done: Counter[str] = Counter()
        self.whole: Counter[str] = Counter()
        self.ending = threading.Event()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def toss(self, path: str) -> str | None:
        """The fault of this request, or None. Only requests for files of a shard set can fail."""
        with self.lock:
            if not path.endswith((".tar", ".npy", ".json")) or self.dice.random() >= self.rate:
                return None
            fault = self.dice.choice(self.faults)
            self.done[fault] += 1
            return fault

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Print no traceback when a client closes the connection to a stalled server."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: ChaosServer

    def log_message(self, *arguments: Any) -> None:
        """Print nothing."""

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        match self.server.toss(path):
            case "dropped":
                self.close_connection = True
            case "unavailable" | "denied" as fault:
                self.send_response(503 if fault == "unavailable" else 401)
                self.send_header("Content-Length", "0")
                self.end_headers()
            case fault:
                self._answer(fault)
                if fault is None:
                    with self.server.lock:
                        self.server.whole[path] += 1

    def _answer(self, fault: str | None = None) -> None:
        status, headers, body = self._fetch()
        if self.command == "HEAD":
            body = b""
        is_short = fault in ("cut", "stalled") and len(body) > 1
        if fault == "altered" and body:
            body = body[:-1] + bytes([body[-1] ^ 1])
        self.send_response(status)
        for name, value in headers.items():
            if not (fault == "cut" and name.lower() == "content-length"):
                self.send_header(name, value)
        if fault == "cut":
            self.send_header("Connection", "close")
            self.close_connection = True
        self.end_headers()
        self.wfile.write(body[: len(body) // 2] if is_short else body)
        if fault == "stalled":
            self.wfile.flush()
            self.server.ending.wait(60)
            self.close_connection = True

    def _fetch(self) -> tuple[int, dict[str, str], bytes]:
        if self.server.root is not None:
            file = self.server.root / self.path.lstrip("/")
            if not file.is_file():
                return 404, {"Content-Length": "0"}, b""
            body = file.read_bytes()
            return 200, {"Content-Length": str(len(body))}, body
        assert self.server.upstream is not None
        skipped = ("connection", "accept-encoding")
        sent = {name: value for name, value in self.headers.items() if name.lower() not in skipped}
        # Not with urllib, which would use the proxies that the environment names.
        upstream = HTTPConnection(urlsplit(self.server.upstream).netloc, timeout=30)
        try:
            upstream.request(self.command, self.path, headers=sent)
            answer = upstream.getresponse()
            status, found, body = answer.status, answer.headers, answer.read()
        finally:
            upstream.close()
        passing = ("connection", "transfer-encoding", "server", "date")
        kept = {name: value for name, value in found.items() if name.lower() not in passing}
        if self.command == "GET":
            kept["Content-Length"] = str(len(body))
        return status, kept, body


@contextmanager
def chaos(
    root: Path | None = None,
    upstream: str | None = None,
    rate: float = 0.0,
    seed: int = 0,
    faults: tuple[str, ...] = FAULTS,
) -> Iterator[ChaosServer]:
    """A server that runs within the `with` block."""
    server = ChaosServer(root, upstream, rate, seed, faults)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield server
    finally:
        server.ending.set()
        server.shutdown()
        server.server_close()
        thread.join()
