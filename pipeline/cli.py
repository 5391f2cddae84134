"""The `wgan` command: its parser, put together from the commands, and how errors become exit codes."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from pipeline.commands import (
    doctor,
    evaluate,
    export,
    features,
    interpolate,
    plot,
    report,
    sample,
    shards,
    train,
)
from pipeline.errors import PipelineError

COMMANDS = (shards, train, sample, interpolate, export, plot, report, evaluate, features, doctor)
"""In the order of the help. Their modules import nothing heavy before they run, so that --help is quick."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command. Returns the exit code."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    parsed = _parse(words)
    parsed.words = words
    try:
        code: int = parsed.func(parsed)
        return code
    except PipelineError as error:
        print(f"error (exit {error.exit_code}): {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130


def _parse(words: Sequence[str]) -> argparse.Namespace:
    """The arguments. Options of a config may stand after flags too, where argparse leaves them over."""
    parser = _parser()
    parsed, rest = parser.parse_known_args(words)
    are_overrides = hasattr(parsed, "overrides") and all("=" in word and word[0] != "-" for word in rest)
    if rest and not are_overrides:
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    if rest:
        parsed.overrides += rest
    return parsed


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="wgan", description="Train Wasserstein GANs on sharded images, on one machine or many."
    )
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    for command in COMMANDS:
        command.add_parser(commands)
    return parser


if __name__ == "__main__":
    sys.exit(main())
