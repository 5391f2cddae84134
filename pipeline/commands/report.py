"""`wgan report`: describe a run in one HTML page."""

from __future__ import annotations

import argparse
from pathlib import Path

from pipeline.commands.arguments import Commands, add_command
from pipeline.commands.targets import check_file
from pipeline.durable import make_directory_of, write_text
from pipeline.stdout import say

REPORT = "report.html"
EXAMPLES = """\
examples:
  wgan report runs/digits                              report.html in the run directory
  wgan report runs/digits --out digits.html

The page contains its pictures, so it can be sent by mail and opens in any browser without a network.
"""


def add_parser(commands: Commands) -> None:
    """Add the command, its flags and its help."""
    report = add_command(commands, "report", "describe a run in one HTML page", EXAMPLES)
    report.add_argument("run", type=Path, metavar="RUN", help="a run directory, such as runs/digits")
    report.add_argument(
        "--out", type=Path, metavar="FILE", help="an .html file (default: report.html in RUN)"
    )
    report.set_defaults(func=run)


def run(arguments: argparse.Namespace) -> int:
    """Write the page, and print its path and size."""
    from pipeline.commands.report_page import format_size, render

    run: Path = arguments.run
    target: Path = arguments.out or run / REPORT
    check_file("--out", target, "a report", [".html", ".htm"])
    page = render(run)
    make_directory_of(target)
    write_text(target, page)
    say(f"{target} ({format_size(len(page.encode()))})")
    return 0
