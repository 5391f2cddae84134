"""Fine-tuning: start from the weights of a run, a checkpoint or a .safetensors file, and freeze first layers."""

from __future__ import annotations

from pathlib import Path

from torch import nn

from pipeline.errors import CheckpointError, ConfigError
from pipeline.options import InitOptions
from pipeline.run.checkpoint import Say, check_same_tensors
from pipeline.run.generator import FORMAT, checkpoint_of, read_safetensors
from pipeline.run.tensor_files import Tensors
from pipeline.stderr import say_warning

LAYERS = (nn.Linear, nn.modules.conv._ConvNd)


def load_initial_weights(
    options: InitOptions, generator: nn.Module, critic: nn.Module, say: Say = say_warning
) -> list[str]:
    """Load the weights that the options name. Returns a line of text for each network that got some.

    Says so if they are not those of the newest checkpoint, because it is damaged.

    Every tensor must match in name, shape and type. Raises CheckpointError that lists those that do not, or
    ConfigError if a path has no weights.
    """
    lines = []
    for group, network, source in (
        ("generator", generator, options.generator),
        ("critic", critic, options.critic),
    ):
        if source is not None:
            path, tensors = read_weights(Path(source), group, say)
            remedy = f"Name weights of the same networks in init_from.{group}, or set model to the options of these."
            check_same_tensors({group: dict(network.state_dict())}, {group: tensors}, path, remedy)
            network.load_state_dict(tensors)
            count = sum(tensor.numel() for tensor in tensors.values())
            lines.append(f"{group}: all of its {len(tensors)} tensors ({count:,} numbers) from {path}")
    return lines


def read_weights(source: Path, group: str, say: Say = say_warning) -> tuple[Path, Tensors]:
    """Read the tensors of `group` ("generator" or "critic") at `source`. Returns their file and the tensors.

    Raises ConfigError or CheckpointError.
    """
    try:
        return _read_weights(source, group, say)
    except (ConfigError, CheckpointError) as error:
        raise type(error)(f"init_from.{group}: {error}") from None


def _read_weights(source: Path, group: str, say: Say) -> tuple[Path, Tensors]:
    if (checkpoint := checkpoint_of(source, say)) is not None:
        return checkpoint.path / f"{group}.safetensors", checkpoint.tensors(group)
    if not source.is_file():
        raise ConfigError(
            f"{source} is not a run directory, a checkpoint or a file. Give a directory such as runs/mnist, a "
            "checkpoint in it, or a .safetensors file."
        )
    tensors, metadata = read_safetensors(source)
    if group == "critic" and metadata.get("format") == FORMAT:
        raise CheckpointError(f"{source} is an exported generator, which has no critic. Name the run itself.")
    return source, tensors


def freeze_named_layers(options: InitOptions, generator: nn.Module, critic: nn.Module) -> None:
    """Freeze as many of the first layers of each network as the options say."""
    freeze_first_layers(generator, options.freeze_generator, "init_from.freeze_generator")
    freeze_first_layers(critic, options.freeze_critic, "init_from.freeze_critic")


def freeze_first_layers(network: nn.Module, count: int, option: str) -> None:
    """Freeze the first `count` linear and convolution layers, and the norms after them.

    Call it before the network is wrapped in DDP, which decides then which gradients it averages. Raises ConfigError
    if no layer would be left to train.
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
            f"{option}: {count} of {len(layers)} layers leaves no layer to train. Freeze {len(layers) - 1} or fewer."
        )
    for layer in layers[:count]:
        for parameter in layer:
            parameter.requires_grad_(False)
