"""Weight clipping: the same as torch's clamp, and a correct count of the weights at the edges of the box."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from pipeline.models import build_critic
from pipeline.models.norms import norm
from pipeline.objectives.clipping import clip_weights, clipped_fraction, weights_in_scope
from pipeline.option_objective import ClipScope
from pipeline.options import DcganOptions, GanBceOptions, MlpOptions, WganMnistOptions

CLIPS = [0.01, 0.1, 1 / 3, 1.0, 1e-6]


def parameters(*values: torch.Tensor) -> list[nn.Parameter]:
    return [nn.Parameter(value) for value in values]


@pytest.mark.parametrize("clip", CLIPS)
def test_weights_are_clamped_to_the_box_to_the_bit(clip: float) -> None:
    generator = torch.Generator().manual_seed(0)
    shapes = [(), (1,), (3, 4), (2, 3, 4, 4), (1000,)]
    weights = parameters(*(torch.randn(shape, generator=generator) * 2 * clip for shape in shapes))
    expected = [weight.detach().clamp(-clip, clip) for weight in weights]
    places = [weight.data_ptr() for weight in weights]
    clip_weights(weights, clip)
    for weight, clamped in zip(weights, expected, strict=True):
        assert torch.equal(weight, clamped)
        assert weight.abs().max() <= torch.tensor(clip)
    assert [weight.data_ptr() for weight in weights] == places
    assert all(weight.requires_grad and weight.is_leaf for weight in weights)


def test_clipping_twice_is_clipping_once() -> None:
    (weight,) = parameters(torch.linspace(-1, 1, 101))
    clip_weights([weight], 0.1)
    once = weight.detach().clone()
    clip_weights([weight], 0.1)
    assert torch.equal(weight, once)


def test_weights_inside_the_box_keep_their_bits() -> None:
    inside = torch.tensor([0.0, -0.0, 0.009, -0.009, 1e-45])
    (weight,) = parameters(inside.clone())
    clip_weights([weight], 0.01)
    assert torch.equal(weight.detach().view(torch.int32), inside.view(torch.int32))


def test_infinities_are_clipped_to_the_edges_and_nan_stays() -> None:
    (weight,) = parameters(torch.tensor([math.inf, -math.inf, math.nan, 0.5]))
    clip_weights([weight], 0.25)
    assert weight[:2].tolist() == [0.25, -0.25]
    assert weight[2].isnan()
    assert weight[3] == 0.25


def test_a_generator_of_parameters_will_do() -> None:
    network = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm2d(2))
    clip_weights(network.parameters(), 0.05)
    assert all(weight.abs().max() <= 0.05 for weight in network.parameters())
    assert clipped_fraction(network.parameters(), 0.05) > 0


@pytest.mark.parametrize("clip", CLIPS)
def test_a_weight_at_the_edge_counts_if_float32_rounds_the_clip(clip: float) -> None:
    wall = torch.tensor(clip)
    inside = torch.nextafter(wall, torch.tensor(0.0))
    weights = parameters(torch.stack([wall, -wall, inside, -inside]), torch.zeros(4))
    assert clipped_fraction(weights, clip).item() == 2 / 8


@pytest.mark.parametrize("clip", CLIPS)
def test_the_fraction_is_that_of_all_weights_together(clip: float) -> None:
    weights = parameters(torch.full((3, 5), 2 * clip), torch.full((85,), clip / 2))
    before = clipped_fraction(weights, clip)
    clip_weights(weights, clip)
    after = clipped_fraction(weights, clip)
    assert before.item() == after.item() == pytest.approx(0.15)
    assert after.shape == ()


def every_kind_of_layer() -> nn.Sequential:
    """A network that is never run: all its weights are outside the box of 0.1, except one in each parameter."""
    layers = nn.Sequential()
    layers.add_module("conv", nn.Conv2d(3, 4, 3))
    layers.add_module("batch", norm("batch", 4))
    layers.add_module("transposed", nn.ConvTranspose2d(4, 5, 4, bias=False))
    layers.add_module("group", norm("layer", 5))
    layers.add_module("instance", norm("instance", 5))
    layers.add_module("plain_batch", nn.BatchNorm1d(5))
    layers.add_module("inner", nn.Sequential(nn.Conv1d(5, 6, 1), nn.LayerNorm(6)))
    layers.add_module("linear", nn.Linear(7, 2))
    with torch.no_grad():
        for index, parameter in enumerate(layers.parameters()):
            parameter.fill_(0.5 + index).flatten()[0] = 0.01
    return layers


KERNELS = ["conv.weight", "transposed.weight", "inner.0.weight"]
BIASES = ["conv.bias", "inner.0.bias", "linear.bias"]
NORMS = ["batch", "group", "instance", "plain_batch", "inner.1"]
GAINS, SHIFTS = [f"{name}.weight" for name in NORMS], [f"{name}.bias" for name in NORMS]
SCOPES: dict[ClipScope, list[str]] = {
    "all": [*KERNELS, "linear.weight", *BIASES, *GAINS, *SHIFTS],
    "weights": [*KERNELS, "linear.weight"],
    "convolutions": KERNELS,
    "all_but_gains": [*KERNELS, "linear.weight", *BIASES, *SHIFTS],
}


@pytest.mark.parametrize("scope", SCOPES)
def test_only_what_is_in_scope_is_clipped_and_the_rest_keeps_its_bits(scope: ClipScope) -> None:
    network, expected = every_kind_of_layer(), every_kind_of_layer().state_dict()
    names = dict(network.named_parameters()).keys()
    assert names == set(SCOPES["all"])
    clip_weights(weights_in_scope(network, scope), 0.1)
    for name, parameter in network.named_parameters():
        values = expected[name].clamp(-0.1, 0.1) if name in SCOPES[scope] else expected[name]
        assert torch.equal(parameter, values), name
    for name, buffer in network.named_buffers():
        assert torch.equal(buffer, expected[name]), name


@pytest.mark.parametrize("scope", SCOPES)
def test_the_fraction_counts_only_what_is_in_scope(scope: ClipScope) -> None:
    network = every_kind_of_layer()
    sizes = {name: parameter.numel() for name, parameter in network.named_parameters()}
    total = sum(sizes[name] for name in SCOPES[scope])
    # One weight of each parameter is inside the box.
    found = clipped_fraction(weights_in_scope(network, scope), 0.1)
    assert found.item() == pytest.approx(1 - len(SCOPES[scope]) / total)


@pytest.mark.parametrize("scope", SCOPES)
def test_no_parameter_is_taken_twice(scope: ClipScope) -> None:
    places = [parameter.data_ptr() for parameter in weights_in_scope(every_kind_of_layer(), scope)]
    assert len(places) == len(set(places)) == len(SCOPES[scope])


def test_the_reference_critic_has_its_two_kernels_clipped_and_nothing_else() -> None:
    critic = build_critic(WganMnistOptions(name="wgan_mnist"), 28, 1)
    shapes = [tuple(weight.shape) for weight in weights_in_scope(critic, "convolutions")]
    assert shapes == [(64, 1, 4, 4), (64, 64, 4, 4)]


@pytest.mark.parametrize(
    "options", [DcganOptions(width=8, critic_norm="batch"), GanBceOptions(name="gan_bce")]
)
@pytest.mark.parametrize(("scope", "missing"), [("all_but_gains", "gains"), ("all", "nothing")])
def test_all_but_gains_leaves_out_only_the_gains_of_norms(
    options: DcganOptions | GanBceOptions, scope: ClipScope, missing: str
) -> None:
    critic = build_critic(options, 16, 1)
    gains = [layer.weight for layer in critic.modules() if isinstance(layer, nn.BatchNorm2d)]
    assert gains
    left_out = {id(weight) for weight in critic.parameters()} - {
        id(weight) for weight in weights_in_scope(critic, scope)
    }
    assert left_out == ({id(gain) for gain in gains} if missing == "gains" else set())


def test_fully_connected_critics_have_weights_and_no_kernels_in_scope() -> None:
    critic = build_critic(MlpOptions(name="mlp", width=8, layers=2), 4, 1)
    assert weights_in_scope(critic, "convolutions") == []
    shapes = [tuple(weight.shape) for weight in weights_in_scope(critic, "weights")]
    assert shapes == [(8, 16), (8, 8), (1, 8)]
