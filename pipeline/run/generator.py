"""Loads trained generators from a run, one of its checkpoints or an exported .safetensors file, and saves them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Self

import safetensors.torch
import torch
from pydantic import ConfigDict, Field, TypeAdapter, ValidationError, model_validator
from torch import Tensor, nn

from pipeline import stopping
from pipeline.config import load_config, nested
from pipeline.documents import Document, Many, describe_mistakes, parse_json
from pipeline.durable import make_directory, replacing, storage_errors, write_text
from pipeline.errors import CheckpointError, ConfigError
from pipeline.exact_arithmetic import exact_arithmetic
from pipeline.models import build_generator
from pipeline.models.class_inputs import given, needed
from pipeline.option_plugins import SavedModelOptions
from pipeline.options import Config, ModelOptions
from pipeline.ranks.devices import best_device
from pipeline.run.checkpoint import (
    Checkpoint,
    Say,
    check_same_tensors,
    find_defect,
    list_checkpoints,
    newest_usable,
)
from pipeline.run.class_choice import NO_CLASSES, labels_in_turn, places_of
from pipeline.run.directory import RunDirectory, open_directory
from pipeline.run.latents import check_count, check_seed, check_truncation, latent_batches
from pipeline.run.saved_state import ImageShape, Step
from pipeline.run.tensor_files import TensorFile, Tensors, read_tensors
from pipeline.stderr import say_warning

FORMAT: Literal["wgan-generator/1"] = "wgan-generator/1"


def inputs_of(classes: Sequence[str]) -> list[str]:
    """The names of what a generator of these classes takes."""
    return ["latents", "labels"] if classes else ["latents"]


class Card(Document):
    """Describes a generator and its origin, with everything needed to build it again."""

    model_config = ConfigDict(extra="forbid")

    format: Literal["wgan-generator/1"]
    run: str
    """The run's name."""
    step: Step
    weights: Literal["ema", "generator"]
    """The moving average of the weights, or the last ones."""
    model: SavedModelOptions
    latent: int
    """Dimensions of a latent, which is drawn from N(0, 1)."""
    image_shape: ImageShape
    classes: Many[str] = Field(default=[])
    """The names of the classes that it makes images of, in the order of their labels; none if it takes no labels."""
    inputs: Many[str] = Field(default_factory=lambda known: inputs_of(known.get("classes", [])))
    """The names of what it takes, in their order: latents, float32 (batch, latent), and with classes labels, int64
    (batch,)."""
    value_range: tuple[float, float] = (-1.0, 1.0)
    manifest: str
    """SHA-256 of the manifest of the shards that it was trained on."""
    training: dict[str, Any]
    """The other options that it was trained with, as section.option."""

    @model_validator(mode="after")
    def _agrees_with_itself(self) -> Self:
        if self.latent != self.model.latent:
            raise ValueError(f"latent {self.latent}, but model.latent {self.model.latent}")
        if self.inputs != inputs_of(self.classes):
            raise ValueError(f"{len(self.classes)} classes, but inputs {', '.join(self.inputs)}")
        if bool(self.classes) != self.model.conditional:
            raise ValueError(f"{len(self.classes)} classes, but model.conditional {self.model.conditional}")
        return self


