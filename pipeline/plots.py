"""A run in two pictures: its curves as PNG, and its samples from the first to the last as GIF."""

from __future__ import annotations

import argparse
import json
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from PIL import Image, ImageDraw, ImageFont

from pipeline.durable import replacing, storage_errors
from pipeline.errors import ConfigError
from pipeline.run_directory import RunDirectory

CURVES, ANIMATION = "curves.png", "training.gif"

FRAME_NAME = re.compile(r"step_(\d{8,})\.png")
MOST_FRAMES = 60
MOST_WIDTH = 640
FRAME_MILLISECONDS, LAST_FRAME_MILLISECONDS = 150, 2000
STRIP_HEIGHT = 18
FEW_POINTS = 25

Record = Mapping[str, Any]
"""A line of metrics.jsonl: "step" is a whole number, every other name a figure of it."""


class Curve(NamedTuple):
    """How one tag is drawn."""

    tag: str
    label: str
    style: dict[str, Any]


# The colours are Okabe and Ito's, which colour-blind readers can tell apart.
SCORES = (
    Curve("critic/real", "critic on real images", {"color": "#0072B2"}),
    Curve("critic/fake", "critic on generated images", {"color": "#D55E00"}),
    Curve("generator/loss", "generator's loss", {"color": "#009E73"}),
)
CRITIC_LOSS = Curve("critic/loss", "critic's loss", {"color": "#CC79A7"})
ESTIMATES = (
    Curve("wasserstein/estimate", "at each log point", {"color": "#56B4E9", "alpha": 0.6}),
    Curve("wasserstein/estimate_smooth", "smoothed", {"color": "#0072B2", "linewidth": 1.8}),
    Curve("wasserstein/validation", "on held-out images", {"color": "#D55E00", "linestyle": "--"}),
)


def plot(arguments: argparse.Namespace) -> int:
    """Draw a run's curves, and its animation where it has sample grids, and print where they are."""
    run: Path = arguments.run
    out: Path = arguments.out or run
    if not RunDirectory(run).config.is_file():
        raise ConfigError(f"{run} is no run: it holds no config.yaml. Name a directory such as runs/digits.")
    draw_curves(run, out / CURVES)
    print(out / CURVES)
    try:
        draw_animation(run, out / ANIMATION)
        print(out / ANIMATION)
    except ConfigError as error:
        print(f"no {ANIMATION}: {error}")
    return 0


def draw_curves(run: Path, target: Path) -> None:
    """Write scores, losses and the Wasserstein estimate of `run`, over the step, as a PNG.

    Raises ConfigError where the run has logged nothing, StorageError where the file cannot be written.
    """
    figure = curves_figure(read_records(RunDirectory(run).metrics), run.resolve().name)
    _make_directory_of(target)
    with replacing(target) as file:
        figure.savefig(file, format="png")


def read_records(path: Path) -> list[Record]:
    """The records of a metrics.jsonl in their order, without lines that are none, such as one cut short by a kill.

    Raises ConfigError where there is no record.
    """
    try:
        with path.open("rb") as file:
            records = [record for line in file if (record := _record(line)) is not None]
    except OSError as error:
        raise _nothing_to_draw(f"{path} cannot be read ({error.strerror})", "monitor.log_every") from None
    if not records:
        raise _nothing_to_draw(f"{path} holds no record of a step", "monitor.log_every")
    return records


def curves_figure(records: Sequence[Record], title: str) -> Figure:
    """Scores and losses over the step, and below them the Wasserstein estimate where the run measures one."""
    tags = {tag for record in records for tag in record}
    has_estimate = any(curve.tag in tags for curve in ESTIMATES)
    rows = 2 if has_estimate else 1
    # Not through pyplot, which would choose a backend for the whole process and keep the figure alive.
    figure = Figure(figsize=(9, 3.3 * rows + 0.3), dpi=120, layout="constrained")
    panels = figure.subplots(rows, 1, sharex=True, squeeze=False)[:, 0]
    if has_estimate:
        _draw_panel(panels[0], records, SCORES, "score, loss")
        _draw_panel(panels[1], records, ESTIMATES, "Wasserstein estimate:\nmean c(real) − mean c(generated)")
    else:
        _draw_panel(panels[0], records, (*SCORES, CRITIC_LOSS), "score, loss")
    panels[-1].set_xlabel("step (generator updates)")
    figure.align_ylabels()
    figure.suptitle(title, parse_math=False)
    return figure


