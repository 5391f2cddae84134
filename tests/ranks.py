"""Runs of real ranks for tests: start them, watch them, kill them and read what they wrote.

Importing torch takes seconds, so ranks are forked from a server process that has imported it.
"""

from __future__ import annotations

import gc
import json
import multiprocessing
import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from itertools import count
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any

import safetensors.numpy

Target = Callable[..., int]
Arrays = dict[str, Any]

PATIENCE = 120.0
"""Seconds after which a run that should have ended counts as hung: many, because the machine may be busy."""

_SPAWN = multiprocessing.get_context("forkserver")
_SPAWN.set_forkserver_preload(
    [
        "pytest",
        # torch imports it when it makes its first optimizer.
        "torch._dynamo",
        "pipeline.profiling.profiler",
        "pipeline.training.build",
        "pipeline.training.resume",
        "pipeline.train",
        "tests.ranks",
    ]
)
# Below the ports that the kernel chooses itself. Test processes with neighbouring ids start 1009 ports apart, so that
# two workers never try the same one at the same moment.
_PORTS = (15000 + (os.getpid() * 1009 + number) % 15000 for number in count())


class Run:
    """The processes of one run and their output."""

    def __init__(self, processes: list[Any], logs: list[Path]) -> None:
        self.processes, self._logs = processes, logs

    def wait(self, timeout: float = PATIENCE) -> list[int]:
        """The exit code of each rank: minus its number if a signal ended it. Fails after `timeout` seconds."""
        deadline = time.monotonic() + timeout
        running = list(self.processes)
        while running and (left := deadline - time.monotonic()) > 0:
            wait([process.sentinel for process in running], left)
            running = [process for process in running if process.is_alive()]
        assert not running, f"still running after {timeout} s:\n{self.output}"
        return [process.exitcode for process in self.processes]

    def kill(self, rank: int, number: int = signal.SIGKILL) -> None:
        """Send a signal to one rank if it is still running."""
        if self.processes[rank].is_alive():
            os.kill(self.processes[rank].pid, number)

    def end(self) -> None:
        """Kill the ranks that still run, and wait until they have ended."""
        for rank, process in enumerate(self.processes):
            self.kill(rank)
            process.join()

    @property
    def is_alive(self) -> bool:
        return all(process.is_alive() for process in self.processes)

    def log(self, rank: int) -> str:
        """The standard output and error of one rank."""
        return self._logs[rank].read_text() if self._logs[rank].exists() else ""

    @property
    def output(self) -> str:
        return "\n".join(f"--- rank {rank}\n{self.log(rank)}" for rank in range(len(self._logs)))


class Ranks:
    """Starts runs, and ends those that are left at the end of a test."""

    def __init__(self, logs: Path) -> None:
        self._logs, self._runs = logs, list[Run]()

    def start(
        self,
        world_size: int,
        arguments: Sequence[str],
        target: Target | None = None,
        extra: Sequence[Any] = (),
        environment: Mapping[str, str] | None = None,
    ) -> Run:
        """Start `world_size` processes that each call `target(arguments, *extra)`, by default the program.

        `target` is a function at the top of a module that the processes can import. A single process gets none of
        a launcher's environment variables, as with `python -m pipeline.train`.
        """
        port = free_port()
        processes, logs = [], []
        for rank in range(world_size):
            variables = _launcher_variables(rank, world_size, port) | dict(environment or {})
            log = self._logs / f"run{len(self._runs)}_rank{rank}.log"
            process = _SPAWN.Process(
                target=_rank, args=(variables, str(log), target or train, list(arguments), tuple(extra))
            )
            process.start()
            processes.append(process)
            logs.append(log)
        self._runs.append(Run(processes, logs))
        return self._runs[-1]

    def run(self, world_size: int, arguments: Sequence[str], **options: Any) -> Run:
        """Start, and wait until all ranks have ended with exit code 0."""
        run = self.start(world_size, arguments, **options)
        codes = run.wait()
        assert codes == [0] * world_size, f"exit codes {codes}\n{run.output}"
        return run

    def end(self) -> None:
        for run in self._runs:
            run.end()


