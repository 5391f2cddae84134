"""R1 and R2 against closed forms of quadratic and cubic critics, exactly and by finite differences."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from pipeline.noise import signs
from pipeline.objectives import build_objective
from pipeline.objectives.penalties import DIFFERENCE, SlopePenalty, squared_differences
from pipeline.option_objective import HingeOptions, RelativisticOptions

SIZE = (3, 2, 4)
COUNT = 24
MATRIX = torch.randn(COUNT, COUNT, generator=torch.Generator().manual_seed(1)).double() / COUNT
LINE = torch.linspace(-0.5, 1.0, COUNT).double()


def images(number: int, batch: int = 5) -> Tensor:
    generator = torch.Generator().manual_seed(number)
    return torch.rand(batch, *SIZE, generator=generator, dtype=torch.float64) * 2 - 1


def uniform(batch: int) -> Tensor:
    return torch.rand(batch, generator=torch.Generator().manual_seed(7))


class Quadratic:
    """c(x) = x'Ax / 2 + b'x, whose gradient is (A + A')x / 2 + b."""

    def __init__(self) -> None:
        self.matrix = MATRIX.clone().requires_grad_()

    def __call__(self, images: Tensor, float32: bool = False) -> Tensor:
        flat = images.flatten(1)
        return (flat @ self.matrix * flat).sum(1) / 2 + flat @ LINE

    def gradient(self, images: Tensor) -> Tensor:
        return images.flatten(1) @ (self.matrix + self.matrix.T) / 2 + LINE


@pytest.mark.parametrize(("kind", "every"), [("real", 1), ("fake", 1), ("real", 16)])
def test_r1_and_r2_are_the_mean_squared_slope_at_their_images(kind: str, every: int) -> None:
    critic, real, fake = Quadratic(), images(0), images(1)
    penalty = SlopePenalty("real" if kind == "real" else "fake", weight=3.0, every=every)
    found = penalty(critic, real, fake, uniform(5))
    at = real if kind == "real" else fake
    expected = 3.0 / 2 * every * critic.gradient(at).square().sum(1).mean()
    torch.testing.assert_close(found, expected)
    (slope,) = torch.autograd.grad(found, critic.matrix)
    (by_hand,) = torch.autograd.grad(expected, critic.matrix)
    torch.testing.assert_close(slope, by_hand)


def test_differences_along_all_directions_average_to_the_squared_slope() -> None:
    critic, one = Quadratic(), images(3, 1)
    many = 40_000
    found = squared_differences(critic, one.expand(many, *SIZE), torch.arange(many) / many).detach()
    expected = critic.gradient(one).square().sum().item()
    # A central difference of a quadratic is exact, so only the directions are left to chance.
    assert found.mean().item() == pytest.approx(expected, abs=4 * found.std().item() / many**0.5)
    directions = signs(torch.arange(5) / 5, COUNT).double()
    own = squared_differences(critic, one.expand(5, *SIZE), torch.arange(5) / 5)
    torch.testing.assert_close(own, (directions @ critic.gradient(one)[0]).square())


def test_the_error_of_a_difference_is_of_second_order(monkeypatch: pytest.MonkeyPatch) -> None:
    def cubic(images: Tensor, float32: bool = False) -> Tensor:
        return images.flatten(1).pow(3).sum(1)

    at, draws = images(4), uniform(5)
    exact = (3 * at.flatten(1).square() * signs(draws, COUNT)).sum(1).square()
    errors = []
    for step in (0.2, 0.1, 0.05):
        monkeypatch.setattr("pipeline.objectives.penalties.DIFFERENCE", step)
        errors.append((squared_differences(cubic, at, draws) - exact).abs().max().item())
    assert [errors[0] / errors[1], errors[1] / errors[2]] == pytest.approx([4, 4], rel=0.1)
    assert DIFFERENCE == 0.01


def test_signs_are_balanced_independent_and_those_of_their_rows() -> None:
    drawn = signs(torch.arange(2000) / 2000, 500)
    assert set(drawn.unique().tolist()) == {-1.0, 1.0}
    assert drawn.mean().abs() < 4 / 1000
    assert drawn.mean(0).abs().max() < 5 / 2000**0.5
    assert drawn.mean(1).abs().max() < 5 / 500**0.5
    neighbours = (drawn[1:] * drawn[:-1]).mean(1).abs().max()
    assert neighbours < 5 / 500**0.5, "rows of neighbouring numbers are independent"
    assert torch.equal(signs(torch.tensor([0.25, 0.5]), 8)[1:], signs(torch.tensor([0.5]), 8))


def test_options_add_the_terms_to_any_objective() -> None:
    assert build_objective(HingeOptions(name="hinge")).penalties == ()
    options = HingeOptions(name="hinge", r1=2.0, r_every=4, r_method="finite_difference")
    assert build_objective(options).penalties == (SlopePenalty("real", 2.0, 4, is_exact=False),)
    paired = build_objective(RelativisticOptions(name="relativistic", r2=0.5)).penalties
    assert paired == (SlopePenalty("real", 1.0), SlopePenalty("fake", 0.5))
