"""Spectral norm: the normalized weights, when the estimate changes, and the gradients."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pipeline.models import build_critic, build_generator
from pipeline.models.spectral_norm import SpectralNorm, normalise_spectra
from pipeline.options import DcganOptions, MlpOptions, ModelOptions, ResnetOptions
from pipeline.training.updates import frozen
from tests.models.networks import kernels

CRITICS: list[tuple[ModelOptions, int]] = [
    (DcganOptions(latent=5, width=8, spectral_norm=True), 16),
    (MlpOptions(name="mlp", latent=5, width=48, layers=3, spectral_norm=True), 6),
    (ResnetOptions(name="resnet", latent=5, width=8, spectral_norm=True), 32),
]
every_critic = pytest.mark.parametrize(
    ("options", "resolution"), CRITICS, ids=[options.name for options, _ in CRITICS]
)


def build(options: ModelOptions, resolution: int) -> tuple[Any, Tensor]:
    """A critic and images for it, the same in each call."""
    torch.manual_seed(0)
    return build_critic(options, resolution, 1), torch.rand(4, 1, resolution, resolution) * 2 - 1


def largest(critic: nn.Module) -> list[float]:
    """The largest singular value of each weight in the critic's next evaluation pass."""
    critic.eval()
    values = [torch.linalg.svdvals(layer.weight.flatten(1))[0].item() for layer in kernels(critic)]
    critic.train()
    return values


def vectors(critic: nn.Module) -> dict[str, Tensor]:
    return {name: buffer.clone() for name, buffer in critic.named_buffers()}


def are_equal(some: dict[str, Tensor], others: dict[str, Tensor]) -> list[bool]:
    return [torch.equal(value, others[name]) for name, value in some.items()]


@every_critic
def test_training_passes_bring_the_largest_singular_values_to_1(
    options: ModelOptions, resolution: int
) -> None:
    critic, images = build(options, resolution)
    with torch.no_grad():
        for layer in kernels(critic):
            layer.parametrizations.weight.original.mul_(7)
        for _ in range(60):
            critic(images)
    assert largest(critic) == pytest.approx([1.0] * len(kernels(critic)), abs=0.01)


def test_the_estimate_follows_a_weight_that_changes() -> None:
    layer: Any = nn.Sequential(nn.Linear(6, 4))
    normalise_spectra(layer)
    weight = layer[0].parametrizations.weight.original
    for _ in range(3):
        weight.data.copy_(torch.randn(4, 6) * 5)
        for _ in range(100):
            layer(torch.zeros(1, 6))
        assert largest(layer) == pytest.approx([1.0], abs=0.01)


@every_critic
def test_initial_weights_are_those_without_spectral_norm(options: ModelOptions, resolution: int) -> None:
    critic, _ = build(options, resolution)
    plain, _ = build(options.model_copy(update={"spectral_norm": False}), resolution)
    assert len(kernels(critic)) == len(kernels(plain))
    for layer, other in zip(kernels(critic), kernels(plain), strict=True):
        assert torch.equal(layer.parametrizations.weight.original, other.weight)
        assert torch.equal(layer.bias, other.bias)
    generator = build_generator(options, resolution, 1)
    assert not any(isinstance(layer, SpectralNorm) for layer in generator.modules())
    assert not any(isinstance(layer, SpectralNorm) for layer in plain.modules())


@every_critic
def test_only_training_passes_change_the_estimate(options: ModelOptions, resolution: int) -> None:
    critic, images = build(options, resolution)
    start = vectors(critic)
    critic.eval()
    critic(images)
    assert all(are_equal(start, vectors(critic)))
    critic.train()
    with frozen(critic):
        scores = critic(images)
        assert torch.equal(critic(images), scores)
    assert all(are_equal(start, vectors(critic)))
    critic(images)
    for name, layer in critic.named_modules():
        if isinstance(layer, SpectralNorm) and min(len(layer._u), len(layer._v)) > 1:
            assert not torch.equal(layer._u, start[f"{name}._u"])
            assert not torch.equal(layer._v, start[f"{name}._v"])


