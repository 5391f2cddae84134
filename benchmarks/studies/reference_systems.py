"""Judge runs on MNIST by two classifiers that were trained on the real digits.

command:   python benchmarks/studies/reference_systems.py runs/wgan-mnist runs/wgan-digit7 runs/gan-bce
           --train data/mnist --test data/mnist-test    shards of the real images (wgan shards make mnist ...)
           --samples 10000                              images drawn from each run's newest checkpoint
           --classifiers DIR                            keeps the classifiers, which makes a second call quick
           --out docs/reference                         directory for the files
duration:  about two minutes on one core for the classifiers, then about half a minute for each run
prints:    two markdown tables: the training of each run and how its samples are judged, and the share of each
           class. "Estimate" and "normalized" are measured with the last critic on test images (critic_figures.py);
           the columns before them are means of the last log points. "Surely" means with a probability over 0.9,
           "strictly" means by the strict classifier (digit_classifier.py), and "classes" counts the classes of at
           least 2% of the samples. The last rows are judged in the same way: the real test images, which are the
           best to expect, and pairs of them laid over each other, which are strokes but no digits
writes:    OUT/reference-systems.json with the same and more, and OUT/RUN.png, a grid of each run's samples

The seconds of training include drawing and saving, but not the start-up. In a resumed run, the steps between the
last log point before the stop and the checkpoint that it resumed from are counted at the speed measured after
resuming. The time that was lost by the stop, and the time until the run was started again, are not counted.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from critic_figures import CriticFigures, measure_critic
from digit_classifier import DigitClassifier, Judges, class_probabilities, obtain_judges
from image_sets import LabelledImages, check_comparable, draw_from_run, read_shards
from PIL import Image
from study import run_study
from torch import Tensor
from torchvision.utils import make_grid

from pipeline.durable import replacing, storage_errors, write_text
from pipeline.errors import ConfigError
from pipeline.monitor.records import Record, read_records
from pipeline.options import Config
from pipeline.run.checkpoint import Checkpoint
from pipeline.run.directory import RunDirectory
from pipeline.run.generator import open_run

CONFIDENT = 0.9
PRESENT = 0.02
LAST_POINTS = 5
LARGEST_GRID = 10
SEED = 0
FINAL_FIGURES = {
    "critic/real": "critic, real",
    "critic/fake": "critic, generated",
    "generator/loss": "generator's loss",
}
MEASURED_FIGURES = ("estimate", "normalized")


@dataclass(frozen=True)
class Judgement:
    """How the classifiers judge a set of images. Shares are in [0, 1]."""

    images: int
    confident: float
    """Share of images to which one class is given a probability over 0.9"""
    confident_of_class: float | None
    """Share of images to which the wanted class is given a probability over 0.9; None if no single class is wanted"""
    strictly_confident: float
    """As `confident_of_class`, or as `confident` if no class is wanted, but by the strict classifier"""
    classes_present: int
    """Number of classes with at least 2% of the images; each image counts for its most probable class"""
    class_shares: dict[str, float]


@dataclass(frozen=True)
class RunReport:
    """One run: its training, its last metrics, and how its samples are judged."""

    name: str
    trained_class: str | None
    steps: int
    training_seconds: float
    final_figures: dict[str, float]
    critic: CriticFigures | None
    """Measured on test images of the run's classes"""
    weights: str
    judgement: Judgement


def main(words: Sequence[str] | None = None) -> int:
    """Judge the runs that the command line names. Returns the exit code."""
    return run_study(report, _parser().parse_args(words))


