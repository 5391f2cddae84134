"""Updates in several micro-batches, and of batches of several sizes."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from pipeline.objectives import Objective, Scores
from pipeline.options import Rounds
from pipeline.training.updates import CriticBatch, UpdatePlan, critic_update, draw_fakes
from tests.training.pairs import (
    BATCH,
    IN_ALL_ROUNDS,
    LEAST_SQUARES,
    WASSERSTEIN,
    Pair,
    Plain,
    change,
    critic_batch,
    generator_batch,
    state,
)


@IN_ALL_ROUNDS
@pytest.mark.parametrize("micro_batch", [1, 3, 7, 64])
def test_micro_batches_make_the_update_of_the_whole_batch(
    objective: Objective, rounds: Rounds, micro_batch: int
) -> None:
    (critic, generator, metrics), (whole_critic, whole_generator, whole_metrics) = (
        _update_both(objective, rounds, size) for size in (micro_batch, None)
    )
    for found, expected in ((critic, whole_critic), (generator, whole_generator)):
        assert expected.norm() > 1e-3
        assert (found - expected).norm() < 1e-4 * expected.norm()
    assert metrics.keys() == whole_metrics.keys()
    for name, value in whole_metrics.items():
        torch.testing.assert_close(metrics[name], value, rtol=1e-4, atol=1e-5)


def _update_both(
    objective: Objective, rounds: Rounds, micro_batch: int | None
) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
    """How the critic and the generator moved, and what both updates reported."""
    pair = Pair("layer", lr=0.01)
    starts = state(pair.critic.module), state(pair.generator.module)
    metrics = pair.update_critic(objective, micro_batch=micro_batch, rounds=rounds)
    metrics |= pair.update_generator(objective, micro_batch=micro_batch)
    return change(pair.critic.module, starts[0]), change(pair.generator.module, starts[1]), metrics


@pytest.mark.parametrize(
    ("micro_batch", "passes"),
    [(None, [False]), (3, [True, True, False]), (1, [True] * 6 + [False]), (64, [False]), (7, [False])],
)
def test_gradients_are_averaged_over_ranks_once_an_update(
    micro_batch: int | None, passes: list[bool]
) -> None:
    pair = Pair()
    for update in (pair.update_critic, pair.update_generator):
        parallel = Plain()
        update(WASSERSTEIN, parallel=parallel, micro_batch=micro_batch)
        assert parallel.passes == passes
    parallel = Plain()
    pair.update_critic(WASSERSTEIN, parallel=parallel, micro_batch=micro_batch, rounds="alternating")
    assert parallel.passes == 2 * passes


@pytest.mark.parametrize("rounds", ["joint", "alternating"])
def test_no_part_is_larger_than_the_micro_batch(rounds: Rounds) -> None:
    pair, sizes = Pair(), []
    pair.critic.module.register_forward_hook(lambda _, inputs, output: sizes.append(len(inputs[0])))
    pair.update_critic(WASSERSTEIN, micro_batch=3, rounds=rounds)
    assert max(sizes) <= 3
    # In alternating rounds, the real images pass once more for the estimate.
    assert sum(sizes) == (2 if rounds == "joint" else 3) * BATCH


@pytest.mark.parametrize("rounds", ["joint", "alternating"])
def test_a_critic_updates_batch_may_differ_from_the_generators(rounds: Rounds) -> None:
    half, pair = 3, Pair("layer")
    seen: dict[str, list[int]] = {"critic": [], "generator": []}
    for name, player in (("critic", pair.critic), ("generator", pair.generator)):
        player.module.register_forward_hook(
            lambda _, inputs, output, name=name: seen[name].append(len(inputs[0]))
        )
    pair.update_critic(LEAST_SQUARES, batch=half, rounds=rounds)
    assert seen == {"critic": [half, half], "generator": [half]}
    scores = pair.critic.module(pair.generator.module(generator_batch()))
    expected = LEAST_SQUARES.generator_loss(Scores(torch.empty(0), scores)).item()
    found = pair.update_generator(LEAST_SQUARES)["generator/loss"].item()
    assert found == pytest.approx(expected, rel=1e-5)
    assert seen == {"critic": [half, half, BATCH, BATCH], "generator": [half, BATCH, BATCH]}


@IN_ALL_ROUNDS
def test_a_critics_step_does_not_grow_with_its_batch(objective: Objective, rounds: Rounds) -> None:
    small, large = Pair("layer"), Pair("layer")
    before = state(small.critic.module)
    real, latents, uniform = critic_batch(3)
    images = real, draw_fakes(small.generator.module, latents), uniform
    for pair, times in ((small, 1), (large, 2)):
        reals, fakes, places = (torch.cat([tensor] * times) for tensor in images)
        batch = CriticBatch(reals, fakes, places)
        critic_update(pair.critic, objective, batch, UpdatePlan(Plain(), rounds=rounds))
    moved = change(small.critic.module, before)
    assert moved.norm() > 1e-3
    assert (change(large.critic.module, before) - moved).norm() < 1e-4 * moved.norm()
