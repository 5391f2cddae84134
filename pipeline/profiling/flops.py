"""The floating-point operations (FLOPs) of a step, and the highest rate that this machine reaches.

A multiplication and an addition count as two operations. Matrix products and convolutions are counted, forward and
backward; elementwise operations are not.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from pipeline.data.reading.loader import RealBatch, Staged
from pipeline.models import build_critic, build_generator
from pipeline.models.class_inputs import given
from pipeline.models.sides import Resolution
from pipeline.noise import Draw
from pipeline.objectives import build_objective
from pipeline.option_types import sides_of
from pipeline.options import Config
from pipeline.ranks.devices import milliseconds_between, record_moment, synchronize
from pipeline.training.schedule import due_penalties
from pipeline.training.step import StepInputs, StepParts, train_critic, train_generator
from pipeline.training.updates import Player, UpdatePlan, draw_fakes

DTYPES = {"float32": torch.float32, "tf32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
MATRIX_SIZES = {"cpu": (256, 512, 1024, 2048, 4096), "cuda": (1024, 2048, 4096, 8192, 16_384)}
CONVOLUTION_BATCHES = {"cpu": (1, 4, 16, 64, 256), "cuda": (16, 64, 256, 1024, 4096)}
"""By kind of device. GPUs reach their best rate only in large problems."""
CHANNELS, SIDE = 128, 32
REPEATS = 5
LONGEST_SECONDS = 1.0
"""Larger problems are skipped if all their repetitions together would take longer than this."""


class SingleProcess:
    """A `Parallel` for a single process in float32, which leaves gradients unchanged."""

    def backward(self, loss: Tensor, weights: Sequence[Tensor]) -> None:
        loss.backward(inputs=weights)  # type: ignore[no-untyped-call]

    def no_sync(self, module: nn.Module) -> AbstractContextManager[Any]:
        return nullcontext()

    def average_gradients(self, wrapped: nn.Module, weights: Sequence[Tensor]) -> None:
        pass

    def unscale(self, optimizer: torch.optim.Optimizer) -> None:
        pass


def step_flops(config: Config, resolution: Resolution, channels: int, classes: int = 0) -> dict[str, int]:
    """FLOPs of a step without a burst, over all ranks: of its "fakes", "critic updates" and "generator update".

    The real step is run on fake tensors, which have no storage. Raises ConfigError if the architecture has no network
    for the resolution.
    """
    schedule = config.schedule
    with FakeTensorMode():
        generator, critic = (
            # The run's optimizer does not support fake tensors, and elementwise operations are not counted anyway.
            Player(network, network, torch.optim.SGD(network.parameters()))
            for network in (
                build_generator(config.model, resolution, channels, classes),
                build_critic(config.model, resolution, channels, classes),
            )
        )
        parts = StepParts(
            generator=generator,
            critic=critic,
            objective=build_objective(config.objective),
            plan=UpdatePlan(SingleProcess(), rounds=schedule.critic_rounds),
            to_batch=lambda staged: RealBatch(staged.content, staged.labels),
        )
        inputs = _ordinary_inputs(config, resolution, channels, classes)
        latents, labels = (
            torch.empty(schedule.real_images, config.model.latent),
            _labels(schedule.real_images, classes),
        )
        fakes = schedule.critic_updates * count_flops(lambda: draw_fakes(generator.module, latents, labels))
        with FlopCount() as critic_count:
            _, seen = train_critic(parts, inputs)
        generator_flops = count_flops(lambda: train_generator(parts, inputs, seen))
    return {
        "fakes": fakes,
        "critic updates": critic_count.flops - fakes,
        "generator update": generator_flops,
    }


def _labels(count: int, classes: int) -> Tensor | None:
    return torch.zeros(count, dtype=torch.int64) if classes else None


def _ordinary_inputs(config: Config, resolution: Resolution, channels: int, classes: int) -> StepInputs:
    """Inputs with the shapes of a step without a burst. Real images are already floats."""
    schedule, latent = config.schedule, config.model.latent
    rows, updates = schedule.real_images, schedule.critic_updates
    staged = Staged(torch.empty(rows, channels, *sides_of(resolution)), None, _labels(rows, classes))
    draw = Draw(torch.empty(rows, latent), torch.empty(rows))
    batch = schedule.global_batch
    of_generator = Draw(torch.empty(batch, latent), torch.empty(batch), labels=_labels(batch, classes))
    return StepInputs(
        updates=updates,
        # Not from update 0, which has all penalties, also those of which most steps have none.
        penalties=due_penalties(build_objective(config.objective).penalties, 1, updates),
        batches=[staged] * updates,
        draws=[draw] * updates,
        generator_draw=draw if schedule.reuse_fakes else of_generator,
        critic_lr=config.critic_optimizer.lr,
        generator_lr=config.generator_optimizer.lr,
        ema_weight=0.0,
    )


def forward_flops(config: Config, resolution: Resolution, channels: int, classes: int = 0) -> dict[str, int]:
    """FLOPs of each network's forward pass for one image. Raises ConfigError like `step_flops`."""
    with FakeTensorMode(), torch.no_grad():
        generator = build_generator(config.model, resolution, channels, classes)
        critic = build_critic(config.model, resolution, channels, classes)
        latents, images = (
            torch.empty(1, config.model.latent),
            torch.empty(1, channels, *sides_of(resolution)),
        )
        return {
            "generator": count_flops(lambda: given(generator, _labels(1, classes))(latents)),
            "critic": count_flops(lambda: given(critic, _labels(1, classes))(images)),
        }


