"""Every preset runs on two ranks, and the reference systems train on two ranks as on one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from pipeline.data.making.selection import Selection
from tests.distributed.test_equivalence import largest_difference, states, train_in_float64
from tests.ranks import Ranks, assert_same_bits, newest, read_metrics, read_state, read_tensors
from tests.shards import digits, write

PRESETS = sorted((Path(__file__).parents[2] / "configs" / "reference").glob("*.yaml"))
SIDES = {
    "r3gan-cifar10": 32,
    "wgan-gp-cifar10": 32,
    "projection-cifar10": 32,
    "wgan-cifar10": 32,
    "wgan-dcgan64": 64,
}
COLOUR = SIDES.keys()
CPU = [
    "runtime.device=cpu",
    "runtime.timeout_seconds=60",
    "runtime.digest_every=1",
    "monitor.plots=false",
    "monitor.grid=2",
]


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Digits in the image size of a preset."""
    folder = tmp_path_factory.mktemp("data")

    def make(preset: str) -> Path:
        side, channels = SIDES.get(preset, 28), 3 if preset in COLOUR else 1
        out = folder / f"{side}-{channels}"
        if not out.exists():
            write(digits(), out, side, channels, 100, Selection(limit=200))
        return out

    return make


@pytest.mark.slow
@pytest.mark.parametrize("path", PRESETS, ids=lambda path: path.stem)
def test_a_preset_trains_on_two_ranks(
    path: Path, shards: Callable[[str], Path], ranks: Ranks, tmp_path: Path
) -> None:
    """Two steps with small batches; schedule, networks and losses are those of the preset."""
    schedule = yaml.safe_load(path.read_text())["schedule"]
    batches = [
        "schedule.global_batch=8",
        *(["schedule.critic_batch=4"] if "critic_batch" in schedule else []),
    ]
    steps = ["schedule.steps=2", "monitor.log_every=1", f"data.shards={shards(path.stem)}"]
    width = ["model.width=16"] if path.stem in COLOUR else []
    width += ["model.max_width=16"] if path.stem.startswith("r3gan") else []
    ranks.run(2, [str(path), f"run_root={tmp_path}", *steps, *batches, *width, *CPU])
    run = tmp_path / path.stem
    images = 4 if "critic_batch" in schedule else 8
    assert read_state(newest(run))["counters"] == {
        "step": 2,
        "position": 2 * schedule["critic_updates"] * images,
    }
    assert [line["step"] for line in read_metrics(run)] == [1, 2]
    grids = sorted(path.name for path in (run / "samples").iterdir())
    assert grids == ["step_00000002.png"]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["wgan-digit7", "wgan-dcgan", "lsgan", "gan-bce"])
def test_a_reference_system_trains_on_two_ranks_like_on_one(
    name: str, shards: Callable[[str], Path], ranks: Ranks, tmp_path: Path
) -> None:
    """In float64, where rounding does not show. Batch norm computes its statistics over both ranks."""
    preset = next(path for path in PRESETS if path.stem == name)
    halves = ["schedule.critic_batch=4"] if name == "wgan-digit7" else []
    options = [
        str(preset), f"run_root={tmp_path}", f"data.shards={shards(name)}", "data.classes=null",
        "schedule.steps=2", "schedule.global_batch=8", "monitor.log_every=1", *halves, *CPU,
    ]  # fmt: skip
    one, two = tmp_path / "one", tmp_path / "two"
    alone = ranks.start(1, [*options, "name=one"], target=train_in_float64, extra=[str(one)])
    pair = ranks.start(2, [*options, "name=two"], target=train_in_float64, extra=[str(two)])
    assert (alone.wait(), pair.wait()) == ([0], [0, 0]), alone.output + pair.output
    before, expected, found = states(one, 1, "before")[0], states(one, 1)[0], states(two, 2)
    for network in ("critic", "generator"):
        assert largest_difference(before, expected, network) > 1e-5
        assert largest_difference(expected, found[0], network) < 1e-9
    assert_same_bits(*found)


RESUMED = {
    "half batches in turn": [
        "schedule.critic_rounds=alternating",
        "schedule.critic_batch=6",
        "data.classes=[1, 7]",
    ],
    "reused fakes": ["schedule.reuse_fakes=true", "objective.name=cross_entropy"],
    "spectral norm": ["model.spectral_norm=true", "objective.name=hinge"],
    "amsgrad": ["critic_optimizer={name: adam, amsgrad: true}", "objective.name=least_squares"],
}


@pytest.mark.slow
@pytest.mark.parametrize("case", RESUMED)
def test_the_reference_systems_resume_bit_for_bit(
    case: str, ranks: Ranks, config: str, tmp_path: Path
) -> None:
    options = [config, *RESUMED[case]]
    ranks.run(1, [*options, "name=moved", "schedule.steps=6"])
    ranks.run(1, [*options, "name=moved", "schedule.steps=12"])
    ranks.run(1, [*options, "name=whole", "schedule.steps=12"])
    moved, whole = tmp_path / "moved", tmp_path / "whole"
    assert_same_bits(read_tensors(newest(moved)), read_tensors(newest(whole)))
    assert read_metrics(moved) == read_metrics(whole)


def test_the_generator_can_train_on_the_critics_last_images(
    ranks: Ranks, config: str, tmp_path: Path
) -> None:
    """If the critic does not train, its loss on the generated images is then the generator's loss."""
    for name, reuse in (("reused", "true"), ("fresh", "false")):
        options = [
            "critic_optimizer.lr=1e-12",
            "schedule.steps=2",
            f"schedule.reuse_fakes={reuse}",
            f"name={name}",
        ]
        ranks.run(1, [config, *options])
    reused, fresh = (read_metrics(tmp_path / name)[-1] for name in ("reused", "fresh"))
    assert reused["generator/loss"] == pytest.approx(-reused["critic/fake"], rel=1e-5)
    assert fresh["generator/loss"] != pytest.approx(-fresh["critic/fake"], rel=1e-3)