def draw_animation(run: Path, target: Path) -> None:
    """Write the grids of `run`'s samples/ as a GIF that loops, each above the step that it was drawn at.

    Raises ConfigError where the run has no grids, StorageError where the file cannot be written.
    """
    paths = choose_frames(RunDirectory(run).samples)
    frames = [_frame(path, last_step=_step_of(paths[-1])) for path in paths]
    durations = [FRAME_MILLISECONDS] * (len(frames) - 1) + [LAST_FRAME_MILLISECONDS]
    _make_directory_of(target)
    with replacing(target) as file:
        frames[0].save(
            file, format="GIF", save_all=True, append_images=frames[1:], duration=durations, loop=0
        )


def choose_frames(samples: Path) -> list[Path]:
    """The grids that an animation shows: up to 60 in the order of their steps, with the first and the last.

    All have the size of the newest: monitor.grid may have changed when the run was continued. Files that
    are no whole PNG, as a kill or a full disk may leave them, are passed over. Raises ConfigError where
    there is no grid.
    """
    paths = sorted((path for path in samples.glob("*") if FRAME_NAME.fullmatch(path.name)), key=_step_of)
    sizes = {path: size for path in paths if (size := _size(path)) is not None}
    if not sizes:
        raise _nothing_to_draw(
            f"{samples} holds no whole grid such as step_00000200.png", "monitor.sample_every"
        )
    *_, last_size = sizes.values()
    paths = [path for path, size in sizes.items() if size == last_size]
    count = min(len(paths), MOST_FRAMES)
    return [paths[index * (len(paths) - 1) // max(count - 1, 1)] for index in range(count)]


def _record(line: bytes) -> Record | None:
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return record if isinstance(record, dict) and isinstance(record.get("step"), int) else None


def _draw_panel(axes: Axes, records: Sequence[Record], curves: Sequence[Curve], quantity: str) -> None:
    for curve in curves:
        points = [(record["step"], record[curve.tag]) for record in records if curve.tag in record]
        if points:
            # A line between few points hides where they are, and of one point there is no line.
            marker = "." if len(points) <= FEW_POINTS else ""
            style = {"linewidth": 1.2, "marker": marker, **curve.style}
            axes.plot(*zip(*points, strict=True), label=curve.label, **style)
    axes.set_ylabel(quantity)
    axes.xaxis.set_major_locator(MaxNLocator("auto", steps=[1, 2, 2.5, 5, 10], integer=True))
    axes.xaxis.set_major_formatter("{x:,.0f}")
    axes.margins(x=0.01)
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    # Above the panel, where no curve can run under it.
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=len(curves), frameon=False)


def _step_of(path: Path) -> int:
    return int(path.stem.removeprefix("step_"))


def _size(path: Path) -> tuple[int, int] | None:
    """Width and height of a PNG in pixels, or None where the file is not a whole one."""
    try:
        with Image.open(path, formats=["PNG"]) as image:
            image.verify()
            return image.size
    except (OSError, SyntaxError):  # the latter is Pillow's word for a chunk that is damaged
        return None


def _frame(path: Path, last_step: int) -> Image.Image:
    """A grid in its own 256 colours, at most 640 pixels wide, above a strip that names its step."""
    with Image.open(path, formats=["PNG"]) as image:
        # By a whole factor, so that all pixels of small images stay equally large.
        grid = image.convert("RGB").reduce(-(-image.width // MOST_WIDTH))
    font = ImageFont.load_default(size=12)
    # The strip of a very small grid is wider than the grid, and equally wide in all frames.
    width = max(grid.width, math.ceil(font.getlength(_caption(last_step))) + 8)
    frame = Image.new("RGB", (width, grid.height + STRIP_HEIGHT), "white")
    frame.paste(grid)
    ImageDraw.Draw(frame).text((4, grid.height + 1), _caption(_step_of(path)), fill="black", font=font)
    # Pillow dithers only towards a palette that it is given; without it colours fall into flat patches.
    return frame.quantize(palette=frame.quantize(), dither=Image.Dither.FLOYDSTEINBERG)


def _caption(step: int) -> str:
    return f"step {step:,}"


def _make_directory_of(target: Path) -> None:
    with storage_errors(target):
        target.parent.mkdir(parents=True, exist_ok=True)


def _nothing_to_draw(found: str, option: str) -> ConfigError:
    return ConfigError(
        f"{found}, so there is nothing to draw. Wait until the run reaches a multiple of {option}, or name another "
        "run's directory, such as runs/digits."
    )
