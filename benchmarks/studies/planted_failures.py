"""Which metric detects which failure of a generator? Measures sets of images that are bad on purpose like samples.

command:   python benchmarks/studies/planted_failures.py
           --shards data/mnist            shards of the training images, labelled
           --held-out data/mnist-test     shards of the same kind that no generator is trained on
           --classifier data/mnist.classifier.safetensors    made by `wgan features train data/mnist`
           --samples 2000                 images of each set
           --run runs/wgan-dcgan --steps 200 1000 3000    checkpoints to measure too (default: none)
           --out FILE.json                where to write the figures (default: nowhere)
duration:  five minutes for MNIST on one core
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
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import cycle
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from image_sets import LabelledImages, read_shards
from torch import Tensor
from tqdm import tqdm

from pipeline.data.reading.order import Ids
from pipeline.durable import storage_errors, write_text
from pipeline.errors import ConfigError, PipelineError, describe
from pipeline.metric_table import METRICS
from pipeline.options import FeatureKind, QualityOptions
from pipeline.pixels import to_float
from pipeline.quality.best import is_better
from pipeline.quality.evaluation import Draw, Evaluation, RealImages
from pipeline.run.checkpoint import list_checkpoints
from pipeline.run.directory import RunDirectory
from pipeline.run.generator import TrainedGenerator, read_generator
from pipeline.wording import counted

SEED = 0
FEWEST_SAMPLES = 128
HELD_OUT_SHARE = 5
"""One in this many of the images that are not trained on is held out: `copied` compares samples with these."""
NOISE = 8.0
"""Standard deviation in grey levels"""
BLUR = 5
"""A blurred pixel is the mean of so many pixels along each axis."""

LEAST_SHARE = 0.75
MOST_TIMES: Mapping[str, float] = {"fid": 2.0, "swd": 2.0}
MOST_ABOVE: Mapping[str, float] = {"kid": 0.05, "copied": 0.1, "class_distance": 0.1}

DISTANCES: frozenset[str] = frozenset({"fid", "kid", "swd"})
FIDELITY: frozenset[str] = frozenset({"precision", "density"})
COVERING: frozenset[str] = frozenset({"recall", "coverage"})
CLASSES: frozenset[str] = frozenset({"modes", "class_distance"})
COPIES: frozenset[str] = frozenset({"copied"})
NONE: frozenset[str] = frozenset()

ALL: tuple[str, ...] = tuple(METRICS)
BY_FEATURES = [metric for metric in ALL if METRICS[metric].needs.features]
COLLAPSED_CLASSES = range(3)
KEPT_CLASSES = 2


class Column(NamedTuple):
    """A metric, and the features it was measured with."""

    metric: str
    features: FeatureKind

    @property
    def heading(self) -> str:
        """For example "fid, pixels"; or "swd", which needs no features."""
        return f"{self.metric}, {self.features}" if METRICS[self.metric].needs.features else self.metric


Figures = Mapping[Column, float]


@dataclass(frozen=True)
class Parts:
    """Real images in three parts without common images: uint8 (count, channels, height, width)."""

    training: Tensor
    held_out: Tensor
    unseen: Tensor
    """Neither trained on nor held out: as good as the samples of a perfect generator"""
    unseen_labels: Tensor
    """int64 (count,)"""


@dataclass(frozen=True)
class Planted:
    """A set of images with one failure, and the metrics that should detect it."""

    name: str
    images: Tensor
    """uint8 (count, channels, height, width)"""
    seen_by: frozenset[str]
    """All other metrics, except those of `open_to`, should not react."""
    open_to: frozenset[str] = NONE
    """Metrics for which the definition does not decide whether they react"""


@dataclass(frozen=True)
class Row:
    """What was measured of one set of images."""

    name: str
    figures: Figures
    seen: frozenset[Column] = frozenset()
    """The columns that detect a failure"""
    unexpected: Mapping[Column, str] = field(default_factory=dict)
    """The columns with an unexpected figure, and the reason"""


class OneProcess:
    """The ranks of an evaluation in a single process."""

    rank = 0
    world_size = 1
    is_main = True
    device = torch.device("cpu")

    def gather(self, values: Tensor) -> Tensor:
        return values[None]

    def broadcast(self, values: Tensor) -> Tensor:
        return values

    def gather_json(self, value: Any) -> list[Any]:
        return [json.loads(json.dumps(value))]

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
    arguments = _parser().parse_args(words)
    try:
        if arguments.out is not None:
            with storage_errors(arguments.out):
                arguments.out.parent.mkdir(parents=True, exist_ok=True)
        rows = measure(arguments)
        print("\n".join(table(rows)))
        if arguments.out is not None:
            write(rows, arguments.samples, arguments.out)
    except PipelineError as error:
        print(describe(error), file=sys.stderr)
        return error.exit_code
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


def split(training: LabelledImages, others: LabelledImages, samples: int) -> Parts:
    """Take held-out and unseen images from `others` in random order. Raises ConfigError if there are too few images."""
    if samples < FEWEST_SAMPLES:
        raise ConfigError(
            f"--samples {samples}: an evaluation needs at least {FEWEST_SAMPLES} images. Choose more."
        )
    if training.images.shape[1:] != others.images.shape[1:] or training.classes != others.classes:
        raise ConfigError(
            f"--shards has images of (channels, height, width) {tuple(training.images.shape[1:])} in the classes "
            f"{', '.join(training.classes)}, but --held-out has {tuple(others.images.shape[1:])} in "
            f"{', '.join(others.classes)}, so they cannot be compared. Name two splits of the same set."
        )
    order = torch.randperm(len(others.images), generator=_source())
    held_out, unseen = order[: len(order) // HELD_OUT_SHARE], order[len(order) // HELD_OUT_SHARE :]
    for option, count in (("--shards", len(training.images)), ("--held-out, for samples,", len(unseen))):
        if count < 2 * samples:
            raise ConfigError(
                f"{option} has {counted(count, 'image')}, but two sets of {samples:,} images without common ones are "
                "needed. Choose fewer --samples or a larger set."
            )
    labels = others.labels[unseen]
    if missing := set(COLLAPSED_CLASSES) - set(labels.tolist()):
        raise ConfigError(
            f"--held-out has no image of class number {', '.join(map(str, sorted(missing)))} for samples, but collapse "
            "is planted in the first three classes. Name a set with at least three classes."
        )
    return Parts(training.images, others.images[held_out], others.images[unseen], labels)


def real_images(parts: Parts, samples: int) -> RealImages:
    """The images that an evaluation compares with. Training images have the first ids, held-out images follow."""
    pixels = torch.cat([parts.training, parts.held_out])
    ids = np.arange(len(pixels))

    def read(chosen: Ids) -> Tensor:
        return pixels[torch.from_numpy(chosen)]

    channels, height, width = parts.training.shape[1:]
    return RealImages(
        read=read,
        shape=(channels, height, width),
        compared=_training_order(parts)[:samples].numpy(),
        training=ids[: len(parts.training)],
        held_out=ids[len(parts.training) :],
    )


def plant(parts: Parts, samples: int) -> list[Planted]:
    """Sets of images with one failure each; the first set has none.

    The collapsed sets repeat typical images, which are those nearest to the mean of their class. An untypical image may
    be outside of all neighbourhoods of real images; precision would then be 0 by chance, not because of the collapse.
    """
    typical = torch.stack([typical_image(parts, label) for label in COLLAPSED_CLASSES])
    two_classes = parts.unseen[torch.isin(parts.unseen_labels, torch.arange(KEPT_CLASSES))]
    copies = parts.training[_training_order(parts)[samples : 2 * samples]]
    unseen = parts.unseen[samples : 2 * samples]
    return [
        Planted("other unseen real images", unseen, seen_by=NONE),
        Planted("collapse to one image", typical[:1], DISTANCES | COVERING | CLASSES),
        Planted("collapse to three images", typical, DISTANCES | COVERING | CLASSES),
        Planted("two of the classes", two_classes, DISTANCES | COVERING | CLASSES),
        Planted("training images", copies, COPIES),
        Planted("training images, slightly noisy", with_noise(copies), COPIES),
        # A classifier gives noise some class too; which classes that are is chance.
        Planted("noise", noise_like(unseen), DISTANCES | FIDELITY | COVERING, open_to=CLASSES),
        # Whether blurred images still surround sharp ones depends on how much detail the features see.
        Planted("blurred", blurred(unseen), DISTANCES | FIDELITY, open_to=COVERING),
    ]


def typical_image(parts: Parts, label: int) -> Tensor:
    """The unseen image of a class that is nearest to the class's mean: uint8 (channels, height, width)."""
    images = parts.unseen[parts.unseen_labels == label]
    pixels = images.flatten(1).float()
    return images[(pixels - pixels.mean(0)).square().sum(1).argmin()]


