"""Starting from saved weights: of a run, of one of its checkpoints, or of a .safetensors file."""

from __future__ import annotations

from pathlib import Path

import safetensors.torch
from safetensors import SafetensorError
from torch import nn

from pipeline.checkpoint import Checkpoint, check_same_tensors, find_defect, newest_valid
from pipeline.errors import CheckpointError, ConfigError
from pipeline.options import InitOptions
from pipeline.state import Tensors

LAYERS = (nn.Linear, nn.modules.conv._ConvNd)


def load_initial_weights(options: InitOptions, generator: nn.Module, critic: nn.Module) -> list[str]:
    """Give the networks the weights that the options name. Returns a line for each network that got some.

    Every tensor must fit, in name, shape and type. Raises CheckpointError, which lists those that do not, or
    ConfigError where a path leads to no weights.
    """
    lines = []
    for group, network, source in (
        ("generator", generator, options.generator),
        ("critic", critic, options.critic),
    ):
        if source is not None:
            path, tensors = read_weights(Path(source), group)
            remedy = (
                f"Name weights of the same networks in init_from.{group}, or set model as it was for these."
            )
            check_same_tensors({group: dict(network.state_dict())}, {group: tensors}, path, remedy)
            network.load_state_dict(tensors)
            count = sum(tensor.numel() for tensor in tensors.values())
            lines.append(f"{group}: all of its {len(tensors)} tensors ({count:,} numbers) from {path}")
    return lines


def read_weights(source: Path, group: str) -> tuple[Path, Tensors]:
    """The file with the tensors of `group` ("generator" or "critic") that `source` leads to, and the tensors.

    Raises ConfigError or CheckpointError.
    """
    option = f"init_from.{group}"
    if (source / "checkpoints").is_dir():
        checkpoint, defects = newest_valid(source / "checkpoints")
        if checkpoint is None:
            found = "; ".join(defects) or "there is none yet"
            raise CheckpointError(f"{option}: {source} holds no usable checkpoint: {found}.")
        return checkpoint.path / f"{group}.safetensors", checkpoint.tensors(group)
    if (source / "manifest.json").is_file() and (source / "state.json").is_file():
        checkpoint = Checkpoint(source, _step_of(source, option))
        if (defect := find_defect(checkpoint)) is not None:
            raise CheckpointError(f"{option}: {defect}. Choose another checkpoint.")
        return source / f"{group}.safetensors", checkpoint.tensors(group)
    if source.is_file():
        try:
            return source, safetensors.torch.load_file(source)
        except (OSError, SafetensorError) as error:
            raise CheckpointError(
                f"{option}: {source} cannot be read as safetensors ({error}). Other formats can run code "
                "when they are read, so they never are: convert it first."
            ) from None
    raise ConfigError(
        f"{option}: {source} is no run, no checkpoint and no file. Give a directory such as runs/mnist, a "
        "checkpoint in it, or a .safetensors file."
    )


def _step_of(path: Path, option: str) -> int:
    _, _, step = path.resolve().name.rpartition("_")
    if not step.isdigit():
        raise ConfigError(f"{option}: {path} is not named like a checkpoint, step_00001000. Rename it back.")
    return int(step)


def freeze_named_layers(options: InitOptions, generator: nn.Module, critic: nn.Module) -> None:
    """Freeze in both networks as many of the first layers as the options say."""
    freeze_first_layers(generator, options.freeze_generator, "init_from.freeze_generator")
    freeze_first_layers(critic, options.freeze_critic, "init_from.freeze_critic")


def freeze_first_layers(network: nn.Module, count: int, option: str) -> None:
    """Let the first `count` linear and convolution layers, and the norms after them, keep their weights.

    Must come before the network is put behind DDP, which settles then what it averages. Raises ConfigError
    where nothing would be left to train.
    """
    if count == 0:
        return
    layers: list[list[nn.Parameter]] = []
    for module in network.modules():
        if isinstance(module, LAYERS):
            layers.append(list(module.parameters()))
        elif layers and not list(module.children()):
            layers[-1] += module.parameters()
    if count >= len(layers):
        raise ConfigError(
            f"{option}: {count} of {len(layers)} layers leaves none to train. Freeze {len(layers) - 1} or fewer."
        )
    for layer in layers[:count]:
        for parameter in layer:
            parameter.requires_grad_(False)
