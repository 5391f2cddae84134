"""The residual networks: their blocks, and their three sizes."""

from __future__ import annotations

from typing import Any, Literal

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from pipeline.errors import ConfigError
from pipeline.models import build_critic, build_generator
from pipeline.models.resnet import MULTIPLES, Residual, down_block, first_block, plain_block, up_block
from pipeline.models.sides import Resolution, described
from pipeline.option_types import sides_of
from pipeline.options import ResnetOptions
from tests.models.networks import count, kernels, kinds

SMALL = ResnetOptions(name="resnet", latent=6, width=4)


def silenced(block: Residual) -> Residual:
    """The block with a path whose result is 0."""
    kernels(block.path)[-1].weight.data.zero_()
    return block


def test_parameters_of_the_32_pixel_pair_counted_by_hand() -> None:
    options = ResnetOptions(name="resnet")
    convolution, shortcut, norm = 128 * 128 * 9 + 128, 128 * 128 + 128, 2 * 128
    project, to_image = 128 * 2048 + 2048, 128 * 3 * 9 + 3
    up = 2 * norm + 2 * convolution + shortcut
    assert count(build_generator(options, 32, 3)) == project + 3 * up + norm + to_image
    first = (3 * 128 * 9 + 128) + convolution + (3 * 128 + 128)
    down, plain, score = 2 * convolution + shortcut, 2 * convolution, 128 + 1
    assert count(build_critic(options, 32, 3)) == first + down + 2 * plain + score


def test_parameters_of_a_64_pixel_pair_counted_by_hand() -> None:
    def convolution(before: int, after: int, area: int = 9) -> int:
        return before * after * area + after

    project = 6 * 32 * 16 + 32 * 16
    ups = [
        2 * wide + convolution(wide, narrow) + 2 * narrow + convolution(narrow, narrow)
        + convolution(wide, narrow, 1)
        for wide, narrow in ((32, 32), (32, 16), (16, 8), (8, 4))
    ]  # fmt: skip
    found = count(build_generator(SMALL, 64, 1))
    assert found == project + sum(ups) + 2 * 4 + convolution(4, 1)
    downs = [
        convolution(narrow, narrow) + convolution(narrow, wide) + convolution(narrow, wide, 1)
        for narrow, wide in ((4, 8), (8, 16), (16, 32), (32, 32))
    ]
    assert count(build_critic(SMALL, 64, 1)) == convolution(1, 4) + sum(downs) + 32 * 16 + 1


@pytest.mark.parametrize("resolution", [32, 64, 128, (32, 56), (96, 64), (160, 128)])
def test_latents_become_images_and_images_scores(resolution: Resolution) -> None:
    with torch.no_grad():
        images = build_generator(SMALL, resolution, 3)(torch.randn(2, 6))
        assert images.shape == (2, 3, *sides_of(resolution))
        assert build_critic(SMALL, resolution, 3)(images).shape == (2,)


def test_128_pixels_have_one_widest_block_more_than_64() -> None:
    assert MULTIPLES[128] == (*MULTIPLES[64], 8)


def test_up_doubles_by_repeating_pixels() -> None:
    block, maps = up_block(6, 4), torch.randn(3, 6, 5, 5)
    assert kinds(block.path) == ["BatchNorm2d", "ReLU", "Upsample", "Conv2d", "BatchNorm2d", "ReLU", "Conv2d"]
    repeated = maps.repeat_interleave(2, 2).repeat_interleave(2, 3)
    torch.testing.assert_close(silenced(block)(maps), kernels(block.shortcut)[0](repeated))
    inside = F.relu(block.path[0](maps)).repeat_interleave(2, 2).repeat_interleave(2, 3)
    torch.testing.assert_close(block.path[:4](maps), block.path[3](inside))


@pytest.mark.parametrize("block", [down_block(4, 6, "none"), first_block(4, 6)])
def test_down_halves_by_the_mean_of_four_pixels(block: Residual) -> None:
    maps = torch.randn(3, 4, 10, 10)
    before_the_mean = block.path[:-1](maps).unflatten(3, (5, 2)).unflatten(2, (5, 2)).mean((3, 5))
    torch.testing.assert_close(block.path(maps), before_the_mean)
    # The authors take the mean after the shortcut's convolution, which gives the same result.
    shortcut = kernels(block.shortcut)[0](maps).unflatten(3, (5, 2)).unflatten(2, (5, 2)).mean((3, 5))
    torch.testing.assert_close(silenced(block)(maps), shortcut)


