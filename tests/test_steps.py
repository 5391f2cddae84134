"""One update of the critic and one of the generator, in one process."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pipeline.models import build_critic, build_generator
from pipeline.objectives import Objective, build_objective
from pipeline.options import DcganOptions, GradientPenaltyOptions, Norm, WassersteinOptions
from pipeline.steps import Player, critic_update, frozen, generator_update

BATCH = 7
WASSERSTEIN = build_objective(WassersteinOptions(clip=0.03))
WIDE_BOX = build_objective(WassersteinOptions(clip=100.0))
PENALTY = build_objective(GradientPenaltyOptions(name="gradient_penalty"))


class Plain:
    """One process: gradients are what backward makes. Counts the passes that would not be averaged."""

    def __init__(self) -> None:
        self.passes: list[bool] = []
        self._is_local = False

    def backward(self, loss: Tensor) -> None:
        self.passes.append(self._is_local)
        loss.backward()

    def no_sync(self, module: nn.Module) -> AbstractContextManager[Any]:
        return self._locally()

    @contextmanager
    def _locally(self) -> Iterator[None]:
        self._is_local = True
        yield
        self._is_local = False

    def unscale(self, optimizer: torch.optim.Optimizer) -> None:
        pass


class Pair:
    """A generator and a critic with the same weights each time, moved by plain gradient descent."""

    def __init__(self, norm: Norm = "none", lr: float = 0.1, largest: float | None = None) -> None:
        torch.manual_seed(0)
        options = DcganOptions(latent=6, width=4, generator_norm=norm, critic_norm=norm)
        self.generator = self._player(build_generator(options, 16, 1), lr, largest)
        self.critic = self._player(build_critic(options, 16, 1), lr, largest)

    @staticmethod
    def _player(module: nn.Module, lr: float, largest: float | None) -> Player:
        with torch.no_grad():
            for weight in module.parameters():
                weight.mul_(5)
        return Player(module, module, torch.optim.SGD(module.parameters(), lr=lr), largest)

    def update_critic(self, objective: Objective, **options: Any) -> dict[str, Tensor]:
        generator = torch.Generator().manual_seed(1)
        real = torch.rand(BATCH, 1, 16, 16, generator=generator) * 2 - 1
        latents = torch.randn(BATCH, 6, generator=generator)
        uniform = torch.rand(BATCH, generator=generator)
        options = {"parallel": Plain(), **options}
        return critic_update(self.critic, self.generator.module, objective, real, latents, uniform, **options)

    def update_generator(self, objective: Objective, **options: Any) -> dict[str, Tensor]:
        latents = torch.randn(BATCH, 6, generator=torch.Generator().manual_seed(2))
        options = {"parallel": Plain(), **options}
        return generator_update(self.generator, self.critic.module, objective, latents, **options)


def state(module: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in module.state_dict().items()}


def assert_state(module: nn.Module, expected: dict[str, Tensor]) -> None:
    for name, value in module.state_dict().items():
        assert torch.equal(value, expected[name]), name


def change(module: nn.Module, before: dict[str, Tensor]) -> Tensor:
    """All parameters' changes as one vector."""
    return torch.cat([(value - before[name]).flatten() for name, value in module.named_parameters()]).detach()


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
    assert pair.critic.module.layers[3].num_batches_tracked == before["layers.3.num_batches_tracked"] + 2


def test_a_frozen_network_is_free_again_after_an_error() -> None:
    critic = Pair("batch").critic.module
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


@pytest.mark.parametrize("objective", [WIDE_BOX, PENALTY])
@pytest.mark.parametrize("micro_batch", [1, 3, 7, 64])
def test_micro_batches_make_the_update_of_the_whole_batch(objective: Objective, micro_batch: int) -> None:
    (critic, generator, metrics), (whole_critic, whole_generator, whole_metrics) = (
        _update_both(objective, size) for size in (micro_batch, None)
    )
    for found, expected in ((critic, whole_critic), (generator, whole_generator)):
        assert expected.norm() > 1e-3
        assert (found - expected).norm() < 1e-4 * expected.norm()
    assert metrics.keys() == whole_metrics.keys()
    for name, value in whole_metrics.items():
        torch.testing.assert_close(metrics[name], value, rtol=1e-4, atol=1e-5)


def _update_both(objective: Objective, micro_batch: int | None) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
    """How the critic and the generator moved, and what both updates reported."""
    pair = Pair("layer")
    starts = state(pair.critic.module), state(pair.generator.module)
    metrics = pair.update_critic(objective, micro_batch=micro_batch)
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


def test_no_part_is_larger_than_the_micro_batch() -> None:
    pair, sizes = Pair(), []
    pair.critic.module.register_forward_hook(lambda _, inputs, output: sizes.append(len(inputs[0])))
    pair.update_critic(WASSERSTEIN, micro_batch=3)
    assert max(sizes) <= 3
    assert sum(sizes) == 2 * BATCH


def test_every_critic_weight_is_in_the_box_after_each_update() -> None:
    pair = Pair("batch", lr=0.5)
    for _ in range(3):
        pair.update_critic(WASSERSTEIN)
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
    generator = torch.Generator().manual_seed(1)
    real = torch.rand(BATCH, 1, 16, 16, generator=generator) * 2 - 1
    with torch.no_grad():
        fake = untouched.generator.module(torch.randn(BATCH, 6, generator=generator))
        real_score, fake_score = (untouched.critic.module(images).mean() for images in (real, fake))
    torch.testing.assert_close(metrics["critic/real"], real_score)
    torch.testing.assert_close(metrics["critic/fake"], fake_score)
    assert metrics["wasserstein/estimate"] == metrics["critic/real"] - metrics["critic/fake"]
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
