"""The sliced Wasserstein distance, compared with slow code and on sets with a known answer."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pytest
import scipy.ndimage
import scipy.stats
import torch
from torch import Tensor

from pipeline.errors import ConfigError
from pipeline.pixels import to_float, to_uint8
from pipeline.quality import sliced_wasserstein as module
from pipeline.quality.sliced_wasserstein import (
    RealPatches,
    enlarge,
    laplacian_pyramid,
    level_sizes,
    shrink,
    sliced_wasserstein,
    sorted_projections,
    transport_distance,
)

Array = npt.NDArray[np.float64]
TAPS = np.array([1, 4, 6, 4, 1]) / 16


def smooth(seed: int, count: int, size: int, channels: int = 1) -> Tensor:
    """Images of soft blots in [-1, 1]."""
    source = torch.Generator().manual_seed(seed)
    coarse = torch.rand(count, channels, 4, 4, generator=source) * 2 - 1
    return torch.nn.functional.interpolate(coarse, size=(size, size), mode="bilinear")


def noise(seed: int, count: int, size: int, channels: int = 1) -> Tensor:
    return torch.rand(count, channels, size, size, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def blur_slowly(image: Array) -> Array:
    return scipy.ndimage.convolve(image, np.outer(TAPS, TAPS), mode="mirror")


def pyramid_slowly(image: Array) -> list[Array]:
    """Of one channel."""
    levels = []
    while min(image.shape) >= 32:
        smaller = blur_slowly(image)[::2, ::2]
        spread = np.zeros_like(image)
        for y in range(smaller.shape[0]):
            for x in range(smaller.shape[1]):
                spread[2 * y, 2 * x] = 4 * smaller[y, x]
        levels.append(image - blur_slowly(spread))
        image = smaller
    return [*levels, image]


def patches_slowly(levels: list[list[Array]], places: npt.NDArray[np.int64], side: int) -> Array:
    """(patches, channels, side * side) of images whose channels are given one after the other."""
    return np.array(
        [
            [level[y : y + side, x : x + side].ravel() for level in channels]
            for channels, corners in zip(levels, places, strict=True)
            for y, x in corners
        ]
    )


def distance_slowly(real: Tensor, fake: Tensor, seed: int, patches: int, directions: int) -> dict[int, float]:
    """By one patch and one direction after the other, with the same random numbers."""
    source = torch.Generator().manual_seed(seed)
    pyramids = [
        [[pyramid_slowly(channel) for channel in image] for image in images.double().numpy()]
        for images in (real, fake)
    ]
    found = {}
    for number in range(len(pyramids[0][0][0])):
        levels = [[[channel[number] for channel in image] for image in images] for images in pyramids]
        height, width = levels[0][0][0].shape
        side = min(7, height, width)
        y = torch.randint(height - side + 1, (len(real), patches), generator=source).numpy()
        x = torch.randint(width - side + 1, (len(real), patches), generator=source).numpy()
        ours, theirs = (patches_slowly(images, np.stack([y, x], -1), side) for images in levels)
        mean, deviation = ours.mean((0, 2), keepdims=True), ours.std((0, 2), keepdims=True)
        drawn = torch.randn(directions, real.shape[1] * side * side, generator=source).double().numpy()
        distances = [
            scipy.stats.wasserstein_distance(
                ((ours - mean) / deviation).reshape(len(ours), -1) @ direction / np.linalg.norm(direction),
                ((theirs - mean) / deviation).reshape(len(ours), -1) @ direction / np.linalg.norm(direction),
            )
            for direction in drawn
        ]
        found[height] = 1000 * float(np.mean(distances))
    return found


@pytest.mark.parametrize(
    ("size", "channels", "levels"), [(8, 1, [8]), (28, 1, [28]), (32, 3, [32, 16]), (67, 2, [67, 34, 17])]
)
def test_it_is_what_slow_code_gives(size: int, channels: int, levels: list[int]) -> None:
    real, fake = smooth(0, 6, size, channels), noise(1, 6, size, channels)
    found = sliced_wasserstein(real, fake, seed=3, patches=5, directions=40)
    assert list(found) == levels
    assert found == pytest.approx(distance_slowly(real, fake, 3, 5, 40), rel=1e-4)


@pytest.mark.parametrize(
    ("size", "levels"),
    [(8, [8]), (15, [15]), (16, [16]), (31, [31]), (32, [32, 16]), (33, [33, 17]), (128, [128, 64, 32, 16])],
)
def test_levels_go_down_to_16_pixels(size: int, levels: list[int]) -> None:
    assert list(sliced_wasserstein(noise(0, 3, size), noise(1, 3, size), seed=0, directions=4)) == levels
    assert [level.shape[-1] for level in laplacian_pyramid(noise(0, 1, size))] == levels


@pytest.mark.parametrize(("height", "width"), [(8, 8), (33, 65), (128, 96), (67, 31)])
def test_sizes_of_levels_are_those_of_the_pyramid(height: int, width: int) -> None:
    levels = laplacian_pyramid(torch.zeros(1, 1, height, width))
    assert level_sizes(height, width) == [level.shape[-2:] for level in levels]


@pytest.mark.parametrize("size", [32, 33, 50, 96])
def test_the_pyramid_holds_the_whole_image(size: int) -> None:
    images = noise(0, 2, size, 3)
    *bands, rest = laplacian_pyramid(images)
    for band in reversed(bands):
        rest = enlarge(rest, *band.shape[-2:]) + band
    torch.testing.assert_close(rest, images)


@pytest.mark.parametrize("size", [32, 33])
def test_constant_images_stay_constant(size: int) -> None:
    images = torch.full((1, 1, size, size), 0.7)
    torch.testing.assert_close(shrink(images), torch.full_like(shrink(images), 0.7))
    torch.testing.assert_close(enlarge(shrink(images), size, size), images)


def test_equal_sets_are_0_apart() -> None:
    images = smooth(0, 20, 32, 3)
    assert sliced_wasserstein(images, images.clone(), seed=0) == {32: 0, 16: 0}


def projected_distance(real: Tensor, fake: Tensor, directions: Tensor) -> float:
    ours, theirs = (sorted_projections(points, directions) for points in (real, fake))
    return transport_distance(torch.cat(list(ours)), theirs)


@pytest.mark.parametrize("shift", [0.5, -2.0])
def test_a_shift_along_a_direction_is_its_own_distance(shift: float) -> None:
    points = noise(0, 1, 20).view(100, 4)
    directions = torch.eye(4)[:2]
    moved = points + shift * directions[0]
    assert projected_distance(points, moved, directions[:1]) == pytest.approx(abs(shift), rel=1e-5)
    assert projected_distance(points, moved, directions) == pytest.approx(abs(shift) / 2, rel=1e-5)


def test_the_distance_along_a_line_is_that_of_scipy() -> None:
    first, second = noise(0, 1, 30).view(-1, 1), noise(1, 1, 30).view(-1, 1).abs() ** 2
    expected = scipy.stats.wasserstein_distance(first.view(-1).double(), second.view(-1).double())
    assert projected_distance(first, second, torch.ones(1, 1)) == pytest.approx(expected, rel=1e-5)


def test_brightness_is_seen_by_the_last_level_alone() -> None:
    images = smooth(0, 50, 64) / 2
    found = sliced_wasserstein(images, images + 0.25, seed=0)
    assert found[16] > 100
    assert max(found[64], found[32]) < 0.1


def test_contrast_is_seen_by_every_level() -> None:
    images = noise(0, 50, 32)
    assert min(sliced_wasserstein(images, images / 2, seed=0).values()) > 100


@pytest.mark.parametrize("batch", [1, 7, 100])
def test_how_many_images_are_cut_at_once_changes_nothing(batch: int, monkeypatch: pytest.MonkeyPatch) -> None:
    real, fake = smooth(0, 40, 32, 3), noise(1, 50, 32, 3)
    expected = sliced_wasserstein(real, fake, seed=3)
    monkeypatch.setattr(module, "BATCH_OF_IMAGES", batch)
    assert sliced_wasserstein(real, fake, seed=3) == pytest.approx(expected, rel=1e-5)


def test_the_real_side_serves_any_number_of_generated_sets() -> None:
    real, sets = smooth(0, 20, 32, 3), [smooth(1, 30, 32, 3), noise(2, 30, 32, 3)]
    patches = RealPatches.of(real, 30, seed=4)
    for fake in (*sets, *sets):
        assert patches.distances(fake) == sliced_wasserstein(real, fake, seed=4)


def test_bytes_are_compared_as_the_numbers_that_they_stand_for() -> None:
    real, fake = (to_uint8(images) for images in (smooth(0, 20, 32, 3), noise(1, 20, 32, 3)))
    assert sliced_wasserstein(real, fake, seed=0) == sliced_wasserstein(
        to_float(real), to_float(fake), seed=0
    )


@pytest.mark.slow
def test_memory_is_that_of_the_patches_and_not_of_all_pyramids() -> None:
    """512 images of 96 pixels: 54 MiB a set as float32, and its pyramid and blurred copies several times that."""
    code = """
