"""The sliced Wasserstein distance between patches of images, scale by scale."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from pipeline.errors import ConfigError

SMALLEST_IMAGE = 8
SMALLEST_LEVEL = 16
PATCH = 7
PATCHES = 64
DIRECTIONS = 128
BATCH_OF_DIRECTIONS = 32
SCALE = 1e3
CONSTANT = 1e-6
"""A channel whose patches deviate by less is constant: one grey level is 0.008."""


def sliced_wasserstein(
    real: Tensor, fake: Tensor, seed: int, patches: int = PATCHES, directions: int = DIRECTIONS
) -> dict[int, float]:
    """The distance, times 1000, at each level of the Laplacian pyramid, by the level's height in pixels.

    Images are float32 (count, channels, height, width) in [-1, 1]. Karras et al. 2018, "Progressive Growing of
    GANs", section 5: levels are halved down to 16 pixels, the last is the image that is left, and of each image
    `patches` patches of 7 x 7 are compared. Both sets are normalised by the real channels,
    not each by its own as in the paper, so that a wrong brightness or contrast counts. Of the larger set as many
    images as the smaller one has are drawn. The result depends on the seed, the images and their order; both
    sets lend patches at the same places, so equal sets are exactly 0 apart.

    Raises ConfigError where the images have different sizes, or fewer than 8 pixels.
    """
    _check_images(real, fake)
    source = torch.Generator().manual_seed(seed)
    count = min(len(real), len(fake))
    real, fake = _draw(real, count, source), _draw(fake, count, source)
    distances = {}
    for real_level, fake_level in zip(laplacian_pyramid(real), laplacian_pyramid(fake), strict=True):
        height, width = real_level.shape[-2:]
        side = min(PATCH, height, width)
        y = torch.randint(height - side + 1, (count, patches), generator=source).to(real.device)
        x = torch.randint(width - side + 1, (count, patches), generator=source).to(real.device)
        real_patches, fake_patches = _normalise(
            _cut_patches(real_level, side, y, x), _cut_patches(fake_level, side, y, x)
        )
        slices = F.normalize(torch.randn(directions, real_patches.shape[1], generator=source)).to(real.device)
        distances[height] = SCALE * projected_distance(real_patches, fake_patches, slices)
    return distances


def laplacian_pyramid(images: Tensor) -> list[Tensor]:
    """What each halving of the size loses, finest first, and the image that is left last. Its sum, each level
    enlarged to the next, is the image (Burt & Adelson 1983).

    Levels end before one would have fewer than 16 pixels.
    """
    levels = []
    while min(images.shape[-2:]) >= 2 * SMALLEST_LEVEL:
        smaller = shrink(images)
        levels.append(images - enlarge(smaller, images.shape[-2], images.shape[-1]))
        images = smaller
    return [*levels, images]


def shrink(images: Tensor) -> Tensor:
    """Every second pixel of the blurred images; an odd size is rounded up."""
    return _blur(images)[..., ::2, ::2]


def enlarge(images: Tensor, height: int, width: int) -> Tensor:
    """Images of the size that `shrink` was given, interpolated; constant ones stay as they are."""
    spread = images.new_zeros(*images.shape[:2], height, width)
    spread[..., ::2, ::2] = 4 * images
    return _blur(spread)


def projected_distance(real: Tensor, fake: Tensor, directions: Tensor) -> float:
    """The mean 1-Wasserstein distance of (count, dimensions), equally many, along unit vectors (n, dimensions)."""
    total = torch.zeros((), dtype=torch.float64, device=real.device)
    for some in torch.split(directions, BATCH_OF_DIRECTIONS):
        # In one dimension the optimal transport takes the i-th smallest to the i-th smallest.
        real_sorted, fake_sorted = ((some @ points.T).sort(1).values for points in (real, fake))
        total += (real_sorted - fake_sorted).abs().mean(1, dtype=torch.float64).sum()
    return total.item() / len(directions)


def _check_images(real: Tensor, fake: Tensor) -> None:
    real_size, fake_size = (" x ".join(map(str, images.shape[1:])) for images in (real, fake))
    if real_size != fake_size:
        raise ConfigError(
            f"Real images are {real_size} (channels x height x width) and generated ones {fake_size}: patches of "
            "different sizes have no distance. Bring both to one size."
        )
    if min(real.shape[-2:]) < SMALLEST_IMAGE:
        raise ConfigError(
            f"Images of {real_size} (channels x height x width) are too small for patches of {PATCH} x {PATCH}. "
            f"Take images of {SMALLEST_IMAGE} pixels at least."
        )


def _draw(images: Tensor, count: int, source: torch.Generator) -> Tensor:
    """`count` of the images at random, or all in their order where there are no more."""
    if len(images) == count:
        return images
    return images[torch.randperm(len(images), generator=source)[:count].to(images.device)]


def _blur(images: Tensor) -> Tensor:
    """The binomial filter (1 4 6 4 1) / 16 along both axes, mirrored at the borders."""
    channels = images.shape[1]
    taps = torch.tensor([1.0, 4.0, 6.0, 4.0, 1.0], dtype=images.dtype, device=images.device) / 16
    padded = F.pad(images, (2, 2, 2, 2), mode="reflect")
    rows = F.conv2d(padded, taps.view(1, 1, 1, 5).expand(channels, 1, 1, 5), groups=channels)
    return F.conv2d(rows, taps.view(1, 1, 5, 1).expand(channels, 1, 5, 1), groups=channels)


def _cut_patches(images: Tensor, side: int, y: Tensor, x: Tensor) -> Tensor:
    """The patches whose upper left corners are y, x (count, patches): (count * patches, channels, side, side)."""
    windows = images.unfold(2, side, 1).unfold(3, side, 1)
    numbers = torch.arange(len(images), device=images.device)[:, None]
    return windows[numbers, :, y, x].flatten(0, 1)


def _normalise(real: Tensor, fake: Tensor) -> tuple[Tensor, Tensor]:
    """Both (count, channels, side, side) in units of the real channels' deviations, as (count, dimensions).

    Their means would be taken from both, and so are left: distances do not see them.
    """
    axes = (0, 2, 3)
    deviation = real.double().std(axes, unbiased=False, keepdim=True)
    # A channel that is constant in the real images has no unit of its own, and keeps that of the pixels.
    deviation = torch.where(deviation < CONSTANT, 1.0, deviation)
    scaled = [(patches / deviation).to(patches.dtype).flatten(1) for patches in (real, fake)]
    return scaled[0], scaled[1]