def report(arguments: argparse.Namespace) -> None:
    """Train or read the classifiers, judge every run and the real images, and print and write the results."""
    _check_arguments(arguments)
    runs = [open_run(run, None) for run in arguments.runs]
    test = read_shards(arguments.test)
    for config, checkpoint in runs:
        check_comparable(config, checkpoint, test)
    started = time.perf_counter()
    judges = obtain_judges(arguments.train, arguments.classifiers)
    accuracies = {kind: _accuracy(judge, test) for kind, judge in judges._asdict().items()}
    right = ", ".join(f"{kind} {accuracy:.2%}" for kind, accuracy in accuracies.items())
    print(
        f"classifiers ready after {time.perf_counter() - started:.0f} s; accuracy on {arguments.test}: {right}\n"
    )
    with storage_errors(arguments.out):
        arguments.out.mkdir(parents=True, exist_ok=True)
    reports = []
    for run, (config, checkpoint) in zip(arguments.runs, runs, strict=True):
        reports.append(report_run(run, config, checkpoint, judges, test, arguments.samples))
        save_grid(config, checkpoint, arguments.out / f"{reports[-1].name}.png")
    references = judge_real(judges, test, {item.trained_class for item in reports})
    print("\n".join(markdown(reports, references, test.classes)))
    content = {
        "classifiers": {"test_accuracy": accuracies, "confident_above": CONFIDENT},
        "runs": [asdict(item) for item in reports],
        "references": {name: asdict(judgement) for name, judgement in references.items()},
    }
    write_text(arguments.out / "reference-systems.json", json.dumps(content, indent=1) + "\n")


def report_run(
    run: Path,
    config: Config,
    checkpoint: Checkpoint,
    judges: Judges,
    test: LabelledImages,
    samples: int,
) -> RunReport:
    """Judge `samples` images of a checkpoint, and read the run's metrics up to its step."""
    records = [r for r in read_records(RunDirectory(run).metrics) if r["step"] <= checkpoint.step]
    images = _draw(config, checkpoint, samples, SEED)
    trained_class = _only_class(config)
    return RunReport(
        name=_run_name(run),
        trained_class=trained_class,
        steps=checkpoint.step,
        training_seconds=training_seconds(records),
        final_figures=final_figures(records),
        critic=measure_critic(config, checkpoint, test.of_classes(config.data.classes)),
        weights=_weights(config),
        judgement=judge(judges, images, test.classes, trained_class),
    )


def judge(judges: Judges, images: Tensor, classes: Sequence[str], wanted: str | None) -> Judgement:
    """Judge images uint8 (count, channels, side, side) that should be of the class `wanted`, or of any if None."""
    plain, strict = (class_probabilities(each, images) for each in judges)
    best, places = plain.max(1)
    shares = torch.bincount(places, minlength=len(classes)) / len(images)
    # The probability of the class that the images should have.
    wanted_plain, wanted_strict = (
        each.amax(1) if wanted is None else each[:, classes.index(wanted)] for each in (plain, strict)
    )
    return Judgement(
        images=len(images),
        confident=_share(best > CONFIDENT),
        confident_of_class=None if wanted is None else _share(wanted_plain > CONFIDENT),
        strictly_confident=_share(wanted_strict > CONFIDENT),
        classes_present=int((shares >= PRESENT).sum()),
        class_shares={name: round(share, 4) for name, share in zip(classes, shares.tolist(), strict=True)},
    )


def judge_real(judges: Judges, test: LabelledImages, wanted: set[str | None]) -> dict[str, Judgement]:
    """Judge test images like samples: all, those of each wanted class, and pairs laid over each other."""
    judged = {"real test images": judge(judges, test.images, test.classes, None)}
    for name in sorted(wanted - {None}, key=str):
        judged[f"real test images of {name}"] = judge(
            judges, test.of_classes([str(name)]), test.classes, name
        )
    overlaid = torch.maximum(test.images, test.images.roll(1, 0))
    judged["pairs of test images, overlaid"] = judge(judges, overlaid, test.classes, None)
    return judged


def training_seconds(records: Sequence[Record]) -> float:
    """Seconds of the loop up to the last record, counted as described at the top of this file."""
    seconds, last_step = 0.0, 0
    for record in records:
        if "speed/step_seconds" in record:
            seconds += record["speed/step_seconds"] * (record["step"] - last_step)
            last_step = record["step"]
    return seconds


def final_figures(records: Sequence[Record]) -> dict[str, float]:
    """The mean of the last 5 log points of each metric that the run has."""
    figures = {}
    for tag in FINAL_FIGURES:
        last = [record[tag] for record in records if tag in record][-LAST_POINTS:]
        if last:
            figures[tag] = sum(last) / len(last)
    return figures