def test_down_changes_the_channels_in_its_second_convolution() -> None:
    shapes = [layer.weight.shape for layer in kernels(down_block(4, 6, "none"))]
    assert shapes == [(4, 4, 3, 3), (6, 4, 3, 3), (6, 4, 1, 1)]


def test_a_plain_block_adds_to_its_input() -> None:
    maps = torch.randn(3, 4, 5, 5)
    block = plain_block(4, "none")
    torch.testing.assert_close(block(maps), maps + block.path(maps))
    assert torch.equal(silenced(block)(maps), maps)


@pytest.mark.parametrize("kind", ["none", "layer"])
def test_no_block_changes_its_input_in_place(kind: Literal["none", "layer"]) -> None:
    maps = torch.randn(3, 4, 6, 6)
    before = maps.clone()
    for block in (plain_block(4, kind), down_block(4, 4, kind), up_block(4, 4), first_block(4, 4)):
        block(maps)
        assert torch.equal(maps, before)


def test_the_critic_has_norms_before_all_but_two_relus() -> None:
    normed, plain = (
        kinds(build_critic(SMALL.model_copy(update={"critic_norm": norm}), 32, 3))
        for norm in ("layer", "none")
    )
    first = ["Conv2d", "ReLU", "Conv2d", "AvgPool2d", "AvgPool2d", "Conv2d"]
    half = ["GroupNorm", "ReLU", "Conv2d"]
    down = [*half, *half, "AvgPool2d", "AvgPool2d", "Conv2d"]
    flat = [*half, *half, "Identity"]
    assert normed == [*first, *down, *flat, *flat, "ReLU", "AdaptiveAvgPool2d", "Score"]
    assert [kind for kind in plain if kind != "Identity"] == [
        kind for kind in normed if kind not in ("Identity", "GroupNorm")
    ]


@pytest.mark.parametrize("resolution", [32, 64])
def test_layer_norm_treats_each_sample_separately(resolution: int) -> None:
    critic = build_critic(SMALL.model_copy(update={"critic_norm": "layer"}), resolution, 1)
    images = torch.randn(3, 1, resolution, resolution)
    with torch.no_grad():
        together, alone = critic(images), torch.cat([critic(image[None]) for image in images])
    torch.testing.assert_close(together, alone)


def test_at_32_pixels_a_score_depends_on_means_over_all_pixels() -> None:
    critic: Any = build_critic(SMALL, 32, 1)
    images = torch.randn(2, 1, 32, 32)
    maps = critic.layers[:-2](images)
    assert maps.shape == (2, 4, 8, 8)
    torch.testing.assert_close(critic(images), critic.score(maps.relu().mean((2, 3))))


@pytest.mark.parametrize("resolution", [32, 64])
def test_convolutions_between_relus_have_twice_the_variance(resolution: int) -> None:
    torch.manual_seed(0)
    options = ResnetOptions(name="resnet", width=32)
    for network in (build_generator(options, resolution, 3), build_critic(options, resolution, 3)):
        blocks = [block for block in network.modules() if isinstance(block, Residual)]
        inside = {id(layer) for block in blocks for layer in kernels(block.path)}
        assert len(inside) == 2 * len(blocks) >= 6
        for layer in kernels(network):
            fans = layer.weight[0].numel() + layer.weight[:, 0].numel()
            variance = (4 if id(layer) in inside else 2) / fans
            assert layer.weight.var().item() == pytest.approx(variance, rel=0.35)
            assert layer.weight.abs().max() <= (3 * variance) ** 0.5
            assert not layer.bias.any()


@pytest.mark.parametrize(
    ("resolution", "nearest"),
    [
        *[(8, 32), (28, 32), (50, 64), (96, 64), (256, 128)],
        *[((28, 56), [32, 56]), ((90, 160), [64, 160]), ((70, 64), 64), ((32, 20), 32)],
    ],
)
def test_other_resolutions_are_refused_with_the_nearest_one(
    resolution: Resolution, nearest: int | list[int]
) -> None:
    for build in (build_generator, build_critic):
        with pytest.raises(
            ConfigError, match=f"^model.name: resnet does not support images of {described(resolution)}:"
        ) as caught:
            build(SMALL, resolution, 1)
        assert f"Set data.resolution: {nearest}, or use another model.name" in str(caught.value)


def test_the_first_block_has_no_relu_before_its_convolutions() -> None:
    block = first_block(1, 4)
    assert isinstance(block.path[0], nn.Conv2d)
    dark = -torch.rand(2, 1, 4, 4)
    assert not torch.equal(block(dark), block(dark.relu()))
