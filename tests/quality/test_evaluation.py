"""An evaluation compares the same samples on any number of ranks, and refuses what it cannot measure."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from threading import Barrier
from typing import Any, get_args

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from torch import Tensor

from pipeline.errors import ConfigError, NonFiniteError
from pipeline.options import Metric, QualityOptions
from pipeline.quality.evaluation import OF_FEATURES, Evaluation, RealImages, tag
from pipeline.quality.features.classifier import About, Classifier, save

DIGITS = torch.from_numpy((load_digits().images * 15.9375).astype(np.uint8))[:, None]
ALL: tuple[Metric, ...] = get_args(Metric)


@dataclass
class Together:
    """What ranks in threads of one process share."""

    world_size: int
    barrier: Barrier = field(init=False)
    values: list[Any] = field(init=False)

    def __post_init__(self) -> None:
        self.barrier, self.values = Barrier(self.world_size), [None] * self.world_size


@dataclass
class Rank:
    """A rank in a thread."""

    rank: int
    together: Together
    device = torch.device("cpu")

    @property
    def world_size(self) -> int:
        return self.together.world_size

    @property
    def is_main(self) -> bool:
        return self.rank == 0

    def gather_objects(self, value: Any) -> list[Any]:
        self.together.values[self.rank] = value
        self.together.barrier.wait(120)
        found = list(self.together.values)
        self.together.barrier.wait(120)
        return found

    def gather(self, values: Tensor) -> Tensor:
        return torch.stack(self.gather_objects(values))

    def all_agree(self, error: Exception | None) -> None:
        if any(self.gather_objects(error is not None)):
            raise error or RuntimeError("another rank")


def on_ranks(world_size: int, work: Callable[[Rank], Any]) -> list[Any]:
    """The result of each rank."""
    together = Together(world_size)
    with ThreadPoolExecutor(world_size) as pool:
        return list(pool.map(work, [Rank(rank, together) for rank in range(world_size)]))


def real(held_out: int = 300) -> RealImages:
    ids = np.arange(len(DIGITS))
    return RealImages(
        lambda chosen: DIGITS[chosen], (1, 8, 8), ids[:500], ids[:1000], ids[1000 : 1000 + held_out]
    )


def options(metrics: Sequence[Metric], **changes: Any) -> QualityOptions:
    return QualityOptions(**{"metrics": list(metrics), "samples": 300, **changes})


@pytest.fixture(scope="module")
def classifier(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The file of an untrained classifier: its figures mean nothing, but they are figures."""
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("classifier") / "c.safetensors"
    save(Classifier(1, 8, 8, 10), About(1, 8, 8, tuple("0123456789"), "0" * 64, 1, 0, 0.1), path)
    return str(path)


def draw(latents: Tensor) -> Tensor:
    """An image for each latent: a mixture of two digits that the latent chooses."""
    first, second = (latents[:, place].abs().mul(1000).long() % 1797 for place in (0, 1))
    return (DIGITS[first].float() + DIGITS[second].float()) / 255 - 1


def test_any_number_of_ranks_finds_the_same(classifier: str) -> None:
    chosen = options(ALL, classifier=classifier)
    found = [
        figures
        for world_size in (1, 2, 3)
        for figures in on_ranks(world_size, lambda rank: Evaluation(chosen, real(), rank, 4, 0).measure(draw))
    ]
    assert set(found[0]) == set(ALL)
    assert all(figures == found[0] for figures in found)


def test_samples_are_those_of_the_seed_and_as_many_as_asked_for() -> None:
    def samples(seed: int, count: int) -> Tensor:
        evaluation = Evaluation(options(["swd"], samples=count), real(), Rank(0, Together(1)), 4, seed)
        return evaluation.samples(draw).images

    assert samples(0, 300).shape == (300, 1, 8, 8)
    assert torch.equal(samples(0, 300)[:130], samples(0, 130)), "fewer samples are the first ones of more"
    assert not torch.equal(samples(0, 130), samples(1, 130))


