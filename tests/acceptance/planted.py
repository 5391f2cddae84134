"""Stages that end in every way, small enough to start in a moment."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

from pipeline.acceptance.bench import Bench
from pipeline.acceptance.outcome import Skip
from pipeline.errors import ConfigError


def passes(bench: Bench) -> str:
    bench.figures["answer"] = 42
    return "all is well"


def finds_one_gpu(bench: Bench) -> str:
    bench.figures["hardware"] = {"gpus": [{"name": "H"}]}
    return "found"


def fails(bench: Bench) -> str:
    bench.figures |= {"answer": 41, "loss": float("nan")}
    for number in range(5):
        bench.check(number < 1, f"{number} is too much")
    return "not shown"


def refuses(bench: Bench) -> str:
    raise ConfigError("A GPU is missing.")


def skips(bench: Bench) -> str:
    raise Skip("it needs a GPU")


def raises(bench: Bench) -> str:
    raise ValueError("a defect of the stage")


def crashes(bench: Bench) -> str:
    print("just before", flush=True)
    os.kill(os.getpid(), signal.SIGSEGV)
    return "not reached"


def hangs(bench: Bench) -> str:
    """Hang with a child in a session of its own, whose id is in the file "child", and which hears no SIGTERM."""
    code = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(600)"
    child = subprocess.Popen([sys.executable, "-c", code], start_new_session=True)
    print(f"child {child.pid}", flush=True)
    time.sleep(600)
    return "not reached"
