"""The gradient penalty, against what simple critics give by hand."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pipeline.models import build_critic
from pipeline.objectives import build_objective
from pipeline.options import DcganOptions, GradientPenaltyOptions

OBJECTIVE = build_objective(GradientPenaltyOptions(name="gradient_penalty", weight=7.0))
COUNT = 6
UNIFORM = torch.linspace(0, 0.9, COUNT)


def images(number: int, side: int = 2, channels: int = 3) -> Tensor:
    generator = torch.Generator().manual_seed(number)
    return torch.randn(COUNT, channels, side, side, generator=generator)


class Linear(nn.Module):
    """c(x) = w . x."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.linspace(-0.5, 1.0, 12))

    def forward(self, images: Tensor, float32: bool = False) -> Tensor:
        return images.flatten(1) @ self.weight


def test_a_linear_critic_pays_for_the_norm_of_its_weights() -> None:
    critic, real, fake = Linear(), images(0) + 0.5, images(1)
    loss, metrics = OBJECTIVE.critic_loss(critic, real, fake, UNIFORM)
    weight = critic.weight.detach()
    penalty = (weight.norm() - 1) ** 2
    difference = real.flatten(1).mean(0) - fake.flatten(1).mean(0)
    assert metrics.keys() == {"critic/real", "critic/fake", "critic/penalty"}
    torch.testing.assert_close(metrics["critic/penalty"], penalty)
    torch.testing.assert_close(metrics["critic/real"] - metrics["critic/fake"], weight @ difference)
    torch.testing.assert_close(loss, 7 * penalty - weight @ difference)


def test_the_penaltys_gradient_reaches_the_weights() -> None:
    critic, real, fake = Linear(), images(0) + 0.5, images(1)
    OBJECTIVE.critic_loss(critic, real, fake, UNIFORM)[0].backward()
    weight = critic.weight.detach()
    difference = real.flatten(1).mean(0) - fake.flatten(1).mean(0)
    expected = 7 * 2 * (weight.norm() - 1) * weight / weight.norm() - difference
    torch.testing.assert_close(critic.weight.grad, expected)


def test_a_critic_of_slope_one_pays_nothing() -> None:
    critic = Linear()
    with torch.no_grad():
        critic.weight.div_(critic.weight.norm())
    _, metrics = OBJECTIVE.critic_loss(critic, images(0), images(1), UNIFORM)
    assert metrics["critic/penalty"].item() < 1e-12


def test_the_slope_is_taken_on_the_line_from_fake_to_real_for_each_sample_alone() -> None:
    def half_square(images: Tensor, float32: bool = False) -> Tensor:
        return images.flatten(1).square().sum(1) / 2

    real, fake = images(0), images(1)
    _, metrics = OBJECTIVE.critic_loss(half_square, real, fake, UNIFORM)
    # Its gradient at x is x itself.
    share = UNIFORM.view(-1, 1, 1, 1)
    norms = (share * real + (1 - share) * fake).flatten(1).norm(dim=1)
    torch.testing.assert_close(metrics["critic/penalty"], (norms - 1).square().mean())


def test_the_images_themselves_take_no_gradient() -> None:
    real, fake = images(0), images(1)
    OBJECTIVE.critic_loss(Linear(), real, fake, UNIFORM)[0].backward()
    assert real.grad is None
    assert fake.grad is None
    assert not real.requires_grad


@pytest.mark.parametrize("norm", ["none", "layer", "instance"])
def test_double_backward_gives_the_losss_slope_with_every_norm_allowed(norm: Any) -> None:
    torch.manual_seed(0)
    critic = build_critic(DcganOptions(width=4, critic_norm=norm), 16, 1).double()
    with torch.no_grad():
        for weight in critic.parameters():
            weight.mul_(5)
    real, fake = (images(number, 16, 1).double() for number in (0, 1))
    uniform = UNIFORM.double()

    def loss() -> Tensor:
        return OBJECTIVE.critic_loss(critic, real, fake, uniform)[0]

    parameters = list(critic.parameters())
    gradients = torch.autograd.grad(loss(), parameters)
    direction = [torch.randn_like(parameter) for parameter in parameters]
    expected = sum((gradient * way).sum() for gradient, way in zip(gradients, direction, strict=True))
    ends = []
    for step in (1e-6, -2e-6):
        with torch.no_grad():
            for parameter, way in zip(parameters, direction, strict=True):
                parameter.add_(way, alpha=step)
        ends.append(loss().detach())
    torch.testing.assert_close((ends[0] - ends[1]) / 2e-6, expected, rtol=1e-4, atol=1e-6)


def test_the_penalty_stays_in_float32_under_mixed_precision() -> None:
    critic = build_critic(DcganOptions(width=4), 16, 1)
    types = []

    def mixed(images: Tensor, **options: bool) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            scores: Tensor = critic(images, **options)
        types.append(scores.dtype)
        return scores

    real, fake = images(0, 16, 1), images(1, 16, 1)
    loss, metrics = OBJECTIVE.critic_loss(mixed, real, fake, UNIFORM)
    assert types == [torch.bfloat16, torch.bfloat16, torch.float32]
    assert metrics["critic/penalty"].dtype == torch.float32
    exact = OBJECTIVE.critic_loss(critic, real, fake, UNIFORM)[1]
    assert torch.equal(metrics["critic/penalty"], exact["critic/penalty"])
    loss.backward()
    assert all(parameter.grad is not None for parameter in critic.parameters())


def test_the_generators_loss_is_minus_its_mean_score() -> None:
    critic, fake = Linear(), images(1)
    torch.testing.assert_close(OBJECTIVE.generator_loss(critic, fake), -critic(fake).mean())


def test_weights_are_not_clipped_and_nothing_more_is_reported() -> None:
    critic = Linear()
    before = critic.weight.detach().clone()
    OBJECTIVE.constrain(critic)
    assert torch.equal(critic.weight, before)
    assert OBJECTIVE.report(critic) == {}
