"""The charts of TensorBoard's custom scalars: related curves side by side, and only those that a run fills."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from torch import nn

from pipeline.metric_table import charts_of
from pipeline.objectives import Objective
from pipeline.options import Config

Layout = dict[str, dict[str, list[Any]]]
"""As SummaryWriter.add_custom_scalars takes it: categories, the titles of their charts, and ["Multiline", patterns]."""

QUALITY = "quality"


@dataclass(frozen=True)
class Logged:
    """What a run logs beyond what every run does."""

    measures_wasserstein: bool
    """Whether its objective estimates the Wasserstein distance."""
    reports: Collection[str]
    """The tags that its objective's constraint reports."""
    metrics: Sequence[str]
    """The metrics of quality that it measures during training."""
    adapts_augmentation: bool = False

    @classmethod
    def by(cls, config: Config, objective: Objective, critic: nn.Module) -> Logged:
        """What a run with these options, and with the objective and critic that they name, logs."""
        constraint, quality = objective.constraint, config.quality
        return cls(
            measures_wasserstein=objective.measures_wasserstein,
            reports=constraint.report(critic).keys() if constraint else (),
            metrics=quality.metrics if quality.every else (),
            adapts_augmentation=config.augment.target is not None,
        )


class Chart(NamedTuple):
    """Curves that share their axes."""

    category: str
    title: str
    tags: Sequence[str]
    """Regular expressions. A run need not log all of them."""
    needs: Literal["", "wasserstein", "report", "adapted"] = ""
    """What a run must do to log any of them; "report": its objective's constraint reports one of these very tags;
    "adapted": the probability of its augmentation adapts."""


CHARTS = (
    Chart(
        "wasserstein",
        "estimate",
        ("wasserstein/estimate", "wasserstein/estimate_smooth", "wasserstein/validation"),
        "wasserstein",
    ),
    Chart("wasserstein", "scores of real and generated images", ("critic/real", "critic/fake")),
    Chart("wasserstein", "normalized: comparable between runs", ("wasserstein/normalized",), "wasserstein"),
    Chart("wasserstein", "losses", ("critic/loss", "generator/loss")),
    Chart("speed", "images per second", ("speed/images_per_second",)),
    Chart("speed", "share of time spent waiting for data", ("speed/data_wait_fraction",)),
    Chart("speed", "memory in MiB", ("memory/.*",)),
    Chart("health", "share of clipped weights", ("critic/clipped_fraction",), "report"),
    Chart("health", "gradient at generated images", ("critic/input_grad_norm",)),
    Chart("health", "gradients of the weights", ("critic/grad_norm", "generator/grad_norm")),
    Chart(
        "health",
        "augmentation: probability, and pairs in which the real image scores higher",
        ("augmentation/probability", "critic/real_higher"),
        "adapted",
    ),
    Chart("health", "diversity of generated images", ("generator/diversity",)),
)
CATEGORIES = ("wasserstein", QUALITY, "speed", "health")


def layout(run: Logged) -> Layout:
    """The charts that this run fills.

    A chart is the same in every run that has it: TensorBoard shows the layouts of several runs together, and shows two
    charts with the same title twice unless they are equal.
    """
    charts = [chart for chart in CHARTS if _fills(run, chart)]
    charts += [Chart(QUALITY, title, tags) for title, tags in charts_of(run.metrics).items()]
    found: Layout = {category: {} for category in CATEGORIES}
    for chart in charts:
        found[chart.category][chart.title] = ["Multiline", [f"^{tag}$" for tag in chart.tags]]
    return {category: titles for category, titles in found.items() if titles}


def _fills(run: Logged, chart: Chart) -> bool:
    match chart.needs:
        case "wasserstein":
            return run.measures_wasserstein
        case "adapted":
            return run.adapts_augmentation
        case "report":
            return any(tag in run.reports for tag in chart.tags)
        case "":
            return True
