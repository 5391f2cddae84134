"""The curves of a run as a picture, and those of several runs in the same panels."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.text import Text
from matplotlib.ticker import MaxNLocator

from pipeline.durable import make_directory_of, replacing
from pipeline.errors import ConfigError
from pipeline.foreign_text import printable
from pipeline.metric_table import NO_PLUGINS, TAG_PREFIX, MetricsByTag, direction_of_tag, title_of_tag
from pipeline.monitor.differences import SCALED, read_configs, scale_options
from pipeline.monitor.own_metrics import read_own_metrics
from pipeline.monitor.records import (
    AlarmRecord,
    Record,
    has_points,
    points_of,
    read_alarms,
    read_records,
    tags_of,
)
from pipeline.run.directory import RunDirectory
from pipeline.stderr import say_warning

CURVES, COMPARISON = "curves.png", "comparison.png"

FEW_POINTS = 25
MOST_FIGURES = 24
LEGEND_CHARACTERS = 130
PANEL_HEIGHT = 3.3


class Curve(NamedTuple):
    """How one tag is drawn."""

    tag: str
    label: str
    style: dict[str, Any]


class Panel(NamedTuple):
    """Curves that share their axes."""

    title: str
    quantity: str
    curves: Sequence[Curve]


# The colours are Okabe and Ito's, which colour-blind readers can tell apart.
BLUE, RED, GREEN, PURPLE, SKY, ORANGE = "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00"
ALARM_COLOUR = "#B00020"

SCORES = (
    Curve("critic/real", "critic on real images", {"color": BLUE}),
    Curve("critic/fake", "critic on generated images", {"color": RED}),
    Curve("generator/loss", "generator's loss", {"color": GREEN}),
)
CRITIC_LOSS = Curve("critic/loss", "critic's loss", {"color": PURPLE})
ESTIMATES = (
    Curve("wasserstein/estimate", "at each log point", {"color": SKY, "alpha": 0.6}),
    Curve("wasserstein/estimate_smooth", "smoothed", {"color": BLUE, "linewidth": 1.8}),
    Curve("wasserstein/validation", "on held-out images", {"color": RED, "linestyle": "--"}),
)

COMPARED = {
    "wasserstein/estimate_smooth": "Wasserstein estimate, smoothed",
    "wasserstein/normalized": "Wasserstein estimate / critic's slope",
    "wasserstein/validation": "Wasserstein estimate on held-out images",
}
COMPARED_LOSSES = {"critic/loss": "critic's loss", "generator/loss": "generator's loss"}
RUN_COLOURS = (BLUE, RED, GREEN, PURPLE, ORANGE, SKY, "#000000")
RUN_LINES = ("-", "--", ":", "-.")


def draw_curves(run: Path, target: Path) -> None:
    """Write scores, losses, the Wasserstein estimate and quality figures of `run`, over the step, as a PNG.

    Raises ConfigError if the run has logged nothing, StorageError if the file cannot be written.
    """
    records = read_records(RunDirectory(run).metrics)
    _save(curves_figure(records, run.resolve().name, read_alarms(run), read_own_metrics(run)), target)


def draw_comparison(runs: Sequence[Path], target: Path) -> None:
    """Write the curves of several runs in the same panels as a PNG.

    Raises ConfigError if a run is named twice or has logged nothing, or if there are more runs than lines that look
    different; StorageError if the file cannot be written.
    """
    most = len(RUN_COLOURS) * len(RUN_LINES)
    if len(runs) > most:
        raise ConfigError(
            f"{len(runs)} runs are too many for one picture: their lines would look the same. Name at most {most}."
        )
    names = distinct_names(runs)
    records = [read_records(RunDirectory(run).metrics) for run in runs]
    configs = read_configs(names, runs)
    samples = [configs[name].quality.samples if name in configs else None for name in names]
    labels = label_runs(names, records, samples)
    own = {tag: metric for run in runs for tag, metric in read_own_metrics(run).items()}
    is_unlike = bool(scale_options(configs))
    _save(comparison_figure(dict(zip(labels, records, strict=True)), own, is_unlike), target)


def label_runs(
    names: Sequence[str], runs: Sequence[Sequence[Record]], samples: Sequence[int | None]
) -> list[str]:
    """The names of runs for the legend of their comparison.

    If the runs' quality was measured with different numbers of samples, a label has this number, because most metrics
    depend on it. The label of a run that has no curve says so.
    """
    counts = [count if quality_tags(run) else None for run, count in zip(runs, samples, strict=True)]
    compared = compared_figures(runs)
    are_unlike = len({count for count in counts if count is not None}) > 1
    labels = []
    for name, run, count in zip(names, runs, counts, strict=True):
        if not any(has_points(run, tag) for tag in compared):
            labels.append(f"{name} (has none of these)")
        elif are_unlike and count is not None:
            labels.append(f"{name} (quality by {count:,} samples)")
        else:
            labels.append(name)
    return labels


def distinct_names(runs: Sequence[Path]) -> list[str]:
    """The directory name of each run, with as many of its parents before it as tell it from the others.

    Raises ConfigError if two are the same directory.
    """
    paths = [run.resolve() for run in runs]
    if twice := sorted({str(path) for path in paths if paths.count(path) > 1}):
        raise ConfigError(f"{twice[0]} is named twice: a run cannot be compared with itself. Name it once.")
    return [_distinct_name(path, [other for other in paths if other != path]) for path in paths]


def quality_tags(records: Iterable[Record]) -> list[str]:
    """The names of the quality figures that were measured, in the order of the alphabet."""
    return sorted(tag for tag in tags_of(records) if tag.startswith(TAG_PREFIX))


def drawn(tags: Sequence[str]) -> list[str]:
    """As many of the quality figures as one picture can hold. Says how many are left out."""
    if len(tags) > MOST_FIGURES:
        say_warning(
            f"{MOST_FIGURES} of {len(tags)} quality figures are drawn, the first ones by name; metrics.jsonl and "
            "TensorBoard have the others"
        )
    return list(tags[:MOST_FIGURES])


def panels_of(records: Sequence[Record], own: MetricsByTag = NO_PLUGINS) -> list[Panel]:
    """What there is to draw of a run: scores and losses, its Wasserstein estimate, each quality figure.

    `own` has the metrics that are plug-ins.
    """
    tags = tags_of(records)
    if any(curve.tag in tags for curve in ESTIMATES):
        panels = [
            Panel("Scores and loss", "score, loss", SCORES),
            Panel(
                "Wasserstein estimate",
                "Wasserstein estimate:\nmean c(real) − mean c(generated)",
                ESTIMATES,
            ),
        ]
    else:
        panels = [Panel("Scores and losses", "score, loss", (*SCORES, CRITIC_LOSS))]
    for tag in drawn(quality_tags(records)):
        curve = Curve(tag, printable(tag), {"color": PURPLE})
        panels.append(Panel(title_of_tag(tag, own), direction_of_tag(tag, own), [curve]))
    return panels


def curves_figure(
    records: Sequence[Record],
    title: str,
    alarms: Sequence[AlarmRecord] = (),
    own: MetricsByTag = NO_PLUGINS,
) -> Figure:
    """Scores and losses over the steps, and below them the estimate and the quality, if the run has them."""
    panels = panels_of(records, own)
    # Not through pyplot, which would choose a backend for the whole process and keep the figure alive.
    figure = Figure(figsize=(9, PANEL_HEIGHT * len(panels) + 0.3), dpi=120, layout="constrained")
    all_axes = figure.subplots(len(panels), 1, sharex=True, squeeze=False)[:, 0]
    for axes, panel in zip(all_axes, panels, strict=True):
        draw_panel(axes, records, panel, alarms)
        _add_legend(axes)
    all_axes[-1].set_xlabel("step (generator updates)")
    figure.align_ylabels()
    figure.suptitle(printable(title), parse_math=False)
    return figure


def draw_panel(axes: Axes, records: Sequence[Record], panel: Panel, alarms: Sequence[AlarmRecord]) -> None:
    """Draw curves over the step, from the first record to the last, and a line at each alarm."""
    for curve in panel.curves:
        _draw_points(axes, points_of(records, curve.tag), curve.label, {"linewidth": 1.2, **curve.style})
    if steps := sorted({alarm.step for alarm in alarms}):
        edges = axes.get_xaxis_transform()
        axes.vlines(
            steps, 0, 1, ALARM_COLOUR, "dotted", label="alarm", transform=edges, linewidth=1, zorder=1
        )
    axes.set_ylabel(panel.quantity)
    _dress(axes, [record["step"] for record in records])


def comparison_figure(
    runs: Mapping[str, Sequence[Record]], own: MetricsByTag = NO_PLUGINS, scales_differ: bool = False
) -> Figure:
    """The curves of several runs, by their names: a panel for each figure that at least one of them has.

    If none has a Wasserstein estimate or a quality figure, their losses are compared. If the scales of their critics
    differ, the titles of panels in these scales say so.
    """
    found = compared_figures(runs.values(), own)
    figures = drawn([tag for tag in found if tag.startswith(TAG_PREFIX)])
    titles = {tag: title for tag, title in found.items() if tag in figures or not tag.startswith(TAG_PREFIX)}
    rows = -(-len(titles) // 2)
    figure = Figure(figsize=(11, PANEL_HEIGHT * rows + 0.6), dpi=120, layout="constrained")
    places = figure.subplots(rows, 2, squeeze=False).flat
    steps = [record["step"] for records in runs.values() for record in records]
    styles = run_styles(len(runs))
    for axes, (tag, title) in zip(places, titles.items(), strict=False):
        for (name, records), style in zip(runs.items(), styles, strict=True):
            _draw_points(axes, points_of(records, tag), name, {"linewidth": 1.4, **style})
        note = " (scales differ)" if scales_differ and tag in SCALED else ""
        axes.set_title(f"{title}{note}", loc="left", fontsize=10, parse_math=False)
        _dress(axes, steps)
    for axes in figure.axes[len(titles) :]:
        axes.remove()
    for axes in figure.axes[-2:]:
        axes.set_xlabel("step (generator updates)")
    _add_names(figure, list(runs), styles)
    return figure


def compared_figures(runs: Iterable[Sequence[Record]], own: MetricsByTag = NO_PLUGINS) -> dict[str, str]:
    """The tags that are compared, each with its title, in the order of their panels."""
    tags = {tag for records in runs for tag in tags_of(records)}
    quality = {tag: title_of_tag(tag, own) for tag in sorted(tags) if tag.startswith(TAG_PREFIX)}
    found = {tag: title for tag, title in {**COMPARED, **quality}.items() if tag in tags}
    return found or COMPARED_LOSSES


def run_styles(count: int) -> list[dict[str, Any]]:
    """Colours and line styles, different for up to 28 runs."""
    styles = [{"color": colour, "linestyle": line} for line in RUN_LINES for colour in RUN_COLOURS]
    return styles[:count]


def _draw_points(
    axes: Axes, points: Sequence[tuple[int, float]], label: str, style: Mapping[str, Any]
) -> None:
    if points:
        # With few points a line hides their positions, and a single point has no line.
        marker = "." if len(points) <= FEW_POINTS else ""
        steps, figures = np.array(points, dtype=np.float64).T
        axes.plot(steps, figures, label=label, **{"marker": marker, **style})


def _dress(axes: Axes, steps: Sequence[int]) -> None:
    """The look of every panel; its axis runs from the first of `steps` to the last."""
    margin = max(0.01 * (max(steps) - min(steps)), 0.5)
    axes.set_xlim(min(steps) - margin, max(steps) + margin)
    axes.xaxis.set_major_locator(MaxNLocator("auto", steps=[1, 2, 2.5, 5, 10], integer=True, min_n_ticks=1))
    axes.xaxis.set_major_formatter("{x:,.0f}")
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)


def _add_legend(axes: Axes) -> None:
    handles, labels = axes.get_legend_handles_labels()
    if handles:
        # Above the panel, so that it covers no curve.
        texts = axes.legend(
            handles,
            [""] * len(labels),
            loc="lower left",
            bbox_to_anchor=(0, 1),
            ncols=len(labels),
            frameon=False,
        ).get_texts()
        _set_plainly(texts, labels)


def _add_names(figure: Figure, names: Sequence[str], styles: Sequence[Mapping[str, Any]]) -> None:
    """A legend of the runs above all panels, also of a run that has points in none."""
    handles = [Line2D([], [], linewidth=1.8, **style) for style in styles]
    columns = max(1, min(len(names), LEGEND_CHARACTERS // (max(map(len, names)) + 8)))
    legend = figure.legend(handles, [""] * len(names), loc="outside upper left", ncols=columns, frameon=False)
    _set_plainly(legend.get_texts(), names)


def _set_plainly(texts: Sequence[Text], names: Sequence[str]) -> None:
    """Set the texts of a legend as they are.

    A legend that is made with them would parse "$" as mathematics, and leave out names that begin with "_".
    """
    for text, name in zip(texts, names, strict=True):
        text.set_parse_math(False)
        text.set_text(printable(name))


def _distinct_name(path: Path, others: Sequence[Path]) -> str:
    count = 1
    while any(other.parts[-count:] == path.parts[-count:] for other in others):
        count += 1
    return "/".join(path.parts[-count:])


def _save(figure: Figure, target: Path) -> None:
    make_directory_of(target)
    with replacing(target) as file:
        figure.savefig(file, format="png")
