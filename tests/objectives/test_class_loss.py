"""The cross entropy of classes: its closed form, in the losses of both networks, and where it is refused."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from pipeline.errors import ConfigError
from pipeline.models.class_inputs import given
from pipeline.models.critic import BaseCritic, Score
from pipeline.objectives import as_separable, build_objective
from pipeline.objectives.class_loss import ClassLoss
from pipeline.option_objective import GradientPenaltyOptions, HingeOptions
from pipeline.profiling.flops import SingleProcess
from pipeline.training.updates import GeneratorBatch, Player, UpdatePlan, generator_update

CLASSES, BATCH = 3, 6
IMAGES = torch.linspace(-1, 1, 2 * BATCH * 4).view(2, BATCH, 1, 2, 2)
LABELS = torch.arange(BATCH) % CLASSES
UNIFORM = torch.zeros(BATCH)


@pytest.fixture
def critic() -> BaseCritic:
    torch.manual_seed(0)
    return BaseCritic(nn.Sequential(nn.Flatten(), nn.Linear(4, 5), nn.Tanh()), Score(5, CLASSES))


def test_it_is_the_cross_entropy_of_the_scores_of_all_classes(critic: BaseCritic) -> None:
    real, fake = IMAGES
    scores = torch.stack([critic(real, torch.full_like(LABELS, label)) for label in range(CLASSES)], 1)
    expected = 0.5 * nn.functional.cross_entropy(scores, LABELS)
    found = ClassLoss(0.5)(given(critic, LABELS), real, fake, UNIFORM)
    torch.testing.assert_close(found, expected)
    assert critic.score.of_class is not None
    weights = [*critic.layers.parameters(), critic.score.of_class.weight]
    ours, theirs = (torch.autograd.grad(loss, weights) for loss in (found, expected))
    torch.testing.assert_close(ours, theirs)


def test_the_critic_learns_it_on_real_images_and_the_generator_on_its_own(critic: BaseCritic) -> None:
    objective = build_objective(GradientPenaltyOptions(name="gradient_penalty", class_loss=2.0))
    real, fake = IMAGES
    classes: Any = objective.penalties[1]
    assert objective.generator_terms == (classes,)
    expected = -2 * critic(real, LABELS, classify=True).mean()
    torch.testing.assert_close(classes(given(critic, LABELS), real, fake, UNIFORM), expected)

    class Shifted(nn.Module):
        """Latents that are images, and one weight."""

        def __init__(self) -> None:
            super().__init__()
            self.shift = nn.Parameter(torch.zeros(()))

        def forward(self, latents: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
            return latents + self.shift

    generator = Shifted()
    player = Player(generator, generator, torch.optim.SGD(generator.parameters(), lr=0.1))
    batch = GeneratorBatch(fake, real, labels=LABELS)
    measured = generator_update(player, critic, objective, batch, UpdatePlan(SingleProcess()))
    scores, likelihoods = critic(fake, LABELS).mean(), critic(fake, LABELS, classify=True).mean()
    torch.testing.assert_close(measured["generator/loss"], (-scores - 2 * likelihoods).detach())


def test_it_is_refused_without_classes_and_in_alternating_rounds() -> None:
    plain = BaseCritic(nn.Flatten(), Score(4))
    with pytest.raises(ConfigError, match=r"needs a critic with classes. Set model\.conditional: true"):
        plain(IMAGES[0], classify=True)
    with pytest.raises(ConfigError, match=r"critic_rounds: alternating cannot be used .* \(ClassLoss\)"):
        as_separable(build_objective(HingeOptions(name="hinge", class_loss=1.0)))
    assert build_objective(HingeOptions(name="hinge")).generator_terms == ()