class TrainedGenerator(nn.Module):
    """A generator with trained weights in evaluation mode, and its card.

    Called on latents, float32 (count, latent), and if it has classes on labels, int64 (count,), it returns images,
    float32 (count, channels, height, width) in [-1, 1], that can be differentiated.
    """

    def __init__(self, network: nn.Module, card: Card) -> None:
        super().__init__()
        self.network = network.eval()
        self.card = card

    @property
    def latent(self) -> int:
        """Dimensions of a latent."""
        return self.card.latent

    @property
    def classes(self) -> list[str]:
        """The names of the classes that it makes images of, in the order of their labels; none without labels."""
        return self.card.classes

    def forward(self, latents: Tensor, labels: Tensor | None = None) -> Tensor:
        return given(self.network, self._checked(labels))(latents)

    def draw(self, latents: Tensor, labels: Tensor | None = None) -> Tensor:
        """Images of latents (count, latent) on any device, without gradients, on the generator's device.

        labels: int64 (count,), the places of the images' classes in `classes`; or float32 (count, classes), their
        shares in images between classes. Raises ConfigError if there are none, and the generator has classes, or the
        other way round.
        """
        device = next(self.parameters()).device
        labels = self._checked(labels)
        return generate(self.network, latents.to(device), None if labels is None else labels.to(device))

    def _checked(self, labels: Tensor | None) -> Tensor | None:
        if self.classes:
            return needed(labels)
        if labels is not None:
            raise ConfigError(f"A generator was given labels. {NO_CLASSES}")
        return None

    def sample(
        self,
        count: int,
        seed: int = 0,
        truncation: float | None = None,
        classes: Sequence[str | int] = (),
    ) -> Tensor:
        """Images of random latents: float32 (count, channels, height, width) in [-1, 1], on the generator's device.

        With classes, images are of these in turn, by name or number, or of all. `wgan sample` draws the same images
        with the same seed, truncation and classes. Raises ConfigError if an argument is out of range or unknown.
        """
        check_count(count)
        check_seed(seed)
        check_truncation(truncation)
        latents = torch.cat([*latent_batches(self.latent, count, seed, truncation)])
        return self.draw(latents, labels_in_turn(places_of(self.classes, classes), count))


Which = int | Literal["best"] | None
"""One of a run's checkpoints: its step, "best" for the one that quality.keep_best keeps, or None for the newest."""


def read_generator(path: Path, which: Which = None, use_ema: bool = True) -> TrainedGenerator:
    """The generator of a run (`which` of its checkpoints), of a checkpoint, or of an exported file.

    It is float32 and on a GPU if there is one. Raises ConfigError if the path has no generator or not the one that
    the arguments ask for, CheckpointError if it is damaged.
    """
    if which is not None and (path.is_file() or _is_checkpoint(path)):
        raise ConfigError(
            f"{path} is not a run directory, so there is no checkpoint {which} to choose. Name the run, or leave the "
            "checkpoint out."
        )
    if path.is_file():
        generator = read_exported(path)
        if generator.card.weights == "ema" and not use_ema:
            raise ConfigError(
                f"{path} has only the moving average of the weights, and not the last ones. Export the run again with "
                "`wgan export --no-ema`, or use the average."
            )
    elif _is_checkpoint(path):
        generator = _of_checkpoint(_open_checkpoint(path), use_ema)
    else:
        config, checkpoint = open_run(path, which)
        network = _network(config.model, checkpoint, use_ema)
        generator = TrainedGenerator(network, _card(config.name, config.model, checkpoint, use_ema))
    return generator.to(best_device())


def default_directory(path: Path) -> Path:
    """Where pictures of this generator are written by default: the run's samples/, or next to an exported file.

    Raises StorageError if a link is in the place of samples/.
    """
    if not path.is_dir():
        return path.parent
    directory = path.resolve().parent
    if (path / "checkpoints").is_dir():
        samples = RunDirectory(path).samples
    elif directory.name == "checkpoints":
        samples = RunDirectory(directory.parent).samples
    else:
        return directory
    with storage_errors(samples):
        make_directory(samples)
    return samples


def open_run(run: Path, which: Which, say: Say = say_warning) -> tuple[Config, Checkpoint]:
    """A run's options and one of its checkpoints. Says so if a newer one is damaged and passed over.

    Raises ConfigError or CheckpointError.
    """
    directory = open_directory(run, ", a checkpoint in it, or a .safetensors file that `wgan export` made")
    return load_config(directory.config, is_trusted=False), _checkpoint_in(directory.checkpoints, which, say)


def checkpoint_of(path: Path, say: Say = say_warning) -> Checkpoint | None:
    """The newest usable checkpoint of a run directory, or the directory itself as a checkpoint; None if it is neither.

    Raises CheckpointError if it is damaged, ConfigError if it was renamed.
    """
    if (path / "checkpoints").is_dir():
        return _checkpoint_in(path / "checkpoints", None, say)
    return _open_checkpoint(path) if _is_checkpoint(path) else None


