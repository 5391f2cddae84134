"""Which metric detects which failure of a generator? Measures sets of images that are bad on purpose like samples.

command:   python benchmarks/studies/planted_failures.py
           --shards data/mnist            shards of the training images, labelled
           --held-out data/mnist-test     shards of the same kind that no generator is trained on
           --classifier data/mnist.classifier.safetensors    made by `wgan features train data/mnist`
           --samples 2000                 images of each set
           --run runs/wgan-dcgan --steps 200 1000 3000    checkpoints to measure too (default: none)
           --out FILE.json                where to write the figures (default: nowhere)
duration:  three minutes for MNIST on two cores
prints:    a markdown table with a row for each set and a column for each metric, first with the pixels' features,
           then with the classifier's. **Bold** means worse than unseen real images by more than the limit (see
           `is_seen`): the metric detects the failure. (!) means that the metric should not say that of this set;
           the lines below the table explain each, and the exit code is then 1

Every figure is measured by pipeline.quality.evaluation, as by `wgan evaluate`. `plant` says what each metric
should detect and what it cannot detect. That follows from the definition of the metric, not from the figures.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from itertools import cycle
from pathlib import Path
from typing import Any

import torch
from image_sets import read_shards
from planted_sets import SEED, Parts, plant, real_images, split
from study import run_study
from torch import Tensor
from tqdm import tqdm
from verdicts import Column, Figures, Row, judged, judged_run, table, write

from pipeline.durable import make_directory_of
from pipeline.errors import ConfigError
from pipeline.metric_table import METRICS
from pipeline.options import QualityOptions
from pipeline.pixels import to_float
from pipeline.quality.evaluation import Draw, Evaluation
from pipeline.quality.real_images import RealImages
from pipeline.run.checkpoint import list_checkpoints
from pipeline.run.directory import RunDirectory
from pipeline.run.generator import TrainedGenerator, read_generator
from pipeline.wording import counted

ALL: tuple[str, ...] = tuple(name for name, metric in METRICS.items() if not metric.needs.labels)
"""All but those of generators that are asked for classes: images have no such fault."""
BY_FEATURES = [metric for metric in ALL if METRICS[metric].needs.features]


class OneProcess:
    """The ranks of an evaluation in a single process."""

    rank = 0
    world_size = 1
    is_main = True
    device = torch.device("cpu")
    machine_threads = torch.get_num_threads()

    def to_main(self, values: Tensor, senders: int) -> list[Tensor]:
        return [values] * senders

    def broadcast(self, values: Tensor) -> Tensor:
        return values

    def gather_json(self, value: Any) -> list[Any]:
        return [json.loads(json.dumps(value))]

    def vote(self, flag: bool) -> Callable[[], bool]:
        return lambda: flag

    def all_agree(self, error: Exception | None) -> None:
        if error is not None:
            raise error


class Judge:
    """Measures every metric of a set of samples, with the pixels' features and with the classifier's."""

    def __init__(self, real: RealImages, classifier: Path, samples: int, latent: int) -> None:
        """Raises ConfigError or CheckpointError if the classifier does not fit the images."""
        options = (
            QualityOptions(metrics=[*BY_FEATURES, "swd"], samples=samples),
            QualityOptions(
                metrics=[*BY_FEATURES, "modes", "class_distance"],
                features="classifier",
                classifier=str(classifier),
                samples=samples,
            ),
        )
        self._evaluations = {
            chosen.features: Evaluation(chosen, real, OneProcess(), latent, SEED, show_progress=True)
            for chosen in options
        }

    def of_images(self, images: Tensor) -> Figures:
        """The figures of images uint8 (count, channels, height, width) that take the place of samples."""
        return self._measure([returning(images) for _ in self._evaluations])

    def of_generator(self, generator: TrainedGenerator) -> Figures:
        """The figures of a generator's samples."""
        return self._measure([generator.draw] * len(self._evaluations))

    def _measure(self, draws: Sequence[Draw]) -> Figures:
        return {
            Column(metric, features): value
            for (features, evaluation), draw in zip(self._evaluations.items(), draws, strict=True)
            for metric, value in evaluation.measure(draw).items()
        }


