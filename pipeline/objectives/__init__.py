"""What is minimised: one file per objective, and what bounds the critic (clipping, penalties).

An objective maps scores to losses; the caller runs the critic and the backward pass. Real images score high (unless
labels are flipped), so that the Wasserstein estimate is mean c(real) - mean c(fake).
"""

from __future__ import annotations

from pipeline.objectives.clipping import WeightClipping
from pipeline.objectives.contract import (
    Constraint,
    Metrics,
    Objective,
    Penalty,
    Scores,
    Separable,
    as_separable,
)
from pipeline.objectives.cross_entropy import CrossEntropy
from pipeline.objectives.hinge import Hinge
from pipeline.objectives.least_squares import LeastSquares
from pipeline.objectives.penalties import GradientPenalty
from pipeline.objectives.wasserstein import Wasserstein
from pipeline.options import ObjectiveOptions
from pipeline.plugins import OBJECTIVE, is_import_path, load_plugin

__all__ = [
    "Constraint",
    "Metrics",
    "Objective",
    "Penalty",
    "Scores",
    "Separable",
    "as_separable",
    "build_objective",
]


def build_objective(options: ObjectiveOptions) -> Objective:
    """The objective that the options name."""
    if is_import_path(options.name):
        own: Objective = load_plugin(OBJECTIVE, options.name)(options)
        return own
    match options.name:
        case "wasserstein":
            return Wasserstein(constraint=WeightClipping(options.clip, options.scope))
        case "gradient_penalty":
            penalty = GradientPenalty(options.weight, options.sides == "one", options.precision != "run")
            return Wasserstein(penalties=(penalty,))
        case "least_squares":
            return LeastSquares(options)
        case "cross_entropy":
            return CrossEntropy(options)
        case "hinge":
            return Hinge()
