"""Measurements of a run that change no weight, gradient or running statistic."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable

import torch
from torch import Tensor, nn

from pipeline.objectives.penalties import segment_gradient_norms
from pipeline.training.updates import frozen


@torch.no_grad()
def draw_as_training_does(generator: nn.Module, latents: Tensor) -> Tensor:
    """Images whose batch norm uses the statistics of this batch: float32 (count, channels, height, width).

    latents: float32 (count, latent).
    """
    with frozen(generator):
        images: Tensor = generator(latents)
    return images


def input_gradient_norm(critic: nn.Module, fake: Tensor) -> Tensor:
    """The mean of |grad_x c(x)| over generated images, in score units per unit of pixel value (0-d).

    fake: float32 (batch, channels, height, width). The generator learns from this gradient. It vanishes if the critic
    is saturated, and is at most 1 for a critic that estimates the Wasserstein distance itself.
    """
    images = fake.detach().requires_grad_()
    with frozen(critic):
        (gradient,) = torch.autograd.grad(critic(images, float32=True).sum(), images)
    mean: Tensor = gradient.flatten(1).norm(dim=1).mean()
    return mean


def mean_slope(critic: nn.Module, real: Tensor, fake: Tensor, uniform: Tensor) -> Tensor:
    """The mean of |grad_x c(x)| over points of the segments from generated to real images (0-d).

    real, fake: float32 (batch, channels, height, width); uniform: float32 (batch,) in [0, 1). An estimate divided by it
    is in units of pixel values and does not depend on the critic's scale (docs/objectives.md says when the ratio is
    the Wasserstein distance).
    """
    with frozen(critic):
        return segment_gradient_norms(critic, real, fake, uniform).mean()


@torch.no_grad()
def wasserstein_estimate(critic: nn.Module, batches: Iterable[tuple[Tensor, Tensor]]) -> Tensor:
    """mean c(real) - mean c(fake) over batches of (real, fake) images, as training computes it (0-d)."""
    with frozen(critic):
        estimates = [critic(real).mean() - critic(fake).mean() for real, fake in batches]
    return torch.stack(estimates).mean()


@torch.no_grad()
def spread(images: Tensor, centre: Tensor) -> Tensor:
    """The mean squared distance of images (count, channels, height, width) from their mean image (0-d).

    The root of the ratio of generated to real images' spread is 1 for a good generator and 0 for one that repeats one
    image.
    """
    distances: Tensor = (images - centre).square().sum((1, 2, 3))
    return distances.mean()


@torch.no_grad()
def first_non_finite(tensors: dict[str, Tensor]) -> str | None:
    """The name of the first tensor with a NaN or an infinity, or None. Synchronizes with each device once."""
    by_device: dict[torch.device, dict[str, Tensor]] = defaultdict(dict)
    for name, tensor in tensors.items():
        if tensor.is_floating_point():
            by_device[tensor.device][name] = tensor.isfinite().all()
    broken = {
        name
        for finite in by_device.values()
        for name, is_finite in zip(finite, torch.stack(list(finite.values())).tolist(), strict=True)
        if not is_finite
    }
    return next((name for name in tensors if name in broken), None)
