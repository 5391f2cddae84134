"""Flags and checks that several commands share."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Literal, TypeAlias

from pipeline.errors import ConfigError

Commands: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"


def add_command(commands: Commands, name: str, summary: str, examples: str) -> argparse.ArgumentParser:
    """A command whose help ends with these examples."""
    return commands.add_parser(
        name, help=summary, epilog=examples, formatter_class=argparse.RawDescriptionHelpFormatter
    )


def add_config(parser: argparse.ArgumentParser, nargs: Literal["?"] | None = None) -> None:
    """A config, which may be left out with nargs "?", and options that go before its own."""
    parser.add_argument(
        "config",
        type=Path,
        nargs=nargs,
        metavar="CONFIG",
        help="a YAML file, or a preset's name such as digits",
    )
    parser.add_argument(
        "overrides", nargs="*", metavar="section.option=value", help="options that replace the config's"
    )


def check_processes(processes: int | None) -> None:
    """Raise ConfigError where --processes is given and below 1."""
    if processes is not None and processes < 1:
        raise ConfigError(f"--processes {processes}: at least one process is needed.")


def add_generator(parser: argparse.ArgumentParser) -> None:
    """Which generator a command takes."""
    parser.add_argument(
        "run",
        type=Path,
        metavar="RUN",
        help="a run's directory, such as runs/digits, a checkpoint in it, or an exported .safetensors file",
    )
    parser.add_argument(
        "--ema",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="take the moving average of the generator's weights, or the last weights",
    )
    parser.add_argument(
        "--checkpoint",
        type=_checkpoint,
        metavar="STEP",
        help="of a run; best for the one that quality.keep_best keeps (default: the newest)",
    )


def add_truncation(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--truncation",
        type=float,
        metavar="T",
        help="redraw a latent's numbers until they are within [-T, T]: fewer odd images, less variety",
    )


def _checkpoint(text: str) -> int | Literal["best"]:
    if text == "best":
        return "best"
    if not text.isdigit():
        raise argparse.ArgumentTypeError(f"{text!r} is neither a step nor the word best")
    return int(text)
