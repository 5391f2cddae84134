"""`wgan features train`: train a classifier on labelled shards, for the metrics of `wgan evaluate`."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.commands.arguments import Commands, add_command, add_seed, add_whole, parse_size
from pipeline.durable import check_writable
from pipeline.errors import ConfigError
from pipeline.foreign_text import printable
from pipeline.stderr import say_warning
from pipeline.stdout import say
from pipeline.wording import counted, listed

if TYPE_CHECKING:
    from pipeline.quality.features.classifier import About

MOST_CLASSES = 10
EXAMPLES = """\
examples:
  wgan features train data/mnist                       data/mnist.classifier.safetensors
  wgan features train data/photos --epochs 30 --out photos.safetensors
  wgan features train data/photos --resolution 64      for a run with data.resolution: 64
"""


def add_parser(commands: Commands) -> None:
    """Add the command, its flags and its help."""
    features = add_command(commands, "features", "train a classifier for the metrics of evaluate", EXAMPLES)
    actions = features.add_subparsers(title="actions", required=True, metavar="ACTION")
    train = add_command(actions, "train", "train it on labelled shards", EXAMPLES)
    train.add_argument(
        "shards",
        type=Path,
        metavar="SHARDS",
        help="shards that `wgan shards make` made from a labelled source",
    )
    train.add_argument(
        "--out", type=Path, metavar="FILE", help="the file to write (default: SHARDS.classifier.safetensors)"
    )
    add_whole(train, "--epochs", 1, 100_000, 10, help="number of epochs (default 10)")
    train.add_argument(
        "--resolution",
        type=parse_size,
        metavar="N|HxW",
        help="data.resolution of the run (default: the shards')",
    )
    train.add_argument(
        "--fit", choices=("crop", "fit", "pad"), default="crop", help="data.fit of the run (default: crop)"
    )
    train.add_argument("--channels", type=int, choices=(1, 3, 4), help="data.channels of the run")
    images = "largest number of images to train on (default 100,000)"
    add_whole(train, "--images", 1, 10**9, 100_000, help=images)
    add_seed(train, "seed of the training (default 0)", 0)
    train.set_defaults(func=run)


def run(arguments: argparse.Namespace) -> int:
    """Train on nine tenths of the images, print the accuracy on the rest, and write the classifier."""
    import torch

    from pipeline.data.format.open_shards import open_shards
    from pipeline.data.reading.reader import ShardReader
    from pipeline.option_data import DataOptions
    from pipeline.option_mistakes import validated
    from pipeline.quality.class_balance import recall_by_class
    from pipeline.quality.features.classifier import About, TrainingPlan, classify, save, train_classifier
    from pipeline.quality.features.labelled import read_images, read_labels, split
    from pipeline.ranks.devices import best_device

    size = None if arguments.resolution is None else list(arguments.resolution)
    form = {"resolution": size, "fit": arguments.fit, "channels": arguments.channels}
    shards = open_shards(validated(DataOptions, {"shards": str(arguments.shards), **form}, "--"))
    shards.check_sizes()
    out: Path = arguments.out or Path(f"{arguments.shards}".rstrip("/") + ".classifier.safetensors")
    if out.is_dir():
        raise ConfigError(f"--out {out} is a directory, and a classifier is a file. Name a file in it.")
    # Tried before training, because the result would be lost if it could not be written.
    check_writable(out)
    train, test = split(shards, arguments.shards, arguments.images, arguments.seed)
    labels = read_labels(shards)
    reader = ShardReader(shards)
    device = best_device()
    images = read_images(reader, train)
    classifier = train_classifier(
        images,
        labels[train],
        len(shards.manifest.classes),
        TrainingPlan(arguments.epochs, arguments.seed),
        device,
    )
    predicted = classify(classifier, read_images(reader, test))
    right = (predicted == labels[test]).double().mean().item()
    classes = tuple(shards.manifest.classes)
    about = About(
        channels=images.shape[1],
        height=images.shape[2],
        width=images.shape[3],
        classes=classes,
        shards=shards.manifest.sha256,
        epochs=arguments.epochs,
        seed=arguments.seed,
        accuracy=right,
        recall=recall_by_class(predicted, labels[test], len(classes)),
    )
    save(classifier, about, out)
    commonest = float(torch.bincount(labels[test]).max()) / len(test)
    say(
        f"accuracy {right:.1%} on {counted(len(test), 'held-out image')} (most common class alone: {commonest:.1%})"
    )
    say(describe_recall(about))
    warn_of_unseen_classes(about)
    say(out, f"to use it: wgan evaluate RUN --features classifier --classifier {out}")
    return 0


def describe_recall(about: About) -> str:
    """The recall of each class, lowest first; of many classes only the lowest."""
    found = sorted(about.recall_by_class.items(), key=lambda item: item[1])
    shown = [f"{printable(name)} {recall:.0%}" for name, recall in found[:MOST_CLASSES]]
    more = f", and {len(found) - MOST_CLASSES} more" if len(found) > MOST_CLASSES else ""
    return f"recall by class, lowest first: {', '.join(shown)}{more}"


def warn_of_unseen_classes(about: About) -> None:
    """Say of which classes the metrics that count classes say nothing with this classifier."""
    from pipeline.quality.class_balance import SEEN

    if unseen := [name for name, recall in about.recall_by_class.items() if recall < SEEN]:
        say_warning(
            f"it does not see {listed(unseen)}: of these classes it finds fewer than one held-out image in "
            f"{round(1 / SEEN)}, so modes and class_distance say nothing of them. Train longer (--epochs), or with "
            "more of their images."
        )
