"""The `wgan` command: assembles the parser from the commands, and turns errors into exit codes."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from functools import partial
from importlib import import_module
from typing import NoReturn

from pipeline import stopping, unread_output
from pipeline.errors import ConfigError, Interrupted, PipelineError, system_errors
from pipeline.ranks.speaker import tell_untold
from pipeline.stderr import say_defect

# Nothing above takes long to import: until `main` listens to signals, they end the process in their own way.

COMMANDS = (
    "shards",
    "configs",
    "train",
    "sample",
    "interpolate",
    "export",
    "plot",
    "report",
    "evaluate",
    "features",
    "doctor",
    "accept",
)
"""Modules of pipeline.commands, in the order of the help. They import heavy libraries only when they run."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command. Returns the exit code (pipeline.errors lists them)."""
    if arguments is None:
        sys.excepthook = say_defect
    words = list(sys.argv[1:] if arguments is None else arguments)
    with stopping.listening(words[:1] == ["train"], ends_process=arguments is None, last_words=tell_untold):
        return unread_output.exit_code_of(partial(_run, words))


def _run(words: list[str]) -> int:
    try:
        with system_errors():
            parsed = _parse(words)
            parsed.words = words
            code: int = parsed.func(parsed)
    except PipelineError as error:
        tell_untold(error)
        code = error.exit_code
    except KeyboardInterrupt:
        tell_untold(interruption := Interrupted("Ctrl-C came twice."))
        code = interruption.exit_code
    stopping.leave(code)
    return code


def _parse(words: Sequence[str]) -> argparse.Namespace:
    """Parse the arguments. Overrides may follow flags too; argparse returns those as unknown arguments."""
    if any("\0" in word for word in words):
        raise ConfigError(
            "An argument contains the character NUL, which no path or option can have. Leave it out."
        )
    parser = _parser()
    parsed, rest = parser.parse_known_args(words)
    are_overrides = hasattr(parsed, "overrides") and all("=" in word and word[0] != "-" for word in rest)
    if rest and not are_overrides:
        parser.error(_describe_unknown(parsed, rest))
    if rest:
        parsed.overrides += rest
    return parsed


def _describe_unknown(parsed: argparse.Namespace, rest: Sequence[str]) -> str:
    """What is wrong with arguments that no command has. Those of a config may be spelled as other tools do."""
    if not hasattr(parsed, "overrides"):
        return f"unrecognized arguments: {' '.join(rest)}"
    from pipeline.option_mistakes import describe_flags

    return describe_flags(rest)


class _Version(argparse.Action):
    """Prints the versions of this package and of torch, without importing torch."""

    def __init__(self, option_strings: Sequence[str], dest: str) -> None:
        super().__init__(option_strings, dest, nargs=0, help="show the versions of wgan and torch, and exit")

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: object,
        option_string: str | None = None,
    ) -> NoReturn:
        print(describe_versions())
        parser.exit()


def describe_versions() -> str:
    """The installed versions in one line, such as "wgan 0.1.0 (torch 2.13.1)"."""
    from importlib.metadata import PackageNotFoundError, version

    found = {}
    for package in ("wgan-pipeline", "torch"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    return f"wgan {found['wgan-pipeline']} (torch {found['torch']})"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="wgan", description="Train Wasserstein GANs on sharded images, on one machine or many."
    )
    parser.add_argument("--version", action=_Version)
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    for name in COMMANDS:
        import_module(f"pipeline.commands.{name}").add_parser(commands)
    return parser


if __name__ == "__main__":
    sys.exit(main())
