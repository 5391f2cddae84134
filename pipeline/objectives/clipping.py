"""Weight clipping: the critic's weights are held in the box [-clip, clip].

The WGAN paper (Arjovsky, Chintala, Bottou 2017, algorithm 1) clips after each critic update, so that the critic's
Lipschitz constant stays bounded. All ranks have equal float32 weights after the optimizer's step, and each clamped
weight depends on that weight alone, so the ranks stay equal to the bit.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import chain

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd

from pipeline.objectives.contract import Constraint, Metrics
from pipeline.option_objective import ClipScope

NORMS = (_NormBase, nn.GroupNorm, nn.LayerNorm)


@dataclass(frozen=True)
class WeightClipping(Constraint):
    """Every weight in scope stays in [-clip, clip] (`weights_in_scope` lists the scopes)."""

    clip: float
    scope: ClipScope = "all"

    def apply(self, critic: nn.Module) -> None:
        """Clip every weight in scope, in place."""
        clip_weights(weights_in_scope(critic, self.scope), self.clip)

    def report(self, critic: nn.Module) -> Metrics:
        """critic/clipped_fraction: the share of the weights in scope that are at the edges of the box."""
        weights = weights_in_scope(critic, self.scope)
        return {"critic/clipped_fraction": clipped_fraction(weights, self.clip)}

    @property
    def half_width(self) -> float:
        """The clip."""
        return self.clip


def weights_in_scope(critic: nn.Module, scope: ClipScope) -> list[nn.Parameter]:
    """The parameters that clipping holds in the box. Frozen ones, which take no gradient, are left out.

    all: every parameter, as in the paper; weights: the weights of convolutions and linear layers, without biases and
    norms; convolutions: the kernels of convolutions only; all_but_gains: every parameter except the gains of norms,
    which at 0.01 would scale a layer's signal down a hundredfold.
    """
    everything = scope == "all"
    found = (
        critic.parameters() if everything else chain(*(_in_scope(layer, scope) for layer in critic.modules()))
    )
    return [parameter for parameter in found if parameter.requires_grad]


def _in_scope(layer: nn.Module, scope: ClipScope) -> Iterator[nn.Parameter]:
    """A layer's own parameters in scope."""
    is_norm, is_kernel = isinstance(layer, NORMS), isinstance(layer, _ConvNd)
    for name, parameter in layer.named_parameters(recurse=False):
        match scope:
            case "convolutions":
                belongs = is_kernel and name == "weight"
            case "weights":
                belongs = parameter.ndim > 1 and not is_norm
            case _:
                belongs = not (is_norm and name == "weight")
        if belongs:
            yield parameter


@torch.no_grad()
def clip_weights(parameters: Iterable[nn.Parameter], clip: float) -> None:
    """Clamp every weight to [-clip, clip] in place, in two fused passes over all tensors. NaN stays NaN."""
    weights = [parameter.data for parameter in parameters]
    torch._foreach_clamp_min_(weights, -clip)
    torch._foreach_clamp_max_(weights, clip)


@torch.no_grad()
def clipped_fraction(parameters: Iterable[nn.Parameter], clip: float) -> Tensor:
    """The share of all weights that are at the edges of the box: 0-d, in [0, 1]."""
    weights = list(parameters)
    clipped = torch.stack([(weight.abs() >= clip).sum() for weight in weights]).sum()
    return clipped / sum(weight.numel() for weight in weights)
