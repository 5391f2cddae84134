"""What is minimised: one file per objective, and what bounds the critic (clipping, penalties).

An objective maps scores to losses; the caller runs the critic and the backward pass. Real images score high (unless
labels are flipped), so that the Wasserstein estimate is mean c(real) - mean c(fake).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

from pipeline.objectives.class_loss import ClassLoss
from pipeline.objectives.clipping import WeightClipping
from pipeline.objectives.contract import (
    Constraint,
    GeneratorTerm,
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
from pipeline.objectives.penalties import GradientPenalty, SlopePenalty
from pipeline.objectives.relativistic import Relativistic
from pipeline.objectives.wasserstein import Wasserstein
from pipeline.option_objective import ObjectiveOptions
from pipeline.plugins import OBJECTIVE, is_import_path, load_plugin

__all__ = [
    "Constraint",
    "GeneratorTerm",
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
    objective = _build(options)
    objective.penalties = (*objective.penalties, *_slope_penalties(options))
    if options.class_loss is not None:
        term = ClassLoss(options.class_loss)
        objective.penalties, objective.generator_terms = (*objective.penalties, term), (term,)
    return objective


def _slope_penalties(options: ObjectiveOptions) -> Iterator[Penalty]:
    kinds: tuple[tuple[Literal["real", "fake"], float | None], ...] = (
        ("real", options.r1),
        ("fake", options.r2),
    )
    for images, weight in kinds:
        if weight is not None:
            yield SlopePenalty(images, weight, options.r_every, options.r_method == "exact")


def _build(options: ObjectiveOptions) -> Objective:
    match options.name:
        case "wasserstein":
            return Wasserstein(constraint=WeightClipping(options.clip, options.scope))
        case "gradient_penalty":
            penalty = GradientPenalty(options.weight, options.sides == "one", options.precision != "run")
            return Wasserstein(penalties=(penalty,))
        case "relativistic":
            return Relativistic()
        case "least_squares":
            return LeastSquares(options)
        case "cross_entropy":
            return CrossEntropy(options)
        case "hinge":
            return Hinge()