def save_grid(config: Config, checkpoint: Checkpoint, target: Path) -> None:
    """Write samples as a PNG with the rows and columns of the run's own grids, at most 10 x 10, without scaling."""
    columns = min(config.monitor.grid, LARGEST_GRID)
    images = _draw(config, checkpoint, columns**2, config.seed)
    # make_grid repeats a grey channel three times.
    picture = make_grid(images, nrow=columns, padding=2, pad_value=128)[: images.shape[1]]
    pixels = picture.permute(1, 2, 0).numpy()
    image = Image.fromarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels)
    with replacing(target) as file:
        image.save(file, format="PNG", optimize=True)


def markdown(
    reports: Sequence[RunReport], references: dict[str, Judgement], classes: Sequence[str]
) -> Iterator[str]:
    """The lines of both markdown tables."""
    yield _row(
        [
            *("", "steps", "training"),
            *FINAL_FIGURES.values(),
            *MEASURED_FIGURES,
            *("surely a digit", "surely its class", "strictly", "classes"),
        ]
    )
    yield _row(["---"] * (len(FINAL_FIGURES) + 9))
    for item in reports:
        figures = [
            _number(value)
            for value in (*map(item.final_figures.get, FINAL_FIGURES), *(item.critic or (None, None)))
        ]
        training = [f"{item.steps:,}", f"{item.training_seconds:,.0f} s"]
        yield _row([item.name, *training, *figures, *_verdict(item.judgement)])
    for name, judgement in references.items():
        yield _row([name, *[""] * (len(FINAL_FIGURES) + 4), *_verdict(judgement)])
    yield ""
    yield _row(["share of samples by class", *classes])
    yield _row(["---"] * (len(classes) + 1))
    for name, judgement in [(item.name, item.judgement) for item in reports] + list(references.items()):
        yield _row([name, *(f"{share:.1%}" for share in judgement.class_shares.values())])


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description="Judge runs on MNIST by two classifiers that were trained on the real digits."
    )
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="a run's directory")
    parser.add_argument("--train", type=Path, default=Path("data/mnist"), metavar="DIR")
    parser.add_argument("--test", type=Path, default=Path("data/mnist-test"), metavar="DIR")
    parser.add_argument("--samples", type=int, default=10_000, metavar="N", help="default: 10000")
    parser.add_argument(
        "--classifiers", type=Path, metavar="DIR", help="directory that keeps the classifiers between calls"
    )
    parser.add_argument("--out", type=Path, default=Path("docs/reference"), metavar="DIR")
    return parser


def _check_arguments(arguments: argparse.Namespace) -> None:
    if arguments.samples < 1:
        raise ConfigError(f"--samples {arguments.samples}: at least 1 image must be drawn. Choose more.")
    name, times = Counter(map(_run_name, arguments.runs)).most_common(1)[0]
    if times > 1:
        raise ConfigError(
            f"{times} runs are called {name}, and each would write {name}.png. Rename all but one."
        )


def _draw(config: Config, checkpoint: Checkpoint, count: int, seed: int) -> Tensor:
    return draw_from_run(checkpoint, count, seed, use_ema=_weights(config) == "ema")


def _weights(config: Config) -> str:
    """Which of the checkpoint's two generators is judged; without a moving average both are the same."""
    return "ema" if config.ema_decay > 0 else "generator"


def _only_class(config: Config) -> str | None:
    classes = config.data.classes
    return classes[0] if classes is not None and len(classes) == 1 else None


def _run_name(run: Path) -> str:
    return run.resolve().name


def _accuracy(classifier: DigitClassifier, test: LabelledImages) -> float:
    return _share(class_probabilities(classifier, test.images).argmax(1) == test.labels)


def _share(is_so: Tensor) -> float:
    return round(float(is_so.float().mean()), 4)


def _verdict(judgement: Judgement) -> list[str]:
    of_class = judgement.confident_of_class
    return [
        f"{judgement.confident:.1%}",
        "" if of_class is None else f"{of_class:.1%}",
        f"{judgement.strictly_confident:.1%}",
        str(judgement.classes_present),
    ]


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.3g}"


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    sys.exit(main())
