"""The generator's exponential moving average: smoother samples than the last weights give."""

from __future__ import annotations

import torch
from torch import nn


@torch.no_grad()
def update_ema(average: nn.Module, model: nn.Module, decay: float, step: int) -> None:
    """Move `average` towards `model` in place, after `step` steps (1 at the first).

    The decay is at most (1 + step) / (10 + step), so that the random start is forgotten early. The running
    statistics of batch norm are averaged too, so that they fit the averaged weights; counters are copied.
    """
    weight = 1.0 - min(decay, (1 + step) / (10 + step))
    ours, theirs = [], []
    for mine, other in zip(average.state_dict().values(), model.state_dict().values(), strict=True):
        if mine.is_floating_point():
            ours.append(mine)
            theirs.append(other)
        else:
            mine.copy_(other)
    torch._foreach_lerp_(ours, theirs, weight)
