"""`wgan accept`: find out in one command whether this machine trains as it should."""

from __future__ import annotations

import argparse
from pathlib import Path

from pipeline.commands.arguments import Commands, add_command, add_whole
from pipeline.errors import ConfigError

EXAMPLES = """\
examples:
  wgan accept                              all stages that fit into 8 minutes; the GPUs of this machine, or its CPU
  wgan accept --minutes 30 --out accepted  more of them; the results go to accepted/accept.json

Each stage is a process of its own, and ends as PASS, FAIL or SKIPPED. What it printed is in DIR/STAGE.log.
DIR is a new directory, or one of an earlier acceptance, which is replaced.
The exit code is 0 if the preflight passed, no stage failed and none was cut off, else 1.
"""
MOST_MINUTES = 24 * 60


def add_parser(commands: Commands) -> None:
    """Add the command, its flags and its help."""
    accept = add_command(commands, "accept", "check that this machine trains as it should", EXAMPLES)
    add_whole(
        accept,
        "--minutes",
        1,
        MOST_MINUTES,
        8,
        metavar="N",
        help="stages that do not fit are skipped (default: 8)",
    )
    accept.add_argument(
        "--out",
        type=Path,
        metavar="DIR",
        default=Path("acceptance"),
        help="directory for accept.json and the stages' logs (default: acceptance)",
    )
    accept.set_defaults(func=run)


def run(arguments: argparse.Namespace) -> int:
    """Run the stages, print their table and write accept.json. Returns 0 if all is well with those that ran, else 1."""
    from pipeline.acceptance.outcome import have_passed
    from pipeline.acceptance.report import RESULTS, conclude
    from pipeline.acceptance.runner import Acceptance
    from pipeline.acceptance.stages import STAGES
    from pipeline.durable import check_writable
    from pipeline.stderr import say_line

    if arguments.out.is_dir() and any(arguments.out.iterdir()) and not (arguments.out / RESULTS).exists():
        raise ConfigError(
            f"--out {arguments.out} holds files and no {RESULTS}, so it is no directory of an earlier acceptance, and "
            "logs would replace files that have their names. Name another directory, or empty this one."
        )
    check_writable(arguments.out / RESULTS)
    acceptance = Acceptance(STAGES, 60.0 * arguments.minutes, arguments.out, say_line)
    try:
        acceptance.run()
    finally:
        conclude(acceptance)
    return int(not have_passed(acceptance.outcomes))
