"""One update of the critic and one of the generator, in one process."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from pipeline.models.norms import BatchNorm2d
from pipeline.objectives import Objective, build_objective
from pipeline.option_objective import WassersteinOptions
from pipeline.options import Rounds
from pipeline.training.updates import CriticBatch, UpdatePlan, critic_update, draw_fakes
from tests.training.pairs import (
    BATCH,
    PENALTY,
    WASSERSTEIN,
    WIDE_BOX,
    Pair,
    Plain,
    assert_state,
    change,
    critic_batch,
    state,
)


@pytest.mark.parametrize("rounds", ["joint", "alternating"])
def test_every_critic_weight_is_in_the_box_after_each_update(rounds: Rounds) -> None:
    pair = Pair("batch", lr=0.5)
    for _ in range(3):
        pair.update_critic(WASSERSTEIN, rounds=rounds)
        for weight in pair.critic.module.parameters():
            assert weight.abs().max() <= torch.tensor(0.03)


def test_with_a_penalty_nothing_is_clipped() -> None:
    pair = Pair()
    pair.update_critic(PENALTY)
    assert max(weight.abs().max() for weight in pair.critic.module.parameters()) > 0.1


@pytest.mark.parametrize("objective", [WASSERSTEIN, PENALTY])
@pytest.mark.parametrize("micro_batch", [None, 2])
def test_the_estimate_is_real_minus_fake_before_the_update(
    objective: Objective, micro_batch: int | None
) -> None:
    pair, untouched = Pair(), Pair()
    metrics = pair.update_critic(objective, micro_batch=micro_batch)
    real, latents, _ = critic_batch()
    with torch.no_grad():
        fake = untouched.generator.module(latents)
        real_score, fake_score = (untouched.critic.module(images).mean() for images in (real, fake))
    torch.testing.assert_close(metrics["critic/real"], real_score)
    torch.testing.assert_close(metrics["critic/fake"], fake_score)
    difference = metrics["critic/real"] - metrics["critic/fake"]
    torch.testing.assert_close(metrics["wasserstein/estimate"], difference)
    if objective is WASSERSTEIN:
        torch.testing.assert_close(metrics["critic/loss"], fake_score - real_score)
    assert all(value.shape == () and not value.requires_grad for value in metrics.values())


def test_the_gradients_norm_is_bounded_and_reported_as_it_was_before() -> None:
    lr, largest = 0.1, 0.05
    free, bound = Pair(lr=lr), Pair(lr=lr, largest=largest)
    for update in ("update_critic", "update_generator"):
        name = update.removeprefix("update_")
        before = state(getattr(bound, name).module)
        expected = getattr(free, update)(PENALTY)[f"{name}/grad_norm"]
        found = getattr(bound, update)(PENALTY)[f"{name}/grad_norm"]
        if name == "critic":
            assert found == expected
        assert found > 2 * largest
        moved = change(getattr(bound, name).module, before).norm() / lr
        assert moved.item() == pytest.approx(largest, rel=1e-3)


def test_the_reported_norm_is_that_of_the_whole_gradient() -> None:
    pair = Pair(lr=0.1)
    before = state(pair.generator.module)
    norm = pair.update_generator(PENALTY)["generator/grad_norm"]
    assert norm.item() == pytest.approx(change(pair.generator.module, before).norm().item() / 0.1, rel=1e-3)


def test_a_small_gradient_is_not_enlarged_to_the_bound() -> None:
    free, bound = Pair(), Pair(largest=1e6)
    for pair in (free, bound):
        pair.update_critic(PENALTY)
    assert_state(bound.critic.module, state(free.critic.module))


def test_gradients_of_the_update_before_do_not_add_up() -> None:
    fresh, used = Pair(), Pair()
    for weight in used.critic.module.parameters():
        weight.grad = torch.full_like(weight, 1e3)
    for pair in (fresh, used):
        pair.update_critic(PENALTY)
    assert_state(used.critic.module, state(fresh.critic.module))


def test_the_generators_update_raises_its_images_scores() -> None:
    pair = Pair(lr=0.02)
    losses = [pair.update_generator(PENALTY)["generator/loss"] for _ in range(5)]
    assert losses == sorted(losses, reverse=True)
    assert losses[-1] < losses[0]


@pytest.mark.parametrize("rounds", ["joint", "alternating"])
def test_batch_norm_has_separate_statistics_of_real_and_generated_images(rounds: Rounds) -> None:
    pair, by_hand = Pair("batch", lr=1e-9), Pair("batch")
    layers: Any = by_hand.critic.module.layers
    first, norm = layers[:3], layers[3]
    assert isinstance(norm, BatchNorm2d)
    real, latents, _ = critic_batch()
    # The kinds are so different that statistics over both together would differ from their own.
    real = real / 10 + 0.9
    fake = by_hand.generator.module(latents).detach()
    maps = [first(images).detach() for images in (real, fake)]
    mean, variance = torch.zeros(norm.num_features), torch.ones(norm.num_features)
    for values in maps:
        mean = 0.9 * mean + 0.1 * values.mean((0, 2, 3))
        variance = 0.9 * variance + 0.1 * values.var((0, 2, 3))
    scores = [by_hand.critic.module(images).mean() for images in (real, fake)]
    mixed = by_hand.critic.module(torch.cat([real, fake])).chunk(2)
    assert abs(scores[0] - mixed[0].mean()) > 0.01 * abs(scores[0])

    metrics = critic_update(
        pair.critic,
        WIDE_BOX,
        CriticBatch(real, draw_fakes(pair.generator.module, latents), torch.zeros(BATCH)),
        UpdatePlan(Plain(), rounds=rounds),
    )
    found = state(pair.critic.module)
    torch.testing.assert_close(found["layers.3.running_mean"], mean)
    torch.testing.assert_close(found["layers.3.running_var"], variance)
    assert found["layers.3.num_batches_tracked"] == 2
    torch.testing.assert_close(metrics["critic/real"], scores[0], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(metrics["critic/fake"], scores[1], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("batch", [3, 7, 24])
def test_the_bias_of_the_score_does_not_move(batch: int) -> None:
    """Its gradient is exactly 0. RMSprop would make a full step from any other value, even a tiny one."""
    pair = Pair()
    bias = pair.critic.module.get_parameter("score.bias")
    before = bias.clone()
    pair.update_critic(WIDE_BOX, batch=batch)
    assert torch.equal(bias, before)


@pytest.mark.parametrize("largest", [None, 0.01])
@pytest.mark.parametrize("rounds", ["joint", "alternating"])
def test_an_update_moves_the_critic_equally_if_it_is_not_measured(
    rounds: Rounds, largest: float | None
) -> None:
    pairs = [Pair(norm="batch", largest=largest) for _ in range(2)]
    measured, unmeasured = (
        pair.update_critic(
            build_objective(WassersteinOptions(clip=0.5)), rounds=rounds, is_measured=is_measured
        )
        for pair, is_measured in zip(pairs, (True, False), strict=True)
    )
    assert "wasserstein/estimate" in measured
    assert unmeasured == {}
    ours, theirs = (state(pair.critic.module) for pair in pairs)
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
