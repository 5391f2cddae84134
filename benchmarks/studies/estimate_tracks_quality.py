"""Does a run's Wasserstein estimate show how good its samples are?

command:   python benchmarks/studies/estimate_tracks_quality.py runs/wgan-mnist
           --real data/mnist-test    shards of real images that the run was not trained on
           --samples 5000            images drawn at each checkpoint, from the same latents
           --out docs/reference      directory for the files
           The run needs at least 8 checkpoints: train it with checkpoint.every=N checkpoint.keep_every=N
duration:  about ten seconds per checkpoint for MNIST on two cores
prints:    for each checkpoint three curves of the run (the smoothed estimate, the normalized estimate, which is
           the estimate divided by the critic's slope, and the estimate of the checkpoint's critic alone, see
           critic_figures.py) and two distances of its samples from the real images. Then Spearman's rank
           correlation of each curve with each distance, over the whole run and from the curve's largest value on,
           which leaves out the initial rise while the critic learns. 1 means that the curve orders the checkpoints
           as the distance does
writes:    OUT/RUN-estimate-quality.json and .png

The distances (sample_distances.py) are measured on pixels, between samples of the last weights and the real images
of the run's classes. The p-value assumes independent points. The checkpoints of one run are not independent, so it
is too small.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from critic_figures import measure_critic
from image_sets import check_comparable, draw_from_run, read_shards
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from sample_distances import FrechetOfComponents, SlicedWasserstein
from scipy.stats import spearmanr
from study import run_study
from torch import Tensor
from tqdm import tqdm

from pipeline.durable import replacing, storage_errors, write_text
from pipeline.errors import ConfigError
from pipeline.monitor.records import Record, read_records
from pipeline.run.checkpoint import list_checkpoints
from pipeline.run.directory import RunDirectory
from pipeline.run.generator import open_run
from pipeline.wording import counted

ESTIMATE, NORMALIZED = "wasserstein/estimate_smooth", "wasserstein/normalized"
OF_CHECKPOINT = "estimate of the checkpoint"
LABELS = {
    ESTIMATE: "estimate, smoothed",
    NORMALIZED: "estimate, normalized",
    OF_CHECKPOINT: "estimate, one critic",
}
DISTANCES = {"sliced": "sliced Wasserstein", "frechet": "Fréchet of components"}
# About as many as wasserstein/estimate_smooth averages with the default monitor.smoothing.
POINTS_IN_MEAN = 10
FEWEST_CHECKPOINTS = 8
FEWEST_POINTS = 4
SEED = 0
# Okabe and Ito's colours, as in pipeline/monitor/plots.py.
CURVE_COLOUR, DISTANCE_COLOUR, HALVES_COLOUR = "#0072B2", "#D55E00", "#555555"

Curve = Mapping[int, float]
"""A metric of a run by the step at which it was logged, in rising order."""


@dataclass(frozen=True)
class Distances:
    """The distances of one set of images from the real ones."""

    sliced: float
    frechet: float


class Measures:
    """Measures both distances from the same real images, uint8 (count, channels, height, width)."""

    def __init__(self, real: Tensor) -> None:
        self._sliced, self._frechet = SlicedWasserstein(real), FrechetOfComponents(real)

    def __call__(self, images: Tensor) -> Distances:
        return Distances(self._sliced(images), self._frechet(images))


@dataclass(frozen=True)
class Correlation:
    """Spearman's rank correlation of a curve with a distance; rho is in [-1, 1]."""

    checkpoints: int
    rho: float
    p_value: float


@dataclass(frozen=True)
class Comparison:
    """One curve of the run, compared with the distances. A correlation of too few different points is None."""

    at_checkpoints: list[float]
    largest_at_step: int
    whole_run: dict[str, Correlation | None]
    from_largest_on: dict[str, Correlation | None]


