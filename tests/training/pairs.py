"""A generator and a critic that make one update, the objectives that they are trained with, and what has changed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pipeline.models import build_critic, build_generator
from pipeline.objectives import Objective, build_objective
from pipeline.option_objective import (
    CrossEntropyOptions,
    GradientPenaltyOptions,
    HingeOptions,
    LeastSquaresOptions,
    RelativisticOptions,
    WassersteinOptions,
)
from pipeline.options import DcganOptions, Norm, Rounds
from pipeline.training.updates import (
    CriticBatch,
    GeneratorBatch,
    Player,
    UpdatePlan,
    critic_update,
    draw_fakes,
    generator_update,
)

BATCH = 7
WASSERSTEIN = build_objective(WassersteinOptions(clip=0.03))
WIDE_BOX = build_objective(WassersteinOptions(clip=100.0))
PENALTY = build_objective(GradientPenaltyOptions(name="gradient_penalty"))
ONE_SIDED = build_objective(GradientPenaltyOptions(name="gradient_penalty", sides="one"))
LEAST_SQUARES = build_objective(LeastSquaresOptions(name="least_squares"))
CROSS_ENTROPY = build_objective(CrossEntropyOptions(name="cross_entropy"))
FLIPPED = build_objective(CrossEntropyOptions(name="cross_entropy", labels="real_is_zero"))
SATURATING = build_objective(CrossEntropyOptions(name="cross_entropy", generator="saturating"))
HINGE = build_objective(HingeOptions(name="hinge"))
OBJECTIVES = {
    "wasserstein": WIDE_BOX,
    "gradient_penalty": PENALTY,
    "one-sided": ONE_SIDED,
    "least_squares": LEAST_SQUARES,
    "binary": build_objective(LeastSquaresOptions(name="least_squares", a=0.0, b=1.0, c=1.0)),
    "cross_entropy": CROSS_ENTROPY,
    "flipped": FLIPPED,
    "saturating": SATURATING,
    "hinge": HINGE,
    "relativistic": build_objective(RelativisticOptions(name="relativistic", r_method="finite_difference")),
    "hinge with R1": build_objective(HingeOptions(name="hinge", r1=2.0)),
}
ALL = pytest.mark.parametrize("objective", OBJECTIVES.values(), ids=OBJECTIVES.keys())
NEEDS_BOTH_KINDS = ("gradient_penalty", "one-sided", "relativistic", "hinge with R1")
ROUNDS: dict[str, tuple[Objective, Rounds]] = {
    **{f"{name}, joint": (objective, "joint") for name, objective in OBJECTIVES.items()},
    **{
        f"{name}, alternating": (objective, "alternating")
        for name, objective in OBJECTIVES.items()
        if name not in NEEDS_BOTH_KINDS
    },
}
IN_ALL_ROUNDS = pytest.mark.parametrize(("objective", "rounds"), ROUNDS.values(), ids=ROUNDS.keys())


class Plain:
    """One process: gradients are those of the backward pass. Records which passes would not be averaged."""

    def __init__(self) -> None:
        self.passes: list[bool] = []
        self._is_local = False

    def backward(self, loss: Tensor, weights: Sequence[Tensor]) -> None:
        self.passes.append(self._is_local)
        loss.backward(inputs=weights)

    def no_sync(self, module: nn.Module) -> AbstractContextManager[Any]:
        return self._locally()

    @contextmanager
    def _locally(self) -> Iterator[None]:
        self._is_local = True
        yield
        self._is_local = False

    def average_gradients(self, wrapped: nn.Module, weights: Sequence[Tensor]) -> None:
        pass

    def unscale(self, optimizer: torch.optim.Optimizer) -> None:
        pass


class Pair:
    """A generator and a critic with the same weights each time, moved by plain gradient descent."""

    def __init__(self, norm: Norm = "none", lr: float = 0.1, largest: float | None = None) -> None:
        torch.manual_seed(0)
        options = DcganOptions(latent=6, width=4, generator_norm=norm, critic_norm=norm)
        self.generator = self._player(build_generator(options, 16, 1), lr, largest)
        self.critic = self._player(build_critic(options, 16, 1), lr, largest)

    @staticmethod
    def _player(module: nn.Module, lr: float, largest: float | None) -> Player:
        with torch.no_grad():
            for weight in module.parameters():
                weight.mul_(5)
        return Player(module, module, torch.optim.SGD(module.parameters(), lr=lr), largest)

    def update_critic(
        self, objective: Objective, batch: int = BATCH, is_measured: bool = True, **options: Any
    ) -> dict[str, Tensor]:
        plan = UpdatePlan(**{"parallel": Plain(), **options})
        real, latents, uniform = critic_batch(batch)
        fake = draw_fakes(self.generator.module, latents, micro_batch=plan.micro_batch)
        return critic_update(
            self.critic, objective, CriticBatch(real, fake, uniform), plan, is_measured=is_measured
        )

    def update_generator(self, objective: Objective, **options: Any) -> dict[str, Tensor]:
        plan, (real, _, _) = UpdatePlan(**{"parallel": Plain(), **options}), critic_batch()
        batch = GeneratorBatch(generator_batch(), real)
        return generator_update(self.generator, self.critic.module, objective, batch, plan)


def critic_batch(batch: int = BATCH) -> tuple[Tensor, Tensor, Tensor]:
    """Real images, latents and uniform numbers, the same each time."""
    generator = torch.Generator().manual_seed(1)
    real = torch.rand(batch, 1, 16, 16, generator=generator) * 2 - 1
    return real, torch.randn(batch, 6, generator=generator), torch.rand(batch, generator=generator)


def generator_batch() -> Tensor:
    return torch.randn(BATCH, 6, generator=torch.Generator().manual_seed(2))


def state(module: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in module.state_dict().items()}


def assert_state(module: nn.Module, expected: dict[str, Tensor]) -> None:
    for name, value in module.state_dict().items():
        assert torch.equal(value, expected[name]), name


def change(module: nn.Module, before: dict[str, Tensor]) -> Tensor:
    """All parameters' changes as one vector."""
    return torch.cat([(value - before[name]).flatten() for name, value in module.named_parameters()]).detach()


def descend(critic: nn.Module, loss: Tensor, lr: float) -> Tensor:
    """One step of gradient descent, written out. Returns the gradient's norm."""
    parameters = list(critic.parameters())
    gradients = torch.autograd.grad(loss, parameters)
    with torch.no_grad():
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.sub_(lr * gradient)
    return torch.cat([gradient.flatten() for gradient in gradients]).norm()
