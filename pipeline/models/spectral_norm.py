"""Spectral normalization (Miyato, Kataoka, Koyama, Yoshida 2018)."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize
from torch.nn.utils.parametrizations import _SpectralNorm

from pipeline.models.norms import RunningStatistics


def normalise_spectra(network: nn.Module) -> None:
    """Add spectral normalization to a network: each weight is divided by its largest singular value when it is used.

    It applies to convolutions and linear layers; the weight of a convolution is seen as a matrix
    (out, in x height x width). Call it after initialising the weights. The weight before the division is trained and
    saved, as "NAME.parametrizations.weight.original".
    """
    for layer in list(network.modules()):
        if isinstance(layer, nn.Conv2d | nn.Linear):
            parametrize.register_parametrization(layer, "weight", SpectralNorm(layer.weight))


class SpectralNorm(RunningStatistics, _SpectralNorm):
    """Divides a weight by an estimate of its largest singular value, computed in float32 even inside autocast.

    Each training pass improves the estimate with one step of the power iteration (algorithm 1), unless
    `updates_statistics` is False. The two singular vectors are buffers.
    """

    def forward(self, weight: Tensor) -> Tensor:
        """(out, in, ...) to the same shape and dtype."""
        with torch.autocast(weight.device.type, enabled=False):
            return super().forward(weight)

    def _power_method(self, weight_mat: Tensor, n_power_iterations: int) -> None:
        if self.updates_statistics:
            super()._power_method(weight_mat, n_power_iterations)
