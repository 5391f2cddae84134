"""`wgan evaluate`: how good the samples of a run's checkpoints are."""

from __future__ import annotations

import argparse
import signal
from pathlib import Path
from textwrap import indent

from pipeline.commands.arguments import Commands, add_command, check_processes
from pipeline.metric_table import describe_metrics

EXAMPLES = """\
examples:
  wgan evaluate runs/digits                                          by pixels: needs no weights
  wgan evaluate runs/mnist --features classifier --classifier data/mnist.classifier.safetensors \\
      --metrics fid precision recall modes class_distance --checkpoint 200 3000
  wgan evaluate runs/cifar10 --features inception --metrics fid kid --samples 50000 --processes 8
  wgan evaluate runs/digits --neighbours                             a picture of what it may have copied

metrics:
{metrics}

Figures compare only where samples, features and the set are the same; each is kept with all of these.
"""


def add_parser(commands: Commands) -> None:
    """Add the command, its flags and its help."""
    examples = EXAMPLES.format(metrics=indent(describe_metrics(100), "  "))
    evaluate = add_command(commands, "evaluate", "judge the samples of a run", examples)
    evaluate.add_argument("run", type=Path, metavar="RUN", help="a run's directory, such as runs/digits")
    evaluate.add_argument(
        "--checkpoint", nargs="+", metavar="STEP", help="of which steps; best, or all (default: the newest)"
    )
    evaluate.add_argument(
        "--shards",
        metavar="DIRECTORY_OR_URL",
        help="the training images, where they are not where the run's config.yaml says",
    )
    evaluate.add_argument("--metrics", nargs="+", metavar="METRIC", help="default: the run's quality.metrics")
    evaluate.add_argument(
        "--features", choices=("pixels", "classifier", "inception"), help="default: the run's"
    )
    evaluate.add_argument("--classifier", metavar="FILE", help="made by `wgan features train`")
    evaluate.add_argument(
        "--inception", metavar="FILE", help="the network's weights, where there is no network"
    )
    evaluate.add_argument("--samples", type=int, help="images to draw (default: the run's quality.samples)")
    evaluate.add_argument("--seed", type=int, default=0, help="of the samples (default 0)")
    evaluate.add_argument(
        "--ema",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="judge the moving average of the generator's weights, or the last weights",
    )
    evaluate.add_argument(
        "--neighbours",
        action="store_true",
        help="draw samples beside the training images nearest to them: a generator should not repeat these",
    )
    evaluate.add_argument("--processes", type=int, metavar="N", help="ranks to share the work (default: one)")
    evaluate.set_defaults(func=run)


def run(arguments: argparse.Namespace) -> int:
    """Measure samples of the chosen checkpoints, print a table, and add a line for each to evaluations.jsonl."""
    check_processes(arguments.processes)
    from pipeline.ranks.launcher import is_launched

    if is_launched():
        # A rank that waits for another one hears no KeyboardInterrupt until that one answers.
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    from pipeline.commands.judging import evaluate

    return evaluate(arguments)
