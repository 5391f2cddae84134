"""The `wgan` command. What needs torch is imported when it is called for, so that --help is quick."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from pipeline import shards_command
from pipeline.errors import ConfigError, PipelineError

if TYPE_CHECKING:
    from pipeline.options import RuntimeOptions

OVERRIDES = "section.option=value"
TRAIN_EXAMPLES = """\
examples:
  wgan train configs/digits.yaml
  wgan train configs/digits.yaml name=digits-2 schedule.steps=2000 objective.clip=0.03
  wgan train configs/mnist.yaml --processes 2

The same command continues a run that was stopped. On several machines, or under a scheduler, launch
`accelerate launch -m pipeline.train CONFIG` instead: see launch/. All options of a config:
  python -m pipeline.train --help
"""
SAMPLE_EXAMPLES = """\
examples:
  wgan sample runs/digits                              a grid of 64 images, from the moving average
  wgan sample runs/digits --count 1000 --files         one PNG each
  wgan sample runs/digits --no-ema --checkpoint 800 --seed 7 --out grid.png
"""
PLOT_EXAMPLES = """\
examples:
  wgan plot runs/digits                                curves.png and training.gif in the run's directory
  wgan plot runs/digits --out pictures                 the same in another one

A run can be drawn while it trains, and after it was stopped.
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command. Returns the exit code."""
    parsed = _parser().parse_args(arguments)
    try:
        code: int = parsed.func(parsed)
        return code
    except PipelineError as error:
        print(f"error (exit {error.exit_code}): {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130


def _train(parsed: argparse.Namespace) -> int:
    if parsed.processes is not None and parsed.processes < 1:
        raise ConfigError(f"--processes {parsed.processes}: at least one process is needed.")
    from pipeline.config import load_config

    config = load_config(parsed.config, parsed.overrides)
    processes = parsed.processes or _default_processes(config.runtime)
    words = [str(parsed.config), *parsed.overrides]
    if processes > 1:
        _become_launcher(processes, words)
    from pipeline import train

    return train.main(words)


def _default_processes(options: RuntimeOptions) -> int:
    """As many as the config asks for; else one for each GPU that is to be used, or one."""
    if options.processes is not None:
        return options.processes
    if options.device == "cpu":
        return 1
    import torch

    return max(torch.cuda.device_count(), 1)


def _become_launcher(processes: int, words: Sequence[str]) -> NoReturn:
    """Turn this process into `accelerate launch`, with every flag that a user's own defaults could change."""
    environment = dict(os.environ)
    environment.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // processes)))
    command = [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu"]
    command += ["--num_processes", str(processes), "--num_machines", "1", "--main_process_port", "0"]
    command += ["--mixed_precision", "no", "--dynamo_backend", "no", "-m", "pipeline.train", *words]
    sys.stdout.flush()
    os.execve(sys.executable, command, environment)


def _sample(parsed: argparse.Namespace) -> int:
    from pipeline.sampling import sample

    return sample(parsed)


def _plot(parsed: argparse.Namespace) -> int:
    from pipeline.plots import plot

    return plot(parsed)


def _doctor(parsed: argparse.Namespace) -> int:
    from pipeline.doctor import doctor

    return doctor(parsed)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="wgan", description="Train Wasserstein GANs on sharded images, on one machine or many."
    )
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    shards_command.add_parser(commands)
    raw = argparse.RawDescriptionHelpFormatter

    train = commands.add_parser(
        "train", help="train on this machine", epilog=TRAIN_EXAMPLES, formatter_class=raw
    )
    train.add_argument("config", type=Path, metavar="CONFIG")
    train.add_argument("overrides", nargs="*", metavar=OVERRIDES)
    train.add_argument(
        "--processes",
        type=int,
        metavar="N",
        help="ranks to start (default: runtime.processes, else one for each GPU)",
    )
    train.set_defaults(func=_train)

    sample = commands.add_parser(
        "sample", help="draw images from a run", epilog=SAMPLE_EXAMPLES, formatter_class=raw
    )
    sample.add_argument("run", type=Path, metavar="RUN", help="a run's directory, such as runs/digits")
    sample.add_argument("--count", type=int, default=64, help="images to draw (default 64)")
    sample.add_argument("--seed", type=int, default=0, help="of the latents (default 0)")
    sample.add_argument(
        "--ema",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="draw from the moving average of the generator's weights, or from the last weights",
    )
    sample.add_argument("--checkpoint", type=int, metavar="STEP", help="default: the newest")
    sample.add_argument("--files", action="store_true", help="one PNG for each image instead of a grid")
    sample.add_argument("--out", type=Path, help="where to write (default: RUN/samples/...)")
    sample.set_defaults(func=_sample)

    plot = commands.add_parser(
        "plot",
        help="draw a run's curves, and its samples as an animation",
        epilog=PLOT_EXAMPLES,
        formatter_class=raw,
    )
    plot.add_argument("run", type=Path, metavar="RUN", help="a run's directory, such as runs/digits")
    plot.add_argument("--out", type=Path, metavar="DIR", help="where to write (default: RUN)")
    plot.set_defaults(func=_plot)

    doctor = commands.add_parser("doctor", help="show versions, devices and what a config would use")
    doctor.add_argument("config", type=Path, metavar="CONFIG", nargs="?")
    doctor.add_argument("overrides", nargs="*", metavar=OVERRIDES)
    doctor.set_defaults(func=_doctor)
    return parser


if __name__ == "__main__":
    sys.exit(main())