def test_real_images_are_compared_in_their_own_order() -> None:
    evaluation = Evaluation(options(["swd", "fid"]), real(), Rank(0, Together(1)), 4, 0)
    assert torch.equal(evaluation.reference.images, DIGITS[:500])
    assert evaluation.counts == {"samples": 300, "real": 500}


def test_an_evaluation_asked_twice_answers_alike() -> None:
    evaluation = Evaluation(options(["fid", "kid", "swd", "recall"]), real(), Rank(0, Together(1)), 4, 0)
    assert evaluation.measure(draw) == evaluation.measure(draw)


def test_only_what_is_asked_for_is_measured_in_the_order_of_asking() -> None:
    evaluation = Evaluation(options(["swd", "recall"]), real(), Rank(0, Together(1)), 4, 0)
    assert list(evaluation.measure(draw)) == ["swd", "recall"]


def test_curves_are_named_after_the_features_that_they_depend_on() -> None:
    assert [tag(metric, "pixels") for metric in ("fid", "swd", "modes")] == [
        "quality/fid_pixels",
        "quality/swd",
        "quality/modes",
    ]
    assert set(ALL) - OF_FEATURES == {"swd", "modes", "class_distance"}


def test_what_cannot_be_measured_is_refused_on_every_rank(classifier: str, tmp_path: Path) -> None:
    def refuse(chosen: QualityOptions, images: RealImages) -> list[str]:
        def build(rank: Rank) -> str:
            with pytest.raises((ConfigError, RuntimeError)) as raised:
                Evaluation(chosen, images, rank, 4, 0)
            return str(raised.value)

        return on_ranks(2, build)

    assert all(
        "copied compares samples with held-out images, and 5 are held out; 6 are the least" in text
        for text in refuse(options(["copied"]), real(held_out=5))
    )
    ids = np.arange(200)
    wide = RealImages(
        lambda chosen: torch.zeros(len(chosen), 1, 8, 16, dtype=torch.uint8), (1, 8, 16), ids, ids, ids
    )
    assert all(
        "judges images of (channels, height, width) (1, 8, 8), and these are (1, 8, 16)" in text
        for text in refuse(options(["modes"], classifier=classifier), wide)
    )
    small = RealImages(
        lambda chosen: torch.zeros(len(chosen), 1, 4, 4, dtype=torch.uint8), (1, 4, 4), ids, ids, ids
    )
    assert all("and these have 4x4. Leave it out" in text for text in refuse(options(["swd"]), small))
    few = RealImages(lambda chosen: DIGITS[chosen], (1, 8, 8), ids[:5], ids[:5], ids)
    assert all("5 training images are too few" in text for text in refuse(options(["fid"]), few))
    missing = str(tmp_path / "none.safetensors")
    assert all(
        "none.safetensors is no file" in t for t in refuse(options(["modes"], classifier=missing), real())
    )


def test_samples_that_are_not_finite_are_refused_on_every_rank() -> None:
    def spoil(latents: Tensor) -> Tensor:
        images = draw(latents)
        images[latents[:, 0].argmax(), 0, 0, 0] = torch.nan
        return images

    def refuse(rank: Rank) -> None:
        with pytest.raises(
            NonFiniteError, match="draws images that are not finite, so no figure of them means"
        ):
            Evaluation(options(["fid"]), real(), rank, 4, 0).measure(spoil if rank.rank else draw)

    on_ranks(2, refuse)


@pytest.mark.parametrize("world_size", [1, 2])
def test_samples_stand_beside_the_training_images_nearest_to_them(world_size: int) -> None:
    def copy(latents: Tensor) -> Tensor:
        """Training images, a little darker."""
        return DIGITS[:64].float() / 127.5 * 0.98 - 1

    for found in on_ranks(
        world_size,
        lambda rank: Evaluation(options(["fid"]), real(), rank, 4, 0).nearest_training_images(copy, 6, 3),
    ):
        assert found.shape == (6, 4, 1, 8, 8)
        assert torch.equal(found[:, 1], DIGITS[:6])
        distances = (found[:, 1:].float() - found[:, :1].float()).square().sum((2, 3, 4))
        assert torch.equal(distances, distances.sort(1).values), "the nearest first"