def main(words: Sequence[str] | None = None) -> int:
    """Measure what the command line names. Returns the exit code: 1 if a metric does not say what it should."""
    return run_study(report, _parser().parse_args(words))


def report(arguments: argparse.Namespace) -> int:
    """Print the table, and write it if it was asked for. Returns 1 if a metric does not say what it should."""
    if arguments.out is not None:
        make_directory_of(arguments.out)
    rows = measure(arguments)
    print("\n".join(table(rows)))
    if arguments.out is not None:
        write(rows, arguments.samples, arguments.out)
    return int(any(row.unexpected for row in rows))


def measure(arguments: argparse.Namespace) -> list[Row]:
    """A row for each set, unseen real images first. Raises ConfigError, DataError or CheckpointError."""
    samples: int = arguments.samples
    parts = split(read_shards(arguments.shards), read_shards(arguments.held_out), samples)
    generators = read_generators(arguments.run, arguments.steps, parts) if arguments.run is not None else {}
    latent = next(iter(generators.values())).latent if generators else 1
    judge = Judge(real_images(parts, samples), arguments.classifier, samples, latent)
    good = judge.of_images(parts.unseen[:samples])
    rows = [Row("unseen real images", good)]
    for planted in tqdm(plant(parts, samples), unit=" sets", leave=False, disable=None):
        rows.append(judged(planted, judge.of_images(planted.images), good))
    return rows + judged_run({name: judge.of_generator(each) for name, each in generators.items()}, good)


def returning(images: Tensor) -> Draw:
    """A generator that returns these uint8 images in order, and starts again after the last one.

    An evaluation in one process asks for its chunks in order.
    """
    numbers = cycle(range(len(images)))

    def draw(latents: Tensor) -> Tensor:
        return to_float(images[[next(numbers) for _ in latents]])

    return draw


def read_generators(run: Path, steps: Sequence[int] | None, parts: Parts) -> dict[str, TrainedGenerator]:
    """The generators of these steps, or of the first and last checkpoint. Raises ConfigError or CheckpointError."""
    known = [checkpoint.step for checkpoint in list_checkpoints(RunDirectory(run).checkpoints)]
    chosen = sorted(set(steps or [*known[:1], *known[-1:]]))
    if len(chosen) < 2:
        raise ConfigError(
            f"{run}: {counted(len(chosen), 'checkpoint')} cannot show whether a run improves. Name at least two "
            f"--steps of these: {', '.join(map(str, known)) or 'none'}."
        )
    generators = {f"{run.resolve().name}, step {step:,}": read_generator(run, step) for step in chosen}
    for name, generator in generators.items():
        if generator.card.image_shape != tuple(parts.training.shape[1:]):
            raise ConfigError(
                f"{name} draws images of (channels, height, width) {generator.card.image_shape}, but the real images "
                f"have {tuple(parts.training.shape[1:])}. Name the shards that it was trained on."
            )
        generator.to(OneProcess.device)
    return generators


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description="Show which metric detects which planted failure of a generator."
    )
    parser.add_argument("--shards", type=Path, default=Path("data/mnist"), metavar="DIR")
    parser.add_argument("--held-out", type=Path, default=Path("data/mnist-test"), metavar="DIR")
    parser.add_argument(
        "--classifier", type=Path, default=Path("data/mnist.classifier.safetensors"), metavar="FILE"
    )
    parser.add_argument("--samples", type=int, default=2000, metavar="N", help="default: 2000")
    parser.add_argument("--run", type=Path, metavar="RUN", help="a run's directory")
    parser.add_argument(
        "--steps", type=int, nargs="+", metavar="STEP", help="default: the first and the last checkpoint"
    )
    parser.add_argument("--out", type=Path, metavar="FILE")
    return parser


if __name__ == "__main__":
    sys.exit(main())