@dataclass(frozen=True)
class Findings:
    """What was measured for each checkpoint of one run."""

    run: str
    samples: int
    steps: list[int]
    distances: list[Distances]
    halves: Distances
    """Between two halves of the real images: about what samples as good as real ones would have"""
    comparisons: dict[str, Comparison]


def main(words: Sequence[str] | None = None) -> int:
    """Measure the run that the command line names. Returns the exit code."""
    return run_study(report, _parser().parse_args(words))


def report(arguments: argparse.Namespace) -> None:
    """Measure every checkpoint, and print and write the results."""
    if arguments.samples < 2:
        raise ConfigError(f"--samples {arguments.samples}: a distance needs at least 2 images. Choose more.")
    run: Path = arguments.run
    steps = checkpoint_steps(run)
    curves = read_curves(run, steps[0])
    real = real_images(run, steps[-1], arguments.real)
    distances = list(measure(run, steps, Measures(real), arguments.samples))
    curves[OF_CHECKPOINT] = {step: critic_estimate(run, step, real) for step in steps}
    findings = Findings(
        run=run.resolve().name,
        samples=arguments.samples,
        steps=steps,
        distances=distances,
        # Every second image: the later half of MNIST's test images comes from other writers than the earlier half.
        halves=Measures(real[::2])(real[1::2]),
        comparisons={name: compare(curve, steps, distances) for name, curve in curves.items()},
    )
    print("\n".join(summary(findings)))
    write(findings, curves, arguments.out)


