"""Planted failures of a generator, and which metrics see them: on digits of 8 x 8, their pixels as features."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

import pytest
import torch
from sklearn.datasets import load_digits
from torch import Tensor

from pipeline.pixels import to_uint8
from pipeline.quality.class_balance import class_distance, class_histogram, covered_modes
from pipeline.quality.features.pixels import PixelFeatures
from pipeline.quality.frechet import frechet_distance, gaussian
from pipeline.quality.kernel_distance import kernel_distance
from pipeline.quality.neighbours import (
    copied_share,
    natural_distance,
    nearest,
    precision_recall_density_coverage,
)
from pipeline.quality.sliced_wasserstein import sliced_wasserstein

SAMPLES = 400


def share_of_copies(fake: Tensor, train: Tensor, held_out: Tensor) -> float:
    return copied_share(fake, train, held_out, natural_distance(train, held_out))


class Digits(NamedTuple):
    """Three parts of the data that share no image; images are float32 (count, 64) in [-1, 1]."""

    train: Tensor
    held_out: Tensor
    unseen: Tensor
    unseen_labels: Tensor
    train_labels: Tensor


@pytest.fixture(scope="module")
def digits() -> Digits:
    pixels, labels = map(torch.from_numpy, load_digits(return_X_y=True))
    order = torch.randperm(len(pixels), generator=torch.Generator().manual_seed(0))
    images, labels = (pixels[order] / 8 - 1).float(), labels[order]
    return Digits(images[:800], images[800:1200], images[1200:], labels[1200:], labels[:800])


def noise(count: int) -> Tensor:
    return torch.randn(count, 64, generator=torch.Generator().manual_seed(1))


def good(digits: Digits) -> Tensor:
    return digits.unseen[:SAMPLES]


def collapsed(digits: Digits) -> Tensor:
    """One new image over and over."""
    return digits.unseen[:1] + 0.02 * noise(SAMPLES)


def memorised(digits: Digits) -> Tensor:
    return digits.train[:SAMPLES] + 0.02 * noise(SAMPLES)


def noisy(digits: Digits) -> Tensor:
    return noise(SAMPLES).clamp(-1, 1)


def dropped(digits: Digits) -> Tensor:
    """New images of two of the ten classes, each several times, a little changed."""
    two = digits.unseen[(digits.unseen_labels == 0) | (digits.unseen_labels == 4)]
    return two.repeat(10, 1)[:SAMPLES] + 0.1 * noise(SAMPLES)


def blurred(digits: Digits) -> Tensor:
    images = good(digits).view(-1, 1, 8, 8)
    padded = torch.nn.functional.pad(images, (1, 1, 1, 1), mode="replicate")
    return torch.nn.functional.avg_pool2d(padded, 3, stride=1).flatten(1)


def figures(digits: Digits, fake: Tensor) -> dict[str, float]:
    """Every metric of samples (count, 64), compared with the held-out images."""
    real = digits.held_out

    def classes(images: Tensor) -> Tensor:
        labels = digits.train_labels[nearest(images, digits.train)[1][:, 0]]
        return class_histogram(torch.nn.functional.one_hot(labels, 10))

    histogram, real_histogram = classes(fake), classes(real)
    return {
        "fid": frechet_distance(gaussian(real), gaussian(fake)),
        "kid": kernel_distance(real, fake, 20, 100, seed=0).mean,
        **precision_recall_density_coverage(real, fake, 5)._asdict(),
        "copied": share_of_copies(fake, digits.train, real),
        "swd": sliced_wasserstein(real.view(-1, 1, 8, 8), fake.view(-1, 1, 8, 8), seed=0)[8],
        "modes": covered_modes(histogram, real_histogram),
        "class_distance": class_distance(histogram, real_histogram),
    }


IS_BAD: Mapping[str, Callable[[float], bool]] = {
    "fid": lambda value: value > 3,
    "kid": lambda value: value > 0.05,
    "precision": lambda value: value < 0.7,
    "recall": lambda value: value < 0.5,
    "density": lambda value: value < 0.5,
    "coverage": lambda value: value < 0.5,
    "copied": lambda value: value > 0.2,
    "swd": lambda value: value > 100,
    "modes": lambda value: value < 8,
    "class_distance": lambda value: value > 0.5,
}
DISTANCES = {"fid", "kid", "swd"}
COVERING = {"recall", "coverage"}
CLASSES = {"modes", "class_distance"}


@pytest.mark.parametrize(
    ("generate", "seen_by"),
    [
        (good, set()),
        (memorised, {"copied"}),
        (collapsed, DISTANCES | COVERING | CLASSES),
        (dropped, DISTANCES | COVERING | CLASSES),
        (noisy, DISTANCES | COVERING | {"precision", "density"}),
        (blurred, DISTANCES | COVERING),
    ],
)
def test_each_failure_is_seen_by_the_metrics_for_it_and_no_others(
    digits: Digits, generate: Callable[[Digits], Tensor], seen_by: set[str]
) -> None:
    found = figures(digits, generate(digits))
    assert {name for name, value in found.items() if IS_BAD[name](value)} == seen_by, found


def test_every_class_metric_gets_worse_with_each_class_that_is_dropped(digits: Digits) -> None:
    found = [figures(digits, digits.unseen[digits.unseen_labels < classes]) for classes in (10, 8, 6, 4, 2)]
    for name, sign in (("modes", -1), ("coverage", -1), ("class_distance", 1), ("fid", 1), ("swd", 1)):
        values = [sign * figure[name] for figure in found]
        assert values == sorted(values), name


def test_distances_grow_with_the_noise_on_good_samples(digits: Digits) -> None:
    found = [figures(digits, good(digits) + level * noise(SAMPLES)) for level in (0.0, 0.2, 0.4, 0.8)]
    for name in DISTANCES:
        values = [figure[name] for figure in found]
        assert values == sorted(values), name


def test_the_share_of_copies_follows_the_share_that_is_planted(digits: Digits) -> None:
    for count in (0, 40, 200):
        fake = torch.cat([memorised(digits)[:count], good(digits)[count:]])
        assert figures(digits, fake)["copied"] == pytest.approx(count / SAMPLES, abs=0.04)


def framed(images: Tensor) -> Tensor:
    """Digits in a frame of four black pixels, as in MNIST: uint8 (count, 1, 16, 16)."""
    return to_uint8(torch.nn.functional.pad(images.view(-1, 1, 8, 8), (4,) * 4, value=-1))


def enlarged(images: Tensor) -> Tensor:
    """Smooth digits: uint8 (count, 1, 64, 64)."""
    return to_uint8(torch.nn.functional.interpolate(images.view(-1, 1, 8, 8), (64, 64), mode="bilinear"))


def with_bars(images: Tensor) -> Tensor:
    """The images with their first and last row white."""
    changed = images.clone()
    changed[:, :, [0, -1]] = 255
    return changed


def with_checkerboard(images: Tensor) -> Tensor:
    """The images with every second pixel 48 grey levels brighter, as upsampling layers leave it."""
    rows, columns = (torch.arange(size) % 2 for size in images.shape[-2:])
    brighter = 48 * (rows[:, None] ^ columns)
    return (images + brighter).clamp(max=255).to(torch.uint8)


@pytest.mark.parametrize(("look", "spoil"), [(framed, with_bars), (enlarged, with_checkerboard)])
def test_what_real_images_never_show_is_seen_in_samples(
    digits: Digits, look: Callable[[Tensor], Tensor], spoil: Callable[[Tensor], Tensor]
) -> None:
    """Bars where all real images are black; a pattern finer than any detail of them."""
    real, right, wrong = look(digits.held_out), look(good(digits)), spoil(look(good(digits)))
    height, width = real.shape[2:]
    features = PixelFeatures((1, height, width), torch.device("cpu"))

    def measure(images: Tensor) -> dict[str, float]:
        ours, theirs = features(real), features(images)
        return {
            "fid": frechet_distance(gaussian(ours), gaussian(theirs)),
            "kid": kernel_distance(ours, theirs, 20, 100, seed=0).mean,
            **precision_recall_density_coverage(ours, theirs, 5)._asdict(),
        }

    found, expected = measure(wrong), measure(right)
    assert min(expected["precision"], expected["recall"]) > 0.8
    assert found["fid"] > 8 * expected["fid"]
    assert found["kid"] > abs(expected["kid"]) + 0.05
    for name in ("precision", "recall", "density", "coverage"):
        assert found[name] < 0.5 * expected[name], found
