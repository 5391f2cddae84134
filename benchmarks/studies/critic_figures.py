"""The Wasserstein estimate of a checkpoint's critic, raw and normalized, measured after training.

A run logs its estimate while the critic changes. Here a single critic scores many batches of real images and of its
generator's images. It is in training mode, as it was during the run.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from pipeline.models import build_critic, build_generator
from pipeline.objectives import build_objective
from pipeline.options import Config
from pipeline.pixels import to_float
from pipeline.run.checkpoint import Checkpoint
from pipeline.training.diagnostics import draw_as_training_does, mean_slope, wasserstein_estimate

IMAGES = 512
SEED = 0


class CriticFigures(NamedTuple):
    """`estimate` is in units of the critic's scores, `normalized` in units of pixel values in [-1, 1]."""

    estimate: float
    normalized: float


def measure_critic(config: Config, checkpoint: Checkpoint, real: Tensor) -> CriticFigures | None:
    """Measure a critic on the first 512 of `real`, uint8 (count, channels, height, width), in float32.

    Batches have the size that the run used. Returns None if the run's objective estimates no Wasserstein distance.
    """
    if not build_objective(config.objective).measures_wasserstein:
        return None
    channels, side, _ = real.shape[1:]
    networks = {
        name: build(config.model, side, channels)
        for name, build in (("generator", build_generator), ("critic", build_critic))
    }
    for name, network in networks.items():
        network.load_state_dict(checkpoint.tensors(name))
    generator, critic = networks["generator"], networks["critic"]
    torch.manual_seed(SEED)
    estimates, slopes = [], []
    # The last batch may be too small for batch norm's statistics.
    for images in to_float(real[:IMAGES]).split(config.schedule.real_images)[:-1]:
        latents, uniform = torch.randn(len(images), config.model.latent), torch.rand(len(images))
        fake = draw_as_training_does(generator, latents)
        estimates.append(wasserstein_estimate(critic, [(images, fake)]))
        slopes.append(mean_slope(critic, images, fake, uniform))
    estimate, slope = float(torch.stack(estimates).mean()), float(torch.stack(slopes).mean())
    return CriticFigures(estimate, estimate / slope)
