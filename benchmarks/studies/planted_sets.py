"""Sets of images that are bad on purpose, and the metrics that should detect each failure."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from image_sets import LabelledImages
from torch import Tensor

from pipeline.data.reading.stream import Ids
from pipeline.errors import ConfigError
from pipeline.quality.real_images import RealImages
from pipeline.wording import counted

SEED = 0
FEWEST_SAMPLES = 128
HELD_OUT_SHARE = 5
"""One in this many of the images that are not trained on is held out: `copied` compares samples with these."""
NOISE = 8.0
"""Standard deviation in grey levels"""
CHECKERBOARD = 64
"""Grey levels"""
BLUR = 5
"""A blurred pixel is the mean of so many pixels along each axis."""
DISTANCES: frozenset[str] = frozenset({"fid", "kid", "swd"})
FIDELITY: frozenset[str] = frozenset({"precision", "density"})
COVERING: frozenset[str] = frozenset({"recall", "coverage"})
CLASSES: frozenset[str] = frozenset({"modes", "class_distance"})
COPIES: frozenset[str] = frozenset({"copied"})
NONE: frozenset[str] = frozenset()
COLLAPSED_CLASSES = range(3)
KEPT_CLASSES = 2


@dataclass(frozen=True)
class Parts:
    """Real images in three parts without common images: uint8 (count, channels, height, width)."""

    training: Tensor
    held_out: Tensor
    unseen: Tensor
    """Neither trained on nor held out: as good as the samples of a perfect generator"""
    unseen_labels: Tensor
    """int64 (count,)"""


@dataclass(frozen=True)
class Planted:
    """A set of images with one failure, and the metrics that should detect it."""

    name: str
    images: Tensor
    """uint8 (count, channels, height, width)"""
    seen_by: frozenset[str]
    """All other metrics, except those of `open_to`, should not react."""
    open_to: frozenset[str] = NONE
    """Metrics for which the definition does not decide whether they react"""


def split(training: LabelledImages, others: LabelledImages, samples: int) -> Parts:
    """Take held-out and unseen images from `others` in random order. Raises ConfigError if there are too few images."""
    if samples < FEWEST_SAMPLES:
        raise ConfigError(
            f"--samples {samples}: an evaluation needs at least {FEWEST_SAMPLES} images. Choose more."
        )
    if training.images.shape[1:] != others.images.shape[1:] or training.classes != others.classes:
        raise ConfigError(
            f"--shards has images of (channels, height, width) {tuple(training.images.shape[1:])} in the classes "
            f"{', '.join(training.classes)}, but --held-out has {tuple(others.images.shape[1:])} in "
            f"{', '.join(others.classes)}, so they cannot be compared. Name two splits of the same set."
        )
    order = torch.randperm(len(others.images), generator=_source())
    held_out, unseen = order[: len(order) // HELD_OUT_SHARE], order[len(order) // HELD_OUT_SHARE :]
    for option, count in (("--shards", len(training.images)), ("--held-out, for samples,", len(unseen))):
        if count < 2 * samples:
            raise ConfigError(
                f"{option} has {counted(count, 'image')}, but two sets of {samples:,} images without common ones are "
                "needed. Choose fewer --samples or a larger set."
            )
    labels = others.labels[unseen]
    if missing := set(COLLAPSED_CLASSES) - set(labels.tolist()):
        raise ConfigError(
            f"--held-out has no image of class number {', '.join(map(str, sorted(missing)))} for samples, but collapse "
            "is planted in the first three classes. Name a set with at least three classes."
        )
    return Parts(training.images, others.images[held_out], others.images[unseen], labels)


def real_images(parts: Parts, samples: int) -> RealImages:
    """The images that an evaluation compares with. Training images have the first ids, held-out images follow."""
    pixels = torch.cat([parts.training, parts.held_out])
    ids = np.arange(len(pixels))

    def read(chosen: Ids) -> Tensor:
        return pixels[torch.from_numpy(chosen)]

    channels, height, width = parts.training.shape[1:]
    return RealImages(
        read=read,
        shape=(channels, height, width),
        compared=_training_order(parts)[:samples].numpy(),
        training=lambda: ids[: len(parts.training)],
        held_out=lambda: ids[len(parts.training) :],
        held_out_count=len(parts.held_out),
    )


def plant(parts: Parts, samples: int) -> list[Planted]:
    """Sets of images with one failure each; the first set has none.

    The collapsed sets repeat typical images, which are those nearest to the mean of their class. An untypical image may
    be outside of all neighbourhoods of real images; precision would then be 0 by chance, not because of the collapse.
    """
    typical = torch.stack([typical_image(parts, label) for label in COLLAPSED_CLASSES])
    two_classes = parts.unseen[torch.isin(parts.unseen_labels, torch.arange(KEPT_CLASSES))]
    copies = parts.training[_training_order(parts)[samples : 2 * samples]]
    unseen = parts.unseen[samples : 2 * samples]
    return [
        Planted("other unseen real images", unseen, seen_by=NONE),
        Planted("collapse to one image", typical[:1], DISTANCES | COVERING | CLASSES),
        Planted("collapse to three images", typical, DISTANCES | COVERING | CLASSES),
        Planted("two of the classes", two_classes, DISTANCES | COVERING | CLASSES),
        Planted("training images", copies, COPIES),
        Planted("training images, slightly noisy", with_noise(copies), COPIES),
        # A classifier gives noise some class too; which classes that are is chance.
        Planted("noise", noise_like(unseen), DISTANCES | FIDELITY | COVERING, open_to=CLASSES),
        # Whether blurred images still surround sharp ones depends on how much detail the features see.
        Planted("blurred", blurred(unseen), DISTANCES | FIDELITY, open_to=COVERING),
        Planted("white bars", with_bars(unseen), DISTANCES | FIDELITY | COVERING, open_to=CLASSES),
        Planted("checkerboard", with_checkerboard(unseen), DISTANCES | FIDELITY | COVERING, open_to=CLASSES),
    ]


def typical_image(parts: Parts, label: int) -> Tensor:
    """The unseen image of a class that is nearest to the class's mean: uint8 (channels, height, width)."""
    images = parts.unseen[parts.unseen_labels == label]
    pixels = images.flatten(1).float()
    return images[(pixels - pixels.mean(0)).square().sum(1).argmin()]


