"""The generator's exponential moving average: smoother samples than the last weights give."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def ema_weight(decay: float, step: int) -> float:
    """How far the average moves towards the model at the end of step `step`, counted from 1.

    The decay is at most (1 + step) / (10 + step), so that the random start is forgotten early.
    """
    return 1.0 - min(decay, (1 + step) / (10 + step))


def decay_of(half_life: float, images: int) -> float:
    """The decay of a step on so many real images, if a share is to halve in `half_life` real images.

    So the average is over the same images whatever the batch, the number of ranks and of critic updates are.
    """
    return float(0.5 ** (images / half_life))


@torch.no_grad()
def update_ema(average: nn.Module, model: nn.Module, weight: float | Tensor) -> None:
    """Move `average` towards `model` in place: average += weight (model - average).

    weight: in [0, 1], a 0-d tensor in a captured step. The running statistics of batch norm are averaged too, so that
    they fit the averaged weights; counters are copied.
    """
    ours, theirs = [], []
    for mine, other in zip(average.state_dict().values(), model.state_dict().values(), strict=True):
        if mine.is_floating_point():
            ours.append(mine)
            theirs.append(other)
        else:
            mine.copy_(other)
    torch._foreach_lerp_(ours, theirs, [weight] * len(ours) if isinstance(weight, Tensor) else weight)
