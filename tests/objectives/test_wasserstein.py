"""The Wasserstein loss with clipping, against values of a linear critic computed by hand."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from pipeline.objectives import Objective, Scores, as_separable, build_objective
from pipeline.objectives.clipping import WeightClipping
from pipeline.objectives.contract import Constraint
from pipeline.objectives.penalties import GradientPenalty
from pipeline.option_objective import ClipScope, GradientPenaltyOptions, WassersteinOptions
from tests.objectives.points import generated


class Linear(nn.Module):
    """c(x) = w . x + b."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.linspace(-0.5, 1.0, 12))
        self.bias = nn.Parameter(torch.tensor(0.3))

    def forward(self, images: Tensor, float32: bool = False) -> Tensor:
        return images.flatten(1) @ self.weight + self.bias


def images(number: int, count: int = 6) -> Tensor:
    return torch.randn(count, 3, 2, 2, generator=torch.Generator().manual_seed(number))


def clipping_of(objective: Objective) -> Constraint:
    assert objective.constraint is not None
    return objective.constraint


OBJECTIVE = as_separable(build_objective(WassersteinOptions(clip=0.25)))
CLIPPING = clipping_of(OBJECTIVE)


def critic_loss(critic: Linear, real: Tensor, fake: Tensor) -> Tensor:
    return OBJECTIVE.critic_loss(Scores(critic(real), critic(fake)))


def test_the_losses_are_mean_scores_negative_for_real_images() -> None:
    scores = torch.tensor([-2.5, 1.0, 4.5])
    assert OBJECTIVE.real_loss(scores).item() == -1
    assert OBJECTIVE.fake_loss(scores).item() == 1
    assert OBJECTIVE.generator_loss(generated(scores)).item() == -1
    assert OBJECTIVE.measures_wasserstein


def test_the_critics_loss_is_minus_the_estimate() -> None:
    critic, real, fake = Linear(), images(0) + 0.5, images(1)
    difference = real.flatten(1).mean(0) - fake.flatten(1).mean(0)
    loss = critic_loss(critic, real, fake)
    torch.testing.assert_close(loss, -(difference @ critic.weight))
    torch.testing.assert_close(loss, critic(fake).mean() - critic(real).mean())


def test_the_critics_gradient_is_the_difference_of_the_means() -> None:
    critic, real, fake = Linear(), images(0) + 0.5, images(1)
    critic_loss(critic, real, fake).backward()
    expected = fake.flatten(1).mean(0) - real.flatten(1).mean(0)
    torch.testing.assert_close(critic.weight.grad, expected)
    assert abs(critic.bias.grad.item()) < 1e-6  # type: ignore[union-attr]


def test_a_trained_critic_scores_real_images_higher() -> None:
    critic, real, fake = Linear(), images(0) - 2, images(1) + 2
    optimizer = torch.optim.SGD(critic.parameters(), lr=0.1)
    for _ in range(50):
        optimizer.zero_grad()
        critic_loss(critic, real, fake).backward()
        optimizer.step()
        CLIPPING.apply(critic)
    assert critic(real).mean() > critic(fake).mean()
    # The best linear critic in the box has every weight at an edge.
    torch.testing.assert_close(critic.weight.detach(), torch.full((12,), -0.25))


def test_the_generators_loss_pushes_the_scores_up() -> None:
    critic, fake = Linear(), images(1).requires_grad_()
    loss = OBJECTIVE.generator_loss(generated(critic(fake)))
    torch.testing.assert_close(loss, -critic(fake).mean())
    loss.backward()
    torch.testing.assert_close(fake.grad, (-critic.weight / 6).expand(6, 12).reshape(6, 3, 2, 2).detach())


def test_there_is_no_penalty() -> None:
    assert OBJECTIVE.penalties == ()


def test_every_weight_is_clipped_including_biases_and_norms() -> None:
    critic = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(16, 1))
    with torch.no_grad():
        for weight in critic.parameters():
            weight.mul_(10).add_(0.5)
    statistics = [buffer.clone() for buffer in critic.buffers()]
    CLIPPING.apply(critic)
    assert all(weight.abs().max() <= 0.25 for weight in critic.parameters())
    assert all(torch.equal(*both) for both in zip(statistics, critic.buffers(), strict=True))


def test_the_share_of_weights_at_the_edges_is_reported() -> None:
    critic = Linear()
    report = CLIPPING.report(critic)
    assert report.keys() == {"critic/clipped_fraction"}
    outside = (critic.weight.abs() >= 0.25).sum().item() + 1
    assert report["critic/clipped_fraction"].item() == pytest.approx(outside / 13)


@pytest.mark.parametrize(
    ("scope", "clipped"),
    [
        ("all", ["0.weight", "0.bias", "1.weight", "1.bias", "3.weight", "3.bias"]),
        ("weights", ["0.weight", "3.weight"]),
        ("convolutions", ["0.weight"]),
        ("all_but_gains", ["0.weight", "0.bias", "1.bias", "3.weight", "3.bias"]),
    ],
)
def test_the_scope_says_what_is_clipped_and_what_the_report_counts(
    scope: ClipScope, clipped: list[str]
) -> None:
    critic = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(16, 1))
    with torch.no_grad():
        for weight in critic.parameters():
            weight.fill_(0.1).flatten()[0] = -7.0
    clipping = clipping_of(build_objective(WassersteinOptions(clip=0.25, scope=scope)))
    clipping.apply(critic)
    found = {name: weight.min().item() for name, weight in critic.named_parameters()}
    assert found == {name: -0.25 if name in clipped else -7.0 for name in found}
    in_scope = [weight.numel() for name, weight in critic.named_parameters() if name in clipped]
    fraction = clipping.report(critic)["critic/clipped_fraction"].item()
    assert fraction == pytest.approx(len(in_scope) / sum(in_scope))


def test_the_options_choose_the_objective() -> None:
    penalised = build_objective(GradientPenaltyOptions(name="gradient_penalty", weight=3.0, sides="one"))
    assert OBJECTIVE.constraint == WeightClipping(clip=0.25, scope="all")
    assert OBJECTIVE.penalties == ()
    assert penalised.constraint is None
    assert penalised.penalties == (GradientPenalty(weight=3.0, is_one_sided=True),)
