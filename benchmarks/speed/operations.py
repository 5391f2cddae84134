"""What a step asks of a GPU: operations, exchanges between ranks and reads by the host, counted without one.

    python benchmarks/speed/operations.py --ranks 8

Each preset's step runs on tensors without content (stand_in_gpu.py), in its own sizes. Without a CUDA graph the host
launches every operation, some 5 to 10 microseconds each; with one, it launches the graph and nothing else.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.distributed as dist
from stand_in_gpu import stand_in_gpu
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from pipeline.config import load_config
from pipeline.data.reading.loader import RealBatch, Staged
from pipeline.models import build_critic, build_generator
from pipeline.models.gpu_batch_norm import Gather
from pipeline.models.norms import BatchNorm2d
from pipeline.noise import Draw
from pipeline.objectives import build_objective
from pipeline.options import Config, OptimizerOptions
from pipeline.presets import list_presets
from pipeline.profiling.flops import SingleProcess
from pipeline.ranks.averaging import Exchange
from pipeline.training.schedule import due_penalties
from pipeline.training.state import build_optimizer
from pipeline.training.step import Result, StepInputs, StepParts, take_step
from pipeline.training.updates import Player, UpdatePlan

CLASSES = 10
"""Of the images of all presets that are trained on labels."""
IMAGES = {
    "data/digits": (1, 8),
    "data/mnist": (1, 28),
    "data/cifar10": (3, 32),
    "data/photos": (3, 64),
    "data/faces": (3, 64),
}
"""Channels and side of the images of each preset's shards."""


EXCHANGE = Exchange()


class Averaging(SingleProcess):
    """What a captured step of several ranks does: one exchange for all gradients of an update."""

    def average_gradients(self, wrapped: nn.Module, weights: Sequence[Tensor]) -> None:
        EXCHANGE.average([weight.grad for weight in weights if weight.grad is not None])


@dataclass
class Counts(TorchDispatchMode):
    """The operations that run within this context, by kind."""

    names: list[str] = field(default_factory=list)
    """Operations that launch something, in their order."""
    exchanges: list[int] = field(default_factory=list)
    """For each exchange between ranks, how many tensors the host prepared."""
    reads: list[str] = field(default_factory=list)
    """Operations whose result the host waits for."""
    on_host: list[str] = field(default_factory=list)
    """Operations with a tensor in host memory."""

    def __post_init__(self) -> None:
        super().__init__()

    def __torch_dispatch__(self, operation: Any, types: Any, arguments: Any = (), named: Any = None) -> Any:
        name = str(operation.name())
        tensors = [leaf for leaf in tree_leaves((arguments, named)) if isinstance(leaf, Tensor)]
        if name.startswith("c10d::"):
            self.exchanges.append(len(tensors))
        elif name in ("aten::_local_scalar_dense", "aten::nonzero", "aten::equal"):
            self.reads.append(name)
        elif not operation.is_view:
            self.names.append(name)
        self.on_host += [name for tensor in tensors if tensor.device.type == "cpu"]
        return operation(*arguments, **(named or {}))


def captured_optimizer(network: nn.Module, options: OptimizerOptions) -> torch.optim.Optimizer:
    """A run's optimizer, whose constructor reads the learning rate, for weights without content."""
    real = build_optimizer(nn.Linear(1, 1), options, is_captured=True)
    parameters = list(network.parameters())
    optimizer = type(real)(parameters, **{**real.defaults, "lr": options.lr})
    for group in optimizer.param_groups:
        group["lr"] = torch.zeros((), device=parameters[0].device)
    return optimizer


def captured_step(
    config: Config,
    ranks: int,
    device: torch.device,
    gather: Gather,
    layout: torch.memory_format = torch.channels_last,
) -> Callable[[], Result]:
    """A step of one of several ranks without a burst, as a graph would capture it: with all inputs on the device."""
    channels, side = IMAGES[config.data.shards]
    schedule, model = config.schedule, config.model
    classes = CLASSES if model.conditional else 0

    def labels(count: int) -> Tensor | None:
        return torch.zeros(count, dtype=torch.int64, device=device) if classes else None

    def placed(network: nn.Module) -> nn.Module:
        return network.to(device).to(memory_format=layout)

    def player(network: nn.Module, options: Any) -> Player:
        network = placed(network)
        if ranks > 1:
            for layer in network.modules():
                if isinstance(layer, BatchNorm2d):
                    layer.gather_over_ranks = gather
        return Player(network, network, captured_optimizer(network, options))

    parts = StepParts(
        generator=player(build_generator(model, side, channels, classes), config.generator_optimizer),
        critic=player(build_critic(model, side, channels, classes), config.critic_optimizer),
        objective=build_objective(config.objective),
        plan=UpdatePlan(
            Averaging() if ranks > 1 else SingleProcess(), schedule.micro_batch, schedule.critic_rounds
        ),
        to_batch=lambda staged: RealBatch(staged.content, staged.labels),
        ema=placed(build_generator(model, side, channels, classes)).requires_grad_(False),
    )
    rows, scalar = schedule.real_images // ranks, torch.zeros((), device=device)
    staged = Staged(torch.empty(rows, channels, side, side, device=device), None, labels(rows))
    draw = Draw(torch.empty(rows, model.latent, device=device), torch.empty(rows, device=device))
    latents = torch.empty(schedule.global_batch // ranks, model.latent, device=device)
    of_generator = draw._replace(latents=latents, labels=labels(len(latents)))
    updates = schedule.critic_updates
    penalties = due_penalties(parts.objective.penalties, 1, updates)
    inputs = StepInputs(
        updates, penalties, [staged] * updates, [draw] * updates, of_generator, scalar, scalar, scalar
    )
    return lambda: take_step(parts, inputs)


def count(config: Config, ranks: int, gather: Gather = EXCHANGE.gather) -> Counts:
    """What one ordinary step of a rank asks for, after a first one that makes the optimizers' state.

    With another `gather`, batch norm over ranks is made of small operations.
    """
    with stand_in_gpu(ranks, has_kernels=gather == EXCHANGE.gather) as device:
        step = captured_step(config, ranks, device, gather)
        step()
        with Counts() as counts:
            step()
    return counts


def gather_lists(values: Tensor) -> Tensor:
    """All ranks' values by way of a list of tensors, as gloo does it, and NCCL did before."""
    rows = [torch.empty_like(values) for _ in range(dist.get_world_size())]
    dist.all_gather(rows, values)
    return torch.stack(rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--ranks", type=int, default=8, help="how many ranks besides one (default: 8)")
    ranks = parser.parse_args().ranks
    print(
        f"| preset | operations, 1 rank | {ranks} ranks | by parts | exchanges | by parts | tensors | by parts |"
    )
    print("|---|---:|---:|---:|---:|---:|---:|---:|")
    for preset in list_presets():
        config = load_config(preset.path)
        if config.schedule.real_images % ranks:
            print(f"| {preset.name} | its batch cannot be divided by {ranks} |")
            continue
        alone, kernels, parts = count(config, 1), count(config, ranks), count(config, ranks, gather_lists)
        cells = [
            len(alone.names),
            *(len(found.names) for found in (kernels, parts)),
            *(len(found.exchanges) for found in (kernels, parts)),
            *(sum(found.exchanges) for found in (kernels, parts)),
        ]
        assert not any(found.reads or found.on_host for found in (alone, kernels, parts))
        print(f"| {preset.name} | " + " | ".join(f"{cell:,}" for cell in cells) + " |")


if __name__ == "__main__":
    main()
