"""What the benchmarks of the training loop share: a run to measure, its bare loop, and clocks."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure

from pipeline import stopping
from pipeline.data.originals.opening import open_data
from pipeline.durable import replacing, storage_errors, write_text
from pipeline.errors import ConfigError, PipelineError, describe
from pipeline.options import Config
from pipeline.ranks.runtime import Runtime
from pipeline.run.directory import RunDirectory
from pipeline.training.build import build_trainer
from pipeline.training.context import RunContext
from pipeline.training.schedule import check_batches
from pipeline.training.trainer import Trainer

NEVER = 10**9


@contextmanager
def open_trainer(config: Config, runtime: Runtime, place: Path) -> Iterator[Trainer]:
    """The trainer of a new run in `place`, with all that such a run writes, as pipeline/train.py builds it."""
    check_batches(config.schedule, runtime.world_size)
    directory = RunDirectory(place)
    with directory if runtime.is_main else nullcontext(), stopping.listening(saves=True):
        shards = open_data(config.data)
        context = RunContext(config, shards, directory, runtime, output=lambda *lines: None)
        with closing(shards.files), closing(build_trainer(context, 1)) as trainer:
            yield trainer


def train_bare(trainer: Trainer, steps: int) -> None:
    """Run `steps` steps of the updates and the loader alone: nothing is logged, compared or saved."""
    batches = trainer.loader.batches(trainer.state.counters.position)
    for _ in range(steps):
        trainer.step.take(batches)


def train_whole(trainer: Trainer, steps: int) -> None:
    """Run `steps` steps of the trainer. It ends like a run, with a log point, grids and a checkpoint."""
    last = trainer.state.counters.step + steps
    trainer.run = trainer.observer.run = replace(trainer.run, config=with_steps(trainer.config, last))
    trainer.train()


def with_steps(config: Config, steps: int) -> Config:
    """The same run with this many steps."""
    return config.model_copy(update={"schedule": config.schedule.model_copy(update={"steps": steps})})


def batch_options(config: Config, global_batch: int) -> list[str]:
    """The options that give a run another global batch, and scale the critic's batch by the same factor.

    Raises ConfigError if the critic's batch would not be a whole number.
    """
    schedule = config.schedule
    options = [f"schedule.global_batch={global_batch}"]
    if schedule.critic_batch is not None:
        critic_batch, rest = divmod(schedule.critic_batch * global_batch, schedule.global_batch)
        if rest or critic_batch == 0:
            raise ConfigError(
                f"With a global batch of {global_batch} the critic's batch would not be a whole number: the config has "
                f"{schedule.critic_batch} for {schedule.global_batch}. Choose another size."
            )
        options.append(f"schedule.critic_batch={critic_batch}")
    return options


def seconds_of(
    work: Callable[[], object], device: torch.device, clock: Callable[[], float] = time.perf_counter
) -> float:
    """How many seconds `work` takes by this clock, including its work on the device."""
    _wait_for(device)
    started = clock()
    work()
    _wait_for(device)
    return clock() - started


def _wait_for(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def parser(description: str | None) -> argparse.ArgumentParser:
    """A parser with the arguments that all of them have."""
    found = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    found.add_argument("config", type=Path)
    found.add_argument("overrides", nargs="*")
    found.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    found.add_argument("--out", type=Path, metavar="DIR")
    return found


def run_command(measure: Callable[[argparse.Namespace], None], arguments: argparse.Namespace) -> int:
    """Measure; print an error of the user in one line. Returns the exit code."""
    try:
        measure(arguments)
    except PipelineError as error:
        print(describe(error), file=sys.stderr)
        return error.exit_code
    return 0


def write_findings(directory: Path, name: str, content: dict[str, Any], figure: Figure) -> None:
    """Write DIRECTORY/NAME.json and .png. Raises StorageError."""
    with storage_errors(directory):
        directory.mkdir(parents=True, exist_ok=True)
    write_text(directory / f"{name}.json", json.dumps(content, indent=1) + "\n")
    with replacing(directory / f"{name}.png") as file:
        figure.savefig(file, format="png")


def row(*cells: object) -> str:
    """A line of a markdown table."""
    return f"| {' | '.join(map(str, cells))} |"
