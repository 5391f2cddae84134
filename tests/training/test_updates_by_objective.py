"""Updates with each objective: steps on its loss and its penalties, and the metrics that it reports."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pipeline.errors import ConfigError
from pipeline.objectives import Objective, Scores
from pipeline.objectives.contract import Penalty
from pipeline.objectives.relativistic import Relativistic
from pipeline.objectives.wasserstein import Wasserstein
from pipeline.options import Rounds
from pipeline.training.updates import (
    CriticBatch,
    GeneratorBatch,
    Player,
    UpdatePlan,
    critic_update,
    generator_update,
)
from tests.training.pairs import (
    ALL,
    IN_ALL_ROUNDS,
    ONE_SIDED,
    PENALTY,
    WIDE_BOX,
    Pair,
    Plain,
    assert_state,
    change,
    critic_batch,
    descend,
    generator_batch,
    state,
)


@ALL
def test_a_joint_update_is_one_step_on_the_sum_of_the_losses(objective: Objective) -> None:
    pair, by_hand = Pair("layer"), Pair("layer")
    critic, (real, latents, uniform) = by_hand.critic.module, critic_batch()
    fake = by_hand.generator.module(latents).detach()
    loss = objective.critic_loss(Scores(critic(real), critic(fake)))
    terms = [term(critic, real, fake, uniform) for term in objective.penalties]
    penalty = torch.stack([torch.zeros(()), *terms]).sum()
    norm = descend(critic, loss + penalty, lr=0.1)

    before = state(pair.critic.module)
    metrics = pair.update_critic(objective)
    moved = change(pair.critic.module, before)
    assert (moved - change(critic, before)).norm() < 1e-5 * moved.norm()
    assert metrics["critic/loss"].item() == pytest.approx((loss + penalty).item(), rel=1e-5, abs=1e-6)
    assert metrics["critic/grad_norm"].item() == pytest.approx(norm.item(), rel=1e-4)
    if objective.penalties:
        assert metrics["critic/penalty"].item() == pytest.approx(penalty.item(), rel=1e-5)


@IN_ALL_ROUNDS
def test_an_update_reports_exactly_the_metrics_of_its_objective(objective: Objective, rounds: Rounds) -> None:
    pair = Pair()
    expected = {"critic/real", "critic/fake", "critic/loss", "critic/grad_norm"}
    if objective.penalties:
        expected.add("critic/penalty")
    if objective in (WIDE_BOX, PENALTY, ONE_SIDED):
        expected.add("wasserstein/estimate")
    metrics = pair.update_critic(objective, rounds=rounds)
    assert metrics.keys() == expected
    assert pair.update_generator(objective).keys() == {"generator/loss", "generator/grad_norm"}
    assert all(value.shape == () and not value.requires_grad for value in metrics.values())
    if "wasserstein/estimate" in expected and rounds == "joint":
        assert metrics["wasserstein/estimate"] == metrics["critic/real"] - metrics["critic/fake"]


@IN_ALL_ROUNDS
def test_every_objective_trains_the_critic_and_then_the_generator(
    objective: Objective, rounds: Rounds
) -> None:
    pair = Pair("layer", lr=3e-4)
    losses = [pair.update_critic(objective, rounds=rounds)["critic/loss"].item() for _ in range(8)]
    assert losses[-1] < losses[0]
    before = state(pair.critic.module)
    losses = [pair.update_generator(objective)["generator/loss"].item() for _ in range(8)]
    assert losses[-1] < losses[0]
    assert_state(pair.critic.module, before)


@ALL
def test_the_generators_update_is_one_step_on_its_loss_against_the_critic(objective: Objective) -> None:
    pair, by_hand = Pair("layer"), Pair("layer")
    generator = by_hand.generator.module
    critic = by_hand.critic.module
    real = critic(critic_batch()[0]) if objective.generator_sees_real else torch.empty(0)
    loss = objective.generator_loss(Scores(real, critic(generator(generator_batch()))))
    descend(generator, loss, lr=0.1)
    before = state(pair.generator.module)
    metrics = pair.update_generator(objective)
    moved = change(pair.generator.module, before)
    assert moved.norm() > 0
    assert (moved - change(generator, before)).norm() < 1e-5 * moved.norm()
    assert metrics["generator/loss"].item() == pytest.approx(loss.item(), rel=1e-5)


class Bias(nn.Module):
    """A critic: c(x) = w mean(x)."""

    def __init__(self, weight: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(weight))

    def forward(self, inputs: Tensor, float32: bool = False) -> Tensor:
        return self.weight * inputs.flatten(1).mean(1)


class Shift(Bias):
    """A generator of images of one pixel: the latent plus w."""

    def forward(self, inputs: Tensor, float32: bool = False) -> Tensor:
        return (self.weight + inputs)[:, :, None, None]


def player(module: nn.Module) -> Player:
    return Player(module, module, torch.optim.SGD(module.parameters(), lr=1.0))


@pytest.mark.parametrize("micro_batch", [None, 1, 2, 3])
def test_a_pairwise_loss_trains_both_networks_as_its_closed_form_says(micro_batch: int | None) -> None:
    one, other = Bias(0.5), Shift(0.25)
    critic, generator = player(one), player(other)
    real = torch.tensor([1.0, -2.0, 3.0, 0.5, 0.0])
    latents = torch.tensor([0.1, 0.2, -0.3, 0.4, 1.0])
    batch = CriticBatch(
        real[:, None, None, None], generator.module(latents[:, None]).detach(), torch.zeros(5)
    )
    plan = UpdatePlan(Plain(), micro_batch)
    metrics = critic_update(critic, Relativistic(), batch, plan)
    # With d = real - fake, the loss is the mean of log(1 + exp(-w d)), and its slope that of -d sigmoid(-w d).
    difference = real - (0.25 + latents)
    torch.testing.assert_close(metrics["critic/loss"], (1 + torch.exp(-0.5 * difference)).log().mean())
    weight = 0.5 + (difference / (1 + torch.exp(0.5 * difference))).mean()
    torch.testing.assert_close(one.weight.detach(), weight)

    weight_before = one.weight.detach().clone()
    metrics = generator_update(
        generator, critic.module, Relativistic(), GeneratorBatch(latents[:, None], batch.real), plan
    )
    torch.testing.assert_close(metrics["generator/loss"], (1 + torch.exp(weight * difference)).log().mean())
    # The images move with the generator's weight one to one, and their scores w times as much.
    moved = (weight / (1 + torch.exp(-weight * difference))).mean()
    torch.testing.assert_close(other.weight.detach(), 0.25 + moved)
    assert torch.equal(one.weight.detach(), weight_before)


def test_reading_real_scores_without_generator_sees_real_fails() -> None:
    class Forgetful(Relativistic):
        generator_sees_real = False

    with pytest.raises(RuntimeError, match="size"):
        Pair().update_generator(Forgetful())


class AbsoluteScore(Penalty):
    """The mean absolute score of the real images, weighted."""

    def __init__(self, weight: float) -> None:
        self.weight = weight

    def __call__(self, critic: Any, real: Tensor, fake: Tensor, uniform: Tensor) -> Tensor:
        return self.weight * critic(real).abs().mean()


def test_several_penalties_are_added_up() -> None:
    pair, by_hand = Pair(), Pair()
    real, latents, _ = critic_batch()
    with torch.no_grad():
        fake = by_hand.generator.module(latents)
        plain = Wasserstein().critic_loss(Scores(by_hand.critic.module(real), by_hand.critic.module(fake)))
        expected = 5 * by_hand.critic.module(real).abs().mean()
    metrics = pair.update_critic(Wasserstein(penalties=(AbsoluteScore(2.0), AbsoluteScore(3.0))))
    torch.testing.assert_close(metrics["critic/penalty"], expected)
    torch.testing.assert_close(metrics["critic/loss"], plain + expected)


@pytest.mark.parametrize(
    ("objective", "reason"),
    [
        (Relativistic(), "the objective Relativistic, whose loss compares the scores of real and generated"),
        (PENALTY, r"the objective Wasserstein, whose penalty \(GradientPenalty\) needs real and generated"),
    ],
)
def test_alternating_rounds_of_a_loss_that_needs_both_kinds_are_refused(
    objective: Objective, reason: str
) -> None:
    with pytest.raises(ConfigError, match=f"critic_rounds: alternating cannot be used with {reason}"):
        Pair().update_critic(objective, rounds="alternating")
