"""The sliced Wasserstein distance between patches of images, on each scale."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Self

import torch
import torch.nn.functional as F
from torch import Tensor

from pipeline.errors import ConfigError
from pipeline.pixels import to_float

SMALLEST_IMAGE = 8
SMALLEST_LEVEL = 16
PATCH = 7
PATCHES = 64
DIRECTIONS = 128
BATCH_OF_IMAGES = 16
BATCH_OF_DIRECTIONS = 32
SCALE = 1e3
CONSTANT = 1e-6
"""A channel counts as constant if its patches deviate by less than this. One grey level is 0.008."""


class Level(NamedTuple):
    """The positions of the patches of one level, and the directions that they are projected on."""

    height: int
    """The height of the level, in pixels."""
    side: int
    """The height and width of its patches, in pixels."""
    y: Tensor
    """The upper edges of the patches: int64 (images, patches)."""
    x: Tensor
    """The left edges of the patches: int64 (images, patches)."""
    directions: Tensor
    """float32 (directions, channels * side * side)"""


def sliced_wasserstein(
    real: Tensor, fake: Tensor, seed: int, patches: int = PATCHES, directions: int = DIRECTIONS
) -> dict[int, float]:
    """The distance, times 1000, at each level of the Laplacian pyramid, by the height of the level in pixels.

    Images are uint8, or float32 in [-1, 1], (count, channels, height, width), both sets on one device. The method is
    that of Karras et al. 2018, "Progressive Growing of GANs", section 5: each level has half the size of the one
    before, down to 16 pixels, the last level is the remaining image, and `patches` patches of 7 x 7 pixels of each
    image are compared.
    Both sets are normalized by the deviations of the real channels, and not each by its own as in the paper, so that
    wrong brightness or contrast counts. If one set is larger, as many images as the other has are drawn from it. The
    result depends on the seed, the images and their order. The patches of both sets are at the same positions, so the
    distance of equal sets is exactly 0.

    Raises ConfigError if the sets have different image sizes, or images smaller than 8 pixels.
    """
    return RealPatches.of(real, len(fake), seed, patches, directions).distances(fake)


@dataclass(frozen=True)
class RealPatches:
    """The patches of the real images, with which any number of generated sets can be compared."""

    shape: tuple[int, ...]
    """The shape of an image: (channels, height, width)."""
    fakes: Tensor
    """The indices of the generated images that are compared: int64 (images,)."""
    levels: Sequence[Level]
    """The levels, finest first. Their directions are divided by the deviations of the real channels."""
    projections: Sequence[Tensor]
    """For each level, the sorted projections of its patches: float32 (directions, images * patches)."""

    @classmethod
    def of(
        cls, real: Tensor, fakes: int, seed: int, patches: int = PATCHES, directions: int = DIRECTIONS
    ) -> Self:
        """From real images, as in `sliced_wasserstein`, for comparison with sets of `fakes` generated images.

        Raises ConfigError if the images are smaller than 8 pixels.
        """
        channels, height, width = real.shape[1:]
        if min(height, width) < SMALLEST_IMAGE:
            raise ConfigError(
                f"Images of {_size(real.shape[1:])} (channels x height x width) are too small for patches of {PATCH} x "
                f"{PATCH}. Use images of at least {SMALLEST_IMAGE} pixels."
            )
        source = torch.Generator().manual_seed(seed)
        count = min(len(real), fakes)
        chosen, chosen_fakes = _draw(len(real), count, source), _draw(fakes, count, source)
        drawn = [
            _draw_level(level, channels, count, patches, directions, source)
            for level in level_sizes(height, width)
        ]
        levels, projections = [], []
        for level, found in zip(drawn, _cut_patches(real, chosen, drawn), strict=True):
            scaled = level.directions.to(real.device) / _deviations(found, channels)
            level = level._replace(directions=scaled)
            levels.append(level)
            projections.append(torch.cat(list(sorted_projections(found, level.directions))))
        return cls(tuple(real.shape[1:]), chosen_fakes, levels, projections)

    def distances(self, fake: Tensor) -> dict[int, float]:
        """The distance of generated images at each level, by its height in pixels.

        Raises ConfigError if their size differs from that of the real ones.
        """
        if fake.shape[1:] != self.shape:
            raise ConfigError(
                f"Real images are {_size(self.shape)} (channels x height x width) and generated ones "
                f"{_size(fake.shape[1:])}, and only images of the same size can be compared. Resize one of the sets."
            )
        found = _cut_patches(fake, self.fakes, self.levels)
        return {
            level.height: SCALE * transport_distance(real, sorted_projections(patches, level.directions))
            for level, real, patches in zip(self.levels, self.projections, found, strict=True)
        }


def level_sizes(height: int, width: int) -> list[tuple[int, int]]:
    """(height, width) of each level of the pyramid, finest first. Each is half of the one before, rounded up."""
    sizes = [(height, width)]
    while min(sizes[-1]) >= 2 * SMALLEST_LEVEL:
        height, width = sizes[-1]
        sizes.append((-(-height // 2), -(-width // 2)))
    return sizes


def laplacian_pyramid(images: Tensor) -> list[Tensor]:
    """The detail that each halving of the size loses, finest first, and then the remaining image.

    Enlarging each level to the size of the one before and adding it gives the image (Burt and Adelson 1983). No level
    is smaller than 16 pixels, unless the images are.
    """
    levels = []
    while min(images.shape[-2:]) >= 2 * SMALLEST_LEVEL:
        smaller = shrink(images)
        levels.append(images - enlarge(smaller, images.shape[-2], images.shape[-1]))
        images = smaller
    return [*levels, images]


def shrink(images: Tensor) -> Tensor:
    """Every second pixel of the blurred images, starting with the first, so an odd size is rounded up."""
    return _blur(images)[..., ::2, ::2]


def enlarge(images: Tensor, height: int, width: int) -> Tensor:
    """The images interpolated to this size, which must be one that `shrink` reduces to theirs."""
    spread = images.new_zeros(*images.shape[:2], height, width)
    spread[..., ::2, ::2] = 4 * images
    return _blur(spread)


def sorted_projections(points: Tensor, directions: Tensor) -> Iterator[Tensor]:
    """The projections of float32 (count, dimensions) on (n, dimensions), each sorted, in parts of (up to 32, count)."""
    for some in torch.split(directions, BATCH_OF_DIRECTIONS):
        projections = some @ points.T
        if projections.device.type == "cpu":
            # NumPy sorts in place and is several times as fast as torch, which also returns the order.
            projections.numpy().sort(axis=1)
            yield projections
        else:
            yield projections.sort(1).values


def transport_distance(real: Tensor, fake: Iterator[Tensor]) -> float:
    """The mean 1-Wasserstein distance of sorted projections: float32 (directions, count), and the same in parts."""
    total, first = real.new_zeros((), dtype=torch.float64), 0
    for some in fake:
        # In one dimension, optimal transport moves the i-th smallest value to the i-th smallest.
        differences = (real[first : first + len(some)] - some).abs_()
        total += differences.mean(1, dtype=torch.float64).sum()
        first += len(some)
    return total.item() / len(real)


def _size(shape: Sequence[int]) -> str:
    return " x ".join(map(str, shape))


def _draw(available: int, count: int, source: torch.Generator) -> Tensor:
    """The indices of `count` random images, or of all in their order if there are no more: int64 (count,)."""
    if available == count:
        return torch.arange(count)
    return torch.randperm(available, generator=source)[:count]


def _draw_level(
    size: tuple[int, int], channels: int, count: int, patches: int, directions: int, source: torch.Generator
) -> Level:
    """Random positions of `patches` patches in each of `count` images, and random unit vectors."""
    height, width = size
    side = min(PATCH, height, width)
    return Level(
        height,
        side,
        torch.randint(height - side + 1, (count, patches), generator=source),
        torch.randint(width - side + 1, (count, patches), generator=source),
        F.normalize(torch.randn(directions, channels * side * side, generator=source)),
    )


def _cut_patches(images: Tensor, chosen: Tensor, levels: Sequence[Level]) -> list[Tensor]:
    """The patches of the chosen images at each level: float32 (images * patches, channels * side * side).

    It takes a few images at a time, because the pyramids of all would need many times the memory of the patches.
    """
    found: list[list[Tensor]] = [[] for _ in levels]
    for places in torch.split(torch.arange(len(chosen)), BATCH_OF_IMAGES):
        batch = images[chosen[places]]
        pyramid = laplacian_pyramid(to_float(batch) if batch.dtype == torch.uint8 else batch)
        for parts, level, pixels in zip(found, levels, pyramid, strict=True):
            parts.append(_windows(pixels, level.side, level.y[places], level.x[places]))
    return [torch.cat(parts) for parts in found]


def _blur(images: Tensor) -> Tensor:
    """The binomial filter (1 4 6 4 1) / 16 along both axes, mirrored at the borders."""
    channels = images.shape[1]
    taps = torch.tensor([1.0, 4.0, 6.0, 4.0, 1.0], dtype=images.dtype, device=images.device) / 16
    padded = F.pad(images, (2, 2, 2, 2), mode="reflect")
    rows = F.conv2d(padded, taps.view(1, 1, 1, 5).expand(channels, 1, 1, 5), groups=channels)
    return F.conv2d(rows, taps.view(1, 1, 5, 1).expand(channels, 1, 5, 1), groups=channels)


def _windows(images: Tensor, side: int, y: Tensor, x: Tensor) -> Tensor:
    """The patches with upper left corners y, x (count, patches): (count * patches, channels * side * side)."""
    windows = images.unfold(2, side, 1).unfold(3, side, 1)
    numbers = torch.arange(len(images))[:, None]
    return windows[numbers, :, y, x].flatten(0, 1).flatten(1)


def _deviations(patches: Tensor, channels: int) -> Tensor:
    """The standard deviation of each channel, repeated for each pixel of a patch: float32 (channels * side * side,).

    The means are not needed: subtracting the same values from both sets does not change a distance.
    """
    by_channel = patches.view(len(patches), channels, -1)
    deviations = torch.stack(
        [by_channel[:, number].double().std(unbiased=False) for number in range(channels)]
    )
    # A channel that is constant in the real images is not rescaled.
    deviations = torch.where(deviations < CONSTANT, 1.0, deviations)
    return deviations.float().repeat_interleave(by_channel.shape[2])
