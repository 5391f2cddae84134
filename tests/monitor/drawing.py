"""Records of runs that never trained, and the lines that are drawn from them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from matplotlib.axes import Axes

from pipeline.monitor.records import Record

SCORES = {"critic/real": 3.0, "critic/fake": 1.0, "generator/loss": -1.0, "critic/loss": -2.0}
ESTIMATES = {"wasserstein/estimate": 2.0, "wasserstein/estimate_smooth": 2.5}


def records(steps: Sequence[int], **figures: float) -> list[Record]:
    return [{"step": step, **SCORES, **figures} for step in steps]


def write_records(run: Path, lines: Sequence[Record]) -> Path:
    path = run / "metrics.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def curves(axes: Axes) -> dict[str, list[tuple[float, float]]]:
    """The points of each line by its label."""
    return {
        str(line.get_label()): list(zip(line.get_xdata(), line.get_ydata(), strict=True))  # type: ignore[arg-type]
        for line in axes.lines
    }
