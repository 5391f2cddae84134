"""Measurements of a run, which change nothing of it."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pipeline.models import build_critic, build_generator
from pipeline.options import DcganOptions
from pipeline.run.generator import generate
from pipeline.training.diagnostics import (
    draw_as_training_does,
    first_non_finite,
    input_gradient_norm,
    mean_slope,
    spread,
    wasserstein_estimate,
)

OPTIONS = DcganOptions(latent=6, width=4, generator_norm="batch", critic_norm="batch")
LATENTS = torch.randn(10, 6, generator=torch.Generator().manual_seed(0))
REAL = torch.rand(10, 1, 16, 16, generator=torch.Generator().manual_seed(1)) * 2 - 1
UNIFORM = torch.linspace(0, 0.9, 10)


@pytest.fixture
def generator() -> nn.Module:
    torch.manual_seed(0)
    module = build_generator(OPTIONS, 16, 1)
    module(torch.randn(20, 6) * 2)
    return module


@pytest.fixture
def critic() -> nn.Module:
    torch.manual_seed(1)
    module = build_critic(OPTIONS, 16, 1)
    module(torch.randn(20, 1, 16, 16))
    return module


class Linear(nn.Module):
    """c(x) = w . x, for any images."""

    def __init__(self, scale: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.linspace(-1, 1, 256) * scale)

    def forward(self, images: Tensor, float32: bool = False) -> Tensor:
        return images.flatten(1) @ self.weight


@pytest.mark.parametrize("scale", [1.0, 1e-3])
def test_a_linear_critics_input_gradient_is_its_weight(generator: nn.Module, scale: float) -> None:
    critic = Linear(scale)
    found = input_gradient_norm(critic, draw_as_training_does(generator, LATENTS))
    assert found.shape == ()
    torch.testing.assert_close(found, critic.weight.detach().norm())


class Square(Linear):
    """c(x) = |x|^2 / 2, whose gradient at x is x itself."""

    def forward(self, images: Tensor, float32: bool = False) -> Tensor:
        return images.flatten(1).square().sum(1) / 2


def test_the_input_gradient_is_the_mean_of_each_images_norm(generator: nn.Module) -> None:
    expected = generator(LATENTS).detach().flatten(1).norm(dim=1).mean()
    torch.testing.assert_close(
        input_gradient_norm(Square(1.0), draw_as_training_does(generator, LATENTS)), expected
    )


@pytest.mark.parametrize("scale", [1.0, 1e-3])
def test_a_linear_critics_mean_slope_is_its_weight(generator: nn.Module, scale: float) -> None:
    critic = Linear(scale)
    found = mean_slope(critic, REAL, draw_as_training_does(generator, LATENTS), UNIFORM)
    assert found.shape == ()
    torch.testing.assert_close(found, critic.weight.detach().norm())


def test_the_mean_slope_is_taken_between_images_paired_in_their_order(generator: nn.Module) -> None:
    share = UNIFORM.view(-1, 1, 1, 1)
    between = share * REAL + (1 - share) * generator(LATENTS).detach()
    found = mean_slope(Square(1.0), REAL, draw_as_training_does(generator, LATENTS), UNIFORM)
    torch.testing.assert_close(found, between.flatten(1).norm(dim=1).mean())


def test_a_critics_own_scale_and_offset_drop_out_of_estimate_over_slope(generator: nn.Module) -> None:
    torch.manual_seed(1)
    critic: Any = build_critic(DcganOptions(width=4), 16, 1)
    with torch.no_grad():
        # Scores as large as the offsets, because float32 would round smaller ones away.
        for weight in critic.parameters():
            weight.mul_(5)
    normalised = []
    for scale in (1.0, 0.1, 300.0):
        with torch.no_grad():
            critic.score.weight.mul_(scale)
            critic.score.bias.fill_(scale / 10)
        estimate = wasserstein_estimate(critic, [(REAL, draw_as_training_does(generator, LATENTS))])
        normalised.append(
            estimate / mean_slope(critic, REAL, draw_as_training_does(generator, LATENTS), UNIFORM)
        )
    torch.testing.assert_close(normalised[1], normalised[0], rtol=1e-3, atol=0)
    torch.testing.assert_close(normalised[2], normalised[0], rtol=1e-3, atol=0)


def test_the_estimate_is_the_mean_over_batches(generator: nn.Module) -> None:
    critic = Linear(0.1)
    fake = draw_as_training_does(generator, LATENTS)
    batches = [(REAL[:5], fake[:5]), (REAL[5:], fake[5:])]
    expected = torch.stack([critic(real).mean() - critic(fake).mean() for real, fake in batches]).mean()
    torch.testing.assert_close(wasserstein_estimate(critic, batches), expected.detach())


def test_the_spread_is_half_the_mean_squared_distance_of_two_images() -> None:
    flat = REAL.flatten(1)
    between = torch.cdist(flat, flat).square().mean()
    torch.testing.assert_close(spread(REAL, REAL.mean(0)), between / 2)
    assert float(spread(REAL[:1].expand(10, -1, -1, -1), REAL[0])) == 0


@pytest.mark.parametrize("is_training", [True, False])
def test_generating_keeps_the_mode_and_uses_running_statistics(
    generator: nn.Module, is_training: bool
) -> None:
    generator.train(is_training)
    images = generate(generator, LATENTS)
    assert all(module.training == is_training for module in generator.modules())
    assert not images.requires_grad
    torch.testing.assert_close(images, generator.eval()(LATENTS).detach())
    # With the batch's statistics, an image would depend on the other images.
    torch.testing.assert_close(generate(generator, LATENTS[:3]), images[:3])


@pytest.mark.parametrize("batch", [1, 3, 10, 11])
def test_images_are_the_same_in_parts(generator: nn.Module, batch: int) -> None:
    torch.testing.assert_close(generate(generator, LATENTS, batch=batch), generate(generator, LATENTS))


MEASURES: dict[str, Callable[[nn.Module, nn.Module], object]] = {
    "input gradient": lambda critic, generator: input_gradient_norm(
        critic, draw_as_training_does(generator, LATENTS)
    ),
    "mean slope": lambda critic, generator: mean_slope(
        critic, REAL, draw_as_training_does(generator, LATENTS), UNIFORM
    ),
    "estimate": lambda critic, generator: wasserstein_estimate(
        critic, [(REAL, draw_as_training_does(generator, LATENTS))]
    ),
    "training images": lambda critic, generator: draw_as_training_does(generator, LATENTS),
    "images": lambda critic, generator: generate(generator, LATENTS),
    "finite": lambda critic, generator: first_non_finite(critic.state_dict()),
}


@pytest.mark.parametrize("name", MEASURES)
def test_measuring_changes_no_bit(name: str, critic: nn.Module, generator: nn.Module) -> None:
    (critic(generator(LATENTS)).sum() * 0.1).backward()
    before = [
        {key: value.clone() for key, value in network.state_dict().items()} for network in (critic, generator)
    ]
    gradients = [p.grad.clone() for network in (critic, generator) for p in network.parameters()]  # type: ignore[union-attr]
    random_state = torch.get_rng_state()
    MEASURES[name](critic, generator)
    for network, expected in zip((critic, generator), before, strict=True):
        for key, value in network.state_dict().items():
            assert torch.equal(value, expected[key]), key
        assert all(parameter.requires_grad for parameter in network.parameters())
        assert network.training
    after = [p.grad for network in (critic, generator) for p in network.parameters()]
    for found, gradient in zip(after, gradients, strict=True):
        assert torch.equal(found, gradient)  # type: ignore[arg-type]
    assert torch.equal(torch.get_rng_state(), random_state)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_tensor_that_is_not_finite_is_named(bad: float) -> None:
    tensors = {
        "counter": torch.tensor(2**40),
        "fine": torch.ones(3),
        "half": torch.full((2,), 6e4, dtype=torch.float16),
        "empty": torch.zeros(0),
        "broken": torch.tensor([[0.0, bad], [1.0, 2.0]]),
        "also": torch.tensor(bad),
    }
    assert first_non_finite(tensors) == "broken"
    tensors["broken"][0, 1] = 3.4e38
    assert first_non_finite(tensors) == "also"
    tensors["also"].zero_()
    assert first_non_finite(tensors) is None


def test_without_floating_point_tensors_none_is_named() -> None:
    assert first_non_finite({"counter": torch.tensor(2**40)}) is None
