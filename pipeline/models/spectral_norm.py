"""Spectral normalisation (Miyato, Kataoka, Koyama, Yoshida 2018)."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize
from torch.nn.utils.parametrizations import _SpectralNorm

from pipeline.models.norms import RunningStatistics


def normalise_spectra(network: nn.Module) -> None:
    """Divide the weight of each convolution and linear layer by its largest singular value, from now on.

    A convolution's weight counts as a matrix (out, in x height x width). Comes after initialisation: what is
    trained and saved is the weight before the division, as "NAME.parametrizations.weight.original".
    """
    for layer in list(network.modules()):
        if isinstance(layer, nn.Conv2d | nn.Linear):
            parametrize.register_parametrization(layer, "weight", SpectralNorm(layer.weight))


class SpectralNorm(RunningStatistics, _SpectralNorm):
    """A weight divided by an estimate of its largest singular value, in float32 whatever the precision.

    Each pass in training brings the estimate closer by one step of the power iteration (algorithm 1), unless
    `updates_statistics` is off. Its two singular vectors are buffers.
    """

    def forward(self, weight: Tensor) -> Tensor:
        """(out, in, ...) to the same shape and dtype."""
        with torch.autocast(weight.device.type, enabled=False):
            return super().forward(weight)

    def _power_method(self, weight_mat: Tensor, n_power_iterations: int) -> None:
        if self.updates_statistics:
            super()._power_method(weight_mat, n_power_iterations)
