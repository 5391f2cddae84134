"""`wgan train`: train on this machine, in one process or in several."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.commands.arguments import MOST_PROCESSES, Commands, add_command, add_config, add_processes
from pipeline.errors import ConfigError

if TYPE_CHECKING:
    from pipeline.data.format.shard_set import ShardSet
    from pipeline.options import Config, RuntimeOptions

EXAMPLES = """\
examples:
  wgan train digits                                    a preset: `wgan configs` lists them
  wgan train digits name=digits-2 schedule.steps=2000 objective.clip=0.03
  wgan train mine.yaml --processes 2                   a config of your own, with two processes
  wgan train runs/digits                               resumes a run that was stopped, with its own options
  wgan train runs/digits schedule.steps=4000           trains it longer

The command that started a run resumes it, too. On several machines, or under a scheduler, use
`accelerate launch -m pipeline.train CONFIG` instead. `python -m pipeline.train --help` lists all options of a config.
"""


def add_parser(commands: Commands) -> None:
    """Add the command, its flags and its help."""
    train = add_command(commands, "train", "train on this machine", EXAMPLES)
    add_config(train)
    add_processes(
        train, "number of ranks to start (default: runtime.processes if it is set, else one for each GPU)"
    )
    train.set_defaults(func=run)


def run(arguments: argparse.Namespace) -> int:
    """Train in this process, or in several ranks that it starts. Returns the exit code."""
    from pipeline.config import load_config

    config = load_config(arguments.config, arguments.overrides)
    processes = arguments.processes or default_processes(config.runtime)
    if processes > MOST_PROCESSES:
        raise ConfigError(
            f"runtime.processes: {processes:,} ranks are more than one machine can hold, and `wgan train` starts all "
            f"of them on this one. Give at most {MOST_PROCESSES}, or use `accelerate launch` on several machines."
        )
    words = [str(arguments.config), *arguments.overrides]
    if processes == 1:
        from pipeline.train import main

        return main(words)
    from pipeline.ranks.launcher import launch

    check_before_ranks(config, processes)
    return launch(processes, "pipeline.train", words)


def default_processes(options: RuntimeOptions) -> int:
    """The number in the config. If it has none: one for each GPU that may be used, or one."""
    if options.processes is not None:
        return options.processes
    if options.device == "cpu":
        return 1
    from pipeline.ranks.devices import gpu_count

    return max(gpu_count(), 1)


def check_before_ranks(config: Config, processes: int) -> None:
    """Find the mistakes that need no ranks before any is started.

    Raises ConfigError, DataError, or CheckpointError if the run was started with other options.
    """
    from pipeline.data.originals.opening import open_data
    from pipeline.training.schedule import check_batches

    if config.runtime.processes not in (None, processes):
        raise ConfigError(
            f"--processes {processes} contradicts runtime.processes: {config.runtime.processes}. Leave one of them out."
        )
    check_batches(config.schedule, processes)
    shards = open_data(config.data)
    shards.files.close()
    shards.check_sizes()
    if config.runtime.device != "cpu":
        from pipeline.ranks.devices import check_gpu_count, chosen_device

        check_gpu_count(chosen_device(config), processes)
    check_resume(config, shards)


def check_resume(config: Config, shards: ShardSet) -> None:
    """Raise CheckpointError or ConfigError if there is a checkpoint from which these options could not resume."""
    from pipeline.run.checkpoint import newest_valid
    from pipeline.run.directory import RunDirectory
    from pipeline.training.identity import check_identity, check_steps, identity_of

    checkpoint, _ = newest_valid(RunDirectory(Path(config.run_root) / config.name).checkpoints)
    if checkpoint is None:
        return
    precision: str = config.precision or "float32"
    if precision == "auto":
        from pipeline.ranks.devices import chosen_device, fastest_precision

        precision = fastest_precision(chosen_device(config))
    check_identity(checkpoint, identity_of(config, shards, precision))
    check_steps(checkpoint, config.schedule.steps)
