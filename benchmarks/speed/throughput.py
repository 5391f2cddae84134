"""Images per second of runs with one process and with several, which share a batch or the machine."""

from __future__ import annotations

import math
import os
import statistics
import subprocess
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

from timing import NEVER, batch_options

from pipeline.errors import PipelineError
from pipeline.monitor.records import read_records
from pipeline.options import Config
from pipeline.run.directory import RunDirectory

SCALINGS = ("strong", "weak")
APART = "apart"
LOG_POINTS = 6


@dataclass(frozen=True)
class Kind:
    """One way to train: a number of ranks, the threads of each, and the global batch."""

    scaling: str
    ranks: int
    threads: int
    global_batch: int


@dataclass(frozen=True)
class Speed:
    """Images per second of one kind in each round, and its efficiency relative to one process in the same round."""

    kind: Kind
    images_per_second: list[float]
    efficiency: list[float]


def kinds(ranks: Sequence[int], global_batch: int, on_cpu: bool) -> list[Kind]:
    """One process, and for each number of ranks the strong, weak and, on CPUs, separate kinds."""
    cores = max(ranks) if on_cpu else 1

    def threads(count: int) -> int:
        return cores // count if on_cpu else 1

    several = [
        Kind(scaling, count, threads(count), global_batch * (count if scaling == "weak" else 1))
        for count in ranks
        if count > 1
        # On GPUs separate runs would all take the first GPU.
        for scaling in ((*SCALINGS, APART) if on_cpu else SCALINGS)
    ]
    return [Kind("one process", 1, threads(1), global_batch), *several]


def train(kind: Kind, config: Config, words: Sequence[str], steps: int, place: Path) -> float:
    """Images per second of a run, or of several at the same time. Raises PipelineError if one fails."""
    if kind.scaling != APART:
        return train_run(kind, config, words, steps, place)
    alone = replace(kind, ranks=1, global_batch=kind.global_batch // kind.ranks)
    places = [place / str(number) for number in range(kind.ranks)]
    with ThreadPoolExecutor(kind.ranks) as pool:
        return sum(pool.map(lambda own: train_run(alone, config, words, steps, own), places))


def train_run(kind: Kind, config: Config, words: Sequence[str], steps: int, place: Path) -> float:
    """Images per second of a run started by `wgan train`. Raises PipelineError if it fails."""
    words = [*words, *batch_options(config, kind.global_batch), "--processes", str(kind.ranks)]
    environment = {**os.environ, "OMP_NUM_THREADS": str(kind.threads)}
    return trained_speed(train_command(words, steps, place), environment, place / config.name)


def train_command(words: Sequence[str], steps: int, place: Path) -> list[str]:
    """The command of a run in `place` that records its speed, and else as little as possible."""
    log_every = math.ceil(steps / LOG_POINTS)
    return [
        *(sys.executable, "-m", "pipeline.cli", "train", *words),
        *(f"run_root={place}", f"schedule.steps={log_every * (LOG_POINTS + 1)}"),
        *(f"monitor.log_every={log_every}", f"monitor.sample_every={NEVER}", "monitor.plots=false"),
        *(f"checkpoint.every={NEVER}", "checkpoint.keep_every=null"),
    ]


def trained_speed(command: Sequence[str], environment: Mapping[str, str], run: Path) -> float:
    """Images per second of a run, from what it recorded. Raises PipelineError if it fails."""
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if ended.returncode != 0:
        raise PipelineError(
            f"{' '.join(command)} ended with exit code {ended.returncode}:\n{ended.stderr[-2000:]}"
        )
    records = read_records(RunDirectory(run).metrics)
    return throughput([record["speed/images_per_second"] for record in records])


def throughput(images_per_second: Sequence[float]) -> float:
    """Images per second over all log points except the first. Each log point has the same number of images."""
    return statistics.harmonic_mean(images_per_second[1:])


def efficiencies(found: dict[Kind, list[float]], on_cpu: bool) -> list[Speed]:
    """Each kind relative to one process in the same round, which is the first of `found`."""
    alone = next(iter(found.values()))
    return [
        Speed(
            kind,
            speeds,
            [speed / one / (1 if on_cpu else kind.ranks) for speed, one in zip(speeds, alone, strict=True)],
        )
        for kind, speeds in found.items()
    ]
