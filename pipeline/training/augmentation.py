"""Augmentation of what the critic sees: real and generated images are changed alike, so it cannot tell them by that.

With few images a critic learns them by heart, and its scores on them say nothing to the generator. Changed at random,
they are never the same twice (DiffAugment, Zhao et al. 2020; ADA, Karras et al. 2020). All changes can be
differentiated, and depend on numbers that are drawn for (seed, step, update, position). Each kind can also leave an
image as it is, so that the distribution of augmented images still tells that of images: generated ones do not become
rotated or coloured, as long as the probability is below about 0.8.

| kind    | what it does                                                            |
|---------|-------------------------------------------------------------------------|
| flip    | mirrors left to right, or not                                           |
| rotate  | by 0, 90, 180 or 270 degrees; images that are not square by 0 or 180    |
| shift   | by up to an eighth of each side; what comes in is grey                  |
| colour  | brightness + [-0.5, 0.5], saturation x [0, 2], contrast x [0.5, 1.5]    |
| cutout  | a box of half of each side, with its centre anywhere, becomes grey      |
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from pipeline.options import AugmentKind, AugmentOptions

NUMBERS = 14
"""The random numbers of one image."""
ADAPT_EVERY = 4
"""Steps from one change of an adapted probability to the next, as in ADA."""


def augment(
    images: Tensor, numbers: Tensor, probability: float | Tensor, kinds: Sequence[AugmentKind]
) -> Tensor:
    """Each image, changed by each kind with this probability. With probability 0 the images are the same to the bit.

    images: float32 (batch, channels, height, width) in [-1, 1]; numbers: float32 (batch, NUMBERS) in [0, 1). Colours
    can leave [-1, 1]. Gradients have the same bits in every run, also on GPUs: no two pixels of the result come from
    one of the image, so nothing is added up in an order of chance.
    """
    for name in kinds:
        first, count, change = KINDS[name]
        own = numbers[:, first : first + count + 1]
        is_changed = (own[:, 0] < probability).view(-1, 1, 1, 1)
        images = torch.where(is_changed, change(images, own[:, 1:]), images)
    return images


def _flip(images: Tensor, numbers: Tensor) -> Tensor:
    return torch.where((numbers < 0.5).view(-1, 1, 1, 1), images.flip(3), images)


def _rotate(images: Tensor, numbers: Tensor) -> Tensor:
    turns = (numbers * 4).floor().view(-1, 1, 1, 1)
    images = torch.where(turns >= 2, images.flip(2, 3), images)
    if images.shape[2] != images.shape[3]:
        return images
    return torch.where(turns % 2 == 1, images.transpose(2, 3).flip(2), images)


def _shift(images: Tensor, numbers: Tensor) -> Tensor:
    for dimension, number in zip((2, 3), numbers.unbind(1), strict=True):
        side = images.shape[dimension]
        most = round(side / 8)
        by = (number * (2 * most + 1)).floor().long() - most
        source = torch.arange(side, device=images.device) - by[:, None]
        shape = [-1, 1, 1, 1]
        shape[dimension] = side
        is_inside = ((source >= 0) & (source < side)).view(shape)
        taken = images.gather(dimension, source.clamp(0, side - 1).view(shape).expand_as(images))
        images = torch.where(is_inside, taken, 0.0)
    return images


def _colour(images: Tensor, numbers: Tensor) -> Tensor:
    brightness, saturation, contrast = numbers.view(-1, 3, 1, 1, 1).unbind(1)
    # Transparency, the fourth channel, is no colour.
    colours, others = images[:, :3], images[:, 3:]
    colours = colours + (brightness - 0.5)
    grey = colours.mean(1, keepdim=True)
    colours = grey + (colours - grey) * (2 * saturation)
    middle = colours.mean((1, 2, 3), keepdim=True)
    colours = middle + (colours - middle) * (contrast + 0.5)
    return torch.cat([colours, others], 1) if others.shape[1] else colours


def _cutout(images: Tensor, numbers: Tensor) -> Tensor:
    inside = images.new_ones((), dtype=torch.bool)
    for dimension, number in zip((2, 3), numbers.unbind(1), strict=True):
        side = images.shape[dimension]
        centre = (number * side).view(-1, 1, 1, 1)
        shape = [1, 1, 1, 1]
        shape[dimension] = side
        places = torch.arange(side, device=images.device).view(shape) + 0.5
        inside = inside & ((places - centre).abs() < side / 4)
    return torch.where(inside, 0.0, images)


KINDS: dict[AugmentKind, tuple[int, int, Callable[[Tensor, Tensor], Tensor]]] = {
    "flip": (0, 1, _flip),
    "rotate": (2, 1, _rotate),
    "shift": (4, 2, _shift),
    "colour": (7, 3, _colour),
    "cutout": (11, 2, _cutout),
}
"""For each kind the column of its first number, which decides whether it happens, how many follow, and the change."""


@dataclass
class Augmentation:
    """How a run augments: its kinds, and their present probability, float32 (0-d) on the device.

    If it adapts (ADA), the probability rises while real images score above the generated images beside them in more
    than `target` of all pairs (below them, if the objective's labels are flipped), and falls otherwise. ADA takes the
    share of positive scores, which means nothing for losses that compare scores.
    """

    options: AugmentOptions
    probability: Tensor

    @property
    def is_adapted(self) -> bool:
        """Whether the probability changes, and so belongs to a checkpoint."""
        return self.options.target is not None

    def adapt(self, share: Tensor, images: int) -> None:
        """Move the probability after ADAPT_EVERY steps on `images` real images; `share` (0-d) is that of all ranks."""
        assert self.options.target is not None
        told_apart = torch.maximum(share, 1 - share)
        step = torch.sign(told_apart - self.options.target) * (images / self.options.adapt_images)
        self.probability.add_(step).clamp_(0.0, 1.0)


def build_augmentation(options: AugmentOptions, device: torch.device) -> Augmentation | None:
    """The augmentation of a new run, if it has one."""
    return Augmentation(options, torch.tensor(options.probability, device=device)) if options.kinds else None
