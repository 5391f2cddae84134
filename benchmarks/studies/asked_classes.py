"""How many images of a conditional run a classifier sees as the class that was asked for.

    python benchmarks/studies/asked_classes.py runs/mnist-classes --train data/mnist --test data/mnist-test

The classifier is trained apart, on the real images of --train, and its accuracy on those of --test is the most that
samples can have. Against shuffled labels the share is near 1 / classes.
duration:  about four minutes on two cores, most of it for training the classifier, which --classifiers DIR keeps
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from digit_classifier import class_probabilities, obtain_judge
from image_sets import read_shards
from study import run_study

from pipeline.errors import ConfigError
from pipeline.pixels import to_uint8
from pipeline.run.class_choice import labels_in_turn, places_of
from pipeline.run.generator import read_generator

SEED = 1


def study(arguments: argparse.Namespace) -> None:
    """Print the share of all images and of each class. Raises ConfigError if the run has no or other classes."""
    generator, test = read_generator(arguments.run, arguments.checkpoint), read_shards(arguments.test)
    if generator.classes != list(test.classes):
        raise ConfigError(
            f"{arguments.run} makes images of {', '.join(generator.classes) or 'no classes'}, and {arguments.test} has "
            f"{', '.join(test.classes)}. Name the shards of the same classes."
        )
    judge = obtain_judge("plain", arguments.train, arguments.classifiers)
    right = class_probabilities(judge, test.images).argmax(1) == test.labels
    print(f"{right.float().mean():.1%} of the real images of {arguments.test} are seen as what they are")
    asked = labels_in_turn(places_of(generator.classes, []), arguments.count)
    assert asked is not None
    seen = class_probabilities(judge, to_uint8(generator.sample(arguments.count, SEED)).cpu()).argmax(1)
    hits, shuffled = seen == asked, seen == asked[torch.randperm(len(asked))]
    print(
        f"{hits.float().mean():.1%} of {len(asked):,} samples of step {generator.card.step} are seen as asked, "
        f"{shuffled.float().mean():.1%} with shuffled labels"
    )
    for place, name in enumerate(generator.classes):
        print(f"  {name}  {hits[asked == place].float().mean():.1%}")


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", type=Path, help="a run, or an exported .safetensors file")
    parser.add_argument("--train", type=Path, required=True, help="shards to train the classifier on")
    parser.add_argument("--test", type=Path, required=True, help="shards to test it on")
    parser.add_argument("--checkpoint", type=int, help="a step of the run (default: the newest)")
    parser.add_argument("--count", type=int, default=4000, help="samples (default 4000)")
    parser.add_argument("--classifiers", type=Path, help="directory that keeps the trained classifier")
    return run_study(study, parser.parse_args())


if __name__ == "__main__":
    raise SystemExit(main())
