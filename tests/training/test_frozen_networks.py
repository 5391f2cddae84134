"""What an update leaves as it was: the other network, frozen layers, and vectors of spectral norms."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from pipeline.models import build_critic
from pipeline.objectives import Objective
from pipeline.options import MlpOptions
from pipeline.training.updates import Player, frozen
from tests.training.pairs import HINGE, LEAST_SQUARES, PENALTY, WASSERSTEIN, Pair, assert_state, change, state


@pytest.mark.parametrize("objective", [WASSERSTEIN, PENALTY])
def test_the_generators_update_leaves_the_critic_as_it_was(objective: Objective) -> None:
    pair = Pair("batch" if objective is WASSERSTEIN else "layer")
    critic, generator = pair.critic.module, pair.generator.module
    pair.update_critic(objective)
    before, moved = state(critic), state(generator)
    gradients = [weight.grad.clone() for weight in critic.parameters()]  # type: ignore[union-attr]
    pair.update_generator(objective)
    assert_state(critic, before)
    assert critic.training
    assert all(weight.requires_grad for weight in critic.parameters())
    for weight, gradient in zip(critic.parameters(), gradients, strict=True):
        assert torch.equal(weight.grad, gradient)  # type: ignore[arg-type]
    assert change(generator, moved).norm() > 0


def test_the_critics_update_leaves_the_generators_weights_as_they_were() -> None:
    pair = Pair("batch")
    generator, before = pair.generator.module, state(pair.generator.module)
    moved = state(pair.critic.module)
    pair.update_critic(WASSERSTEIN)
    assert change(generator, before).norm() == 0
    assert all(weight.grad is None and weight.requires_grad for weight in generator.parameters())
    assert change(pair.critic.module, moved).norm() > 0


def test_the_critics_own_running_statistics_move_with_its_updates_again() -> None:
    pair = Pair("batch")
    pair.update_generator(WASSERSTEIN)
    before = state(pair.critic.module)
    pair.update_critic(WASSERSTEIN)
    # Real and generated images pass as two batches.
    found = state(pair.critic.module)
    assert found["layers.3.num_batches_tracked"] == before["layers.3.num_batches_tracked"] + 2


def test_a_frozen_network_is_free_again_after_an_error() -> None:
    critic: Any = Pair("batch").critic.module
    before = state(critic)

    def fail_within() -> None:
        with frozen(critic):
            critic(torch.randn(3, 1, 16, 16))
            assert not any(weight.requires_grad for weight in critic.parameters())
            raise RuntimeError("on purpose")

    with pytest.raises(RuntimeError, match="on purpose"):
        fail_within()
    assert_state(critic, before)
    assert all(weight.requires_grad for weight in critic.parameters())
    critic(torch.randn(3, 1, 16, 16))
    assert critic.layers[3].num_batches_tracked == 1


def test_frozen_layers_stay_frozen_after_the_generators_update() -> None:
    pair = Pair("batch")
    critic: Any = pair.critic.module
    kept = [*critic.layers[0].parameters(), critic.score.bias]
    for parameter in kept:
        parameter.requires_grad_(False)
    trainable = {name: parameter.requires_grad for name, parameter in critic.named_parameters()}
    assert 0 < sum(trainable.values()) < len(trainable)
    with frozen(critic):
        assert not any(parameter.requires_grad for parameter in critic.parameters())
    assert {name: parameter.requires_grad for name, parameter in critic.named_parameters()} == trainable
    pair.update_generator(LEAST_SQUARES)
    assert {name: parameter.requires_grad for name, parameter in critic.named_parameters()} == trainable


def test_frozen_layers_keep_their_weights_in_both_updates() -> None:
    pair = Pair("layer")
    critic: Any = pair.critic.module
    frozen_layers: list[Any] = [critic.layers[0], pair.generator.module.project]
    for layer in frozen_layers:
        layer.requires_grad_(False)
    before = [state(layer) for layer in frozen_layers]
    starts = state(pair.critic.module), state(pair.generator.module)
    for rounds in ("joint", "alternating"):
        pair.update_critic(LEAST_SQUARES, rounds=rounds)
        pair.update_generator(LEAST_SQUARES)
    for layer, weights in zip(frozen_layers, before, strict=True):
        assert_state(layer, weights)
    assert change(pair.critic.module, starts[0]).norm() > 0
    assert change(pair.generator.module, starts[1]).norm() > 0


def test_the_generators_update_leaves_spectral_norms_vectors_as_they_were() -> None:
    torch.manual_seed(0)
    pair, options = Pair(), MlpOptions(name="mlp", width=8, layers=2, spectral_norm=True)
    critic = build_critic(options, 16, 1)
    pair.critic = Player(critic, critic, torch.optim.SGD(critic.parameters(), lr=0.1))
    vectors = {name: value.clone() for name, value in critic.named_buffers()}
    assert len(vectors) == 6
    pair.update_generator(HINGE)
    assert all(torch.equal(value, vectors[name]) for name, value in critic.named_buffers())
    pair.update_critic(HINGE)
    assert not all(torch.equal(value, vectors[name]) for name, value in critic.named_buffers())
