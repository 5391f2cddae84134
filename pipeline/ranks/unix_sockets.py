"""Exchanges between ranks of one machine, over Unix sockets.

Gloo takes a message through TCP and a thread of its own, which must be woken before it wakes the rank's: on a machine
whose cores all compute, that is most of the time of a small exchange. Here the thread that needs the message reads it.
"""

from __future__ import annotations

import socket
import struct
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

CHUNK = 1 << 16
"""Bytes that a rank sends before it reads. The buffers of the sockets hold more, so that no two ranks wait for ever."""
SECONDS_TO_CONNECT = 10.0
HEADER = struct.Struct("<QQ")
"""The number of the exchange and its bytes: ranks that are not in the same one must not take it for theirs."""


class UnixSockets:
    """The other ranks of this machine, which are all there are."""

    def __init__(self, rank: int, peers: dict[int, socket.socket], timeout: float) -> None:
        self._rank, self._peers, self._exchanges = rank, peers, 0
        for peer in peers.values():
            peer.settimeout(timeout)
            peer.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4 * CHUNK)

    def gather(self, values: Tensor) -> Tensor:
        """The tensors of all ranks, by rank: (ranks, *shape). They have the same shape and dtype on all ranks.

        Raises RuntimeError if a rank has ended, hangs, or is in another exchange.
        """
        values = values.contiguous()
        rows = values.new_empty(len(self._peers) + 1, *values.shape)
        rows[self._rank] = values
        parts = [memoryview(row.numpy()).cast("B") for row in rows.view(len(rows), -1).view(torch.uint8)]
        self._exchanges += 1
        self._check_exchange(len(parts[0]))
        for first in range(0, len(parts[0]), CHUNK):
            part = slice(first, first + CHUNK)
            for rank, peer in self._peers.items():
                with _named(rank):
                    peer.sendall(parts[self._rank][part])
            for rank, peer in self._peers.items():
                with _named(rank):
                    _fill(parts[rank][part], peer)
        return rows

    def _check_exchange(self, size: int) -> None:
        header, theirs = HEADER.pack(self._exchanges, size), bytearray(HEADER.size)
        for rank, peer in self._peers.items():
            with _named(rank):
                peer.sendall(header)
        for rank, peer in self._peers.items():
            with _named(rank):
                _fill(memoryview(theirs), peer)
            if theirs != header:
                raise RuntimeError(
                    f"Rank {rank} is in another exchange (number and bytes {HEADER.unpack(theirs)}) than this one "
                    f"({HEADER.unpack(header)})"
                )

    def close(self) -> None:
        """Close all connections."""
        _close(self._peers)


@contextmanager
def _named(rank: int) -> Iterator[None]:
    """Say in errors of a connection which rank it leads to, in words that pipeline.ranks.failures knows."""
    try:
        yield
    except TimeoutError:
        raise RuntimeError(f"Timed out waiting for rank {rank} of this machine") from None
    except ConnectionError as error:
        raise RuntimeError(
            f"Connection closed by peer: rank {rank} of this machine ({error.strerror or error})"
        ) from None


def _fill(place: memoryview, peer: socket.socket) -> None:
    """Fill the place with what the peer sends."""
    while len(place):
        if not (count := peer.recv_into(place)):
            raise ConnectionResetError("it has ended")
        place = place[count:]


def connect(
    rank: int, ranks: int, gather_json: Callable[[Any], list[Any]], timeout: float
) -> UnixSockets | None:
    """Connect all ranks, or none of them: None if they do not all share a file system, as in different containers.

    All ranks call it together. Only processes of the same user can connect.
    """
    with ExitStack() as while_connecting, ExitStack() as if_it_fails:
        place = None
        if rank == 0:
            with suppress(OSError):
                made = tempfile.TemporaryDirectory(prefix="wgan-", ignore_cleanup_errors=True)
                place = while_connecting.enter_context(made)
        if (directory := gather_json(place)[0]) is None:
            return None
        listener = while_connecting.enter_context(socket.socket(socket.AF_UNIX))
        is_listening = _succeeds(lambda: _listen(listener, Path(directory) / str(rank), ranks))
        if not all(gather_json(is_listening)):
            return None
        peers: dict[int, socket.socket] = {}
        if_it_fails.callback(_close, peers)
        is_connected = _succeeds(lambda: _meet(rank, ranks, Path(directory), listener, peers))
        if not all(gather_json(is_connected)):
            return None
        if_it_fails.pop_all()
        return UnixSockets(rank, dict(sorted(peers.items())), timeout)


def _close(peers: dict[int, socket.socket]) -> None:
    for peer in peers.values():
        peer.close()


def _succeeds(act: Callable[[], None]) -> bool:
    try:
        act()
    except OSError:
        return False
    return True


def _listen(listener: socket.socket, path: Path, ranks: int) -> None:
    listener.bind(str(path))
    listener.listen(ranks)
    listener.settimeout(SECONDS_TO_CONNECT)


def _meet(
    rank: int, ranks: int, directory: Path, listener: socket.socket, peers: dict[int, socket.socket]
) -> None:
    """Connect to the ranks below, and let those above connect. Each says which rank it is."""
    for below in range(rank):
        peer = socket.socket(socket.AF_UNIX)
        peers[below] = peer
        peer.settimeout(SECONDS_TO_CONNECT)
        peer.connect(str(directory / str(below)))
        peer.sendall(rank.to_bytes(4, "little"))
    for _ in range(ranks - 1 - rank):
        peer, _ = listener.accept()
        peer.settimeout(SECONDS_TO_CONNECT)
        number = bytearray(4)
        try:
            _fill(memoryview(number), peer)
        except OSError:
            peer.close()
            raise
        peers[int.from_bytes(number, "little")] = peer
    if set(peers) != set(range(ranks)) - {rank}:
        raise ConnectionError("another process has connected")
