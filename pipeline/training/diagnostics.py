"""Measurements of a run that change no weight, gradient or running statistic."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable

import torch
from torch import Tensor, nn

from pipeline.models.class_inputs import given
from pipeline.objectives.penalties import segment_gradient_norms
from pipeline.training.updates import frozen


@torch.no_grad()
def draw_as_training_does(generator: nn.Module, latents: Tensor, labels: Tensor | None = None) -> Tensor:
    """Images whose batch norm uses the statistics of this batch: float32 (count, channels, height, width).

    latents: float32 (count, latent); labels: int64 (count,), if there are classes.
    """
    with frozen(generator):
        return given(generator, labels)(latents)


def input_gradient_norm(critic: nn.Module, fake: Tensor, labels: Tensor | None = None) -> Tensor:
    """The mean of |grad_x c(x)| over generated images, in score units per unit of pixel value (0-d).

    fake: float32 (batch, channels, height, width); labels: int64 (batch,), if there are classes. The generator learns
    from this gradient. It vanishes if the critic is saturated, and is at most 1 for a critic that estimates the
    Wasserstein distance itself.
    """
    images = fake.detach().requires_grad_()
    with frozen(critic):
        (gradient,) = torch.autograd.grad(given(critic, labels)(images, float32=True).sum(), images)
    mean: Tensor = gradient.flatten(1).norm(dim=1).mean()
    return mean


def mean_slope(
    critic: nn.Module, real: Tensor, fake: Tensor, uniform: Tensor, labels: Tensor | None = None
) -> Tensor:
    """The mean of |grad_x c(x)| over points of the segments from generated to real images (0-d).

    real, fake: float32 (batch, channels, height, width); uniform: float32 (batch,) in [0, 1); labels: int64 (batch,) of
    both, if there are classes. An estimate divided by it
    is in units of pixel values and does not depend on the critic's scale (docs/objectives.md says when the ratio is
    the Wasserstein distance).
    """
    with frozen(critic):
        return segment_gradient_norms(given(critic, labels), real, fake, uniform).mean()


@torch.no_grad()
def wasserstein_estimate(critic: nn.Module, batches: Iterable[tuple[Tensor, ...]]) -> Tensor:
    """mean c(real) - mean c(fake) over batches, as training computes it (0-d).

    A batch is (real images, generated images), and a third tensor, the labels of both, if there are classes.
    """
    with frozen(critic):
        estimates = [
            critic(real, *labels).mean() - critic(fake, *labels).mean() for real, fake, *labels in batches
        ]
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
