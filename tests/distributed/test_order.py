"""The images that the ranks really get, with any number of ranks and any way to read them."""

from __future__ import annotations

import hashlib
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from pipeline.training.trainer import Trainer
from tests import shards
from tests.ranks import Ranks, Run

BATCH = 12
BATCHES = 60
IMAGES = 600


def keep_batches(arguments: list[str], folder: str, position: int = 0) -> int:
    """Write the batches that this rank's loader gives, as uint8, instead of training on them."""
    from pipeline.train import main

    def keep(self: Trainer) -> None:
        batches = map(self.loader.to_images, self.loader.batches(position))
        taken = [next(batches).add(1).mul(127.5).round().byte().numpy() for _ in range(BATCHES)]
        np.save(Path(folder) / f"{self.config.name}_rank{self.runtime.rank}.npy", np.stack(taken))

    Trainer.train = keep  # type: ignore[method-assign]
    return main(arguments)


def images(folder: Path, name: str, world_size: int) -> np.ndarray:
    """The stream of all ranks together: uint8 (BATCHES * BATCH, 1, 16, 16)."""
    parts = [np.load(folder / f"{name}_rank{rank}.npy") for rank in range(world_size)]
    stream: np.ndarray = np.concatenate(parts, axis=1).reshape(-1, 1, 16, 16)
    return stream


def fingerprints(stream: np.ndarray) -> list[str]:
    return [hashlib.sha256(image.tobytes()).hexdigest() for image in stream]


@pytest.fixture
def alone(ranks: Ranks, config: str, tmp_path: Path) -> np.ndarray:
    """The images that a single process gets."""
    ranks.run(1, [config, "name=alone"], target=keep_batches, extra=[str(tmp_path)])
    return images(tmp_path, "alone", 1)


def test_an_epoch_holds_every_sample_once(alone: np.ndarray, digits: Path) -> None:
    everything = shards.reader(digits).read(np.arange(IMAGES)).numpy()
    stored, seen = fingerprints(everything), fingerprints(alone)
    assert len(seen) == BATCHES * BATCH > IMAGES
    assert Counter(seen[:IMAGES]) == Counter(stored)
    assert seen[:IMAGES] != stored
    # The second epoch follows in another order, within the same stream.
    assert not Counter(seen[IMAGES:]) - Counter(stored)
    assert seen[IMAGES:] != seen[: len(seen) - IMAGES]


@pytest.mark.slow
def test_ranks_together_get_the_batches_that_one_process_gets(
    ranks: Ranks, alone: np.ndarray, config: str, tmp_path: Path
) -> None:
    ways = {
        "two": (2, []),
        "three": (3, []),
        "four": (4, []),
        "undecoded": (2, ["data.cache=none"]),
        "workers": (2, ["data.cache=none", "data.workers=2"]),
        "host": (2, ["data.cache=host"]),
        "loop": (2, ["data.cache=none", "data.workers=0"]),
    }
    for name, (world_size, options) in ways.items():
        arguments = [config, f"name={name}", f"schedule.global_batch={BATCH}", *options]
        run: Run = ranks.start(world_size, arguments, target=keep_batches, extra=[str(tmp_path)])
        assert run.wait() == [0] * world_size, run.output
        assert np.array_equal(images(tmp_path, name, world_size), alone), name


def test_any_position_is_found_without_reading_up_to_it(
    ranks: Ranks, alone: np.ndarray, config: str, tmp_path: Path
) -> None:
    extra = [str(tmp_path), 25 * BATCH]
    ranks.run(2, [config, "name=late"], target=keep_batches, extra=extra)
    late = images(tmp_path, "late", 2)
    assert np.array_equal(late[: -25 * BATCH], alone[25 * BATCH :])


def test_held_out_samples_are_never_trained_on(
    ranks: Ranks, config: str, digits: Path, tmp_path: Path
) -> None:
    arguments = [config, "name=held", "data.validation=0.2"]
    ranks.run(2, arguments, target=keep_batches, extra=[str(tmp_path)])
    seen = set(fingerprints(images(tmp_path, "held", 2)))
    assert IMAGES * 0.7 < len(seen) < IMAGES * 0.9


def test_streams_give_the_same_batches_at_any_world_size(ranks: Ranks, config: str, tmp_path: Path) -> None:
    options = ["data.streams=4", "data.flip=true", "data.cache=none"]
    for world_size in (1, 2, 4):
        arguments = [config, f"name=of{world_size}", *options]
        ranks.run(world_size, arguments, target=keep_batches, extra=[str(tmp_path)])
    alone = images(tmp_path, "of1", 1)
    assert np.array_equal(images(tmp_path, "of2", 2), alone)
    assert np.array_equal(images(tmp_path, "of4", 4), alone)
    # Of 600 images, as many mirrored as not, in the first epoch and otherwise in the second.
    assert 500 < len(set(fingerprints(alone[:IMAGES]))) <= IMAGES
