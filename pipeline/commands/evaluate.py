"""`wgan evaluate`: measure how good the samples of a run's checkpoints are."""

from __future__ import annotations

import argparse
from pathlib import Path
from textwrap import indent

from pipeline.commands.arguments import Commands, add_command, add_processes, add_seed, add_whole
from pipeline.metric_table import describe_metrics

EXAMPLES = """\
examples:
  wgan evaluate runs/digits                                          compares pixels: needs no weights
  wgan evaluate runs/mnist --features classifier --classifier data/mnist.classifier.safetensors \\
      --metrics fid precision recall modes class_distance --checkpoint 200 3000
  wgan evaluate runs/cifar10 --features inception --metrics fid kid --samples 50000 --processes 8
  wgan evaluate runs/digits --neighbours                             a picture of samples and similar training images

metrics:
{metrics}

Compare figures only if samples, features and shards are the same; evaluations.jsonl records them with each figure.
"""


def add_parser(commands: Commands) -> None:
    """Add the command, its flags and its help."""
    examples = EXAMPLES.format(metrics=indent(describe_metrics(100), "  "))
    evaluate = add_command(commands, "evaluate", "measure how good the samples of a run are", examples)
    evaluate.add_argument("run", type=Path, metavar="RUN", help="a run directory, such as runs/digits")
    evaluate.add_argument(
        "--checkpoint",
        nargs="+",
        metavar="STEP",
        help="steps to evaluate, best, or all (default: the newest)",
    )
    evaluate.add_argument(
        "--shards",
        metavar="DIRECTORY_OR_URL",
        help="the training images, if they are not in the place that the run's config.yaml names",
    )
    evaluate.add_argument("--metrics", nargs="+", metavar="METRIC", help="default: the run's quality.metrics")
    evaluate.add_argument(
        "--features", choices=("pixels", "classifier", "inception"), help="default: the run's"
    )
    evaluate.add_argument("--classifier", metavar="FILE", help="a file made by `wgan features train`")
    evaluate.add_argument(
        "--inception", metavar="FILE", help="the weights of Inception, if they cannot be downloaded"
    )
    add_whole(
        evaluate,
        "--samples",
        128,
        10**6,
        help="number of images to draw (default: the run's quality.samples)",
    )
    add_seed(evaluate, "seed of the samples (default 0)", 0)
    evaluate.add_argument(
        "--ema",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="use the moving average of the generator's weights, or with --no-ema the last weights",
    )
    evaluate.add_argument(
        "--neighbours",
        action="store_true",
        help="also draw samples next to the training images most like them, which a generator should not repeat",
    )
    add_processes(evaluate, "number of ranks that share the work (default: 1)")
    evaluate.set_defaults(func=run)


def run(arguments: argparse.Namespace) -> int:
    """Measure samples of the chosen checkpoints, print the figures, and add a line for each to evaluations.jsonl."""
    from pipeline.commands.judging import evaluate

    return evaluate(arguments)
