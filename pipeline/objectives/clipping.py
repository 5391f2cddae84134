"""Weight clipping: the critic's weights are held in the box [-clip, clip].

The WGAN paper (Arjovsky, Chintala, Bottou 2017, algorithm 1) clips after each critic update, so that the
critic's Lipschitz constant stays bounded. All ranks hold equal float32 weights after the optimizer's
step, and clamping is a function of the weight alone, so the ranks stay equal to the bit.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import chain

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd

from pipeline.options import ClipScope

NORMS = (_NormBase, nn.GroupNorm, nn.LayerNorm)


def weights_in_scope(critic: nn.Module, scope: ClipScope) -> list[nn.Parameter]:
    """The parameters that clipping holds in the box. Those that take no gradient, frozen ones, are left out.

    all: every one, as in the paper; weights: those of convolutions and linear layers, without biases and
    norms; convolutions: their kernels only; all_but_gains: every one but the gains of norms, which at 0.01
    scale a layer's signal down a hundredfold.
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
    """Clamp every weight to [-clip, clip] in place, all tensors in two fused passes. NaN stays NaN."""
    weights = [parameter.data for parameter in parameters]
    torch._foreach_clamp_min_(weights, -clip)
    torch._foreach_clamp_max_(weights, clip)


@torch.no_grad()
def clipped_fraction(parameters: Iterable[nn.Parameter], clip: float) -> Tensor:
    """The share of all weights that lie on the box's walls, in [0, 1] (0-d)."""
    weights = list(parameters)
    clipped = torch.stack([(weight.abs() >= clip).sum() for weight in weights]).sum()
    return clipped / sum(weight.numel() for weight in weights)
