"""The pictures of a report: curves as SVG in the colours of the page, and sample grids as data URIs."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib
from markupsafe import Markup
from matplotlib.figure import Figure
from PIL import Image

from pipeline.errors import ConfigError
from pipeline.metric_table import NO_PLUGINS, MetricsByTag
from pipeline.monitor.animation import choose_frames, read_grid, step_of
from pipeline.monitor.plots import (
    ALARM_COLOUR,
    BLUE,
    GREEN,
    PURPLE,
    RED,
    SKY,
    Curve,
    Panel,
    draw_panel,
    panels_of,
)
from pipeline.monitor.records import AlarmRecord, Record, has_points

MOST_GRIDS = 12
MOST_PNG_BYTES = 150_000
CHART_SIZE = (4.6, 2.5)

# Placeholders that no chart uses otherwise. The page replaces them and the curves' colours with its light or dark ones.
INK, RULE = "#010203", "#040506"
PAGE_COLOURS = {
    INK: "ink",
    RULE: "rule",
    BLUE: "blue",
    RED: "red",
    GREEN: "green",
    PURPLE: "purple",
    SKY: "sky",
    ALARM_COLOUR: "alarm",
}
CHART_STYLE: Any = {
    "svg.fonttype": "none",
    "svg.hashsalt": "wgan",
    "font.size": 9,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": RULE,
    "axes.facecolor": "none",
    "figure.facecolor": "none",
    "grid.color": RULE,
    "xtick.color": RULE,
    "ytick.color": RULE,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
}


class Key(NamedTuple):
    """An entry of a chart's legend."""

    label: str
    colour: str
    is_dashed: bool


class Chart(NamedTuple):
    """Curves as SVG."""

    title: str
    quantity: str
    svg: Markup
    keys: Sequence[Key]


class Grid(NamedTuple):
    """The sample grid of a step; `uri` contains the picture."""

    step: int
    uri: str
    width: int
    height: int


def draw_charts(
    records: Sequence[Record], alarms: Sequence[AlarmRecord], own: MetricsByTag = NO_PLUGINS
) -> list[Chart]:
    """The panels of curves.png, each as an SVG in the colours of the page."""
    if not records:
        return []
    with matplotlib.rc_context(CHART_STYLE):
        return [_draw_chart(records, panel, alarms) for panel in panels_of(records, own)]


def read_grids(samples: Path) -> list[Grid]:
    """Up to 12 sample grids, with the first and the last; empty if the run has drawn none.

    Grids that a running training has deleted meanwhile are left out with a warning.
    """
    try:
        paths = choose_frames(samples, MOST_GRIDS)
    except ConfigError:
        return []
    pictures = {path: picture for path in paths if (picture := read_grid(path)) is not None}
    return [_embed(picture, step_of(path)) for path, picture in pictures.items()]


def _draw_chart(records: Sequence[Record], panel: Panel, alarms: Sequence[AlarmRecord]) -> Chart:
    figure = Figure(figsize=CHART_SIZE, layout="constrained")
    axes = figure.subplots()
    draw_panel(axes, records, panel, alarms)
    axes.set_ylabel("")
    axes.set_xlabel("step")
    axes.tick_params(length=0)
    text = io.StringIO()
    # Without them the SVG has no metadata element, whose URLs look like requests.
    figure.savefig(text, format="svg", metadata=dict.fromkeys(("Creator", "Date", "Format", "Type")))
    svg = text.getvalue()
    for colour, name in PAGE_COLOURS.items():
        svg = svg.replace(colour.lower(), f"var(--{name})")
    # Safe: only numbers in it come from the run.
    keys = [_key(curve) for curve in panel.curves if has_points(records, curve.tag)]
    if alarms:
        keys.append(Key("alarm", "alarm", is_dashed=True))
    quantity = panel.quantity.rpartition("\n")[2]
    return Chart(panel.title, quantity, Markup(svg[svg.index("<svg") :]), keys)


def _key(curve: Curve) -> Key:
    return Key(curve.label, PAGE_COLOURS[curve.style["color"]], "linestyle" in curve.style)


def _embed(picture: Image.Image, step: int) -> Grid:
    """As PNG, or as WebP if the PNG is large."""
    content, kind = _encode(picture, "PNG"), "png"
    if len(content) > MOST_PNG_BYTES:
        content, kind = _encode(picture, "WEBP", quality=88), "webp"
    uri = f"data:image/{kind};base64,{base64.b64encode(content).decode()}"
    return Grid(step, uri, picture.width, picture.height)


def _encode(picture: Image.Image, kind: str, **options: Any) -> bytes:
    content = io.BytesIO()
    picture.save(content, format=kind, **options)
    return content.getvalue()
