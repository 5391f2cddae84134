"""What is minimised: one file an objective.

An objective maps scores to losses; whoever calls it runs the critic and the backward pass. Real images
score high (but for flipped labels), so that the Wasserstein estimate is mean c(real) - mean c(fake).
"""

from __future__ import annotations

from pipeline.objectives.contract import Metrics, Objective
from pipeline.objectives.cross_entropy import CrossEntropy
from pipeline.objectives.gradient_penalty import GradientPenalty
from pipeline.objectives.hinge import Hinge
from pipeline.objectives.least_squares import LeastSquares
from pipeline.objectives.wasserstein import ClippedWasserstein
from pipeline.options import ObjectiveOptions

__all__ = ["Metrics", "Objective", "build_objective"]


def build_objective(options: ObjectiveOptions) -> Objective:
    """The objective that the options name."""
    match options.name:
        case "wasserstein":
            return ClippedWasserstein(options)
        case "gradient_penalty":
            return GradientPenalty(options)
        case "least_squares":
            return LeastSquares(options)
        case "cross_entropy":
            return CrossEntropy(options)
        case "hinge":
            return Hinge()