def with_noise(images: Tensor) -> Tensor:
    """The uint8 images with normal noise added to each pixel."""
    noise = NOISE * torch.randn(images.shape, generator=_source())
    return (images + noise).round().clamp(0, 255).to(torch.uint8)


def noise_like(images: Tensor) -> Tensor:
    """As many images, with independent uniform pixels."""
    return torch.randint(256, images.shape, generator=_source(), dtype=torch.uint8)


def blurred(images: Tensor) -> Tensor:
    """The uint8 images with each pixel replaced by the mean of 5 x 5."""
    edge = BLUR // 2
    padded = torch.nn.functional.pad(images.float(), (edge,) * 4, mode="replicate")
    return torch.nn.functional.avg_pool2d(padded, BLUR, stride=1).round().to(torch.uint8)


def with_bars(images: Tensor) -> Tensor:
    """The uint8 images with two white rows at the upper and at the lower edge."""
    changed = images.clone()
    changed[:, :, [0, 1, -2, -1]] = 255
    return changed


def with_checkerboard(images: Tensor) -> Tensor:
    """The uint8 images with every second pixel 64 grey levels brighter."""
    rows, columns = (torch.arange(size) % 2 for size in images.shape[-2:])
    return (images + CHECKERBOARD * (rows[:, None] ^ columns)).clamp(max=255).to(torch.uint8)


def _training_order(parts: Parts) -> Tensor:
    return torch.randperm(len(parts.training), generator=_source())


def _source() -> torch.Generator:
    return torch.Generator().manual_seed(SEED)
