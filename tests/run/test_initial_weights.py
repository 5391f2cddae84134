"""Starting from saved weights: what is loaded, what is refused, and what stays as it was."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from torch import nn

from pipeline.errors import CheckpointError, ConfigError
from pipeline.models import build_critic, build_generator
from pipeline.options import DcganOptions, InitOptions
from pipeline.run.initial_weights import freeze_first_layers, load_initial_weights, read_weights
from tests.ranks import Ranks, assert_same_bits, newest, read_tensors

OPTIONS = DcganOptions(latent=16, width=8)


def pair(options: DcganOptions = OPTIONS) -> tuple[nn.Module, nn.Module]:
    return build_generator(options, 16, 1), build_critic(options, 16, 1)


@pytest.fixture
def trained(ranks: Ranks, config: str, tmp_path: Path) -> Path:
    """A run of 6 steps with two checkpoints, whose weights are larger than the default clip."""
    ranks.run(1, [config, "name=trained", "schedule.steps=6", "checkpoint.every=3", "objective.clip=1.0"])
    return tmp_path / "trained"


def test_a_run_a_checkpoint_and_a_file_give_the_same_weights(trained: Path) -> None:
    checkpoint = newest(trained)
    for group in ("generator", "critic"):
        file = checkpoint / f"{group}.safetensors"
        expected = safetensors.torch.load_file(file)
        for source in (trained, checkpoint, file):
            path, tensors = read_weights(source, group)
            assert path == file
            assert tensors.keys() == expected.keys()
            assert all(torch.equal(tensors[name], value) for name, value in expected.items())


def test_an_earlier_checkpoint_may_be_named(trained: Path) -> None:
    earlier, newer = (
        read_weights(trained / "checkpoints" / f"step_0000000{step}", "critic")[1] for step in (3, 6)
    )
    assert any(not torch.equal(value, newer[name]) for name, value in earlier.items())


def test_what_was_loaded_is_printed_and_only_that_changes(trained: Path) -> None:
    generator, critic = pair()
    before = {name: value.clone() for name, value in generator.state_dict().items()}
    (line,) = load_initial_weights(InitOptions(critic=str(trained)), generator, critic)
    expected = read_tensors(newest(trained))
    assert all(
        np.array_equal(value.numpy(), expected[f"critic/{name}"])
        for name, value in critic.state_dict().items()
    )
    assert all(torch.equal(value, before[name]) for name, value in generator.state_dict().items())
    numbers = sum(value.numel() for value in critic.state_dict().values())
    tensors = len(critic.state_dict())
    assert line == (
        f"critic: all of its {tensors} tensors ({numbers:,} numbers) from {newest(trained)}/critic.safetensors"
    )


def test_weights_of_other_networks_are_refused_with_what_differs(trained: Path) -> None:
    networks = pair(DcganOptions(latent=16, width=8, critic_norm="layer"))
    options = InitOptions(generator=str(trained), critic=str(trained))
    with pytest.raises(CheckpointError, match=r"critic\.safetensors belongs to other networks") as caught:
        load_initial_weights(options, *networks)
    assert "Name weights of the same networks in init_from.critic" in str(caught.value)
    assert "critic/layers.3.weight: absent in the checkpoint, float32 (16,) in this run" in str(caught.value)


def test_the_generators_file_does_not_fit_the_critic(trained: Path) -> None:
    options = InitOptions(critic=str(newest(trained) / "generator.safetensors"))
    with pytest.raises(CheckpointError, match="belongs to other networks"):
        load_initial_weights(options, *pair())


def test_each_kind_of_path_without_weights_has_its_message(trained: Path, tmp_path: Path) -> None:
    with pytest.raises(
        ConfigError, match=r"init_from\.critic: .*none is not a run directory, a checkpoint or a file"
    ):
        read_weights(tmp_path / "none", "critic")
    with pytest.raises(ConfigError, match="is not a run directory, a checkpoint or a file"):
        read_weights(tmp_path, "critic")
    pickle = tmp_path / "weights.pt"
    torch.save({"weight": torch.zeros(1)}, pickle)
    with pytest.raises(CheckpointError, match=r"cannot be read as safetensors .* Other formats can run code"):
        read_weights(pickle, "critic")
    (tmp_path / "empty" / "checkpoints").mkdir(parents=True)
    with pytest.raises(CheckpointError, match="has no checkpoint: the run has saved none yet"):
        read_weights(tmp_path / "empty", "critic")
    moved = newest(trained).rename(tmp_path / "mine")
    with pytest.raises(ConfigError, match="is not named like a checkpoint"):
        read_weights(moved, "critic")


def test_a_damaged_checkpoint_is_refused_by_name_and_skipped_in_a_run(trained: Path) -> None:
    damaged = newest(trained)
    with (damaged / "critic.safetensors").open("r+b") as file:
        file.seek(-1, 2)
        file.write(b"\xff")
    with pytest.raises(CheckpointError, match=r"critic\.safetensors has changed.*Choose another checkpoint"):
        read_weights(damaged, "critic")
    assert read_weights(trained, "critic")[0].parent.name == "step_00000003"


@pytest.mark.parametrize("count", [1, 2])
def test_the_first_layers_and_their_norms_are_frozen_and_no_others(count: int) -> None:
    critic = build_critic(DcganOptions(width=8, critic_norm="layer"), 32, 1)
    freeze_first_layers(critic, count, "init_from.freeze_critic")
    frozen = {name for name, parameter in critic.named_parameters() if not parameter.requires_grad}
    first, second = (
        {"layers.0.weight", "layers.0.bias"},
        {"layers.2.weight", "layers.3.weight", "layers.3.bias"},
    )
    assert frozen == (first if count == 1 else first | second)


def test_freezing_every_layer_is_refused() -> None:
    critic = build_critic(OPTIONS, 16, 1)
    with pytest.raises(
        ConfigError, match=r"init_from\.freeze_critic: 3 of 3 layers leaves no layer to train\. Freeze 2 or"
    ):
        freeze_first_layers(critic, 3, "init_from.freeze_critic")


@pytest.mark.slow
@pytest.mark.parametrize("world_size", [1, 2])
def test_fine_tuning_starts_from_the_weights_and_keeps_the_frozen_ones(
    world_size: int, trained: Path, ranks: Ranks, config: str, tmp_path: Path
) -> None:
    options = [
        config, f"init_from.generator={trained}", f"init_from.critic={trained}", "init_from.freeze_critic=1",
        "init_from.freeze_generator=1", "name=tuned", "runtime.digest_every=1",
    ]  # fmt: skip
    run = ranks.run(
        world_size,
        [
            *options,
            "schedule.steps=1",
            "generator_optimizer.lr=1e-9",
            "critic_optimizer.lr=1e-9",
            "objective.clip=1.0",
        ],
    )
    assert "critic: all of its" in run.log(0)
    assert all("critic: all of its" not in run.log(rank) for rank in range(1, world_size))
    before, after = read_tensors(newest(trained)), read_tensors(newest(tmp_path / "tuned"))
    weights = [
        name for name in before if name.startswith(("critic/", "generator/")) and name.endswith("weight")
    ]
    assert weights
    assert all(np.abs(before[name] - after[name]).max() < 1e-6 for name in weights)

    ranks.run(world_size, [*options, "name=moved", "schedule.steps=4", "critic_optimizer.lr=1e-3"])
    moved = read_tensors(newest(tmp_path / "moved"))
    assert np.abs(before["critic/layers.0.weight"]).max() > 0.02
    assert np.abs(moved["critic/score.weight"]).max() <= np.float32(0.01)
    for name in ("critic/layers.0.weight", "critic/layers.0.bias", "generator/project.weight"):
        assert np.array_equal(before[name], moved[name])
    assert not np.array_equal(before["critic/score.weight"], moved["critic/score.weight"])
    assert not np.array_equal(before["generator/to_image.weight"], moved["generator/to_image.weight"])


@pytest.mark.slow
def test_a_fine_tuned_run_resumes_without_the_weights_that_it_started_from(
    trained: Path, ranks: Ranks, config: str, tmp_path: Path
) -> None:
    options = [config, f"init_from.critic={trained}", "init_from.freeze_critic=1"]
    ranks.run(1, [*options, "name=whole", "schedule.steps=9"])
    ranks.run(1, [*options, "name=moved", "schedule.steps=4"])
    trained.rename(tmp_path / "elsewhere")
    again = ranks.run(1, [*options, "init_from.critic=gone", "name=moved", "schedule.steps=9"])
    assert "init_from is ignored: the run resumes from its own checkpoint" in again.log(0)
    assert_same_bits(read_tensors(newest(tmp_path / "moved")), read_tensors(newest(tmp_path / "whole")))


def test_a_wrong_path_stops_the_run_before_it_trains(ranks: Ranks, config: str, tmp_path: Path) -> None:
    run = ranks.start(2, [config, "init_from.critic=nowhere"])
    assert run.wait() == [2, 2]
    assert "init_from.critic: nowhere is not a run directory" in run.output
    assert not list((tmp_path / "run" / "checkpoints").iterdir())
