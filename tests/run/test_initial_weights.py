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
IMAGES = (1, 16, 16)


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
            path, tensors, images = read_weights(source, group)
            assert images == (None if source == file else IMAGES)
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
    (line,) = load_initial_weights(InitOptions(critic=str(trained)), generator, critic, IMAGES)
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
        load_initial_weights(options, *networks, IMAGES)
    assert "Name weights of the same networks in init_from.critic" in str(caught.value)
    assert "critic/layers.3.weight: absent in the checkpoint, float32 (16,) in this run" in str(caught.value)


def test_the_generators_file_does_not_fit_the_critic(trained: Path) -> None:
    options = InitOptions(critic=str(newest(trained) / "generator.safetensors"))
    with pytest.raises(CheckpointError, match="belongs to other networks"):
        load_initial_weights(options, *pair(), IMAGES)


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


def larger_pair() -> tuple[nn.Module, nn.Module]:
    return build_generator(OPTIONS, 32, 1), build_critic(OPTIONS, 32, 1)


def test_weights_for_another_size_are_refused_with_both_sizes_first(trained: Path) -> None:
    with pytest.raises(CheckpointError) as caught:
        load_initial_weights(InitOptions(critic=str(trained)), *larger_pair(), (1, 32, 32))
    assert str(caught.value).startswith(
        "init_from.critic: these weights are for images of 1 x 16 x 16 (channels x height x width), and this run has "
        f"images of 1 x 32 x 32. {newest(trained)}/critic.safetensors belongs to other networks"
    )
    assert "or load only the tensors that fit with init_from.strict=false" in str(caught.value)


def test_the_tensors_that_fit_are_loaded_if_that_is_asked_for(trained: Path) -> None:
    generator, critic = larger_pair()
    before = {name: value.clone() for name, value in critic.state_dict().items()}
    options = InitOptions(critic=str(trained), strict=False, freeze_critic=2)
    (line,) = load_initial_weights(options, generator, critic, (1, 32, 32))
    expected = safetensors.torch.load_file(newest(trained) / "critic.safetensors")
    fitting = {"layers.0.weight", "layers.0.bias", "layers.2.weight", "layers.2.bias", "score.bias"}
    for name, value in critic.state_dict().items():
        assert torch.equal(value, expected[name] if name in fitting else before[name])
    assert line == (
        f"critic: 5 of its 8 tensors (2,201 of 10,937 numbers) from {newest(trained)}/critic.safetensors; the others "
        "start at random: layers.5.weight, layers.5.bias, score.weight"
    )


def test_frozen_layers_must_be_among_the_tensors_that_fit(trained: Path) -> None:
    options = InitOptions(critic=str(trained), strict=False, freeze_critic=3)
    with pytest.raises(
        CheckpointError, match=r"layers\.5\.weight, layers\.5\.bias of the first 3 layers would be"
    ):
        load_initial_weights(options, *larger_pair(), (1, 32, 32))


def test_weights_of_which_none_fits_are_refused(tmp_path: Path) -> None:
    safetensors.torch.save_file(
        {"other": torch.zeros(1), "names": torch.zeros(1)}, tmp_path / "a.safetensors"
    )
    options = InitOptions(critic=str(tmp_path / "a.safetensors"), strict=False)
    with pytest.raises(
        CheckpointError, match=r"init_from\.critic: none of the 2 tensors of .* has the name, shape"
    ):
        load_initial_weights(options, *pair(), IMAGES)


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
    assert not (tmp_path / "run").exists()
