"""How the ranks find each other: through a store, which one process serves.

Under torchrun and Accelerate it is the launcher of the first machine that serves it, otherwise rank 0. The ranks of our
own launcher all run on this machine: it opens the store's socket on the loopback address, so the port is taken from the
start and nobody outside the machine can connect.

While ranks meet, their main threads wait in torch, where nothing reaches them. So a rank that gives up leaves a note in
the store, and each rank has a thread that waits for it; the thread also notices if the store is gone.
"""

from __future__ import annotations

import json
import math
import os
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from datetime import timedelta
from types import TracebackType
from typing import Any, Self

from pipeline import stopping
from pipeline.errors import ConfigError, PeerLostError, PipelineError, StopRequested
from pipeline.ranks.speaker import has_launcher
from pipeline.ranks.variables import LAUNCHERS, Place, read_place

LOOPBACK = "127.0.0.1"
ENDING = "ending"
"""The name under which the store says how the meeting has ended"""
ALL_HAVE_MET = "all have met"
A_DAY = timedelta(days=1)
SECONDS_TO_GIVE_UP = 1.0
"""How long a rank may take to reach the store, only to leave a note there"""
SECONDS_FOR_NCCL = 120.0
"""NCCL waits this much longer than the ranks' votes: its watchdog ends a process without a word."""
_socket: int | None = None
"""Rank 0's listening socket, which the launcher opened."""
_meetings = 0
"""How many meetings of this process are over, also those that failed"""


def listen_on(descriptor: int) -> None:
    """Serve the store on this socket, when the ranks meet."""
    global _socket
    os.set_inheritable(descriptor, False)
    _socket = descriptor


class Meeting:
    """The ranks meet while this context lasts. An error within it, or a signal that ends this process, is told to them.

    `lose` is called, in a thread, if another rank gives up before all have met.
    """

    def __init__(self, lose: Callable[[PipelineError], None]) -> None:
        self._place, self._lose = read_place(), lose
        self._is_over = threading.Event()
        self._leaving = ExitStack()

    def form_group(self, backend: str, timeout: timedelta) -> None:
        """Form the process group of all ranks. Raises RuntimeError if they do not all meet, and ConfigError if it is
        not known where.
        """
        # Not above: a rank hears of mistakes in its config before it takes the seconds that importing torch takes.
        import torch.distributed as dist

        rank, world_size = self._place.rank, self._place.world_size
        store = _connect(self._place, timeout, is_server=rank == 0 and not _launcher_serves())
        threading.Thread(target=self._hear, args=(timeout,), name="meeting", daemon=True).start()
        limit = timeout
        if backend == "nccl":
            limit += timedelta(seconds=SECONDS_FOR_NCCL)
            # Another watchdog of NCCL, which looks after the first one.
            seconds = str(math.ceil(limit.total_seconds()))
            os.environ.setdefault("TORCH_NCCL_HEARTBEAT_TIMEOUT_SEC", seconds)
        dist.init_process_group(backend, store=store, rank=rank, world_size=world_size, timeout=limit)

    def __enter__(self) -> Self:
        self._leaving.enter_context(stopping.last_words(give_up))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        global _meetings
        self._leaving.close()
        self._is_over.set()
        if error is not None:
            give_up(error)
        elif self._place.rank == 0 and self._place.world_size > 1:
            # Only the threads that wait for it would have to be ended by it.
            with suppress(RuntimeError):
                _leave_note(self._place, ALL_HAVE_MET)
        _meetings += 1

    def _hear(self, timeout: timedelta) -> None:
        """Wait until the meeting has ended, in a thread."""
        try:
            store = _connect(self._place, timeout, is_server=False)
            store.wait([ENDING], A_DAY)
            note = store.get(ENDING)
        except RuntimeError as error:
            loss: PipelineError | None = PeerLostError(
                f"The store where the ranks meet, at {_where()}, cannot be reached ({str(error).splitlines()[0]}), so "
                "rank 0 or the launcher of its machine has ended. Its messages say why."
            )
        else:
            loss = None if note == ALL_HAVE_MET.encode() else _as_loss(note)
        if loss is not None and not self._is_over.is_set():
            self._lose(loss)


@contextmanager
def awaited() -> Iterator[None]:
    """Before this rank meets the others: an error within releases those of other machines, which wait for it already.

    Those of this machine are ended by their launcher.
    """
    place = read_place()
    if place.local_world_size == place.world_size:
        yield
        return
    with stopping.last_words(give_up):
        try:
            yield
        except Exception as error:
            give_up(error)
            raise


def give_up(error: BaseException) -> None:
    """Let ranks that are meeting know that this one will not come. Our own launcher ends them without that."""
    from pipeline.ranks.messages import encode_error

    place = read_place()
    if place.world_size == 1 or has_launcher():
        return
    # Without a store, or without an address of it, there is nobody to tell.
    with suppress(OSError, RuntimeError, ConfigError):
        address, port = _where().rsplit(":", 1)
        # Torch would repeat this, and print how it failed.
        socket.create_connection((address, int(port)), SECONDS_TO_GIVE_UP).close()
        _leave_note(place, json.dumps([place.rank, *encode_error(error)]))


def _leave_note(place: Place, text: str) -> None:
    """Say how the meeting has ended, unless that is known."""
    store = _connect(place, timedelta(seconds=SECONDS_TO_GIVE_UP), is_server=False)
    store.compare_set(ENDING, "", text)


def _as_loss(note: bytes) -> PipelineError:
    """The error of a rank that gave up, which is that of the others as well."""
    from pipeline.ranks.messages import decode_error

    try:
        rank, name, message = json.loads(note)
        error = decode_error(str(name), str(message), int(rank))
    except (ValueError, TypeError, RecursionError, OverflowError):
        return PeerLostError(
            f"Another program writes to the store at {_where()}. Choose another MASTER_PORT."
        )
    if isinstance(error, StopRequested):
        return stopping.request()
    return error if isinstance(error, PipelineError) else PeerLostError(str(error))


def _connect(place: Place, timeout: timedelta, is_server: bool) -> Any:
    """A new connection to the store. Raises RuntimeError if there is none within the time, and ConfigError."""
    import torch.distributed as dist

    address, port = _where().rsplit(":", 1)
    store = dist.TCPStore(  # type: ignore[attr-defined]
        address,
        int(port),
        place.world_size,
        is_master=is_server,
        timeout=timeout,
        # Otherwise it would wait here until all ranks are connected, and hear of nothing.
        wait_for_workers=False,
        master_listen_fd=_socket if is_server else None,
        # In a process that trains twice, the first server may still be there.
        multi_tenant=is_server and _socket is None,
    )
    # A launcher that starts its ranks again keeps the store, and so do several runs of one process.
    attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    return dist.PrefixStore(f"wgan/{attempt}/{_meetings}", store)  # type: ignore[attr-defined]


def _launcher_serves() -> bool:
    return os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"


def _where() -> str:
    """The store's address and port."""
    address, port = os.environ.get("MASTER_ADDR", ""), os.environ.get("MASTER_PORT", "")
    if not (address and port.isascii() and port.isdigit() and int(port) < 1 << 16):
        raise ConfigError(
            f"MASTER_ADDR is {address or 'not set'} and MASTER_PORT is {port or 'not set'}, but several ranks need an "
            f"address and a port of the first machine to meet at. {LAUNCHERS}, which set both."
        )
    return f"{address}:{port}"
