"""How the ranks of our launcher find each other: a store that rank 0 serves on this machine's loopback address.

The launcher opens the socket, so the port is taken from the start and nobody outside the machine can connect.
torchrun and Accelerate bring a store of their own, and then nothing here is used.
"""

from __future__ import annotations

import os
from datetime import timedelta

from pipeline.ranks.variables import read_place

LOOPBACK = "127.0.0.1"
_socket: int | None = None
"""Rank 0's listening socket, which the launcher opened."""


def listen_on(descriptor: int) -> None:
    """Serve the store on this socket, when the ranks meet."""
    global _socket
    os.set_inheritable(descriptor, False)
    _socket = descriptor


def form_group(backend: str, timeout: timedelta) -> None:
    """Form the process group of all ranks that the launcher started. Raises RuntimeError if they do not all meet."""
    # Not above: a rank hears of mistakes in its config before it takes the seconds that importing torch takes.
    import torch.distributed as dist

    place = read_place()
    rank, world_size = place.rank, place.world_size
    store = dist.TCPStore(  # type: ignore[attr-defined]
        os.environ["MASTER_ADDR"],
        int(os.environ["MASTER_PORT"]),
        world_size,
        is_master=rank == 0,
        timeout=timeout,
        master_listen_fd=_socket,
    )
    dist.init_process_group(backend, store=store, rank=rank, world_size=world_size, timeout=timeout)