def read_safetensors(path: Path) -> TensorFile:
    """The tensors of a file, on the host, and its metadata. Raises CheckpointError if it is not safetensors."""
    try:
        return read_tensors(path)
    except (OSError, ValueError) as error:
        if path.suffix.lower() == ".onnx":
            raise CheckpointError(
                f"{path} is named like an ONNX model, which onnxruntime runs and this package cannot load. Name the "
                "run directory, or a .safetensors file that `wgan export --format safetensors` made."
            ) from None
        why = error.strerror if isinstance(error, OSError) else error
        raise CheckpointError(
            f"{path} cannot be read as safetensors ({why}). Other formats can run code when they are read, so "
            "they are refused: convert the file first, or name the run."
        ) from None


def read_exported(path: Path) -> TrainedGenerator:
    """The generator in a file that `wgan export --format safetensors` made, on the host. Raises CheckpointError."""
    tensors, metadata = read_safetensors(path)
    if metadata.get("format") != FORMAT:
        raise CheckpointError(
            f"{path} has tensors, but no description of their generator: its format is {metadata.get('format')!r}, "
            f"not {FORMAT!r}. Name the run, or a file that `wgan export` made."
        )
    card = read_card(path, metadata)
    form = (card.image_shape, len(card.classes))
    return TrainedGenerator(_filled(card.model, *form, tensors, path, card.weights), card)


def read_card(path: Path, metadata: Mapping[str, str]) -> Card:
    """The card in the metadata of an exported file. Raises CheckpointError."""
    try:
        return parse_json(metadata.get("card", ""), Card)
    except ValueError as error:
        raise CheckpointError(f"{path} has a damaged card: {error}. Export the run again.") from None


def write_exported(generator: TrainedGenerator, path: Path) -> None:
    """Write weights and card as a safetensors file, and the card also as PATH.json. Raises StorageError."""
    tensors = {name: tensor.detach().cpu() for name, tensor in generator.network.state_dict().items()}
    metadata = {"format": FORMAT, "card": generator.card.model_dump_json()}
    with replacing(path) as file:
        file.write(safetensors.torch.save(tensors, metadata))
    write_card(generator.card, path)


def write_card(card: Card, path: Path) -> None:
    """Write the card of the file at `path` next to it, as PATH.json. Raises StorageError."""
    write_text(path.with_name(f"{path.name}.json"), card.model_dump_json(indent=1) + "\n")


def _is_checkpoint(path: Path) -> bool:
    return (path / "manifest.json").is_file() and (path / "state.json").is_file()


def _open_checkpoint(path: Path) -> Checkpoint:
    _, _, step = path.resolve().name.rpartition("_")
    if not step.isdecimal():
        raise ConfigError(f"{path} is not named like a checkpoint, such as step_00001000. Rename it back.")
    checkpoint = Checkpoint(path, int(step))
    if (defect := find_defect(checkpoint)) is not None:
        raise CheckpointError(f"{defect}. Choose another checkpoint.")
    return checkpoint


def _checkpoint_in(directory: Path, which: Which, say: Say) -> Checkpoint:
    if which is None:
        checkpoint = newest_usable(directory, say)
        if checkpoint is None:
            raise CheckpointError(f"{directory} has no checkpoint: the run has saved none yet. Train longer.")
        return checkpoint
    step = _best_step(directory, say) if which == "best" else which
    known = {checkpoint.step: checkpoint for checkpoint in list_checkpoints(directory)}
    if step not in known:
        steps = ", ".join(map(str, known)) or "none"
        raise CheckpointError(f"{directory} has no checkpoint of step {step}; it has {steps}.")
    if (defect := find_defect(known[step])) is not None:
        raise CheckpointError(f"{defect}. Choose another checkpoint.")
    return known[step]


