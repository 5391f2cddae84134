"""Starting ranks on this machine, and ending with what has started them."""

from __future__ import annotations

import ctypes
import logging
import os
import signal
import sys
import uuid
from collections.abc import Sequence

from torch.distributed.elastic.multiprocessing import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from pipeline.errors import PeerLostError

SECONDS_TO_END = 5
"""How long ranks that were told to end may take before they are killed."""


def launch(processes: int, module: str, words: Sequence[str]) -> int:
    """Run `python -m module words...` as so many ranks of this machine. Returns the exit code of the first to fail.

    Raises KeyboardInterrupt where Ctrl-C ended them, PeerLostError where another signal ended one of them.
    """
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // processes)))
    # What it logs of a rank that fails is a stack of its own, below what the rank itself has said.
    log = logging.getLogger("torch.distributed.elastic")
    log.addHandler(logging.NullHandler())
    log.propagate = False
    options = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=processes,
        run_id=str(uuid.uuid4()),
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",
        max_restarts=0,
    )
    # Before torch 2.13 there is no such option, and ranks may take 30 seconds.
    if hasattr(options, "shutdown_timeout"):
        options.shutdown_timeout = SECONDS_TO_END
    try:
        elastic_launch(options, sys.executable)("-u", "-m", module, *words)
    except ChildFailedError as error:
        rank, failure = error.get_first_failure()
        if failure.exitcode < 0:
            name = signal.Signals(-failure.exitcode).name
            raise PeerLostError(
                f"Rank {rank} was ended by {name}. Where nobody sent it, the machine may be short of memory: start "
                "fewer processes."
            ) from None
        return failure.exitcode
    except SignalException as error:
        if error.sigval == signal.SIGINT:
            raise KeyboardInterrupt from None
        return 128 + error.sigval
    return 0


def is_launched() -> bool:
    """Whether this process is one of the ranks that torchrun, or a launcher built on it, has started.

    WORLD_SIZE does not say so: clusters set it for processes that are no ranks, too.
    """
    return "TORCHELASTIC_RUN_ID" in os.environ


def follow_launcher() -> None:
    """Be told to stop when the launcher dies: a single-process `accelerate launch` forwards no signal.

    Does nothing without a launcher, so that `nohup python -m pipeline.train ... &` outlives its shell.
    """
    has_launcher = is_launched() or "ACCELERATE_DYNAMO_BACKEND" in os.environ
    if has_launcher and sys.platform == "linux":
        parent_death_signal = 1
        ctypes.CDLL(None).prctl(parent_death_signal, signal.SIGTERM)
