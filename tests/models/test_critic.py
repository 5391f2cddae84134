"""The base class of critics: from features to scores."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from pipeline.models.critic import BaseCritic, Score


class Squares(nn.Module):
    """Records the precision of its input."""

    precision: torch.dtype | None = None

    def forward(self, x: Tensor) -> Tensor:
        self.precision = (torch.ones(1, 1) @ torch.ones(1, 1)).dtype
        return x.square()


def test_a_score_is_linear_in_all_features_of_an_image() -> None:
    critic = BaseCritic(Squares(), Score(18))
    images = torch.randn(5, 2, 3, 3)
    expected = [
        (image.square().flatten() @ critic.score.weight[0] + critic.score.bias[0]) for image in images
    ]
    torch.testing.assert_close(critic(images), torch.stack(expected))


def test_one_image_has_one_score_in_a_batch_of_one() -> None:
    assert BaseCritic(nn.Flatten(), Score(4))(torch.randn(1, 1, 2, 2)).shape == (1,)


def test_float32_applies_to_the_layers_and_the_score() -> None:
    critic = BaseCritic(Squares(), Score(4))
    images = torch.randn(3, 1, 2, 2)
    with torch.autocast("cpu", torch.bfloat16):
        assert critic(images).dtype == critic.layers.precision == torch.bfloat16
        assert critic(images, float32=True).dtype == critic.layers.precision == torch.float32
        assert critic(images).dtype == torch.bfloat16


def test_a_score_does_not_depend_on_the_memory_format() -> None:
    score, maps = Score(24).double(), torch.randn(5, 2, 3, 4, dtype=torch.float64)
    expected = maps.flatten(1) @ score.weight[0] + score.bias
    for layout in (torch.contiguous_format, torch.channels_last):
        lying = maps.clone(memory_format=layout).requires_grad_()
        torch.testing.assert_close(score(lying), expected)
        (gradient,) = torch.autograd.grad(score(lying).sum(), lying)
        torch.testing.assert_close(gradient, score.weight.view(1, 2, 3, 4).expand(5, -1, -1, -1))
        assert gradient.is_contiguous(memory_format=layout)
