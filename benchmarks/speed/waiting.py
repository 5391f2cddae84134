"""How many threads a run should have, and how they should wait: images per second on an idle and on a busy machine.

    python benchmarks/speed/waiting.py configs/digits.yaml --rounds 3

Each setting trains in a process of its own, in alternation, first on the machine as it is, and then beside processes
that compute all the time (--busy 1: one of them). A run that takes longer than --seconds is stopped, and counts as far
as it came. The last column of each half is relative to the best fixed setting of the same round.
"""

from __future__ import annotations

import argparse
import os
import signal
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from throughput import throughput, train_command
from timing import parser, row, run_command

from pipeline.config import load_config
from pipeline.cores import available_cores
from pipeline.errors import ConfigError, PipelineError, StopRequested
from pipeline.monitor.records import read_records
from pipeline.run.directory import RunDirectory
from pipeline.wording import counted


@dataclass(frozen=True)
class Setting:
    """How a run's threads are set up: options of the run, and environment variables."""

    name: str
    words: Sequence[str] = ()
    variables: dict[str, str] = field(default_factory=dict)


ADAPT = Setting("runtime.threads: adapt", ["runtime.threads=adapt"])
SPINNING = {"GOMP_SPINCOUNT": "300000"}
"""What libgomp does by itself."""


def fixed_settings(cores: int) -> list[Setting]:
    """The settings among whose best `ADAPT` should be."""
    threads = [f"runtime.threads={cores}"]
    return [
        Setting(f"{counted(cores, 'thread')}, spinning", threads, SPINNING),
        Setting(f"{counted(cores, 'thread')}, sleeping", threads, {"OMP_WAIT_POLICY": "PASSIVE"}),
        Setting("1 thread", ["runtime.threads=1"], SPINNING),
    ]


@contextmanager
def busy(processes: int) -> Iterator[None]:
    """Within, so many other processes compute all the time."""
    others = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(processes)]
    try:
        yield
    finally:
        for other in others:
            other.kill()
            other.wait()


def speed(setting: Setting, arguments: argparse.Namespace, words: Sequence[str]) -> float:
    """Images per second of a run with this setting."""
    config = load_config(arguments.config, [*arguments.overrides])
    variables = {name: value for name, value in os.environ.items() if not name.startswith(("OMP_", "GOMP_"))}
    with tempfile.TemporaryDirectory() as place:
        command = train_command([*words, *setting.words], arguments.steps, Path(place))
        environment = {**variables, **setting.variables}
        return stopped_speed(command, environment, Path(place) / config.name, arguments.seconds)


def stopped_speed(command: Sequence[str], environment: dict[str, str], run: Path, seconds: float) -> float:
    """Images per second of a run that is stopped after so many seconds; 0 if it has fewer than two log points."""
    with subprocess.Popen(
        command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    ) as process:
        try:
            process.wait(seconds)
        except subprocess.TimeoutExpired:
            process.terminate()
        _, errors = process.communicate()
    # A run that is just done no longer waits for signals.
    if process.returncode not in (0, StopRequested.exit_code, -signal.SIGTERM):
        raise PipelineError(
            f"{' '.join(command)} ended with {process.returncode}:\n{errors.decode()[-2000:]}"
        )
    found = read_records(RunDirectory(run).metrics)
    return throughput([record["speed/images_per_second"] for record in found]) if len(found) > 1 else 0.0


def run(arguments: argparse.Namespace) -> None:
    """Measure every setting, idle and busy, and print a table."""
    if arguments.rounds < 1 or arguments.steps < 1 or arguments.busy < 1:
        raise ConfigError("--rounds, --steps and --busy must be at least 1.")
    words = [str(arguments.config), *arguments.overrides, f"runtime.device={arguments.device}"]
    settings = [*fixed_settings(available_cores()), ADAPT]
    found: dict[str, dict[int, list[float]]] = {setting.name: {} for setting in settings}
    for others in (0, arguments.busy):
        with busy(others):
            for _ in range(arguments.rounds):
                for setting in settings:
                    found[setting.name].setdefault(others, []).append(speed(setting, arguments, words))
                    print(
                        f"{setting.name}, beside {others}: {found[setting.name][others][-1]:,.0f} images/s",
                        flush=True,
                    )
    print(row("", "idle, images/s", "of the best", f"beside {arguments.busy}", "of the best"))
    print(row("---", *["---:"] * 4))
    for name, by_load in found.items():
        cells = []
        for others, speeds in by_load.items():
            best = [
                max(values) for values in zip(*(found[s.name][others] for s in settings[:-1]), strict=True)
            ]
            shares = [one / most for one, most in zip(speeds, best, strict=True)]
            cells += [f"{statistics.median(speeds):,.0f}", f"{statistics.median(shares):.2f}"]
        print(row(name, *cells))


def main(words: Sequence[str] | None = None) -> int:
    """Measure. Returns the exit code."""
    arguments = parser(__doc__)
    arguments.add_argument("--rounds", type=int, default=3)
    arguments.add_argument("--steps", type=int, default=240)
    arguments.add_argument("--seconds", type=float, default=90.0, help="of a run at most (default: 90)")
    arguments.add_argument(
        "--busy", type=int, default=1, help="processes that compute beside it (default: 1)"
    )
    return run_command(run, arguments.parse_intermixed_args(words))


if __name__ == "__main__":
    sys.exit(main())
