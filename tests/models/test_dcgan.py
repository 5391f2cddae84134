"""The DCGAN networks: shapes, sizes and initial weights at many resolutions."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from pipeline.errors import ConfigError
from pipeline.models import build_critic, build_generator
from pipeline.models.dcgan import plan
from pipeline.models.norms import BatchNorm2d
from pipeline.models.sides import Resolution, described
from pipeline.options import DcganOptions
from tests.models.networks import count, kernels

SMALL = DcganOptions(latent=5, width=4, max_width=16)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("resolution", [*range(8, 34), 64, 100, 101, 128, 250, 256])
def test_latents_become_images_in_range_and_images_scores(resolution: int, channels: int) -> None:
    generator = build_generator(SMALL, resolution, channels)
    critic = build_critic(SMALL, resolution, channels)
    with torch.no_grad():
        for weight in generator.parameters():
            weight.mul_(20)
        images = generator(torch.randn(2, 5))
        scores = critic(images)
    assert images.shape == (2, channels, resolution, resolution)
    assert images.dtype == torch.float32
    assert images.abs().max() <= 1
    assert images.std() > 0.01
    assert scores.shape == (2,)


def test_scores_have_no_bounds() -> None:
    critic: Any = build_critic(SMALL, 8, 1)
    images = torch.rand(64, 1, 8, 8) * 2 - 1
    with torch.no_grad():
        critic.score.weight.mul_(1e6)
        scores = critic(images)
    assert scores.abs().max() > 10
    assert scores.min() < 0 < scores.max()


def test_parameters_of_a_28_pixel_pair_counted_by_hand() -> None:
    # 28 = 7 x 4: two levels, with 8 channels next to the image and 16 inside.
    options = DcganOptions(latent=10, width=8)
    project, to_8, to_image = 10 * 16 * 49, 16 * 8 * 16, 8 * 1 * 16 + 1
    norms = 2 * 16 + 2 * 8
    assert count(build_generator(options, 28, 1)) == project + to_8 + to_image + norms
    first, second, score = 1 * 8 * 16 + 8, 8 * 16 * 16 + 16, 16 * 49 + 1
    assert count(build_critic(options, 28, 1)) == first + second + score


def test_parameters_of_a_64_pixel_pair_counted_by_hand() -> None:
    # 64 = 4 x 16: four levels, with 4, 8, 16 and, limited by max_width, 20 channels.
    options = DcganOptions(latent=6, width=4, max_width=20, generator_norm="none", critic_norm="layer")
    project = 6 * 20 * 16 + 20 * 16
    upwards = (20 * 16 * 16 + 16) + (16 * 8 * 16 + 8) + (8 * 4 * 16 + 4) + (4 * 3 * 16 + 3)
    assert count(build_generator(options, 64, 3)) == project + upwards
    convolutions = (3 * 4 * 16 + 4) + 4 * 8 * 16 + 8 * 16 * 16 + 16 * 20 * 16
    norms, score = 2 * (8 + 16 + 20), 20 * 16 + 1
    assert count(build_critic(options, 64, 3)) == convolutions + norms + score


@pytest.mark.parametrize(
    ("resolution", "sides", "widths"),
    [
        (8, [8, 4], [4]),
        (15, [15, 7], [4]),
        (16, [16, 8, 4], [4, 8]),
        (28, [28, 14, 7], [4, 8]),
        (33, [33, 16, 8, 4], [4, 8, 16]),
        (48, [48, 24, 12, 6], [4, 8, 16]),
        (101, [101, 50, 25, 12, 6], [4, 8, 16, 16]),
        (256, [256, 128, 64, 32, 16, 8, 4], [4, 8, 16, 16, 16, 16]),
    ],
)
def test_each_halving_of_the_side_doubles_the_channels_up_to_a_limit(
    resolution: int, sides: list[int], widths: list[int]
) -> None:
    assert plan(SMALL, resolution) == ([(side, side) for side in sides], widths)


def test_the_smallest_maps_have_between_4_and_7_pixels_a_side() -> None:
    for resolution in range(8, 1100):
        pairs, widths = plan(SMALL, resolution)
        sides = [height for height, width in pairs if height == width]
        assert sides[0] == resolution
        assert 4 <= sides[-1] <= 7 < sides[-2]
        assert len(widths) == len(sides) - 1


def test_the_shorter_side_decides_how_often_both_are_halved() -> None:
    assert plan(SMALL, (90, 160))[0] == [(90, 160), (45, 80), (22, 40), (11, 20), (5, 10)]
    assert plan(SMALL, (56, 28))[0] == [(56, 28), (28, 14), (14, 7)]


@pytest.mark.parametrize("resolution", [28, 33, 101, (28, 56), (96, 64), (90, 160), (45, 23)])
def test_both_networks_pass_through_the_planned_sides(resolution: Resolution) -> None:
    sides, _ = plan(SMALL, resolution)
    generator, critic = build_generator(SMALL, resolution, 3), build_critic(SMALL, resolution, 3)
    found: list[tuple[int, ...]] = []
    for network in (generator, critic):
        for layer in kernels(network):
            if not isinstance(layer, nn.Linear):
                layer.register_forward_hook(lambda _, __, maps: found.append(tuple(maps.shape[2:])))
    critic(generator(torch.randn(2, 5)))
    assert found == [*sides[-2::-1], *sides[1:]]


@pytest.mark.parametrize(
    ("resolution", "remedy"), [(1, "8"), (7, "8"), ((7, 20), "[8, 20]"), ((64, 4), "[64, 8]")]
)
def test_below_8_pixels_there_is_no_network(resolution: Resolution, remedy: str) -> None:
    for build in (build_generator, build_critic):
        with pytest.raises(
            ConfigError, match=f"dcgan does not support images of {described(resolution)}:"
        ) as caught:
            build(SMALL, resolution, 3)
        assert f"Set data.resolution: {remedy}, or" in str(caught.value)


@pytest.mark.parametrize(
    ("name", "kind"), [("batch", BatchNorm2d), ("layer", nn.GroupNorm), ("instance", nn.InstanceNorm2d)]
)
def test_norms_are_where_the_options_say(name: str, kind: type[nn.Module]) -> None:
    options = SMALL.model_copy(update={"generator_norm": name, "critic_norm": name})
    kinds = (nn.modules.batchnorm._NormBase, nn.GroupNorm)
    generator, critic = build_generator(options, 32, 1), build_critic(options, 32, 1)
    for network, channels in ((generator, [16, 8, 4]), (critic, [8, 16])):
        norms = [layer for layer in network.modules() if isinstance(layer, kinds)]
        assert [len(layer.weight) for layer in norms] == channels
        assert all(type(layer) is kind for layer in norms)


def test_without_norms_the_layers_have_biases() -> None:
    options = SMALL.model_copy(update={"generator_norm": "none"})
    for network in (build_generator(options, 32, 1), build_critic(options, 32, 1)):
        assert not list(network.buffers())
        layers = [layer for layer in network.modules() if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d)]
        assert len(layers) == 3
        assert all(layer.bias is not None for layer in layers)


def test_layer_norm_treats_each_sample_separately() -> None:
    critic = build_critic(SMALL.model_copy(update={"critic_norm": "layer"}), 16, 1)
    images = torch.randn(4, 1, 16, 16)
    with torch.no_grad():
        together, alone = critic(images), torch.cat([critic(image[None]) for image in images])
    torch.testing.assert_close(together, alone)


def test_initial_weights_are_those_of_the_paper() -> None:
    torch.manual_seed(0)
    options = DcganOptions(width=32, critic_norm="batch")
    for network in (build_generator(options, 64, 3), build_critic(options, 64, 3)):
        for layer in network.modules():
            if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d | nn.Linear):
                assert layer.weight.std().item() == pytest.approx(0.02, rel=0.1)
                assert abs(layer.weight.mean().item()) < 0.002
                assert layer.bias is None or not layer.bias.any()
            elif isinstance(layer, BatchNorm2d):
                assert layer.weight.mean().item() == pytest.approx(1.0, abs=0.02)
                assert layer.weight.std().item() == pytest.approx(0.02, rel=0.6)
                assert not layer.bias.any()
