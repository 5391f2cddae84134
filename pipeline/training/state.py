"""Everything that changes while a run trains, under names that checkpoints and digests share."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from pipeline.noise import Noise, Purpose
from pipeline.options import OptimizerOptions
from pipeline.run.tensor_files import Tensors
from pipeline.training.augmentation import Augmentation
from pipeline.training.updates import Player


@dataclass
class Counters:
    """How far the run has come: `step` generator updates done, and `position` real samples used."""

    step: int = 0
    position: int = 0


@dataclass
class TrainingState:
    """The networks, their optimizers, the generator's average and the counters."""

    generator: Player
    critic: Player
    ema: nn.Module
    counters: Counters = field(default_factory=Counters)
    augmentation: Augmentation | None = None

    def named_tensors(self) -> dict[str, Tensors]:
        """Every tensor that the next steps depend on, in groups: the live tensors, not copies."""
        groups = {
            "generator": dict(self.generator.module.state_dict()),
            "critic": dict(self.critic.module.state_dict()),
            "ema": dict(self.ema.state_dict()),
            "generator_optimizer": optimizer_tensors(self.generator),
            "critic_optimizer": optimizer_tensors(self.critic),
        }
        if self.augmentation is not None and self.augmentation.is_adapted:
            groups["augmentation"] = {"probability": self.augmentation.probability}
        return groups

    def flat_tensors(self) -> Tensors:
        """The same tensors under names such as "critic/score.weight"."""
        groups = self.named_tensors()
        return {
            f"{group}/{name}": value for group, tensors in groups.items() for name, value in tensors.items()
        }

    def load_tensors(self, groups: dict[str, Tensors]) -> None:
        """Copy the values of these groups, which have the names and shapes of `named_tensors`."""
        self.generator.module.load_state_dict(groups["generator"])
        self.critic.module.load_state_dict(groups["critic"])
        self.ema.load_state_dict(groups["ema"])
        load_optimizer_tensors(self.generator, groups["generator_optimizer"])
        load_optimizer_tensors(self.critic, groups["critic_optimizer"])
        if self.augmentation is not None and self.augmentation.is_adapted:
            self.augmentation.probability.copy_(groups["augmentation"]["probability"])


def build_optimizer(
    module: nn.Module, options: OptimizerOptions, is_captured: bool = False
) -> torch.optim.Optimizer:
    """The optimizer that the options name, over all of the module's parameters.

    If its steps are captured in a CUDA graph (`is_captured`), everything that changes is on the device, the learning
    rate included.
    """
    parameters = list(module.parameters())
    lr = torch.tensor(options.lr, device=parameters[0].device) if is_captured else options.lr
    if options.name == "rmsprop":
        return torch.optim.RMSprop(
            parameters, lr=lr, alpha=options.alpha, eps=options.eps, foreach=True, capturable=is_captured
        )
    return torch.optim.Adam(
        parameters,
        lr=lr,
        betas=(options.beta1, options.beta2),
        eps=options.eps,
        amsgrad=options.amsgrad,
        fused=True,
        capturable=is_captured,
    )


def set_learning_rate(player: Player, rate: float | Tensor) -> None:
    """Set the learning rate of the next optimizer steps (0-d on the optimizer's device in a captured step)."""
    for group in player.optimizer.param_groups:
        if not isinstance(group["lr"], Tensor):
            group["lr"] = rate
        elif isinstance(rate, Tensor):
            group["lr"].copy_(rate)
        else:
            group["lr"].fill_(rate)


def optimizer_tensors(player: Player) -> Tensors:
    """The optimizer's state as "PARAMETER/KEY", for example "score.weight/square_avg"."""
    states = player.optimizer.state
    return {
        f"{name}/{key}": value
        for name, parameter in player.module.named_parameters()
        for key, value in states.get(parameter, {}).items()
    }


def load_optimizer_tensors(player: Player, tensors: Tensors) -> None:
    """Copy the state saved under each parameter's name, in place."""
    parameters = dict(player.module.named_parameters())
    for path, value in tensors.items():
        name, _, key = path.rpartition("/")
        parameter = parameters[name]
        # In place: fused optimizers need the memory layout of the weights, and a CUDA graph needs the address.
        player.optimizer.state[parameter][key].copy_(value)


def seed_weights(noise: Noise) -> None:
    """Make the weights that are initialised next depend only on the run's seed."""
    torch.manual_seed(noise.seeded(Purpose.WEIGHTS).initial_seed())
