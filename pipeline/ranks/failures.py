"""What torch's errors mean for a run: a lost rank, ranks that did not meet, a device without memory left."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.distributed as dist

from pipeline.errors import (
    NO_HOST_MEMORY,
    ConfigError,
    OutOfMemoryError,
    PeerLostError,
    PipelineError,
    StorageError,
)

SIGNS_OF_A_COLLECTIVE = (
    "by peer",
    "gloo",
    "Timed out waiting",
    "caused pair closure",
    "NCCL",
    "Broken pipe",
    "TCPStore",
)
"""What errors of collective operations say that are plain RuntimeErrors."""
SIGNS_OF_A_TIMEOUT = (
    "Timed out waiting",
    "Application timeout",
    "Watchdog caught collective operation timeout",
)


@dataclass(frozen=True)
class Refusal:
    """What NCCL or CUDA may say of this rank's own machine, and the error to raise for it."""

    sign: str
    kind: type[PipelineError]
    advice: str


REFUSALS = (
    Refusal(
        r"out of memory",
        OutOfMemoryError,
        "The GPU has no memory left for what the ranks exchange ({detail}). Lower schedule.global_batch or "
        "schedule.micro_batch, or end the other programs that use this GPU (`nvidia-smi` shows them).",
    ),
    Refusal(
        r"Duplicate GPU detected",
        ConfigError,
        "Two ranks have the same GPU ({detail}). Start one rank for each GPU, and let LOCAL_RANK count from 0 on each "
        "machine.",
    ),
    Refusal(
        r"/dev/shm|shared memory segment",
        StorageError,
        "The shared memory of this machine, /dev/shm, is too small or full ({detail}). Start the container with "
        "--shm-size=2g or --ipc=host, or set NCCL_SHM_DISABLE=1, which is slower.",
    ),
    Refusal(
        r"peer access is not supported|peer mapping",
        ConfigError,
        "The GPUs of this machine cannot reach each other's memory ({detail}). Set NCCL_P2P_DISABLE=1.",
    ),
    Refusal(
        r"driver version is insufficient|no kernel image|invalid device ordinal|no CUDA-capable device",
        ConfigError,
        "CUDA does not work on this machine as this run needs it ({detail}). `wgan doctor` shows the driver, the GPUs "
        "and what torch was built for.",
    ),
)


@contextmanager
def rank_failures() -> Iterator[None]:
    """Raise the error that a failed collective operation stands for: another rank is gone, or what this one lacks."""
    try:
        yield
    except RuntimeError as error:
        if (failure := as_rank_failure(error)) is not None:
            raise failure from error
        raise


@contextmanager
def memory_shortage(advice: str) -> Iterator[None]:
    """Raise OutOfMemoryError, with this advice, if the memory of the device or of the machine runs out within."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        is_device = isinstance(error, torch.OutOfMemoryError)
        if not (is_device or isinstance(error, MemoryError) or NO_HOST_MEMORY in str(error)):
            raise
        whose = "device" if is_device else "machine"
        raise OutOfMemoryError(f"The {whose} ran out of memory ({_detail(error)}). {advice}") from None


def as_rank_failure(error: RuntimeError) -> PipelineError | None:
    """The error to raise for one of a collective operation; None if it comes from somewhere else."""
    is_collective = isinstance(error, dist.DistError) or any(
        sign in str(error) for sign in SIGNS_OF_A_COLLECTIVE
    )
    if not is_collective or isinstance(error, torch.OutOfMemoryError):
        return None
    return _as_refusal(error) or PeerLostError(
        f"Another rank is gone or did not answer in time ({_detail(error)}). If it left a message, that is above or in "
        "the log of its machine. Run the same command again to resume from the last checkpoint."
    )


def is_timeout(error: RuntimeError) -> bool:
    """Whether a collective operation ran into its time limit, so that a rank may hang."""
    return any(sign in str(error) for sign in SIGNS_OF_A_TIMEOUT)


def _as_refusal(error: RuntimeError) -> PipelineError | None:
    for refusal in REFUSALS:
        if re.search(refusal.sign, str(error), re.IGNORECASE):
            return refusal.kind(refusal.advice.format(detail=_detail(error)))
    return None


def as_meeting_failure(error: RuntimeError) -> PipelineError:
    """The error to raise if the process group could not be formed."""
    place = f"{os.environ.get('MASTER_ADDR', '?')}:{os.environ.get('MASTER_PORT', '?')}"
    detail = _detail(error)
    if (refusal := _as_refusal(error)) is not None:
        return refusal
    if "EADDRINUSE" in str(error):
        return ConfigError(
            f"The ranks cannot meet at {place}: another program uses that port ({detail}). Choose another one with "
            "--main_process_port or PORT."
        )
    return PeerLostError(
        f"The ranks did not all meet at {place} within runtime.timeout_seconds ({detail}). Read the messages of the "
        "other ranks, and check that every machine can reach that address."
    )


def _detail(error: BaseException) -> str:
    """What NCCL calls its last error; else torch's message without the C++ stack that follows it."""
    text = str(error) or type(error).__name__
    _, is_nccl, last = text.partition("Last error:")
    lines = [line.strip() for line in (last if is_nccl and last.strip() else text).splitlines()]
    return next(line for line in [*lines, type(error).__name__] if line)[:200].rstrip(".")