def _best_step(directory: Path, say: Say) -> int:
    best = _checkpoint_in(directory, None, say).facts().best
    if best is not None and best.step is None and best.former:
        steps = ", ".join(map(str, best.former))
        raise ConfigError(
            f"{directory.parent} no longer keeps the best checkpoint. These steps were the best with earlier options "
            f"and are kept: {steps}. Choose one of them."
        )
    if best is None or best.step is None:
        raise ConfigError(
            f"{directory.parent} has no best checkpoint. Train with quality.every and quality.keep_best, or choose "
            "the step of a checkpoint."
        )
    return best.step


def _of_checkpoint(checkpoint: Checkpoint, use_ema: bool) -> TrainedGenerator:
    """Build it from the options in the checkpoint itself, which may have been moved out of its run."""
    identity = checkpoint.facts().identity.values()
    flat = {key.removeprefix("model."): value for key, value in identity.items() if key.startswith("model.")}
    try:
        model: ModelOptions = TypeAdapter(SavedModelOptions).validate_python(nested(flat))
    except ValueError as error:
        why = describe_mistakes(error) if isinstance(error, ValidationError) else error
        raise _unknown_network(checkpoint, str(why)) from None
    directory = checkpoint.path.resolve()
    name = directory.parent.parent.name if directory.parent.name == "checkpoints" else directory.name
    return TrainedGenerator(_network(model, checkpoint, use_ema), _card(name, model, checkpoint, use_ema))


def _card(run: str, model: ModelOptions, checkpoint: Checkpoint, use_ema: bool) -> Card:
    identity = checkpoint.facts().identity
    training = {
        key: value
        for key, value in identity.values().items()
        if key not in ("images", "data.manifest", "classes") and not key.startswith("model.")
    }
    try:
        return Card(
            format=FORMAT,
            run=run,
            step=checkpoint.step,
            weights="ema" if use_ema else "generator",
            model=model,
            latent=model.latent,
            image_shape=identity.images,
            classes=identity.classes,
            inputs=inputs_of(identity.classes),
            manifest=identity.manifest,
            training=training,
        )
    except ValidationError as error:
        raise _unknown_network(checkpoint, describe_mistakes(error)) from None


def _unknown_network(checkpoint: Checkpoint, why: str) -> CheckpointError:
    return CheckpointError(
        f"{checkpoint.path / 'state.json'} describes a network that this version does not know: {why}. Name the run "
        "that it belongs to."
    )


def _network(model: ModelOptions, checkpoint: Checkpoint, use_ema: bool) -> nn.Module:
    group = "ema" if use_ema else "generator"
    identity = checkpoint.facts().identity
    form = (identity.images, len(identity.classes))
    return _filled(model, *form, checkpoint.tensors(group), checkpoint.path, group)


def _filled(
    model: ModelOptions, image_shape: ImageShape, classes: int, tensors: Tensors, path: Path, group: str
) -> nn.Module:
    channels, height, width = image_shape
    # On the meta device: sizes are compared before memory is allocated, and no weights are drawn only to be replaced.
    with torch.device("meta"):
        network = build_generator(model, (height, width), channels, classes)
    check_same_tensors({group: network.state_dict()}, {group: tensors}, path)
    # Copied, because the offset in the file decides the alignment, and that the last bits of sums.
    network.load_state_dict({name: tensor.clone() for name, tensor in tensors.items()}, assign=True)
    return network.eval()


@torch.no_grad()
def generate(generator: nn.Module, latents: Tensor, labels: Tensor | None = None, batch: int = 256) -> Tensor:
    """Images in evaluation mode, with running statistics in batch norm: float32 (count, channels, height, width).

    latents: float32 (count, latent); labels: int64 (count,), if there are classes.
    """
    was_training, images = generator.training, []
    generator.eval()
    with exact_arithmetic():
        for first in range(0, len(latents), batch):
            stopping.check()
            part = slice(first, first + batch)
            network = given(generator, None if labels is None else labels[part])
            images.append(network(latents[part]))
    generator.train(was_training)
    return torch.cat(images)
