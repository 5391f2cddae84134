"""Fine-tuning: start from the weights of a run, a checkpoint or a .safetensors file, and freeze first layers."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from torch import Tensor, nn

from pipeline.errors import CheckpointError, ConfigError
from pipeline.options import InitOptions
from pipeline.run.added_classes import AddedClasses, add_classes
from pipeline.run.checkpoint import Say, check_same_tensors
from pipeline.run.generator import FORMAT, checkpoint_of, read_card, read_safetensors
from pipeline.run.saved_state import ImageShape
from pipeline.run.tensor_files import Tensors
from pipeline.stderr import say_warning
from pipeline.wording import counted

LAYERS = (nn.Linear, nn.modules.conv._ConvNd)
MOST_NAMES = 8


class SavedWeights(NamedTuple):
    """The weights of one network as they were saved."""

    path: Path
    tensors: Tensors
    images: ImageShape | None
    """Those that the network is made for; None if the file does not say it."""


def load_initial_weights(
    options: InitOptions, generator: nn.Module, critic: nn.Module, images: ImageShape, say: Say = say_warning
) -> list[str]:
    """Load the weights that the options name. Returns a line of text for each network that got some.

    `images` are those of this run. Says so if the weights are not those of the newest checkpoint, because it is
    damaged. Every tensor must match in name, shape and type, unless `options.strict` is false; but a network with
    classes may start from one of the same options without (`add_classes`). Raises CheckpointError
    that lists those that do not, or ConfigError if a path has no weights.
    """
    lines = []
    for group, network, source, frozen in (
        ("generator", generator, options.generator, options.freeze_generator),
        ("critic", critic, options.critic, options.freeze_critic),
    ):
        if source is None:
            continue
        saved = read_weights(Path(source), group, say)
        added = add_classes(network, saved.tensors)
        if added is not None:
            _refuse_frozen_classes(group, network, added, frozen)
        if options.strict:
            line = _load_all(group, network, saved, images, added)
        else:
            fitting = saved if added is None else saved._replace(tensors=added.tensors)
            line = _load_fitting(group, network, fitting, frozen)
        lines.append(f"{group}: {line}")
    return lines


def _of_classes(added: AddedClasses) -> str:
    """What becomes of weights of a network that knew no classes."""
    known = f"; they know no classes, so these start anew: {_listed([*added.new])}"
    return (
        f"{known}; and in {_listed(added.widened)} the vectors of classes count 0" if added.widened else known
    )


def _refuse_frozen_classes(group: str, network: nn.Module, added: AddedClasses, frozen: int) -> None:
    """Raise ConfigError if what classes need would be frozen before it has learned anything of them."""
    option = f"init_from.freeze_{group}"
    layers = first_layers(network, frozen, option)
    if found := [name for name in layers if name in added.new or name in added.widened]:
        raise ConfigError(
            f"{option}: {_listed(found)} of the first {counted(frozen, 'layer')} would be frozen, and the weights that "
            f"init_from.{group} names know no classes. Set it to 0, or train without it first."
        )


def _load_all(
    group: str, network: nn.Module, saved: SavedWeights, images: ImageShape, added: AddedClasses | None
) -> str:
    path, tensors, theirs = saved
    found = tensors if added is None else {**added.new, **added.tensors}
    remedy = (
        f"Name weights of the same networks in init_from.{group}, set model to the options of these, or load only the "
        "tensors that fit with init_from.strict=false."
    )
    try:
        check_same_tensors({group: dict(network.state_dict())}, {group: found}, path, remedy)
    except CheckpointError as error:
        if theirs in (None, images):
            raise
        raise error.after(
            f"init_from.{group}: these weights are for images of {_size(theirs)} (channels x height x width), and this "
            f"run has images of {_size(images)}. "
        ) from None
    network.load_state_dict(found)
    loaded = f"{len(tensors)} tensors ({_numbers(tensors.values()):,} numbers) from {path}"
    return f"all of its {loaded}" if added is None else f"{loaded}{_of_classes(added)}"


def _load_fitting(group: str, network: nn.Module, saved: SavedWeights, frozen: int) -> str:
    """Load the tensors that fit, and leave the others of the network as they were drawn."""
    ours = network.state_dict()
    fitting = {
        name: tensor
        for name, tensor in saved.tensors.items()
        if name in ours and (tensor.shape, tensor.dtype) == (ours[name].shape, ours[name].dtype)
    }
    if not fitting:
        raise CheckpointError(
            f"init_from.{group}: none of the {len(saved.tensors)} tensors of {saved.path} has the name, shape and type "
            f"of one of this {group}'s. Name weights of similar networks, or leave init_from.{group} out."
        )
    option = f"init_from.freeze_{group}"
    if random := [name for name in first_layers(network, frozen, option) if name not in fitting]:
        raise CheckpointError(
            f"{option}: {_listed(random)} of the first {counted(frozen, 'layer')} would be frozen with random values, "
            f"because {saved.path} has no such tensor that fits. Freeze fewer layers."
        )
    network.load_state_dict(fitting, strict=False)
    start = (
        f"{len(fitting)} of its {counted(len(ours), 'tensor')} ({_numbers(fitting.values()):,} of "
        f"{_numbers(ours.values()):,} numbers) from {saved.path}"
    )
    others = [name for name in ours if name not in fitting]
    return f"{start}; the others start at random: {_listed(others)}" if others else start


def _numbers(tensors: Iterable[Tensor]) -> int:
    return sum(tensor.numel() for tensor in tensors)


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - MOST_NAMES} more" if len(names) > MOST_NAMES else ""
    return ", ".join(names[:MOST_NAMES]) + more


def _size(images: ImageShape | None) -> str:
    return " x ".join(map(str, images or ()))


def read_weights(source: Path, group: str, say: Say = say_warning) -> SavedWeights:
    """Read the weights of `group` ("generator" or "critic") at `source`. Raises ConfigError or CheckpointError."""
    try:
        return _read_weights(source, group, say)
    except (ConfigError, CheckpointError) as error:
        raise error.after(f"init_from.{group}: ") from None


def _read_weights(source: Path, group: str, say: Say) -> SavedWeights:
    if (checkpoint := checkpoint_of(source, say)) is not None:
        path = checkpoint.path / f"{group}.safetensors"
        return SavedWeights(path, checkpoint.tensors(group), checkpoint.facts().identity.images)
    if not source.is_file():
        raise ConfigError(
            f"{source} is not a run directory, a checkpoint or a file. Give a directory such as runs/mnist, a "
            "checkpoint in it, or a .safetensors file."
        )
    tensors, metadata = read_safetensors(source)
    is_exported = metadata.get("format") == FORMAT
    if group == "critic" and is_exported:
        raise CheckpointError(f"{source} is an exported generator, which has no critic. Name the run itself.")
    return SavedWeights(source, tensors, read_card(source, metadata).image_shape if is_exported else None)


def freeze_named_layers(options: InitOptions, generator: nn.Module, critic: nn.Module) -> None:
    """Freeze as many of the first layers of each network as the options say."""
    freeze_first_layers(generator, options.freeze_generator, "init_from.freeze_generator")
    freeze_first_layers(critic, options.freeze_critic, "init_from.freeze_critic")


def freeze_first_layers(network: nn.Module, count: int, option: str) -> None:
    """Freeze the first `count` linear and convolution layers, and the norms after them.

    Call it before the network is wrapped in DDP, which decides then which gradients it averages. Raises ConfigError
    if no layer would be left to train.
    """
    for parameter in first_layers(network, count, option).values():
        parameter.requires_grad_(False)


def first_layers(network: nn.Module, count: int, option: str) -> dict[str, nn.Parameter]:
    """The parameters by name of the first `count` linear and convolution layers, and of the norms after them.

    Raises ConfigError, which names the option, if these are all layers.
    """
    if count == 0:
        return {}
    layers: list[dict[str, nn.Parameter]] = []
    for path, module in network.named_modules():
        own = {f"{path}.{name}".lstrip("."): parameter for name, parameter in module.named_parameters()}
        if isinstance(module, LAYERS):
            layers.append(own)
        elif layers and not list(module.children()):
            layers[-1] |= own
    if count >= len(layers):
        raise ConfigError(
            f"{option}: {count} of {len(layers)} layers leaves no layer to train. Freeze {len(layers) - 1} or fewer."
        )
    return {name: parameter for layer in layers[:count] for name, parameter in layer.items()}
