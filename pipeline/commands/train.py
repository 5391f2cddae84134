"""`wgan train`: train on this machine, in as many processes as the config or its GPUs ask for."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, NoReturn

from pipeline.commands.arguments import Commands, add_command, add_config, check_processes

if TYPE_CHECKING:
    from pipeline.options import RuntimeOptions

EXAMPLES = """\
examples:
  wgan train digits                                    a preset: `wgan configs` lists them
  wgan train digits name=digits-2 schedule.steps=2000 objective.clip=0.03
  wgan train mine.yaml --processes 2                   a file of yours, trained by two processes

The same command resumes a run that was stopped. On several machines, or under a scheduler, use
`accelerate launch -m pipeline.train CONFIG` instead. `python -m pipeline.train --help` lists all options of a config.
"""


def add_parser(commands: Commands) -> None:
    """Add the command, its flags and its help."""
    train = add_command(commands, "train", "train on this machine", EXAMPLES)
    add_config(train)
    train.add_argument(
        "--processes",
        type=int,
        metavar="N",
        help="ranks to start (default: runtime.processes, else one for each GPU)",
    )
    train.set_defaults(func=run)


def run(arguments: argparse.Namespace) -> int:
    """Train in this process, or become the launcher of several. Returns the exit code."""
    check_processes(arguments.processes)
    from pipeline.config import load_config

    config = load_config(arguments.config, arguments.overrides)
    processes = arguments.processes or default_processes(config.runtime)
    words = [str(arguments.config), *arguments.overrides]
    if processes > 1:
        become_launcher(processes, "pipeline.train", words)
    from pipeline.train import main

    return main(words)


def default_processes(options: RuntimeOptions) -> int:
    """As many as the config asks for; else one for each GPU that is to be used, or one."""
    if options.processes is not None:
        return options.processes
    if options.device == "cpu":
        return 1
    import torch

    return max(torch.cuda.device_count(), 1)


def become_launcher(processes: int, module: str, words: Sequence[str]) -> NoReturn:
    """Turn this process into `accelerate launch`, with every flag that a user's own defaults could change."""
    environment = dict(os.environ)
    environment.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // processes)))
    command = [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu"]
    command += ["--num_processes", str(processes), "--num_machines", "1", "--main_process_port", "0"]
    command += ["--mixed_precision", "no", "--dynamo_backend", "no", "-m", module, *words]
    sys.stdout.flush()
    os.execve(sys.executable, command, environment)
