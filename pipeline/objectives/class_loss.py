"""The cross entropy of classes: the critic's scores of all classes of an image are also a classifier of it."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from pipeline.objectives.contract import Critic, GeneratorTerm, Penalty


@dataclass(frozen=True)
class ClassLoss(Penalty, GeneratorTerm):
    """- weight E log p(y | x), p(k | x) proportional to exp c(x, k): of real images for the critic, of fakes otherwise.

    An auxiliary classifier (AC-GAN, Odena et al. 2017) has weights of its own; here they are those of the projection
    (ECGAN, Chen et al. 2021). As there, and unlike in AC-GAN, the critic does not learn classes of generated images.
    """

    weight: float = 1.0

    def __call__(self, critic: Critic, real: Tensor, fake: Tensor, uniform: Tensor) -> Tensor:
        """The critic's term (0-d)."""
        return self._of(critic, real)

    def of_generated(self, critic: Critic, fake: Tensor) -> Tensor:
        """The generator's term (0-d)."""
        return self._of(critic, fake)

    def _of(self, critic: Critic, images: Tensor) -> Tensor:
        return -self.weight * critic(images, classify=True).mean()
