"""Wasserstein loss with weight clipping (Arjovsky, Chintala, Bottou 2017, algorithm 1)."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn

from pipeline.clipping import clip_weights, clipped_fraction
from pipeline.options import WassersteinOptions


class Wasserstein:
    """max over c of E c(real) - E c(fake), with every weight of c in [-clip, clip]."""

    def __init__(self, options: WassersteinOptions) -> None:
        self.clip = options.clip

    def critic_loss(
        self, critic: Callable[..., Tensor], real: Tensor, fake: Tensor, uniform: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Minus the Wasserstein estimate, in the units of the critic's scores."""
        real_score, fake_score = critic(real).mean(), critic(fake).mean()
        return fake_score - real_score, {"critic/real": real_score, "critic/fake": fake_score}

    def generator_loss(self, critic: Callable[..., Tensor], fake: Tensor) -> Tensor:
        """- E c(fake)."""
        return -critic(fake).mean()

    def constrain(self, critic: nn.Module) -> None:
        """Clip every weight of the critic."""
        clip_weights(critic.parameters(), self.clip)

    def report(self, critic: nn.Module) -> dict[str, Tensor]:
        """critic/clipped_fraction: the share of weights on the walls of the box."""
        return {"critic/clipped_fraction": clipped_fraction(critic.parameters(), self.clip)}
