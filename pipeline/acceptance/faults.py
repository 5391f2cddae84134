"""What goes wrong in practice, done to a run on purpose: each must end with its exit code, and in time."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import time
from importlib import import_module

import psutil

from pipeline import stopping
from pipeline.acceptance.bench import Bench
from pipeline.acceptance.program import command
from pipeline.acceptance.runs import config_file, rank_counts, start_ranks
from pipeline.errors import NonFiniteError, OutOfMemoryError, PeerLostError, PipelineError, StopRequested
from pipeline.ranks import launcher, watch
from pipeline.ranks.devices import gpu_count
from pipeline.run.checkpoint import list_checkpoints
from pipeline.run.directory import Ending, RunDirectory
from pipeline.train import main

LONG = ("schedule.steps=1000000", "checkpoint.every=5", "monitor.log_every=1000")
SECONDS_TO_BEGIN, SECONDS_TO_END = 100.0, 30.0
SECONDS_BETWEEN_LOOKS = 0.1
TIME_LIMIT = 20.0
"""runtime.timeout_seconds of the run whose rank is stopped. Ranks have to meet and to start NCCL within it."""
SECONDS_TO_HANG_UP = sum(
    [
        watch.SECONDS_BEYOND,
        watch.SECONDS_TO_WRITE,
        watch.SECONDS_TO_END,
        stopping.SECONDS_TO_SPEAK,
        launcher.SECONDS_ALONE,
        launcher.SECONDS_TO_END,
    ]
)
"""How long after the time limit a run may end whose rank hangs, and whose other ranks then hang in NCCL"""
LITTLE = 2**29
"""Bytes that a process on a CPU may take beyond what is loaded"""
ALLOCATORS = ("PYTORCH_CUDA_ALLOC_CONF", "PYTORCH_HIP_ALLOC_CONF", "PYTORCH_ALLOC_CONF")
"""Torch follows the first that is set."""
LITTLE_OF_A_GPU = "per_process_memory_fraction:0.004"
LARGE = ("model.width=512", "model.max_width=1024", "schedule.global_batch=512", "checkpoint.every=1")


def terminate(bench: Bench) -> str:
    """SIGTERM to the launcher: the run saves, and can be resumed."""
    run = _begin(bench, "terminated")
    run.send_signal(signal.SIGTERM)
    return _expect(bench, run, "terminated", StopRequested.exit_code, "PREEMPTED", SECONDS_TO_END)


def kill(bench: Bench) -> str:
    """SIGKILL to a rank: the others notice at once."""
    run = _begin(bench, "killed")
    _last_rank(run).kill()
    return _expect(bench, run, "killed", PeerLostError.exit_code, "FAILED", SECONDS_TO_END)


def stop(bench: Bench) -> str:
    """SIGSTOP to a rank, which then hangs: the others notice within the time limit, and no library aborts them."""
    run = _begin(bench, "stopped", f"runtime.timeout_seconds={TIME_LIMIT:g}")
    _last_rank(run).suspend()
    limit = TIME_LIMIT + SECONDS_TO_HANG_UP + SECONDS_TO_END
    return _expect(bench, run, "stopped", PeerLostError.exit_code, "FAILED", limit)


def diverge(bench: Bench) -> str:
    """Numbers that are not finite: a learning rate that is far too high."""
    overrides = ["generator_optimizer.lr=1e20", "model.generator_norm=none", "schedule.steps=100"]
    run = start_ranks(bench, rank_counts()[0], "diverged", *overrides)
    return _expect(bench, run, "diverged", NonFiniteError.exit_code, "FAILED", SECONDS_TO_BEGIN)


def run_out_of_memory(bench: Bench) -> str:
    """A network that is too large for the memory that the process may take."""
    words = [str(config_file(bench)), "name=large", *LARGE]
    program = command(f"{__name__}:main_in_little_memory", *words)
    others = {name: value for name, value in os.environ.items() if name not in ALLOCATORS}
    run = subprocess.Popen(program, env={**others, ALLOCATORS[0]: LITTLE_OF_A_GPU})
    code = run.wait(SECONDS_TO_BEGIN)
    bench.check(
        code == OutOfMemoryError.exit_code,
        f"it ended with exit code {code}, not {OutOfMemoryError.exit_code}",
    )
    return f"exit code {code}"


def main_in_little_memory() -> int:
    """`python -m pipeline.train`, on a CPU in a process that may take little of the machine's memory."""
    if not gpu_count():
        # What a run imports late would take part of the memory, and a failed import is no PipelineError.
        for module in ("torch._dynamo", "pipeline.training.build"):
            import_module(module)
        limit = psutil.Process().memory_info().vms + LITTLE
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    return main()


def _begin(bench: Bench, name: str, *overrides: str) -> subprocess.Popen[bytes]:
    """Start a run of several ranks, and return once it has saved its first checkpoint."""
    run = start_ranks(bench, rank_counts()[0], name, *LONG, *overrides)
    deadline = time.monotonic() + SECONDS_TO_BEGIN
    while not list_checkpoints(RunDirectory(bench.scratch / name).checkpoints):
        if run.poll() is not None or time.monotonic() > deadline:
            raise PipelineError(
                f"The run {name} has saved nothing within {SECONDS_TO_BEGIN:.0f} s, see its output."
            )
        time.sleep(SECONDS_BETWEEN_LOOKS)
    return run


def _last_rank(run: subprocess.Popen[bytes]) -> psutil.Process:
    """The process of the launcher's highest rank."""
    ranks = {child.environ().get("RANK", ""): child for child in psutil.Process(run.pid).children()}
    return ranks[max(ranks)]


def _expect(
    bench: Bench, run: subprocess.Popen[bytes], name: str, code: int, ending: Ending, seconds: float
) -> str:
    """Check that the run ends with this code and this note in so many seconds."""
    started = time.monotonic()
    try:
        found = run.wait(seconds)
    except subprocess.TimeoutExpired:
        bench.check(False, f"it had not ended after {seconds:.0f} s")
        return ""
    took = time.monotonic() - started
    bench.figures["seconds"] = took
    bench.check(found == code, f"it ended with exit code {found}, not {code}")
    note = RunDirectory(bench.scratch / name).path / ending
    noted = json.loads(note.read_text())["exit_code"] if note.is_file() else "nothing"
    bench.check(noted == code, f"{ending} in the run's directory says {noted}, not {code}")
    return f"exit code {found} after {took:.1f} s, with {ending}"
