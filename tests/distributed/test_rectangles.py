"""Rectangles through whole runs: every network, one and two ranks, killed between two commands and resumed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests import shards
from tests.ranks import Ranks, assert_same_bits, newest, read_tensors
from tests.shards import Given

SIZES = {
    "dcgan": [17, 28],
    "mlp": [9, 16],
    "resnet": [32, 40],
    "wgan_mnist": [8, 16],
    "wgan_dcgan": [12, 8],
    "gan_bce": [8, 12],
    "r3gan": [8, 12],
}
SMALL = {
    "dcgan": ["model.width=4"],
    "mlp": ["model.width=16"],
    "resnet": ["model.width=4", "model.conditional=true"],
    "r3gan": ["model.width=16", "model.conditional=true"],
}


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images of 32 x 44, larger than any that the runs below ask for, of three classes."""
    out = tmp_path_factory.mktemp("data")
    coarse = np.random.default_rng(0).integers(0, 256, (60, 8, 11, 3), dtype=np.uint8)
    pictures, labels = coarse.repeat(4, 1).repeat(4, 2), [number % 3 for number in range(60)]
    shards.write(Given(pictures, [*labels], ("a", "b", "c")), out, (32, 44), samples_per_shard=16)
    return out


@pytest.mark.slow
@pytest.mark.parametrize("network", SIZES)
def test_a_network_trains_on_rectangles_and_is_resumed_with_the_same_bits(
    ranks: Ranks, config: str, tmp_path: Path, photos: Path, network: str
) -> None:
    height, width = SIZES[network]
    options = [
        config,
        f"data={{shards: {photos}, resolution: [{height}, {width}], fit: random_crop, flip: true}}",
        f"model={{name: {network}, latent: 8}}",
        *SMALL.get(network, []),
        "schedule={steps: 3, global_batch: 12, critic_updates: 1}",
        "objective.clip=0.1",
    ]
    ranks.run(2, [*options, "name=straight"])
    ranks.run(2, [*options, "name=resumed", "schedule.steps=2"])
    ranks.run(2, [*options, "name=resumed"])
    straight, resumed = (read_tensors(newest(tmp_path / name)) for name in ("straight", "resumed"))
    assert_same_bits(straight, resumed)
    ranks.run(1, [*options, "name=alone"])
    alone = read_tensors(newest(tmp_path / "alone"))
    for name, tensor in straight.items():
        np.testing.assert_allclose(alone[name], tensor, rtol=0.02, atol=2e-3, err_msg=name)
