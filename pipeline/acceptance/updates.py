"""Every architecture with every objective in every precision: gradients of one update, against float64 on the CPU."""

from __future__ import annotations

from statistics import median
from typing import Literal, get_args, get_origin

import torch
from pydantic import TypeAdapter
from torch import Tensor, nn

from pipeline.acceptance.bench import Bench
from pipeline.acceptance.runs import options
from pipeline.errors import ConfigError
from pipeline.models import ARCHITECTURES, build_critic, build_generator
from pipeline.objectives import build_objective
from pipeline.option_objective import ObjectiveOptions
from pipeline.options import Config, ModelOptions
from pipeline.profiling.flops import SingleProcess
from pipeline.ranks.devices import best_device, check_precision
from pipeline.ranks.process import settings_given_back
from pipeline.ranks.runtime import Runtime, join
from pipeline.stdout import say
from pipeline.training.state import build_optimizer
from pipeline.training.step import check_objective
from pipeline.training.updates import (
    CriticBatch,
    GeneratorBatch,
    Parallel,
    Player,
    UpdatePlan,
    critic_update,
    draw_fakes,
    generator_update,
)

BATCH, CHANNELS, SIDE = 16, 3, 16
SIDES = {"resnet": 32}
"""Of architectures that have no network for images of 16 pixels"""
SMALL = {
    "dcgan": {"width": 16},
    "mlp": {"width": 64},
    "resnet": {"width": 16},
    "r3gan": {"width": 16, "max_width": 32},
}
WELL_POSED = {"wasserstein": {"clip": 100.0}, "least_squares": {"a": 0.0, "b": 1.0, "c": 1.0}}
"""Options of objectives: a clip beyond all weights, because clipped ones would be equal whatever the update was; and a
target of the generator that is not the score of untrained networks, because their gradient would be rounding alone."""
SMOOTH = ("critic_optimizer.lr=1", "critic_optimizer.eps=1")
"""RMSprop whose step is about the gradient. With a small eps it is about its sign, which rounding changes."""
LARGEST_ERRORS = {"float32": 2e-2, "tf32": 0.2, "bf16": 0.7, "fp16": 0.2}
"""How far a gradient may be from that in float64, relative to its norm.

On a CPU float32 was off by up to 3e-3, where rounding changed the sign of a ReLU's input, and bfloat16, which has 8
bits, by up to 0.4, where batch norm of a small batch amplifies it. The other two have 11 bits.
"""
USUAL_ERRORS = {"float32": 5e-5, "tf32": 2e-2, "bf16": 0.1, "fp16": 2e-2}
"""How far the median may be: float32 that is secretly TF32 would be beyond it. On a CPU it was below 1e-5."""
SCALE = 1024.0
"""Of float16, whose first one would overflow"""


def run(bench: Bench) -> str:
    """Compare the gradients of a critic update and of the generator update after it."""
    shown = []
    found = cases(options(bench, *SMOOTH))
    exact = [exact_gradients(config) for _, config in found]
    for precision in precisions():
        with settings_given_back():
            runtime = join(options(bench, f"precision={precision}", "runtime.cuda_graph=false"))
            errors = {
                f"{name}, {player}": error
                for (name, config), true in zip(found, exact, strict=True)
                for player, error in gradient_errors(config, runtime, true).items()
            }
            runtime.close()
        bench.figures[precision] = errors
        for name, error in errors.items():
            within = error <= LARGEST_ERRORS[precision]
            bench.check(within, f"{precision}, {name}: the gradient is off by {error:.1%} of its norm")
        usual = median(errors.values())
        bench.check(
            usual <= USUAL_ERRORS[precision], f"{precision}: half of the gradients are off by {usual:.1g}"
        )
        worst = max(errors, key=errors.__getitem__)
        shown.append(f"{precision} {usual:.1g}, at most {errors[worst]:.1g} ({worst})")
    return f"{len(found)} pairs against float64; errors of gradients: {'; '.join(shown)}"


