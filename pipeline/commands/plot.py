"""`wgan plot`: draw a run's curves and an animation of its samples, or compare the curves of several runs."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from pipeline.commands.arguments import Commands, add_command
from pipeline.commands.targets import check_directory
from pipeline.errors import ConfigError
from pipeline.stderr import say_warning
from pipeline.stdout import say
from pipeline.wording import listed

EXAMPLES = """\
examples:
  wgan plot runs/digits                                curves.png and training.gif in the run directory
  wgan plot runs/digits --out pictures                 the same files in another directory
  wgan plot runs/digits runs/digits-2                  the curves of both runs in one picture, comparison.png

This also works while a run trains, and after it was stopped.
"""


def add_parser(commands: Commands) -> None:
    """Add the command, its flags and its help."""
    plot = add_command(
        commands,
        "plot",
        "draw a run's curves and an animation of its samples, or compare runs",
        EXAMPLES,
    )
    plot.add_argument(
        "runs", type=Path, nargs="+", metavar="RUN", help="a run directory, such as runs/digits"
    )
    plot.add_argument(
        "--out",
        type=Path,
        metavar="DIR",
        help="where to write (default: RUN, or for several runs the current directory)",
    )
    plot.set_defaults(func=run)


def run(arguments: argparse.Namespace) -> int:
    """Draw one run's curves and animation, or the curves of several runs, and print where they are."""
    from pipeline.monitor.animation import ANIMATION, draw_animation
    from pipeline.monitor.plots import COMPARISON, CURVES, draw_comparison, draw_curves
    from pipeline.run.directory import open_directory

    runs: list[Path] = arguments.runs
    for run in runs:
        open_directory(run)
    if arguments.out is not None:
        names = COMPARISON if len(runs) > 1 else f"{CURVES} and {ANIMATION}"
        check_directory("--out", arguments.out, f"plots ({names})")
    if len(runs) > 1:
        target = (arguments.out or Path()) / COMPARISON
        draw_comparison(runs, target)
        say(target)
        _describe_differences(runs)
        return 0
    (run,) = runs
    out: Path = arguments.out or run
    draw_curves(run, out / CURVES)
    say(out / CURVES)
    try:
        draw_animation(run, out / ANIMATION)
        say(out / ANIMATION)
    except ConfigError as error:
        say(f"no {ANIMATION}: {error}")
    return 0


def _describe_differences(runs: Sequence[Path]) -> None:
    """Print the options that differ between runs, and warn where their curves do not compare."""
    from pipeline.monitor.differences import read_configs, table_of_differences, warnings_of_comparison
    from pipeline.monitor.plots import distinct_names

    names = distinct_names(runs)
    configs = read_configs(names, runs)
    if unknown := [name for name in names if name not in configs]:
        say_warning(f"the options of {listed(unknown)} cannot be read, so they are not compared")
    for warning in warnings_of_comparison(configs):
        say_warning(warning)
    if len(configs) < 2:
        return
    lines = list(table_of_differences(configs))
    say(*(["differing options:", *lines] if lines else ["no options differ"]))