import resource, torch
from pipeline.quality.sliced_wasserstein import RealPatches
def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
images = torch.randint(0, 256, (512, 3, 96, 96), dtype=torch.uint8)
RealPatches.of(images[:16], 16, 0, patches=2).distances(images[:16])
before = peak()
RealPatches.of(images, 512, 0, patches=2).distances(images)
print(peak() - before)
"""
    grown = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=100, check=True
    )
    assert float(grown.stdout) < 50


def blurred(images: Tensor) -> Tensor:
    return enlarge(shrink(images), 32, 32)


def grainy(images: Tensor) -> Tensor:
    return images + 0.3 * noise(9, *images.shape[::2])


@pytest.mark.parametrize("spoil", [blurred, grainy])
def test_fine_detail_is_seen_by_the_first_level_most(spoil: Callable[[Tensor], Tensor]) -> None:
    images = smooth(0, 100, 32) + 0.2 * noise(1, 100, 32)
    found = sliced_wasserstein(images, spoil(images), seed=0)
    assert found[32] > 3 * found[16]


def test_noise_is_farther_from_images_than_other_images_are() -> None:
    real = smooth(0, 200, 32)
    others, noisy = (
        sliced_wasserstein(real, fake, seed=0) for fake in (smooth(1, 200, 32), noise(1, 200, 32))
    )
    assert all(noisy[level] > 5 * others[level] for level in (32, 16))


def test_the_seed_alone_chooses_patches_and_directions() -> None:
    real, fake = smooth(0, 20, 16), noise(1, 25, 16)
    torch.manual_seed(0)
    first = sliced_wasserstein(real, fake, seed=5)
    torch.manual_seed(1)
    assert sliced_wasserstein(real, fake, seed=5) == first
    assert sliced_wasserstein(real, fake, seed=6) != first


@pytest.mark.parametrize("counts", [(30, 90), (90, 30)])
def test_of_the_larger_set_as_many_are_drawn_from_all_of_it(counts: tuple[int, int]) -> None:
    """Not its first ones, which here are all alike."""
    real, fake = smooth(0, counts[0], 16), smooth(1, counts[1], 16)
    larger = max(real, fake, key=len)
    larger[:30] = 1.0
    in_order = sliced_wasserstein(real[:30], fake[:30], seed=0)[16]
    assert sliced_wasserstein(real, fake, seed=0)[16] < in_order / 2


@pytest.mark.parametrize("size", [16, 32])
def test_a_channel_that_never_changes_leaves_the_distance_finite(size: int) -> None:
    real, fake = noise(0, 20, size, 3), noise(1, 20, size, 3)
    real[:, 2] = fake[:, 2] = 0.3
    found = sliced_wasserstein(real, fake, seed=0)
    assert all(0 < distance < 200 for distance in found.values())


@pytest.mark.parametrize(
    ("real", "fake", "message"),
    [
        (
            (3, 32, 32),
            (3, 16, 16),
            r"Real images are 3 x 32 x 32 .* and generated ones 3 x 16 x 16.*same size",
        ),
        ((3, 32, 32), (1, 32, 32), r"Real images are 3 x 32 x 32 .* and generated ones 1 x 32 x 32"),
        (
            (1, 7, 7),
            (1, 7, 7),
            r"Images of 1 x 7 x 7 .* too small for patches of 7 x 7\. Use images of at least 8 pixels",
        ),
    ],
)
def test_images_that_cannot_be_compared_are_refused(
    real: tuple[int, ...], fake: tuple[int, ...], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        sliced_wasserstein(torch.zeros(4, *real), torch.zeros(4, *fake), seed=0)
