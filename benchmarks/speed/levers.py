"""The levers that make a training step faster. Each can be added to a training loop as in a tutorial.

`build_step` returns a step with any combination of them; the pipeline itself has all of them except bf16, which is an
option.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch import Tensor

from pipeline.config import load_config
from pipeline.data.reading.loader import RealBatch, Staged
from pipeline.models import build_critic, build_generator, scattered
from pipeline.noise import Draw
from pipeline.objectives import Scores, as_separable, build_objective
from pipeline.objectives.clipping import weights_in_scope
from pipeline.options import Config
from pipeline.profiling.flops import SingleProcess
from pipeline.ranks.host_memory import keep_freed_memory
from pipeline.training.schedule import due_penalties
from pipeline.training.state import build_optimizer
from pipeline.training.step import StepInputs, StepParts, take_step
from pipeline.training.updates import Player, UpdatePlan

ROOT = Path(__file__).parents[2]

NETWORKS = {
    "R2": ("configs/reference/wgan-digit7.yaml", 28, 1),
    "R3": ("configs/reference/wgan-dcgan.yaml", 28, 1),
    "R4": ("configs/reference/lsgan.yaml", 28, 1),
    "R5": ("configs/reference/gan-bce.yaml", 28, 1),
    "dcgan-28": ("configs/mnist.yaml", 28, 1),
    "dcgan-28-penalty": ("configs/mnist-gp.yaml", 28, 1),
    "resnet-32-penalty": ("configs/reference/wgan-gp-cifar10.yaml", 32, 3),
    "dcgan-64": ("configs/reference/wgan-dcgan64.yaml", 64, 3),
    "dcgan-128": ("configs/reference/wgan-dcgan64.yaml", 128, 3),
}
"""The config, resolution and channels of each measured network."""

LEVERS = ("plain", "foreach", "channels_last", "scattered", "kept memory", "bf16")


def build_step(network: str, levers: Sequence[str], device: torch.device) -> Callable[[], Any]:
    """One whole step of a network, on random images: all critic updates and the generator's.

    `levers` are some of LEVERS; "plain" alone is the loop of a tutorial.
    """
    path, resolution, channels = NETWORKS[network]
    config = load_config(ROOT / path, [])
    pair = build_pair(config, resolution, channels, levers, device)
    batches = draw_batches(config, resolution, channels, device)
    if "kept memory" in levers and not keep_freed_memory():
        raise SystemExit("kept memory: this system's allocator has no such setting. Leave this lever out.")
    if list(levers) == ["plain"]:
        return partial(plain_step, config, *pair, batches)
    return partial(fast_step, config, *pair, batches, "scattered" in levers)


def build_pair(
    config: Config, resolution: int, channels: int, levers: Sequence[str], device: torch.device
) -> tuple[Player, Player]:
    """A generator and a critic, with the same initial weights for all levers."""
    torch.manual_seed(0)
    players = []
    for build, options in (
        (build_generator, config.generator_optimizer),
        (build_critic, config.critic_optimizer),
    ):
        module = build(config.model, resolution, channels).to(device)
        if "channels_last" in levers:
            module = module.to(memory_format=torch.channels_last)
        if "bf16" in levers:
            module.forward = _in_bf16(module.forward, device)  # type: ignore[method-assign]
        optimizer = build_optimizer(module, options)
        if "foreach" not in levers:
            optimizer.param_groups[0]["foreach"] = False
        players.append(Player(module, module, optimizer))
    generator, critic = players
    return generator, critic


Batches = list[tuple[Tensor, Tensor, Tensor]]
"""Real images, latents and uniform numbers of each critic update; the generator's own latents are in the last."""


def draw_batches(config: Config, resolution: int, channels: int, device: torch.device) -> Batches:
    """The inputs of one step, the same each time."""
    source = torch.Generator().manual_seed(1)
    schedule = config.schedule
    counts = [schedule.real_images] * schedule.critic_updates + [schedule.global_batch]
    return [
        (
            (torch.rand(count, channels, resolution, resolution, generator=source) * 2 - 1).to(device),
            torch.randn(count, config.model.latent, generator=source).to(device),
            torch.rand(count, generator=source).to(device),
        )
        for count in counts
    ]


def fast_step(
    config: Config, generator: Player, critic: Player, batches: Batches, has_scattered: bool = True
) -> None:
    """The step of this pipeline, without ranks, noise, data and the moving average."""
    parts = StepParts(
        generator=generator,
        critic=critic,
        objective=build_objective(config.objective),
        plan=UpdatePlan(SingleProcess(), rounds=config.schedule.critic_rounds),
        to_batch=lambda staged: RealBatch(staged.content, staged.labels),
    )
    *critic_batches, (_, latents, uniform) = batches
    draws = [Draw(latents, uniform) for _, latents, uniform in critic_batches]
    inputs = StepInputs(
        updates=len(critic_batches),
        penalties=due_penalties(parts.objective.penalties, 1, len(critic_batches)),
        batches=[Staged(real, None) for real, _, _ in critic_batches],
        draws=draws,
        generator_draw=draws[-1] if config.schedule.reuse_fakes else Draw(latents, uniform),
        critic_lr=config.critic_optimizer.lr,
        generator_lr=config.generator_optimizer.lr,
        ema_weight=0.0,
    )
    with (
        nullcontext()
        if has_scattered
        else mock.patch.object(scattered, "_is_faster_scattered", return_value=False)
    ):
        take_step(parts, inputs)


def plain_step(config: Config, generator: Player, critic: Player, batches: Batches) -> None:
    """The same step as a tutorial writes it: layer by layer, weight by weight."""
    objective = build_objective(config.objective)
    with mock.patch.object(scattered, "_is_faster_scattered", return_value=False):
        for real, latents, uniform in batches[:-1]:
            with torch.no_grad():
                fake = generator.module(latents)
            if config.schedule.critic_rounds == "alternating":
                separable = as_separable(objective)
                _plain_update(critic, config, separable.real_loss(critic.module(real)))
                _plain_update(critic, config, separable.fake_loss(critic.module(fake)))
                continue
            loss = objective.critic_loss(Scores(critic.module(real), critic.module(fake)))
            for penalty in objective.penalties:
                loss = loss + penalty(critic.module, real, fake, uniform)
            _plain_update(critic, config, loss)
        _, latents, _ = batches[-2] if config.schedule.reuse_fakes else batches[-1]
        generator.optimizer.zero_grad()
        scores = Scores(torch.empty(0), critic.module(generator.module(latents)))
        objective.generator_loss(scores).backward()
        generator.optimizer.step()


def _plain_update(critic: Player, config: Config, loss: Tensor) -> None:
    critic.optimizer.zero_grad()
    loss.backward()
    critic.optimizer.step()
    if config.objective.name == "wasserstein":
        for parameter in weights_in_scope(critic.module, config.objective.scope):
            parameter.data.clamp_(-config.objective.clip, config.objective.clip)


def _in_bf16(forward: Callable[..., Tensor], device: torch.device) -> Callable[..., Tensor]:
    """Wrap a network as Accelerate does: bf16 inside, float32 outside."""

    def run(*inputs: Any, **options: Any) -> Tensor:
        with torch.autocast(device.type, torch.bfloat16):
            return forward(*inputs, **options).float()

    return run
