"""Flags and checks that several commands share."""

from __future__ import annotations

import argparse
import re
from functools import partial
from pathlib import Path
from typing import Literal, TypeAlias

from pipeline.errors import ConfigError
from pipeline.foreign_text import printable

Commands: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"
Arguments: TypeAlias = "argparse.ArgumentParser | argparse._ArgumentGroup"
WHOLE = re.compile(r"[+-]?[0-9]{1,30}", re.ASCII)
STEP = re.compile(r"[0-9]{1,18}", re.ASCII)
MOST_SHOWN = 40
MOST_PROCESSES = 256
MOST_SEED = 2**63 - 1


def add_command(commands: Commands, name: str, summary: str, examples: str) -> argparse.ArgumentParser:
    """Add a command whose help ends with `examples`. Returns its parser, for its flags."""
    return commands.add_parser(
        name, help=summary, epilog=examples, formatter_class=argparse.RawDescriptionHelpFormatter
    )


def add_classes(parser: argparse.ArgumentParser, what: str) -> None:
    """Add --class, which can be repeated, for generators that know classes; `what` begins its help."""
    parser.add_argument(
        "--class",
        dest="classes",
        action="append",
        default=[],
        metavar="NAME",
        help=f"{what}, by its name or number; can be repeated (default: all in turn)",
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


def add_whole(
    parser: Arguments, flag: str, least: int, most: int, default: int | None = None, **options: str
) -> None:
    """Add a flag with a whole number from `least` to `most`. Parsing raises ConfigError for another one.

    `options` are those of add_argument, such as help.
    """
    kind = partial(_whole, flag, least, most)
    parser.add_argument(flag, type=kind, default=default, **options)  # type: ignore[arg-type]


def add_processes(parser: argparse.ArgumentParser, help_text: str) -> None:
    """Add --processes."""
    add_whole(parser, "--processes", 1, MOST_PROCESSES, metavar="N", help=help_text)


def add_seed(parser: argparse.ArgumentParser, help_text: str, default: int | None = None) -> None:
    """Add --seed."""
    add_whole(parser, "--seed", 0, MOST_SEED, default, help=help_text)


def parse_step(text: str) -> int | None:
    """The step that these digits are; None if they are none."""
    return int(text) if STEP.fullmatch(text) else None


def parse_size(text: str) -> tuple[int, int]:
    """64 or 90x160 to (height, width)."""
    sides = text.lower().split("x")
    if not 1 <= len(sides) <= 2 or None in map(parse_step, sides):
        raise argparse.ArgumentTypeError(
            f"{text!r} is not a size: give a side, for example 64, or height and width, for example 90x160"
        )
    return int(sides[0]), int(sides[-1])


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
    if (step := parse_step(text)) is None:
        raise argparse.ArgumentTypeError(f"invalid value {text!r}: expected a step, such as 1000, or best")
    return step


def _whole(flag: str, least: int, most: int, text: str) -> int:
    if not WHOLE.fullmatch(text) or not least <= int(text) <= most:
        raise ConfigError(
            f"{flag} {printable(text, MOST_SHOWN)}: expected a whole number from {least:,} to {most:,}. Give another "
            "one, or leave the flag out."
        )
    return int(text)
