"""Weights of networks that know no classes, as a start for networks of the same options that do.

The conditional network has all tensors of the other one, some under another name, and further ones for its classes.
"""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor, nn

from pipeline.models.class_inputs import ClassLatents, ClassNorm
from pipeline.models.critic import Score
from pipeline.run.tensor_files import Tensors


class AddedClasses(NamedTuple):
    """Weights for a network with classes."""

    tensors: dict[str, Tensor]
    """Those that were saved, by their names in the network with classes."""
    new: dict[str, Tensor]
    """Those of the classes, as the network was drawn."""
    widened: list[str]
    """Names of tensors that also take vectors of classes, which count nothing at the start."""


def add_classes(network: nn.Module, saved: Tensors) -> AddedClasses | None:
    """What a network with classes takes from the weights of one without; None unless it has classes, and they do not.

    A generator with these weights makes the images of the one without classes, whatever the label: gains are 1, shifts
    0, and the first layer multiplies the vectors of classes by 0. The critic's scores of classes start as drawn.
    """
    ours = network.state_dict()
    renamed, new = _parts_of_classes(network, ours)
    if not new or not new.keys().isdisjoint(saved):
        return None
    tensors = {renamed.get(name, name): tensor for name, tensor in saved.items()}
    latent = _latent(network)
    widened = [
        name for name, tensor in tensors.items() if name in ours and _is_widened(tensor, ours[name], latent)
    ]
    for name in widened:
        wide = ours[name].new_zeros(ours[name].shape)
        wide[:, :latent] = tensors[name]
        tensors[name] = wide
    return AddedClasses(tensors, new, widened)


def _parts_of_classes(network: nn.Module, ours: Tensors) -> tuple[dict[str, str], dict[str, Tensor]]:
    """The names of norms without and with classes, and the tensors that only networks with classes have."""
    renamed: dict[str, str] = {}
    new: dict[str, Tensor] = {}
    for path, module in network.named_modules():
        before = f"{path}." if path else ""
        if isinstance(module, ClassNorm):
            inner = module.norm.state_dict()
            renamed |= {f"{before}{name}": f"{before}norm.{name}" for name in inner}
            parts = ["gains.", "shifts."]
        elif isinstance(module, ClassLatents):
            parts = ["vectors."]
        elif isinstance(module, Score):
            parts = ["of_class."]
        else:
            continue
        starts = tuple(before + part for part in parts)
        new |= {name: tensor for name, tensor in ours.items() if name.startswith(starts)}
    return renamed, new


def _latent(network: nn.Module) -> int:
    """Dimensions of a latent; 0 if the network takes none."""
    found = [module.vectors for module in network.modules() if isinstance(module, ClassLatents)]
    return found[0].embedding_dim if found and found[0] is not None else 0


def _is_widened(saved: Tensor, ours: Tensor, latent: int) -> bool:
    """Whether a layer takes latents alone, and here also vectors of classes, which are as long."""
    return saved.ndim == ours.ndim == 2 and (
        (len(saved), saved.shape[1], ours.shape[1]) == (len(ours), latent, 2 * latent)
    )
