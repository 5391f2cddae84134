"""The options of objectives: what critic and generator minimise."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from pipeline.option_types import Magnitude, Options, option

ClipScope = Literal["all", "weights", "convolutions", "all_but_gains"]


class CriticLossOptions(Options):
    """What every objective has: penalties on the critic's slope (objectives/penalties.py), and a loss of classes."""

    r1: Magnitude | None = option(None, "weight of R1, half the squared slope at real images; null: none")
    r2: Magnitude | None = option(
        None, "weight of R2, half the squared slope at generated images; null: none"
    )
    r_every: int = option(1, "critic updates from one with R1 and R2 to the next (lazy)", ge=1, le=1000)
    r_method: Literal["exact", "finite_difference"] = option(
        "exact", "exact: differentiate twice; finite_difference: along a random direction, without that"
    )
    class_loss: Magnitude | None = option(
        None, "weight of the cross entropy of classes, as the critic scores them; null: none"
    )


class WassersteinOptions(CriticLossOptions):
    """Wasserstein loss with weight clipping (objectives/wasserstein.py)."""

    name: Literal["wasserstein"] = "wasserstein"
    clip: Magnitude = option(0.01, "the critic's weights are clipped to [-clip, clip]")
    scope: ClipScope = option(
        "all",
        "what is clipped: all parameters; weights (no biases, no norms); convolutions (their kernels); or "
        "all_but_gains (everything except the gains of norms)",
    )


class GradientPenaltyOptions(CriticLossOptions):
    """Wasserstein loss with gradient penalty (objectives/gradient_penalty.py)."""

    name: Literal["gradient_penalty"]
    weight: Magnitude = option(10.0, "factor of the penalty (lambda in the paper)")
    sides: Literal["two", "one"] = option("two", "two: penalize all gradient norms but 1; one: those above 1")
    precision: Literal["float32", "tf32", "run"] = option(
        "float32", "of the penalty; tf32: in runs in bf16 or fp16, on GPUs; run: that of the whole run"
    )


class LeastSquaresOptions(CriticLossOptions):
    """Least squares loss (objectives/least_squares.py).

    Two codings (a, b, c) are published: Pearson (-1, 1, 0), the default, and binary (0, 1, 1).
    """

    name: Literal["least_squares"]
    a: float = option(-1.0, "target of the critic's score for generated images", ge=-1e6, le=1e6)
    b: float = option(1.0, "target of the critic's score for real images", ge=-1e6, le=1e6)
    c: float = option(0.0, "target of the generator for the score of its images", ge=-1e6, le=1e6)


class CrossEntropyOptions(CriticLossOptions):
    """Binary cross entropy, the loss of the original GAN (objectives/cross_entropy.py)."""

    name: Literal["cross_entropy"]
    generator: Literal["non_saturating", "saturating"] = option(
        "non_saturating",
        "minimize -log D(fake), or log(1 - D(fake)), whose gradient vanishes for a confident D",
    )
    labels: Literal["real_is_one", "real_is_zero"] = option(
        "real_is_one", "the critic's label for real images; generated images have the other one"
    )


class HingeOptions(CriticLossOptions):
    """Hinge loss (objectives/hinge.py)."""

    name: Literal["hinge"]


class RelativisticOptions(CriticLossOptions):
    """Relativistic pairing loss (objectives/relativistic.py), with R1 and R2 as in R3GAN."""

    name: Literal["relativistic"]
    r1: Magnitude | None = option(1.0, "weight of R1, half the squared slope at real images; null: none")
    r2: Magnitude | None = option(1.0, "weight of R2, half the squared slope at generated images; null: none")


ObjectiveOptions = Annotated[
    WassersteinOptions
    | GradientPenaltyOptions
    | LeastSquaresOptions
    | CrossEntropyOptions
    | HingeOptions
    | RelativisticOptions,
    Field(discriminator="name"),
]