def with_noise(images: Tensor) -> Tensor:
    """The uint8 images with normal noise added to each pixel."""
    noise = NOISE * torch.randn(images.shape, generator=_source())
    return (images + noise).round().clamp(0, 255).to(torch.uint8)


def noise_like(images: Tensor) -> Tensor:
    """As many images, with independent uniform pixels."""
    return torch.randint(256, images.shape, generator=_source(), dtype=torch.uint8)


def blurred(images: Tensor) -> Tensor:
    """The uint8 images with each pixel replaced by the mean of 5 x 5."""
    edge = BLUR // 2
    padded = torch.nn.functional.pad(images.float(), (edge,) * 4, mode="replicate")
    return torch.nn.functional.avg_pool2d(padded, BLUR, stride=1).round().to(torch.uint8)


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


def judged(planted: Planted, figures: Figures, good: Figures) -> Row:
    """The row of a planted set: which columns detect the failure, and which of them should not or fail to."""
    seen = worse_columns(figures, good)
    unexpected = {
        column: "detects it and should not" if column in seen else "should detect it and does not"
        for column in figures
        if column.metric not in planted.open_to and (column in seen) != (column.metric in planted.seen_by)
    }
    return Row(planted.name, figures, seen, unexpected)


def judged_run(found: Mapping[str, Figures], good: Figures) -> list[Row]:
    """The rows of the checkpoints. The last should be better than the first by all metrics but `copied`."""
    rows = [Row(name, figures, worse_columns(figures, good)) for name, figures in found.items()]
    if not rows:
        return []
    first, last = rows[0].figures, rows[-1]
    unexpected = {
        column: f"is not better than at the first of these steps, {_number(first[column])}"
        for column, value in last.figures.items()
        if column.metric not in COPIES and not is_better(column.metric, value, first[column])
    }
    return [*rows[:-1], replace(last, unexpected=unexpected)]


