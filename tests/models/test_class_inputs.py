"""Labels in networks: what the layers compute, and that every conditional network uses them."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pipeline.errors import ConfigError
from pipeline.models import build_critic, build_generator
from pipeline.models.class_inputs import ClassNorm, LabelledSequential, class_norm, given
from pipeline.models.critic import BaseCritic, Projection, Score
from pipeline.models.spectral_norm import SpectralNorm
from pipeline.objectives.clipping import weights_in_scope
from pipeline.option_objective import ClipScope
from pipeline.options import (
    DcganOptions,
    GanBceOptions,
    MlpOptions,
    ModelOptions,
    R3ganOptions,
    ResnetOptions,
)

CLASSES, BATCH = 5, 7
LABELS = torch.arange(BATCH) % CLASSES
NETWORKS: dict[str, tuple[ModelOptions, int]] = {
    "dcgan": (DcganOptions(width=8, max_width=16, latent=6), 17),
    "dcgan without norms": (
        DcganOptions(width=8, max_width=16, latent=6, generator_norm="none", spectral_norm=True),
        16,
    ),
    "mlp": (MlpOptions(name="mlp", width=8, latent=6), 6),
    "resnet at 32": (ResnetOptions(name="resnet", width=4, latent=6, attention=True), 32),
    "resnet at 64": (ResnetOptions(name="resnet", width=4, latent=6, spectral_norm=True), 64),
    "r3gan": (R3ganOptions(name="r3gan", width=16, max_width=16, latent=6), 16),
}


@pytest.mark.parametrize("case", NETWORKS)
def test_networks_with_classes_use_the_label_of_each_image(case: str) -> None:
    options, side = NETWORKS[case]
    torch.manual_seed(0)
    generator, critic = (build(options, side, 3, CLASSES) for build in (build_generator, build_critic))
    for layer in generator.modules():
        if isinstance(layer, ClassNorm):
            nn.init.normal_(layer.shifts.weight)
    latents = torch.randn(BATCH, 6)
    images = generator.eval()(latents, LABELS)
    assert images.shape == (BATCH, 3, side, side)
    moved = LABELS.clone()
    moved[2] += 1
    changed = (generator(latents, moved) - images).flatten(1).abs().amax(1) > 1e-6
    assert changed.tolist() == [place == 2 for place in range(BATCH)]

    critic.eval()
    scores = critic(images, LABELS)
    changed = (critic(images, moved) - scores).abs() > 1e-6
    assert changed.tolist() == [place == 2 for place in range(BATCH)]
    torch.testing.assert_close(critic(images, LABELS, float32=True), scores)
    (scores.sum() + images.sum()).backward()
    assert all(weight.grad is not None for weight in [*generator.parameters(), *critic.parameters()])


@pytest.mark.parametrize("case", NETWORKS)
def test_networks_without_classes_have_no_tensor_of_them_and_the_same_bits(case: str) -> None:
    options, side = NETWORKS[case]
    for build in (build_generator, build_critic):
        torch.manual_seed(0)
        plain = build(options, side, 3)
        torch.manual_seed(0)
        same = build(options, side, 3, 0)
        assert all(torch.equal(value, same.state_dict()[name]) for name, value in plain.state_dict().items())
        of_classes = build(options, side, 3, CLASSES).state_dict().keys() - plain.state_dict().keys()
        assert of_classes
        assert not [name for name in plain.state_dict() if "of_class" in name or "vectors" in name]


def test_networks_of_reference_systems_refuse_classes() -> None:
    with pytest.raises(ConfigError, match=r"Critic of model.name: gan_bce takes no labels. Use dcgan, mlp"):
        build_critic(GanBceOptions(name="gan_bce"), 8, 1, 3)


def test_labels_are_asked_for() -> None:
    options, side = NETWORKS["mlp"]
    with pytest.raises(ConfigError, match="was given no labels"):
        build_generator(options, side, 3, CLASSES)(torch.randn(2, 6))
    with pytest.raises(ConfigError, match="was given no labels"):
        build_critic(options, side, 3, CLASSES)(torch.randn(2, 3, side, side))


def test_class_norms_scale_and_shift_by_class_and_start_as_the_norm() -> None:
    maps = torch.randn(BATCH, 3, 4, 4)
    layer = class_norm("layer", 3, CLASSES)
    assert isinstance(layer, ClassNorm)
    torch.testing.assert_close(layer(maps, LABELS), layer.norm(maps))
    nn.init.normal_(layer.gains.weight)
    nn.init.normal_(layer.shifts.weight)
    expected = [
        layer.norm(maps)[row] * layer.gains.weight[label][:, None, None]
        + layer.shifts.weight[label][:, None, None]
        for row, label in enumerate(LABELS)
    ]
    torch.testing.assert_close(layer(maps, LABELS), torch.stack(expected))
    assert not isinstance(class_norm("layer", 3, 0), ClassNorm)
    assert isinstance(class_norm("none", 3, CLASSES), nn.Identity)


def test_labelled_layers_in_a_sequence_get_the_labels() -> None:
    inner = class_norm("instance", 3, CLASSES)
    assert isinstance(inner, ClassNorm)
    layers = LabelledSequential(nn.ReLU(), LabelledSequential(inner), nn.Tanh())
    nn.init.normal_(inner.shifts.weight)
    maps = torch.randn(BATCH, 3, 4, 4)
    torch.testing.assert_close(layers(maps, LABELS), inner(maps.relu(), LABELS).tanh())


@pytest.mark.parametrize("shape", [(6,), (6, 4, 5)])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_a_score_with_classes_adds_the_product_with_the_vector_of_the_class(
    shape: tuple[int, ...], layout: torch.memory_format
) -> None:
    features = torch.randn(BATCH, *shape)
    if features.ndim == 4:
        features = features.to(memory_format=layout)
    features.requires_grad_()
    score = Score(math.prod(shape), CLASSES)
    assert score.of_class is not None
    flat = features.flatten(1)
    expected = flat @ score.weight[0] + score.bias + (flat * score.of_class.weight[LABELS]).sum(1)
    scores = score(features, LABELS)
    torch.testing.assert_close(scores, expected)
    (gradient,) = torch.autograd.grad(scores.sum(), features)
    assert gradient.stride() == features.stride()


def test_the_vectors_of_classes_are_weights_of_the_critic() -> None:
    """They are clipped, and divided by their largest singular value, as other weights are."""
    critic: Any = build_critic(*NETWORKS["dcgan"], 3, CLASSES)
    weight = critic.score.of_class.weight
    scopes: dict[ClipScope, bool] = {
        "all": True,
        "weights": True,
        "all_but_gains": True,
        "convolutions": False,
    }
    for scope, is_in in scopes.items():
        assert any(found is weight for found in weights_in_scope(critic, scope)) == is_in
    other: Any = build_critic(*NETWORKS["dcgan without norms"], 3, CLASSES)
    normalised = other.score.of_class
    assert isinstance(normalised.parametrizations.weight[0], SpectralNorm)
    assert isinstance(normalised, Projection)


def test_given_binds_labels_also_to_several_versions_of_a_batch() -> None:
    def network(values: Tensor, labels: Tensor, factor: float = 1.0) -> Tensor:
        return factor * values * labels

    values = torch.randn(BATCH)
    assert given(network, None) is network
    assert torch.equal(given(network, LABELS)(values, factor=2.0), 2 * values * LABELS)
    twice = given(network, LABELS)(torch.cat([values, -values]))
    assert torch.equal(twice, torch.cat([values * LABELS, -values * LABELS]))


def test_the_score_of_a_mixture_of_gaussians_becomes_the_log_ratio() -> None:
    """Real images of class y are N(m_y, 1), and generated ones N(n_y, 1).

    So log p(x|y) / q(x|y) = (m_y - n_y) x + a constant of the class, which is what a projection on x and 1 can be, and
    where cross entropy has its optimum.
    """
    torch.manual_seed(0)
    count, real, fake = 4000, torch.tensor([-1.0, 0.5, 2.0]), torch.tensor([0.0, 0.8, 1.0])

    class WithOne(nn.Module):
        def forward(self, points: Tensor) -> Tensor:
            return torch.cat([points, torch.ones_like(points)], 1)

    critic = BaseCritic(WithOne(), Score(2, 3))
    labels = torch.arange(3).repeat_interleave(count)
    noise = torch.randn(2, count).repeat(1, 3)
    reals, fakes = (means[labels] + draws for means, draws in zip((real, fake), noise, strict=True))
    optimizer = torch.optim.LBFGS(critic.parameters(), max_iter=100, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        optimizer.zero_grad()
        scores = critic(reals[:, None], labels), critic(fakes[:, None], labels)
        total = nn.functional.softplus(-scores[0]).mean() + nn.functional.softplus(scores[1]).mean()
        total.backward()
        return total

    optimizer.step(loss)
    places = torch.linspace(-2, 3, 11)
    for label in range(3):
        found = critic(places[:, None], torch.full((11,), label)).detach()
        expected = (real[label] - fake[label]) * places - (real[label] ** 2 - fake[label] ** 2) / 2
        torch.testing.assert_close(found, expected, atol=0.25, rtol=0)