def checkpoint_steps(run: Path) -> list[int]:
    """The steps of the run's checkpoints. Raises ConfigError if there are fewer than 8."""
    config, newest = open_run(run, None)
    steps = [checkpoint.step for checkpoint in list_checkpoints(RunDirectory(run).checkpoints)]
    if len(steps) < FEWEST_CHECKPOINTS:
        every = max(1, newest.step // 20)
        raise ConfigError(
            f"{run} has {counted(len(steps), 'checkpoint')}, of step {', '.join(map(str, steps))}, and a rank "
            f"correlation of fewer than {FEWEST_CHECKPOINTS} points has no meaning. Train once more under another "
            f"name, and keep more: name={config.name}-kept checkpoint.every={every} checkpoint.keep_every={every}."
        )
    return steps


def read_curves(run: Path, first_step: int) -> dict[str, Curve]:
    """The smoothed estimate, and a running mean of the normalized one if the run logged it.

    Raises ConfigError if no estimate was logged, or none up to `first_step`.
    """
    records = read_records(RunDirectory(run).metrics)
    estimate = _logged(records, ESTIMATE)
    if not estimate:
        raise ConfigError(
            f"{run} has not logged {ESTIMATE}, because its objective does not estimate a Wasserstein distance. Name a "
            "run whose objective.name is wasserstein or gradient_penalty."
        )
    if min(estimate) > first_step:
        raise ConfigError(
            f"{run} has a checkpoint of step {first_step}, but logged its first {ESTIMATE} at step "
            f"{min(estimate)}, so there is nothing to compare. Train with a monitor.log_every of at most "
            "checkpoint.every."
        )
    normalized = running_mean(_logged(records, NORMALIZED))
    curves = {ESTIMATE: estimate, NORMALIZED: normalized}
    return {name: curve for name, curve in curves.items() if curve and min(curve) <= first_step}


def running_mean(curve: Curve) -> Curve:
    """For each step, the mean of the last 10 values up to it."""
    values = list(curve.values())
    recent = (values[max(0, end - POINTS_IN_MEAN) : end] for end in range(1, len(values) + 1))
    return dict(zip(curve, (sum(part) / len(part) for part in recent), strict=True))


def real_images(run: Path, step: int, directory: Path) -> Tensor:
    """The real images of the run's classes: uint8 (count, channels, height, width)."""
    config, checkpoint = open_run(run, step)
    labelled = read_shards(directory)
    check_comparable(config, checkpoint, labelled)
    return labelled.of_classes(config.data.classes)


def measure(run: Path, steps: Sequence[int], measures: Measures, samples: int) -> Iterator[Distances]:
    """The distances of each checkpoint's samples. Raises CheckpointError if a checkpoint is damaged."""
    for step in tqdm(steps, unit=" checkpoints", leave=False, disable=None):
        _, checkpoint = open_run(run, step)
        yield measures(draw_from_run(checkpoint, samples, SEED, use_ema=False))


def critic_estimate(run: Path, step: int, real: Tensor) -> float:
    """The estimate of the checkpoint's own critic, on real images and those of its generator."""
    figures = measure_critic(*open_run(run, step), real)
    # read_curves has refused runs whose objective estimates no distance.
    assert figures is not None
    return figures.estimate


def compare(curve: Curve, steps: Sequence[int], distances: Sequence[Distances]) -> Comparison:
    """Compare the curve, at the last log point up to each checkpoint, with the checkpoints' distances."""
    at_checkpoints = [curve[max(logged for logged in curve if logged <= step)] for step in steps]
    largest = max(curve, key=lambda step: curve[step])
    first = sum(step < largest for step in steps)
    return Comparison(
        at_checkpoints=at_checkpoints,
        largest_at_step=largest,
        whole_run=correlate(at_checkpoints, distances),
        from_largest_on=correlate(at_checkpoints[first:], distances[first:]),
    )


def correlate(curve: Sequence[float], distances: Sequence[Distances]) -> dict[str, Correlation | None]:
    """The rank correlation of a curve's values with each distance."""
    return {name: rank_correlation(curve, [getattr(each, name) for each in distances]) for name in DISTANCES}


def rank_correlation(first: Sequence[float], second: Sequence[float]) -> Correlation | None:
    """Spearman's correlation; None if there are fewer than 4 points, or if all values on one side are equal."""
    if len(first) < FEWEST_POINTS or len(set(first)) == 1 or len(set(second)) == 1:
        return None
    result = spearmanr(first, second)
    return Correlation(len(first), float(result.statistic), float(result.pvalue))


def summary(findings: Findings) -> Iterator[str]:
    """The lines to print: a markdown table of the checkpoints, and one of the correlations."""
    curves = findings.comparisons
    yield _row(["step", *(LABELS[name] for name in curves), *DISTANCES.values()])
    yield _row(["---"] * (len(curves) + 3))
    for place, step in enumerate(findings.steps):
        values = [f"{curve.at_checkpoints[place]:.4g}" for curve in curves.values()]
        yield _row([f"{step:,}", *values, *_cells(findings.distances[place])])
    yield _row(["halves of the real images", *[""] * len(curves), *_cells(findings.halves)])
    yield ""
    yield _row(["rank correlation", "whole run", "from the curve's largest value on"])
    yield _row(["---"] * 3)
    for name, curve in curves.items():
        for distance, label in DISTANCES.items():
            parts = [_in_words(part[distance]) for part in (curve.whole_run, curve.from_largest_on)]
            yield _row([f"{LABELS[name]}; {label}", parts[0], f"{parts[1]}, step {curve.largest_at_step:,}"])


def write(findings: Findings, curves: Mapping[str, Curve], directory: Path) -> None:
    """Write the findings as JSON and the plot as PNG. Raises StorageError."""
    with storage_errors(directory):
        directory.mkdir(parents=True, exist_ok=True)
    content = json.dumps(asdict(findings), indent=1) + "\n"
    write_text(directory / f"{findings.run}-estimate-quality.json", content)
    with replacing(directory / f"{findings.run}-estimate-quality.png") as file:
        draw(findings, curves).savefig(file, format="png")


def draw(findings: Findings, curves: Mapping[str, Curve]) -> Figure:
    """A row for each curve: curve and sliced distance over the step, and a scatter plot of the two."""
    # pyplot would choose a backend for the whole process and keep the figure in memory.
    figure = Figure(figsize=(10, 3.6 * len(curves) + 0.3), dpi=90, layout="constrained")
    rows = figure.subplots(len(curves), 2, width_ratios=(3, 2), squeeze=False)
    for (name, curve), (over_steps, scatter) in zip(curves.items(), rows, strict=True):
        _draw_curve(over_steps, curve, LABELS[name])
        _draw_distance(over_steps.twinx(), findings)
        _draw_scatter(scatter, findings, name)
    figure.suptitle(findings.run, parse_math=False)
    return figure


def _draw_curve(axes: Axes, curve: Curve, label: str) -> None:
    axes.plot(list(curve), list(curve.values()), color=CURVE_COLOUR)
    axes.set_xlabel("step (generator updates)")
    axes.set_ylabel(f"Wasserstein {label}", color=CURVE_COLOUR)
    axes.set_ylim(bottom=min(0.0, *curve.values()))
    axes.xaxis.set_major_formatter("{x:,.0f}")
    axes.grid(alpha=0.3)


def _draw_distance(axes: Axes, findings: Findings) -> None:
    axes.plot(findings.steps, [each.sliced for each in findings.distances], "o-", color=DISTANCE_COLOUR)
    axes.axhline(findings.halves.sliced, color=HALVES_COLOUR, linestyle=":")
    axes.annotate(
        "two halves of the real images",
        (1, findings.halves.sliced),
        xycoords=("axes fraction", "data"),
        xytext=(-4, 3),
        textcoords="offset points",
        ha="right",
        color=HALVES_COLOUR,
        fontsize="small",
    )
    axes.set_ylabel("sliced Wasserstein distance of samples", color=DISTANCE_COLOUR)
    axes.set_ylim(bottom=0)


def _draw_scatter(axes: Axes, findings: Findings, name: str) -> None:
    comparison = findings.comparisons[name]
    first = sum(step < comparison.largest_at_step for step in findings.steps)
    for label, chosen, face in (
        ("before the curve's largest value", slice(None, first), "none"),
        ("from its largest value on", slice(first, None), DISTANCE_COLOUR),
    ):
        axes.scatter(
            comparison.at_checkpoints[chosen],
            [each.sliced for each in findings.distances[chosen]],
            facecolors=face,
            edgecolors=DISTANCE_COLOUR,
            label=label,
        )
    axes.set_xlabel(f"Wasserstein {LABELS[name]}")
    axes.set_ylabel("sliced Wasserstein distance of samples")
    axes.set_title(
        f"whole run: {_in_words(comparison.whole_run['sliced'])}\n"
        f"from its largest value on: {_in_words(comparison.from_largest_on['sliced'])}",
        fontsize="small",
        loc="left",
    )
    axes.grid(alpha=0.3)
    axes.legend(fontsize="small")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description="Correlate a run's Wasserstein estimate with the distance of its samples from the real images."
    )
    parser.add_argument("run", type=Path, metavar="RUN", help="a run's directory")
    parser.add_argument("--real", type=Path, default=Path("data/mnist-test"), metavar="DIR")
    parser.add_argument("--samples", type=int, default=5000, metavar="N", help="default: 5000")
    parser.add_argument("--out", type=Path, default=Path("docs/reference"), metavar="DIR")
    return parser


def _logged(records: Sequence[Record], tag: str) -> Curve:
    return {record["step"]: float(record[tag]) for record in records if tag in record}


def _in_words(correlation: Correlation | None) -> str:
    if correlation is None:
        return "too few different points"
    p_value = correlation.p_value
    p_in_words = "p < 1e-6" if p_value < 1e-6 else f"p = {p_value:.2g}"
    return f"rho = {correlation.rho:.2f} ({p_in_words}, {correlation.checkpoints} checkpoints)"


def _cells(distances: Distances) -> list[str]:
    return [f"{distances.sliced:.4f}", f"{distances.frechet:.2f}"]


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    sys.exit(main())
