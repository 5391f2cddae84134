"""Draw a run's Wasserstein estimate against the step.

pip install matplotlib
python benchmarks/estimate_curve.py runs/mnist docs/images/mnist-estimate.png
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import matplotlib.pyplot as plt


def main(run: Path, target: Path) -> None:
    """Plot estimate, its smoothed curve and the validation estimate, where the run has them."""
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    figure, axes = plt.subplots(figsize=(8, 4), dpi=100)
    for name, style in (
        ("wasserstein/estimate", {"alpha": 0.4}),
        ("wasserstein/estimate_smooth", {}),
        ("wasserstein/validation", {"linestyle": "--"}),
    ):
        points = [(line["step"], line[name]) for line in lines if name in line]
        if points:
            axes.plot(*zip(*points, strict=True), label=name, **style)
    axes.set_xscale("log")
    axes.set_xlabel("step (generator updates)")
    axes.set_ylabel("mean c(real) - mean c(fake)")
    axes.set_title(run.name)
    axes.legend()
    figure.tight_layout()
    figure.savefig(target)
    print(target)


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    main(Path(sys.argv[1]), Path(sys.argv[2]))