def worse_columns(figures: Figures, good: Figures) -> frozenset[Column]:
    """The columns by which samples are worse than unseen real images."""
    return frozenset(
        column for column, value in figures.items() if is_seen(column.metric, value, good[column])
    )


def is_seen(metric: str, value: float, good: float) -> bool:
    """Whether a figure means that samples are worse than unseen real images, whose figure is `good`.

    Metrics for which higher is better must be under 3/4 of it; fid and swd, which grow with the contrast of the images,
    over twice it; the others, which are about 0 for real images, higher by a fixed amount.
    """
    if METRICS[metric].better == "higher":
        return value < LEAST_SHARE * good
    if metric in MOST_TIMES:
        return value > MOST_TIMES[metric] * good
    return value > good + MOST_ABOVE[metric]


def table(rows: Sequence[Row]) -> Iterator[str]:
    """The lines of a markdown table of the rows, and one line for each unexpected figure."""
    columns = list(rows[0].figures)
    yield _row(["", *(column.heading for column in columns)])
    yield _row(["---"] * (len(columns) + 1))
    for row in rows:
        yield _row([row.name, *(_cell(row, column) for column in columns)])
    yield ""
    for row in rows:
        for column, how in row.unexpected.items():
            yield f"- {row.name}: {column.heading} {how}."


def write(rows: Sequence[Row], samples: int, path: Path) -> None:
    """Write the rows as JSON. Raises StorageError."""
    content = {"samples": samples, "seed": SEED, "rows": [_plain(row) for row in rows]}
    write_text(path, json.dumps(content, indent=1) + "\n")


def _plain(row: Row) -> dict[str, Any]:
    return {
        "name": row.name,
        "figures": {column.heading: value for column, value in row.figures.items()},
        "seen": sorted(column.heading for column in row.seen),
        "unexpected": {column.heading: how for column, how in row.unexpected.items()},
    }


def _training_order(parts: Parts) -> Tensor:
    return torch.randperm(len(parts.training), generator=_source())


def _source() -> torch.Generator:
    return torch.Generator().manual_seed(SEED)


def _cell(row: Row, column: Column) -> str:
    text = _number(row.figures[column])
    text = f"**{text}**" if column in row.seen else text
    return f"{text} (!)" if column in row.unexpected else text


def _number(value: float) -> str:
    return f"{value:.3g}"


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


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
