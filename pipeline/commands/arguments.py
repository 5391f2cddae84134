"""Flags and checks that several commands share."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Literal, TypeAlias

from pipeline.errors import ConfigError

Commands: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"


def add_command(commands: Commands, name: str, summary: str, examples: str) -> argparse.ArgumentParser:
    """Add a command whose help ends with `examples`. Returns its parser, for its flags."""
    return commands.add_parser(
        name, help=summary, epilog=examples, formatter_class=argparse.RawDescriptionHelpFormatter
    )


def add_config(parser: argparse.ArgumentParser, nargs: Literal["?"] | None = None) -> None:
    """Add CONFIG, optional if `nargs` is "?", and overrides of its options."""
    parser.add_argument(
        "config",
        type=Path,
        nargs=nargs,
        metavar="CONFIG",
        help="a YAML file, a preset's name such as digits, or the directory of a run",
    )
    parser.add_argument(
        "overrides",
        nargs="*",
        metavar="section.option=value",
        help="options that replace those of the config",
    )


def check_processes(processes: int | None) -> None:
    """Raise ConfigError if --processes is given and below 1."""
    if processes is not None and processes < 1:
        raise ConfigError(
            f"--processes {processes}: at least one process is needed. Give 1 or more, or leave it out."
        )


def add_generator(parser: argparse.ArgumentParser) -> None:
    """Add the flags that choose a generator: RUN, --ema and --checkpoint."""
    parser.add_argument(
        "run",
        type=Path,
        metavar="RUN",
        help="a run directory such as runs/digits, a checkpoint in it, or an exported .safetensors file",
    )
    parser.add_argument(
        "--ema",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="use the moving average of the generator's weights, or with --no-ema the last weights",
    )
    parser.add_argument(
        "--checkpoint",
        type=_checkpoint,
        metavar="STEP",
        help="step of a checkpoint of the run, or best for the one that quality.keep_best keeps (default: newest)",
    )


def add_truncation(parser: argparse.ArgumentParser) -> None:
    """Add --truncation."""
    parser.add_argument(
        "--truncation",
        type=float,
        metavar="T",
        help="draw each number of a latent again until it is within [-T, T]: fewer odd images, less variety",
    )


def _checkpoint(text: str) -> int | Literal["best"]:
    if text == "best":
        return "best"
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"invalid value {text!r}: expected a step, such as 1000, or best")
    return int(text)