def train(arguments: list[str]) -> int:
    """The default target of a rank: `python -m pipeline.train`."""
    from pipeline import stopping
    from pipeline.ranks.speaker import tell_untold
    from pipeline.train import main

    with stopping.listening(saves=True, ends_process=True, last_words=tell_untold):
        return main(arguments)


def free_port() -> int:
    """A port of 127.0.0.1 on which nothing listens."""
    for port in _PORTS:
        with socket.socket() as candidate:
            try:
                candidate.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise AssertionError("unreachable: the ports never end")


def wait_until(condition: Callable[[], bool], run: Run | None = None, timeout: float = PATIENCE) -> None:
    """Return when the condition holds. Fails after `timeout` seconds, or if a rank of `run` ends before that."""
    deadline = time.monotonic() + timeout
    while not condition():
        ended = run is not None and not run.is_alive
        if ended and condition():
            return
        output = run.output if run else ""
        assert not ended, f"a rank ended before the condition held:\n{output}"
        assert time.monotonic() < deadline, f"the condition did not hold within {timeout} s:\n{output}"
        time.sleep(0.002)


def read_metrics(run: Path) -> list[dict[str, float]]:
    """The lines of metrics.jsonl without speed and memory, which differ from run to run."""
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    measured = ("speed/", "memory/")
    return [{k: v for k, v in line.items() if not k.startswith(measured)} for line in lines]


def read_series(run: Path) -> dict[str, list[tuple[int, float]]]:
    """The run's scalars as TensorBoard shows them: a list of (step, value) for each tag."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(run), size_guidance={"scalars": 0}).Reload()
    return {tag: [(e.step, e.value) for e in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


def read_tensors(checkpoint: Path) -> Arrays:
    """Every tensor of a checkpoint, under the name "FILE/NAME"."""
    files = sorted(checkpoint.glob("*.safetensors"))
    assert files, f"{checkpoint} has no tensors"
    return {
        f"{file.stem}/{name}": array
        for file in files
        for name, array in safetensors.numpy.load_file(file).items()
    }


def read_state(checkpoint: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((checkpoint / "state.json").read_text())
    return content


def read_note(run: Path, ending: str) -> dict[str, Any]:
    """The content of the run's DONE, PREEMPTED or FAILED; fails if it ended in another way."""
    found = sorted(path.name for path in run.iterdir() if path.name in ("DONE", "PREEMPTED", "FAILED"))
    assert found == [ending], f"{run} has {found}, expected {ending}"
    content: dict[str, Any] = json.loads((run / ending).read_text())
    return content


def checkpoints(run: Path) -> list[str]:
    """The names of all checkpoints, damaged and unfinished ones included."""
    folder = run / "checkpoints"
    return sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []


def newest(run: Path) -> Path:
    """The checkpoint of the largest step."""
    names = [name for name in checkpoints(run) if name.removeprefix("step_").isdigit()]
    assert names, f"{run} has no checkpoint"
    return run / "checkpoints" / names[-1]


def assert_same_bits(first: Arrays, second: Arrays) -> None:
    """Fail, and name the tensors, unless both have the same names with the same bytes."""
    assert first.keys() == second.keys()
    different = [name for name, array in first.items() if array.tobytes() != second[name].tobytes()]
    assert not different, f"{len(different)} of {len(first)} tensors differ: {different[:8]}"


def _launcher_variables(rank: int, world_size: int, port: int) -> dict[str, str]:
    if world_size == 1:
        return {}
    return {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(world_size),
        "LOCAL_WORLD_SIZE": str(world_size),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
    }


def _rank(
    variables: dict[str, str], log: str, target: Target, arguments: list[str], extra: tuple[Any, ...]
) -> None:
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    os.environ.update(variables)
    import torch

    torch.set_num_threads(1)
    # Without this, garbage collection would write to, and so copy, every page that is shared with the server.
    gc.freeze()
    sys.exit(target(arguments, *extra))