def precisions() -> list[str]:
    """The precisions in which this device can compute."""
    (literal,) = (
        part for part in get_args(Config.model_fields["precision"].annotation) if get_origin(part) is Literal
    )
    found = []
    for name in get_args(literal):
        try:
            if name != "auto":
                check_precision(name, best_device())
                found.append(name)
        except ConfigError as error:
            say(f"left out: {error}")
    return found


def cases(config: Config) -> list[tuple[str, Config]]:
    """Each architecture with each objective that may train it."""
    found = []
    for architecture in ARCHITECTURES:
        model = TypeAdapter(ModelOptions).validate_python(
            {"name": architecture, **SMALL.get(architecture, {})}
        )
        for kind in get_args(get_args(ObjectiveOptions)[0]):
            (objective,) = get_args(kind.model_fields["name"].annotation)
            loss = kind(name=objective, **WELL_POSED.get(objective, {}))
            combined = config.model_copy(update={"model": model, "objective": loss})
            try:
                check_objective(build_objective(combined.objective), combined)
            except ConfigError as error:
                say(f"left out: {architecture} with {objective}: {error}")
                continue
            found.append((f"{architecture}, {objective}", combined))
    return found


def starting_point(config: Config) -> tuple[list[nn.Module], list[Tensor]]:
    """Generator and critic; real images, uniform numbers, and latents for the critic's and the generator's update."""
    torch.manual_seed(0)
    side, latent = SIDES.get(config.model.name, SIDE), config.model.latent
    networks = [build(config.model, side, CHANNELS) for build in (build_generator, build_critic)]
    inputs = [torch.rand(BATCH, CHANNELS, side, side) * 2 - 1, torch.rand(BATCH)]
    return networks, [*inputs, torch.randn(BATCH, latent), torch.randn(BATCH, latent)]


def exact_gradients(config: Config) -> list[Tensor]:
    """What `gradients` returns on the CPU in float64."""
    networks, inputs = starting_point(config)
    exact = [network.double() for network in networks]
    players = [
        Player(network, network, build_optimizer(network, config.critic_optimizer)) for network in exact
    ]
    return gradients(players, config, SingleProcess(), [value.double() for value in inputs])


def gradient_errors(config: Config, runtime: Runtime, exact: list[Tensor]) -> dict[str, float]:
    """The distance of each player's gradient from that in float64, divided by the latter's norm."""
    networks, inputs = starting_point(config)
    if scaler := runtime.scaler_state():
        runtime.restore_scaler({**scaler, "scale": SCALE})
    placed = [runtime.place(network) for network in networks]
    prepared = [
        runtime.prepare(network, build_optimizer(network, config.critic_optimizer)) for network in placed
    ]
    players = [Player(network, *both) for network, both in zip(placed, prepared, strict=True)]
    with runtime.step_arithmetic():
        ours = gradients(players, config, runtime, [value.to(runtime.device) for value in inputs])
    pairs = zip(("critic", "generator"), ours, exact, strict=True)
    return {name: float((own.cpu().double() - true).norm() / true.norm()) for name, own, true in pairs}


def gradients(
    players: list[Player], config: Config, parallel: Parallel, inputs: list[Tensor]
) -> list[Tensor]:
    """The critic's gradient in one update, and then the generator's: each flat, (parameters,)."""
    (generator, critic), (real, uniform, latents, others) = players, inputs
    plan, objective = UpdatePlan(parallel), build_objective(config.objective)
    batch = CriticBatch(real, draw_fakes(generator.module, latents), uniform)
    critic_update(critic, objective, batch, plan)
    of_critic = flat_gradient(critic.module)
    generator_update(generator, critic.module, objective, GeneratorBatch(others, real), plan)
    return [of_critic, flat_gradient(generator.module)]


def flat_gradient(network: nn.Module) -> Tensor:
    """All gradients of a network, one after the other: (parameters,)."""
    return torch.cat([weight.grad.flatten() for weight in network.parameters() if weight.grad is not None])
