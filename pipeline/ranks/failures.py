"""What torch's errors mean for a run: a lost rank, ranks that did not meet, a device without memory left."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.distributed as dist

from pipeline.errors import ConfigError, OutOfMemoryError, PeerLostError, PipelineError

SIGNS_OF_A_LOST_RANK = ("peer", "gloo", "Timed out waiting", "NCCL", "Broken pipe", "TCPStore")

NO_HOST_MEMORY = "can't allocate memory"
"""What torch says in a RuntimeError if the machine has none left."""


@contextmanager
def peer_losses() -> Iterator[None]:
    """Raise PeerLostError if a collective operation within fails because another rank is gone."""
    try:
        yield
    except RuntimeError as error:
        if (lost := as_peer_loss(error)) is not None:
            raise lost from error
        raise


@contextmanager
def memory_shortage(global_batch: int) -> Iterator[None]:
    """Raise OutOfMemoryError, with what to change, if the memory of the device or of the machine runs out within."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        is_device = isinstance(error, torch.OutOfMemoryError)
        if not (is_device or isinstance(error, MemoryError) or NO_HOST_MEMORY in str(error)):
            raise
        whose = "device" if is_device else "machine"
        raise OutOfMemoryError(
            f"The {whose} ran out of memory ({_first_line(error)}). Set schedule.micro_batch below {global_batch} "
            "divided by the number of ranks, lower model.width, or use precision: bf16 and data.cache: host."
        ) from None


def as_peer_loss(error: BaseException) -> PeerLostError | None:
    """The PeerLostError to raise for an error of a collective operation; None if no other rank caused it."""
    is_lost = isinstance(error, dist.DistError) or (
        isinstance(error, RuntimeError) and any(sign in str(error) for sign in SIGNS_OF_A_LOST_RANK)
    )
    if not is_lost:
        return None
    return PeerLostError(
        f"Another rank is gone or did not answer in time ({_first_line(error)}). If it left a message, that is above "
        "or in the log of its machine. Run the same command again to resume from the last checkpoint."
    )


def as_meeting_failure(error: RuntimeError) -> PipelineError:
    """The error to raise if the process group could not be formed."""
    place = f"{os.environ.get('MASTER_ADDR', '?')}:{os.environ.get('MASTER_PORT', '?')}"
    detail = _first_line(error)
    if "EADDRINUSE" in str(error):
        return ConfigError(
            f"The ranks cannot meet at {place}: another program uses that port ({detail}). Choose another one with "
            "--main_process_port or PORT."
        )
    return PeerLostError(
        f"The ranks did not all meet at {place} within runtime.timeout_seconds ({detail}). Read the messages of the "
        "other ranks, and check that every machine can reach that address."
    )


def _first_line(error: BaseException) -> str:
    """torch's message without the C++ stack that follows it."""
    return (str(error) or type(error).__name__).splitlines()[0][:200].rstrip(".")
