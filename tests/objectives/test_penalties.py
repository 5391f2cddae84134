"""The gradient penalty, against values of simple critics computed by hand."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pipeline.models import build_critic
from pipeline.objectives import Scores, build_objective
from pipeline.objectives.penalties import segment_gradient_norms
from pipeline.option_objective import GradientPenaltyOptions
from pipeline.options import DcganOptions
from tests.objectives.points import generated

OBJECTIVE = build_objective(GradientPenaltyOptions(name="gradient_penalty", weight=7.0))
(PENALTY,) = OBJECTIVE.penalties
(ONE_SIDED,) = build_objective(
    GradientPenaltyOptions(name="gradient_penalty", weight=7.0, sides="one")
).penalties
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


def half_square(images: Tensor, float32: bool = False) -> Tensor:
    """|x|^2 / 2, whose gradient at x is x itself."""
    return images.flatten(1).square().sum(1) / 2


def points(real: Tensor, fake: Tensor) -> Tensor:
    share = UNIFORM.view(-1, 1, 1, 1)
    return share * real + (1 - share) * fake


def critic_loss(critic: Callable[..., Tensor], real: Tensor, fake: Tensor, uniform: Tensor) -> Tensor:
    penalty = PENALTY(critic, real, fake, uniform)
    return OBJECTIVE.critic_loss(Scores(critic(real), critic(fake))) + penalty


def test_a_linear_critics_penalty_depends_on_the_norm_of_its_weights() -> None:
    critic, real, fake = Linear(), images(0) + 0.5, images(1)
    weight = critic.weight.detach()
    penalty = 7 * (weight.norm() - 1) ** 2
    difference = real.flatten(1).mean(0) - fake.flatten(1).mean(0)
    torch.testing.assert_close(PENALTY(critic, real, fake, UNIFORM), penalty)
    torch.testing.assert_close(critic_loss(critic, real, fake, UNIFORM), penalty - weight @ difference)


def test_the_penaltys_gradient_reaches_the_weights() -> None:
    critic, real, fake = Linear(), images(0) + 0.5, images(1)
    critic_loss(critic, real, fake, UNIFORM).backward()
    weight = critic.weight.detach()
    difference = real.flatten(1).mean(0) - fake.flatten(1).mean(0)
    expected = 7 * 2 * (weight.norm() - 1) * weight / weight.norm() - difference
    torch.testing.assert_close(critic.weight.grad, expected)


def test_a_critic_of_slope_one_has_no_penalty() -> None:
    critic = Linear()
    with torch.no_grad():
        critic.weight.div_(critic.weight.norm())
    for penalty in (PENALTY, ONE_SIDED):
        assert penalty(critic, images(0), images(1), UNIFORM).item() < 1e-12


@pytest.mark.parametrize("norm", [0.0, 0.5, 0.999])
def test_one_sided_a_slope_below_one_has_no_penalty_and_no_gradient(norm: float) -> None:
    critic = Linear()
    with torch.no_grad():
        critic.weight.mul_(norm / critic.weight.norm())
    penalty = ONE_SIDED(critic, images(0), images(1), UNIFORM)
    penalty.backward()
    assert penalty.item() == 0
    assert critic.weight.grad is not None
    assert critic.weight.grad.abs().max() == 0
    two_sided = PENALTY(critic, images(0), images(1), UNIFORM)
    torch.testing.assert_close(two_sided, torch.tensor(7 * (norm - 1) ** 2))


def test_the_penalty_leaves_mixed_precision_unless_it_is_to_be_in_the_runs() -> None:
    critic = build_critic(DcganOptions(width=8), 16, 3)
    options = [GradientPenaltyOptions(name="gradient_penalty", precision=kind) for kind in ("float32", "run")]
    real, fake = images(0, side=16), images(1, side=16)
    exact, rounded = (build_objective(found).penalties[0] for found in options)

    def mixed(images: Tensor, float32: bool = False) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            return critic(images, float32=float32)

    expected = exact(critic, real, fake, UNIFORM)
    assert torch.equal(exact(mixed, real, fake, UNIFORM), expected)
    found = rounded(mixed, real, fake, UNIFORM)
    assert not torch.equal(found, expected)
    torch.testing.assert_close(found, expected, rtol=0.1, atol=0.01)


def test_one_sided_a_slope_above_one_costs_as_much_as_two_sided() -> None:
    critic, real, fake = Linear(), images(0), images(1)
    penalties = [penalty(critic, real, fake, UNIFORM) for penalty in (PENALTY, ONE_SIDED)]
    assert torch.equal(*penalties)
    torch.testing.assert_close(penalties[1], 7 * (critic.weight.detach().norm() - 1) ** 2)


def test_one_sided_steep_places_are_not_offset_by_flat_ones() -> None:
    real, fake = images(0) / 3, images(1) / 3
    norms = points(real, fake).flatten(1).norm(dim=1)
    assert norms.min() < 0.9
    assert norms.max() > 1.1
    expected = 7 * (norms - 1).clamp(min=0).square().mean()
    torch.testing.assert_close(ONE_SIDED(half_square, real, fake, UNIFORM), expected)


def test_the_slope_is_measured_on_each_samples_own_segment() -> None:
    real, fake = images(0), images(1)
    norms = points(real, fake).flatten(1).norm(dim=1)
    torch.testing.assert_close(segment_gradient_norms(half_square, real, fake, UNIFORM), norms)
    penalty = PENALTY(half_square, real, fake, UNIFORM)
    torch.testing.assert_close(penalty, 7 * (norms - 1).square().mean())


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_a_segment_goes_from_its_generated_image_at_0_to_its_real_one_at_1(share: float) -> None:
    real, fake = images(0), images(1)
    norms = segment_gradient_norms(half_square, real, fake, torch.full((COUNT,), share))
    assert norms.shape == (COUNT,)
    torch.testing.assert_close(norms, (real if share else fake).flatten(1).norm(dim=1))


def test_measured_slopes_leave_no_graph_and_no_gradients_behind() -> None:
    critic, fake = Linear(), images(1).requires_grad_()
    norms = segment_gradient_norms(critic, images(0), fake, UNIFORM)
    torch.testing.assert_close(norms, critic.weight.detach().norm().expand(COUNT))
    assert not norms.requires_grad
    assert critic.weight.grad is None
    assert fake.grad is None


def test_the_images_themselves_take_no_gradient() -> None:
    real, fake = images(0), images(1)
    critic_loss(Linear(), real, fake, UNIFORM).backward()
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
        return critic_loss(critic, real, fake, uniform)

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
    loss = critic_loss(mixed, real, fake, UNIFORM)
    assert types == [torch.float32, torch.bfloat16, torch.bfloat16]
    penalty = PENALTY(mixed, real, fake, UNIFORM)
    assert penalty.dtype == torch.float32
    assert torch.equal(penalty, PENALTY(critic, real, fake, UNIFORM))
    loss.backward()
    assert all(parameter.grad is not None for parameter in critic.parameters())


def test_the_generators_loss_is_minus_its_mean_score() -> None:
    scores = Linear()(images(1))
    torch.testing.assert_close(OBJECTIVE.generator_loss(generated(scores)), -scores.mean())


def test_with_a_penalty_weights_are_not_clipped() -> None:
    assert OBJECTIVE.constraint is None
