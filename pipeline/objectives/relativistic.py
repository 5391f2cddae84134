"""Relativistic pairing loss (Jolicoeur-Martineau 2019; Huang et al. 2024, "R3GAN"): images are compared in pairs."""

from __future__ import annotations

from torch import Tensor
from torch.nn.functional import softplus

from pipeline.objectives.contract import Objective, Scores


class Relativistic(Objective):
    """Critic: E log(1 + exp(c(fake) - c(real))). Generator: E log(1 + exp(c(real) - c(fake))).

    Real and generated images are paired in their order. A critic that merely adds a constant to all scores gains
    nothing, and the generator has no reason to leave a mode: each real image keeps a generated one beside it. It needs
    a penalty on the critic's slope (R1 and R2) to converge.
    """

    generator_sees_real = True

    def critic_loss(self, scores: Scores) -> Tensor:
        """E log(1 + exp(c(fake) - c(real)))."""
        return softplus(scores.fake - scores.real).mean()

    def generator_loss(self, scores: Scores) -> Tensor:
        """E log(1 + exp(c(real) - c(fake)))."""
        return softplus(scores.real - scores.fake).mean()
