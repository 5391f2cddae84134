"""`wgan plot`: draw a run's curves and an animation of its samples, or compare the curves of several runs."""

from __future__ import annotations

import argparse
from pathlib import Path

from pipeline.commands.arguments import Commands, add_command
from pipeline.commands.targets import check_directory
from pipeline.errors import ConfigError

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
        print(target)
        return 0
    (run,) = runs
    out: Path = arguments.out or run
    draw_curves(run, out / CURVES)
    print(out / CURVES)
    try:
        draw_animation(run, out / ANIMATION)
        print(out / ANIMATION)
    except ConfigError as error:
        print(f"no {ANIMATION}: {error}")
    return 0
