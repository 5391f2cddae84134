"""With data.flip, samples are compared with real images as training sees them: half of them mirrored."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from pipeline.config import load_config
from pipeline.data.format.shard_set import open_directory
from pipeline.data.reading.loader import Loader
from pipeline.data.reading.order import Order
from pipeline.noise import RankRows
from pipeline.pixels import to_float
from pipeline.quality.evaluation import Evaluation
from pipeline.ranks.runtime import join
from pipeline.run.directory import RunDirectory
from pipeline.training.build import build_evaluation, build_loader, real_images
from pipeline.training.context import RunContext
from tests.shards import reader

OPTIONS = ["data.validation=0.3", "data.cache=none", "data.workers=0", "quality.samples=200"]


class Run:
    """A run's images, and what its samples are compared with."""

    def __init__(self, config: str, digits: Path, *options: str) -> None:
        chosen = load_config(Path(config), [*OPTIONS, *options])
        directory = RunDirectory(Path(config).parent)
        self.context = RunContext(chosen, open_directory(digits), directory, join(chosen), lambda _: None)
        self.loader: Loader
        self.order: Order
        self.loader, self.order = build_loader(self.context, RankRows(0, 12, 12))
        self._stored = reader(digits)

    @property
    def evaluation(self) -> Evaluation:
        return build_evaluation(self.context, self.loader, self.order, 0)

    @property
    def training(self) -> Tensor:
        """As they are stored."""
        return self._stored.read(self.order.training_ids())

    @property
    def held_out(self) -> Tensor:
        """As they are stored."""
        return self._stored.read(self.order.held_out_ids())


def returning(images: Tensor) -> Callable[[Tensor], Tensor]:
    """A generator of these uint8 images in their order, over and over."""
    count = 0

    def draw(latents: Tensor) -> Tensor:
        nonlocal count
        chosen = torch.arange(count, count + len(latents)) % len(images)
        count += len(latents)
        return to_float(images[chosen])

    return draw


def half_mirrored(images: Tensor) -> Tensor:
    is_even = torch.arange(len(images)) % 2 == 0
    return torch.where(is_even[:, None, None, None], images, images.flip(3))


def test_the_reference_is_what_training_sees_first(config: str, digits: Path) -> None:
    run = Run(config, digits, "data.flip=true")
    batches = run.loader.batches(0)
    seen = torch.cat([run.loader.to_pixels(next(batches)) for _ in range(17)])
    real = real_images(run.context, run.loader, run.order)
    assert torch.equal(real.read(real.compared), seen[:200])


@pytest.mark.parametrize("flip", [False, True])
def test_a_generator_that_mirrors_as_training_does_scores_best(flip: bool, config: str, digits: Path) -> None:
    run = Run(config, digits, f"data.flip={str(flip).lower()}", "quality.metrics=[fid]")
    evaluation, images = run.evaluation, run.held_out
    never, half = (
        evaluation.measure(returning(samples))["fid"] for samples in (images, half_mirrored(images))
    )
    assert half < 0.8 * never if flip else never < 0.8 * half


@pytest.mark.parametrize(("flip", "share"), [(False, 0.0), (True, 1.0)])
def test_the_mirror_image_of_a_training_image_is_a_copy_if_training_mirrors(
    flip: bool, share: float, config: str, digits: Path
) -> None:
    run = Run(config, digits, f"data.flip={str(flip).lower()}", "quality.metrics=[copied]")
    evaluation, copies = run.evaluation, run.training.flip(3)
    assert evaluation.measure(returning(copies))["copied"] == pytest.approx(share, abs=0.05)
    pairs = evaluation.nearest_training_images(returning(copies), 5, 1)
    assert [torch.equal(sample, nearest) for sample, nearest in pairs] == [flip] * 5
