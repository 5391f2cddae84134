"""The metrics of quality: one table with everything that other parts need to know about them.

The config's rules, the tags and charts of TensorBoard, the help of `wgan evaluate`, plots, reports and the search for
the best checkpoint all read it. docs/quality.md shows it, and a test compares the two. The functions are in
quality/metrics.py. Nothing here imports torch, so that a mistake in a config is reported at once.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

from pipeline.errors import ConfigError
from pipeline.foreign_text import printable
from pipeline.plugins import METRIC, is_import_path, load_plugin

TAG_PREFIX = "quality/"
"""How the tags of all metrics begin."""

PIXELS = "pixels 2"
"""The name of the features `pixels` of quality.features in records, with the number of their version.

Another number means that their figures cannot be compared. The first version had no number.
"""

Better = Literal["higher", "lower"]


@dataclass(frozen=True)
class Needs:
    """What a metric needs, of the samples and of the real images."""

    features: bool = False
    """Features (quality.features) of all images."""
    images: bool = False
    """The images themselves, at most 2,048 of each set."""
    classes: bool = False
    """The class probabilities of quality.classifier."""
    labels: bool = False
    """The classes that samples were asked for (model.conditional), and those of the real images."""
    held_out: int = 0
    """At least this many held-out images (data.validation), compared by features, as are all training images."""
    side: int = 0
    """Images of at least this many pixels in height and width."""

    def __or__(self, other: Needs) -> Needs:
        """What two metrics need together."""
        return Needs(
            features=self.features or other.features,
            images=self.images or other.images,
            classes=self.classes or other.classes,
            labels=self.labels or other.labels,
            held_out=max(self.held_out, other.held_out),
            side=max(self.side, other.side),
        )

    def __str__(self) -> str:
        """For a reader: "features, at least 6 held-out images"."""
        parts = [
            (self.features, "features"),
            (self.images and not self.side, "images"),
            (self.side > 0, f"images of at least {self.side} x {self.side} pixels"),
            (self.classes, "a classifier"),
            (self.labels, "a run on labels"),
            (self.held_out > 0, f"at least {self.held_out} held-out images"),
        ]
        return ", ".join(text for is_needed, text in parts if is_needed)


@dataclass(frozen=True)
class Metric:
    """What is known about a metric without measuring it."""

    name: str
    """As it is written in quality.metrics, without spaces."""
    title: str
    """The title of its panel in plots and reports."""
    better: Better | None
    """Which values are better; None if neither higher nor lower ones are."""
    needs: Needs
    help: str
    """One line: what is measured, in which range or unit, and the paper."""
    shared_chart: str = ""
    """The title of a TensorBoard chart that it shares with related metrics; "" if it has a chart of its own."""

    @property
    def chart(self) -> str:
        """The title of its TensorBoard chart."""
        return self.shared_chart or self.title

    @property
    def direction(self) -> str:
        """For a reader: "higher is better"."""
        return f"{self.better} is better" if self.better else "neither higher nor lower is better"

    def tag(self, features: str) -> str:
        """The name of its curve. If the metric compares features, it contains their kind and version."""
        kind = name_of_features(features).replace(" ", "")
        return f"{TAG_PREFIX}{self.name}_{kind}" if self.needs.features else f"{TAG_PREFIX}{self.name}"


def name_of_features(kind: str) -> str:
    """How records name a kind of features that has no weights of its own."""
    return PIXELS if kind == "pixels" else kind


FEATURES = Needs(features=True)
FIDELITY, COVERAGE = "precision and recall", "density and coverage"

_TABLE = (
    Metric(
        "fid",
        "Frechet distance",
        "lower",
        FEATURES,
        "Frechet distance between Gaussians fitted to the features (Heusel et al. 2017)",
    ),
    Metric(
        "kid",
        "kernel distance",
        "lower",
        FEATURES,
        "unbiased squared maximum mean discrepancy of the features with a cubic kernel, mean of 100 random subsets "
        "(Binkowski et al. 2018)",
    ),
    Metric(
        "precision",
        "precision",
        "higher",
        FEATURES,
        "share of samples that are inside the 5-nearest-neighbour ball of a real image (Kynkaanniemi et al. 2019)",
        FIDELITY,
    ),
    Metric(
        "recall",
        "recall",
        "higher",
        FEATURES,
        "share of real images that are inside the 5-nearest-neighbour ball of a sample (Kynkaanniemi et al. 2019)",
        FIDELITY,
    ),
    Metric(
        "density",
        "density",
        "higher",
        FEATURES,
        "like precision, less affected by outliers: how many balls of real images contain a sample, on average, "
        "divided by 5; 1 for real images (Naeem et al. 2020)",
        COVERAGE,
    ),
    Metric(
        "coverage",
        "coverage",
        "higher",
        FEATURES,
        "like recall, less affected by outliers: share of real images whose ball contains a sample "
        "(Naeem et al. 2020)",
        COVERAGE,
    ),
    Metric(
        "copied",
        "share of copies",
        None,
        Needs(features=True, held_out=6),
        "share of samples that are closer to a training image than 99% of held-out images are; 0.01 is natural, and "
        "noise scores 0 (after Meehan et al. 2020)",
    ),
    Metric(
        "swd",
        "sliced Wasserstein distance",
        "lower",
        Needs(images=True, side=8),
        "sliced Wasserstein distance between 7 x 7 patches, mean over the levels of a Laplacian pyramid, times 1,000 "
        "(Karras et al. 2018)",
    ),
    Metric(
        "modes",
        "number of classes",
        "higher",
        Needs(classes=True),
        "number of classes that have at least a tenth of their share of the real images",
    ),
    Metric(
        "class_distance",
        "distance of class shares",
        "lower",
        Needs(classes=True),
        "total variation distance between the class shares of samples and real images, from 0 to 1",
    ),
    Metric(
        "class_asked",
        "share of the class asked for",
        "higher",
        Needs(classes=True, labels=True),
        "share of samples that the classifier takes for the class that the generator was asked for",
    ),
    Metric(
        "intra_fid",
        "Frechet distance within classes",
        "lower",
        Needs(features=True, labels=True),
        "mean over the classes of the Frechet distance between samples and real images of the class (Miyato and Koyama "
        "2018); classes of fewer than 20 images are left out",
    ),
)

METRICS: dict[str, Metric] = {metric.name: metric for metric in _TABLE}
"""Every metric by its name, in the order in which they are listed everywhere."""

MetricsByTag = Mapping[str, Metric]
"""Metrics that are plug-ins, by the tags of their curves."""
NO_PLUGINS: MetricsByTag = {}


def check_name(name: str) -> str:
    """Refuse a name that is neither in this table nor an import path, as pydantic wants a validator to."""
    if name not in METRICS and not is_import_path(name):
        # Not above: commands read this table for their help, which must be quick.
        from pydantic_core import PydanticKnownError

        raise PydanticKnownError("literal_error", {"expected": ", ".join(map(repr, METRICS))})
    return name


def find_metric(name: str) -> Metric:
    """The metric of this name or import path. Raises ConfigError."""
    if is_import_path(name):
        metric: Metric = load_plugin(METRIC, name).metric
        return metric
    if name not in METRICS:
        raise ConfigError(f"invalid value {name!r}: expected one of {', '.join(map(repr, METRICS))}")
    return METRICS[name]


def find_metrics(names: Iterable[str]) -> list[Metric]:
    """The metrics of these names, in their order. Raises ConfigError."""
    return [find_metric(name) for name in names]


def needs_of(names: Iterable[str]) -> Needs:
    """What metrics need together. Raises ConfigError."""
    needs = Needs()
    for metric in find_metrics(names):
        needs |= metric.needs
    return needs


def metric_of_tag(tag: str, own: MetricsByTag = NO_PLUGINS) -> Metric | None:
    """The metric of a curve, such as fid for "quality/fid_pixels2", or one of `own`; None for any other tag."""
    if not tag.startswith(TAG_PREFIX):
        return None
    name = tag.removeprefix(TAG_PREFIX)
    return own.get(tag) or METRICS.get(name) or METRICS.get(name.rpartition("_")[0])


def title_of_tag(tag: str, own: MetricsByTag = NO_PLUGINS) -> str:
    """The title of a panel for this curve: "Frechet distance (fid_pixels2)"; the tag itself if it has no metric."""
    metric = metric_of_tag(tag, own)
    name = printable(tag)
    return f"{metric.title} ({name.removeprefix(TAG_PREFIX)})" if metric else name


def direction_of_tag(tag: str, own: MetricsByTag = NO_PLUGINS) -> str:
    """Which values of this curve are better, for a reader; "" if that is not known."""
    metric = metric_of_tag(tag, own)
    return metric.direction if metric else ""


def charts_of(names: Iterable[str]) -> dict[str, list[str]]:
    """The TensorBoard charts that these metrics are in: regular expressions for tags, by title.

    A chart also has the tags of the other metrics that share it, and of all kinds of features. Raises ConfigError.
    """
    titles = dict.fromkeys(metric.chart for metric in find_metrics(names))
    known = {metric.name: metric for metric in [*METRICS.values(), *find_metrics(names)]}
    return {
        title: [metric.tag(".*") for metric in known.values() if metric.chart == title] for title in titles
    }


def describe_metrics(width: int = 110) -> str:
    """What each metric measures and which values are better, for the help of a command, in lines of `width`."""
    indent = max(map(len, METRICS)) + 2
    entries = (
        textwrap.wrap(
            f"{metric.name:{indent}}{metric.help}; {metric.direction}",
            width,
            subsequent_indent=" " * indent,
            drop_whitespace=True,
        )
        for metric in METRICS.values()
    )
    return "\n".join(line for entry in entries for line in entry)