@every_critic
def test_mixed_precision_keeps_the_estimate_in_float32(options: ModelOptions, resolution: int) -> None:
    critic, images = build(options, resolution)
    other, _ = build(options, resolution)
    exact = other(images)
    with torch.autocast("cpu", torch.bfloat16):
        scores = critic(images)
    assert scores.dtype == torch.bfloat16
    assert all(are_equal(vectors(critic), vectors(other)))
    assert (scores.float() - exact).abs().max() < 0.05 * exact.abs().max()
    critic.eval()
    other.eval()
    with torch.autocast("cpu", torch.bfloat16):
        weights = [layer.weight for layer in kernels(critic)]
        escaped = critic(images, float32=True)
    assert all(map(torch.equal, weights, [layer.weight for layer in kernels(other)]))
    assert torch.equal(escaped, other(images))


def test_the_estimate_is_computed_without_mixed_precision(monkeypatch: pytest.MonkeyPatch) -> None:
    """Autocast would round the products of the estimate on GPUs but not on CPUs, so this checks that it is off."""
    was_on, multiply = [], torch.mv

    def watched(*factors: Tensor) -> Tensor:
        was_on.append(torch.is_autocast_enabled("cpu"))
        return multiply(*factors)

    critic, images = build(*CRITICS[0])
    monkeypatch.setattr(torch, "mv", watched)
    with torch.autocast("cpu", torch.bfloat16):
        critic(images)
    assert was_on == [False] * 3 * len(kernels(critic))


@every_critic
def test_a_saved_critic_gives_the_same_scores(options: ModelOptions, resolution: int) -> None:
    critic, images = build(options, resolution)
    critic(images)
    other = build_critic(options, resolution, 1)
    other.load_state_dict(critic.state_dict())
    assert torch.equal(other(images), critic(images))
    assert all(are_equal(vectors(critic), vectors(other)))


def normalised(weight: Tensor, left: Tensor, right: Tensor) -> Tensor:
    return weight / (left @ weight.flatten(1) @ right)


def test_two_passes_before_one_backward_have_their_own_estimates() -> None:
    torch.manual_seed(0)
    network: Any = nn.Sequential(nn.Conv2d(2, 3, 2)).double()
    normalise_spectra(network)
    kernel, bias = network[0].parametrizations.weight, network[0].bias
    real, fake = torch.randn(2, 4, 2, 5, 5, dtype=torch.float64)
    expected = torch.zeros((), dtype=torch.float64)
    loss = torch.zeros((), dtype=torch.float64)
    for images, sign in ((real, -1), (fake, 1)):
        loss = loss + sign * network(images).sin().sum()
        weight = normalised(kernel.original, kernel[0]._u.clone(), kernel[0]._v.clone())
        expected = expected + sign * nn.functional.conv2d(images, weight, bias).sin().sum()
    torch.testing.assert_close(loss, expected)
    found, wanted = (torch.autograd.grad(value, kernel.original)[0] for value in (loss, expected))
    torch.testing.assert_close(found, wanted)
    # The division is part of the loss, so the loss does not change along the direction of the weight.
    assert abs((found * kernel.original).sum()) < 1e-6 * found.norm() * kernel.original.norm()


@every_critic
def test_the_slope_of_a_gradient_penalty_equals_finite_differences(
    options: ModelOptions, resolution: int
) -> None:
    critic, images = build(options, resolution)
    critic, images = critic.double(), images.double().requires_grad_()

    def penalty() -> Tensor:
        (gradient,) = torch.autograd.grad(critic(images, float32=True).sum(), images, create_graph=True)
        return (gradient.flatten(1).norm(dim=1) - 1).square().mean()

    critic(images)
    with torch.no_grad():
        for layer in kernels(critic):
            layer.bias.normal_(std=0.1)
    critic.eval()
    for layer in (kernels(critic)[0], kernels(critic)[-1]):
        weight = layer.parametrizations.weight.original
        (gradient,) = torch.autograd.grad(penalty(), weight)
        direction, step = torch.sign(gradient), 1e-7
        values = []
        for sign in (1, -1):
            weight.data.add_(sign * step * direction)
            values.append(penalty().item())
            weight.data.sub_(sign * step * direction)
        assert gradient.any()
        slope = (values[0] - values[1]) / (2 * step)
        assert slope == pytest.approx((gradient * direction).sum().item(), rel=1e-3)
