"""An evaluation compares the same samples on any number of ranks, and refuses what it cannot measure."""

from __future__ import annotations

import shutil
from collections import Counter
from dataclasses import replace
from importlib import import_module
from operator import attrgetter
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from torch import Tensor

from pipeline.data.reading.stream import Ids
from pipeline.errors import ConfigError, NonFiniteError, OutOfMemoryError
from pipeline.metric_table import METRICS
from pipeline.option_data import DataOptions
from pipeline.options import Config, QualityOptions, ScheduleOptions
from pipeline.quality.evaluation import Evaluation, Floor
from pipeline.quality.features.classifier import About, Classifier, ClassifierFeatures, save
from pipeline.quality.features.pixels import PixelFeatures
from pipeline.quality.frechet import frechet_distance, gaussian
from pipeline.quality.metrics import MEASURES
from pipeline.quality.real_images import RealImages
from pipeline.quality.sets import Sets
from pipeline.ranks.runtime import Runtime
from pipeline.training.checks import check_same_on_all_ranks
from tests.quality.together import ASKED, DIGITS, Rank, Together, draw, on_ranks, options, real

ALL = tuple(METRICS)


@pytest.fixture(scope="module")
def classifier(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The file of an untrained classifier: its figures mean nothing, but they are figures."""
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("classifier") / "c.safetensors"
    save(Classifier(1, 8, 8, 10), About(1, 8, 8, tuple("0123456789"), "0" * 64, 1, 0, 0.1), path)
    return str(path)


def test_any_number_of_ranks_finds_the_same(classifier: str) -> None:
    chosen, images = options(ALL, classifier=classifier), real(asked=ASKED)
    found = [
        figures
        for world_size in (1, 2, 3)
        for figures in on_ranks(world_size, lambda rank: Evaluation(chosen, images, rank, 4, 0).measure(draw))
    ]
    assert set(found[0]) == set(ALL)
    assert all(figures == found[0] for figures in found)


def test_only_the_main_rank_gets_what_is_compared_and_only_the_chunks_that_are(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """300 samples and 500 real images are 5 and 8 chunks of 64: of three ranks, the last one sends 1 and 2 of them."""
    sent = Counter[int]()
    to_main = Rank.to_main

    def count(rank: Rank, values: Tensor, senders: int) -> list[Tensor]:
        assert len(values) == 64
        sent[rank.rank] += 1
        return to_main(rank, values, senders)

    monkeypatch.setattr(Rank, "to_main", count)

    def collect(rank: Rank) -> list[int]:
        evaluation = Evaluation(options(["fid"]), real(), rank, 4, 0)
        return [len(found.features) for found in (evaluation.samples(draw), evaluation.reference)]

    assert on_ranks(3, collect) == [[300, 500], [0, 0], [0, 0]]
    assert sent == {0: 2 + 3, 1: 2 + 3, 2: 1 + 2}


def test_the_main_rank_computes_with_the_threads_of_its_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    before = torch.get_num_threads()
    monkeypatch.setattr(Rank, "machine_threads", before + 3)
    measured = []

    def measure(sets: Sets) -> float:
        measured.append(torch.get_num_threads())
        return 0.0

    monkeypatch.setitem(MEASURES, "fid", measure)
    on_ranks(2, lambda rank: Evaluation(options(["fid"]), real(), rank, 4, 0).measure(draw))
    assert measured == [before + 3]
    assert torch.get_num_threads() == before


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
    assert [METRICS[metric].tag("pixels") for metric in ("fid", "swd", "modes")] == [
        "quality/fid_pixels2",
        "quality/swd",
        "quality/modes",
    ]
    assert {name for name in ALL if not METRICS[name].needs.features} == {
        "swd",
        "modes",
        "class_distance",
        "class_asked",
    }


def test_what_cannot_be_measured_is_refused_on_every_rank(classifier: str, tmp_path: Path) -> None:
    def refuse(chosen: QualityOptions, images: RealImages) -> list[str]:
        def build(rank: Rank) -> str:
            with pytest.raises((ConfigError, RuntimeError)) as raised:
                Evaluation(chosen, images, rank, 4, 0)
            return str(raised.value)

        return on_ranks(2, build)

    assert all(
        "copied needs at least 6 held-out images, better some hundreds, and there are 5" in text
        for text in refuse(options(["copied"]), real(held_out=5))
    )
    ids = np.arange(200)

    def blank(shape: tuple[int, int, int]) -> RealImages:
        return RealImages(
            lambda chosen: torch.zeros(len(chosen), *shape, dtype=torch.uint8),
            shape,
            ids,
            lambda: ids,
            lambda: ids,
            len(ids),
        )

    wide = blank((1, 8, 16))
    assert all(
        "images are (1, 8, 16) (channels, height, width), and the classifier" in text
        for text in refuse(options(["modes"], classifier=classifier), wide)
    )
    small = blank((1, 4, 4))
    assert all(
        "swd needs images of at least 8 x 8 pixels, and these have 4x4. Remove it" in text
        for text in refuse(options(["swd"]), small)
    )
    few = replace(real(), compared=ids[:5])
    assert all(
        "5 training images cannot be compared with samples: at least 6 are needed" in text
        for text in refuse(options(["fid"]), few)
    )
    missing = str(tmp_path / "none.safetensors")
    assert all(
        f"There is no classifier at {missing}. Train one" in t
        for t in refuse(options(["modes"], classifier=missing), real())
    )


def test_features_that_no_metric_needs_are_neither_loaded_nor_computed(
    classifier: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*_: Any) -> None:
        pytest.fail("features are computed")

    monkeypatch.setattr(ClassifierFeatures, "__call__", never)
    alone = Rank(0, Together(1))
    missing = Evaluation(options(["swd"], features="inception", inception="none.pth"), real(), alone, 4, 0)
    assert list(missing.measure(draw)) == ["swd"]
    assert missing.features.name == "inception"
    chosen = options(["modes"], features="classifier", classifier=classifier)
    judged = Evaluation(chosen, real(), alone, 4, 0)
    assert list(judged.measure(draw)) == ["modes"]
    assert judged.features.name == judged.classifier.name  # type: ignore[union-attr]
    assert Evaluation(options(["swd"]), real(), alone, 4, 0).features.name == "pixels 2"


def test_figures_do_not_depend_on_the_metrics_beside_them(classifier: str) -> None:
    def measure(*metrics: str) -> dict[str, float]:
        chosen = options(metrics, classifier=classifier)
        return Evaluation(chosen, real(), Rank(0, Together(1)), 4, 0).measure(draw)

    assert measure("swd") | measure("modes", "class_distance") | measure("fid") == measure(
        "swd", "modes", "class_distance", "fid"
    )


def test_what_one_rank_is_enough_for_is_done_on_the_main_rank_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []

    def count(place: str, name: str) -> None:
        function = attrgetter(name)(import_module(place))

        def counted(*arguments: Any) -> Any:
            calls.append(name)
            return function(*arguments)

        monkeypatch.setattr(f"{place}.{name}", counted)

    count("pipeline.quality.evaluation", "nearest")
    count("pipeline.quality.metrics", "RealPatches.of")
    # Those of the real images, once for both evaluations.
    count("pipeline.quality.metrics", "squared_radii")

    def work(rank: Rank) -> None:
        evaluation = Evaluation(options(["fid", "swd", "recall"]), real(), rank, 4, 0)
        evaluation.measure(draw)
        evaluation.measure(draw)
        evaluation.nearest_training_images(draw, 2, 2)

    on_ranks(2, work)
    assert sorted(calls) == ["RealPatches.of", "nearest", "squared_radii"]


@pytest.mark.parametrize("world_size", [1, 2])
def test_the_floor_compares_real_images_with_others(world_size: int) -> None:
    """With as many others as are compared if there are so many, else one half with the other half."""
    names = ["fid", "swd", "recall", "copied"]
    for others, count in ((np.arange(500, 1000), 500), (np.arange(500, 600), 300), (np.arange(0), 250)):
        images = replace(real(), others=others)

        def measure(rank: Rank, images: RealImages = images) -> Floor:
            return Evaluation(options(names), images, rank, 4, 0).floor()

        floors = on_ranks(world_size, measure)
        features = PixelFeatures((1, 8, 8), torch.device("cpu"))
        halves = (gaussian(features(DIGITS[first : first + count])) for first in (0, count))
        expected = frechet_distance(*halves)
        for floor in floors:
            assert (floor.images, list(floor.figures)) == (count, ["fid", "swd", "recall"])
            assert floor.figures["fid"] == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("count", [20, 50, 200])
def test_figures_do_not_depend_on_the_order_of_the_real_images(count: int) -> None:
    """Nor do they with fewer images than the features have dimensions."""
    metrics = ["fid", "precision", "recall", "density", "coverage", "copied"]

    def measure(order: Ids) -> dict[str, float]:
        images = replace(
            real(),
            read=lambda chosen: DIGITS[order[chosen]],
            compared=np.arange(count),
            training=lambda: np.arange(count),
        )
        return Evaluation(options(metrics, samples=128), images, Rank(0, Together(1)), 4, 0).measure(draw)

    ids = np.arange(len(DIGITS))
    shuffled = np.concatenate([np.random.default_rng(0).permutation(count), ids[count:]])
    assert measure(ids) == pytest.approx(measure(shuffled), rel=1e-6)


@pytest.mark.parametrize("chosen", [{"features": "classifier", "metrics": ["fid"]}, {"metrics": ["modes"]}])
def test_ranks_whose_classifiers_differ_are_refused(
    chosen: dict[str, Any], classifier: str, tmp_path: Path
) -> None:
    other = str(tmp_path / "c.safetensors")
    torch.manual_seed(1)
    save(Classifier(1, 8, 8, 10), About(1, 8, 8, tuple("0123456789"), "0" * 64, 1, 0, 0.1), Path(other))

    def refuse(rank: Rank) -> None:
        mine = options(**{**chosen, "classifier": (classifier, other)[rank.rank]})
        with pytest.raises(
            ConfigError,
            match=r"Rank 1 compares samples by .*classifier \w{8}, and rank 0 by .*classifier \w{8}: .* same content",
        ):
            Evaluation(mine, real(), rank, 4, 0)

    on_ranks(2, refuse)


def test_ranks_may_keep_the_same_classifier_in_different_places(classifier: str, tmp_path: Path) -> None:
    copy = str(shutil.copy(classifier, tmp_path))

    def measure(rank: Rank) -> dict[str, float]:
        mine = options(["modes"], classifier=(classifier, copy)[rank.rank])
        config = Config(
            name="run",
            data=DataOptions(shards=f"of rank {rank.rank}"),
            schedule=ScheduleOptions(steps=1, global_batch=2),
            quality=mine,
        )
        check_same_on_all_ranks(config, {}, cast(Runtime, rank))
        return Evaluation(mine, real(), rank, 4, 0).measure(draw)

    first, second = on_ranks(2, measure)
    assert first == second


@pytest.mark.parametrize("call", ["measure", "nearest_training_images"])
def test_an_evaluation_without_memory_left_says_what_of_it_to_lower(call: str) -> None:
    def fail(_: Tensor) -> Tensor:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

    def evaluate(rank: Rank) -> str:
        evaluation = Evaluation(options(["fid"]), real(), rank, 4, 0)
        count = (4, 3) if call == "nearest_training_images" else ()
        with pytest.raises(
            OutOfMemoryError, match=r"allocate 2\.00 GiB\)\. .*Lower quality\.samples"
        ) as found:
            getattr(evaluation, call)(fail, *count)
        return str(found.value)

    assert "micro_batch" not in on_ranks(1, evaluate)[0]


def test_metrics_without_memory_left_say_what_to_lower(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: Sets) -> float:
        raise MemoryError

    monkeypatch.setitem(MEASURES, "fid", fail)

    def evaluate(rank: Rank) -> None:
        with pytest.raises(OutOfMemoryError, match=r"machine ran out of memory .*quality\.metrics"):
            Evaluation(options(["fid"]), real(), rank, 4, 0).measure(draw)

    on_ranks(1, evaluate)


def test_samples_that_are_not_finite_are_refused_on_every_rank() -> None:
    def spoil(latents: Tensor) -> Tensor:
        images = draw(latents)
        images[latents[:, 0].argmax(), 0, 0, 0] = torch.nan
        return images

    def refuse(rank: Rank) -> None:
        with pytest.raises(
            NonFiniteError, match=r"draws images with values that are not finite .* no metric can measure"
        ):
            Evaluation(options(["fid"]), real(), rank, 4, 0).measure(spoil if rank.rank else draw)

    on_ranks(2, refuse)


@pytest.mark.parametrize("world_size", [1, 2])
@pytest.mark.parametrize("metric", ["fid", "swd"])
def test_samples_stand_beside_the_training_images_nearest_to_them(world_size: int, metric: str) -> None:
    def copy(latents: Tensor) -> Tensor:
        """Training images, a little darker."""
        return DIGITS[:64].float() / 127.5 * 0.98 - 1

    for found in on_ranks(
        world_size,
        lambda rank: Evaluation(options([metric]), real(), rank, 4, 0).nearest_training_images(copy, 6, 3),
    ):
        assert found.shape == (6, 4, 1, 8, 8)
        assert torch.equal(found[:, 1], DIGITS[:6])
        distances = (found[:, 1:].float() - found[:, :1].float()).square().sum((2, 3, 4))
        assert torch.equal(distances, distances.sort(1).values), "the nearest first"
