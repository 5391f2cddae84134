"""A web server whose answers are written byte by byte, as only a broken or hostile server would."""

from __future__ import annotations

import socket
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field

Answer = Callable[["Connection"], None]


@dataclass
class Connection:
    """One request, which the answer reads nothing of but its path."""

    socket: socket.socket
    path: str
    server: Server

    def send(self, content: bytes) -> None:
        """Send bytes as they are."""
        self.socket.sendall(content)
        self.server.sent[self.path] += len(content)

    def head(self, status: str = "200 OK", /, **headers: object) -> None:
        """Send a status line and headers; `_` in their names stands for `-`."""
        lines = [
            f"HTTP/1.1 {status}",
            *(f"{name.replace('_', '-')}: {value}" for name, value in headers.items()),
        ]
        self.socket.sendall("\r\n".join([*lines, "Connection: close", "", ""]).encode())

    def drip(self, content: bytes, seconds: float) -> None:
        """Send one byte after another until the client has had enough or the server ends."""
        for byte in content:
            if self.server.is_ending.wait(seconds):
                return
            self.send(bytes([byte]))


@dataclass
class Server:
    """What is asked of it, and how many bytes of each body it has sent."""

    port: int
    answers: dict[str, Answer]
    asked: list[str] = field(default_factory=list)
    heads: list[str] = field(default_factory=list)
    sent: Counter[str] = field(default_factory=Counter)
    is_ending: threading.Event = field(default_factory=threading.Event)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def handle(self, connected: socket.socket) -> None:
        # A client that has had enough closes the connection.
        with connected, suppress(OSError):
            request = connected.recv(65536).decode("latin-1")
            path = request.split(" ")[1]
            self.asked.append(path)
            self.heads.append(request)
            self.answers[path.partition("?")[0]](Connection(connected, path, self))


@contextmanager
def serve(answers: dict[str, Answer]) -> Iterator[Server]:
    """A server that gives these answers to requests for these paths, on all loopback addresses."""
    listening = socket.create_server(("0.0.0.0", 0))
    server = Server(listening.getsockname()[1], answers)

    def accept() -> None:
        with suppress(OSError):
            while True:
                connected, _ = listening.accept()
                threading.Thread(target=server.handle, args=[connected], daemon=True).start()

    thread = threading.Thread(target=accept)
    thread.start()
    try:
        yield server
    finally:
        server.is_ending.set()
        listening.shutdown(socket.SHUT_RDWR)
        listening.close()
        thread.join()


def redirect(location: str) -> Answer:
    """An answer that leads to another address."""
    return lambda connection: connection.head("302 Found", Location=location, Content_Length=0)


def body(content: bytes, **headers: object) -> Answer:
    """An answer with a whole file."""

    def answer(connection: Connection) -> None:
        connection.head(Content_Length=len(content), **headers)
        connection.send(content)

    return answer