class FlopCount(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """A context in which `flops` adds up the FLOPs of every matrix product and convolution.

    Unlike torch's FlopCounterMode it does not assign operations to modules, which fails in a double backward pass.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.flops: int = 0

    def __torch_dispatch__(self, operator: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        result = operator(*args, **kwargs)
        if (formula := flop_registry.get(operator.overloadpacket)) is not None:
            self.flops += formula(*args, **kwargs, out_val=result)
        return result


def count_flops(run: Callable[[], object]) -> int:
    """The FLOPs of one call of `run`."""
    count = FlopCount()
    with count:
        run()
    return count.flops


def measure_rates(device: torch.device, precision: str) -> dict[str, float]:
    """The highest FLOP/s of this process in "matrix products", and in 3x3 "convolutions" with 128 channels.

    It uses torch's current number of threads and takes at most a few seconds.
    """
    dtype = DTYPES[precision]

    def product(size: int) -> tuple[Callable[[], Tensor], float]:
        left, right = (torch.full((size, size), 0.5, dtype=dtype, device=device) for _ in range(2))
        return lambda: torch.mm(left, right), 2.0 * size**3

    def convolution(batch: int) -> tuple[Callable[[], Tensor], float]:
        images = torch.full((batch, CHANNELS, SIDE, SIDE), 0.5, dtype=dtype, device=device)
        kernel = torch.full((CHANNELS, CHANNELS, 3, 3), 0.5, dtype=dtype, device=device)
        images, kernel = (tensor.contiguous(memory_format=torch.channels_last) for tensor in (images, kernel))
        return lambda: F.conv2d(images, kernel, padding=1), 2.0 * batch * SIDE**2 * CHANNELS**2 * 9

    return {
        "matrix products": _best_rate(product, MATRIX_SIZES[device.type], device),
        "convolutions": _best_rate(convolution, CONVOLUTION_BATCHES[device.type], device),
    }


@torch.no_grad()
def _best_rate(
    problem: Callable[[int], tuple[Callable[[], Tensor], float]], sizes: Sequence[int], device: torch.device
) -> float:
    best, seconds_per_flop = 0.0, 0.0
    for size in sizes:
        run, flops = problem(size)
        if seconds_per_flop * flops * (REPEATS + 1) > LONGEST_SECONDS:
            break
        _seconds(run, device)  # the first call chooses kernels and fills caches
        seconds_per_flop = median(_seconds(run, device) for _ in range(REPEATS)) / flops
        best = max(best, 1 / seconds_per_flop)
    return best


def _seconds(run: Callable[[], Tensor], device: torch.device) -> float:
    synchronize(device)
    started = record_moment(device)
    run()
    return 1e-3 * milliseconds_between(started, record_moment(device))
