"""Weight clipping: every critic weight is held in the box [-clip, clip].

The WGAN paper (Arjovsky, Chintala, Bottou 2017, algorithm 1) clips after each critic update, so that the
critic's Lipschitz constant stays bounded. All ranks hold equal float32 weights after the optimizer's
step, and clamping is a function of the weight alone, so the ranks stay equal to the bit.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn


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
