"""Programs for ranks of the launcher, small enough to start in a moment: their `main` does what its words say.

The words are one for each rank, so `["exit:3", "wait"]` is a rank 0 that ends with code 3 and a rank 1 that waits.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from pathlib import Path

from pipeline import stopping
from pipeline.errors import DataError, PeerLostError, StopRequested
from pipeline.ranks.speaker import tell


def main(words: list[str]) -> int:
    """Do the word of this rank. Returns the exit code."""
    action, _, argument = words[int(os.environ["RANK"])].partition(":")
    return int(ACTIONS[action](argument) or 0)


def _exit(code: str) -> int:
    return int(code)


def _refuse(text: str) -> int:
    """An error that the user can act on."""
    tell(DataError(text))
    return DataError.exit_code


def _lose(text: str) -> int:
    """An error that another rank caused."""
    tell(PeerLostError(text))
    return PeerLostError.exit_code


def _refuse_late(text: str) -> int:
    time.sleep(1)
    return _refuse(text)


def _crash(text: str) -> int:
    raise ValueError(text)


def _kill(name: str) -> None:
    os.kill(os.getpid(), signal.Signals[name])
    time.sleep(60)


def _kill_late(name: str) -> None:
    time.sleep(1)
    _kill(name)


def _wait(file: str) -> None:
    Path(file).touch()
    time.sleep(60)


def _wait_deaf(file: str) -> None:
    """Wait, and hear no SIGTERM."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    _wait(file)


def _save_when_told(file: str) -> int:
    """Like training: note the signal, save, stop."""
    with stopping.held():
        Path(file).touch()
        while (signal_name := stopping.received()) is None:
            time.sleep(0.01)
        time.sleep(0.2)
        Path(file).write_text(signal_name)
        if os.environ["RANK"] == "0":
            tell(StopRequested(f"Stopped by {signal_name} at step 7."))
    return StopRequested.exit_code


def _describe(file: str) -> None:
    """Write down what this process sees."""
    names = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "GLOO_SOCKET_IFNAME")
    compiled = os.environ["TORCHINDUCTOR_CACHE_DIR"]
    facts = {
        "compiled": [compiled, Path(compiled).stat().st_mode & 0o777],
        "environment": {name: os.environ[name] for name in names},
        "path": sys.path,
        "folder": str(Path.cwd()),
        "arguments": sys.argv[1:],
    }
    Path(file).write_text(json.dumps(facts))


def _meet(file: str) -> int:
    """Form the process group, add over it, and note the sum and where this process listens."""
    from datetime import timedelta

    import psutil
    import torch
    import torch.distributed as dist

    from pipeline.ranks.meeting import Meeting

    with Meeting(lambda error: None) as meeting:
        meeting.form_group("gloo", timedelta(seconds=60))
    total = torch.ones(1)
    dist.all_reduce(total)
    found = [c.laddr.ip for c in psutil.Process().net_connections() if c.status == psutil.CONN_LISTEN]
    Path(file).write_text(json.dumps([total.item(), found]))
    dist.barrier()
    dist.destroy_process_group()
    return 0


ACTIONS = {
    "exit": _exit,
    "refuse": _refuse,
    "refuse_late": _refuse_late,
    "lose": _lose,
    "crash": _crash,
    "kill": _kill,
    "kill_late": _kill_late,
    "wait": _wait,
    "wait_deaf": _wait_deaf,
    "save_when_told": _save_when_told,
    "describe": _describe,
    "meet": _meet,
}
