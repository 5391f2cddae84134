"""A small convolutional classifier of labelled images. Metrics use its features and its class probabilities.

A classifier trained on real images alone is confident about almost any input, and takes noise for digits. So this one
is also trained on outliers, images made of parts of real ones, which belong to no class: for these the target is the
same probability for every class (Hendrycks, Mazeika, Dietterich 2019, "Deep anomaly detection with outlier exposure").
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import safetensors.torch
import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn
from tqdm import tqdm

from pipeline import stopping
from pipeline.documents import Document, parse_json
from pipeline.durable import make_directory_of, replacing
from pipeline.errors import CheckpointError, ConfigError, DataError
from pipeline.exact_arithmetic import exact_arithmetic
from pipeline.pixels import to_float
from pipeline.regular_files import read_regular
from pipeline.run.tensor_files import parse_tensors
from pipeline.wording import counted

FORMAT = "wgan-classifier/2"
MOST_BYTES = 1 << 30
HIDDEN, WIDTH, MOST_WIDTH, SMALLEST_SIDE, LARGEST_SIDE = 64, 32, 256, 8, 4096
SCALE_IMAGES = 5000
BATCH, LEARNING_RATE = 128, 2e-3
OUTLIER_WEIGHT, TILE = 0.3, 4
CHUNK = 500

Loss = Callable[["Classifier", Tensor, Tensor], Tensor]
"""A scalar from a classifier, float32 images in [-1, 1] (batch, channels, height, width), and int64 labels (batch,)."""


@dataclass(frozen=True)
class About:
    """What a classifier was trained on and how accurate it is. It is stored in the classifier's file."""

    channels: int
    height: int
    width: int
    classes: tuple[str, ...]
    shards: str
    """The SHA-256 of the manifest of the shards that it was trained on."""
    epochs: int
    seed: int
    accuracy: float
    """Share of held-out images that it classifies correctly, from 0 to 1."""
    recall: Annotated[tuple[float | None, ...], Field(fail_fast=True)] = ()
    """The same for the held-out images of each class, None for a class that has none; () in files of format 1."""

    @property
    def recall_by_class(self) -> dict[str, float]:
        """The recall of each class for which it is known."""
        known = zip(self.classes, self.recall, strict=False)
        return {name: recall for name, recall in known if recall is not None}


class _Card(Document):
    """The description in a classifier's file."""

    format: Literal["wgan-classifier/2", "wgan-classifier/1"]
    channels: Literal[1, 3]
    height: int = Field(ge=SMALLEST_SIDE, le=LARGEST_SIDE)
    width: int = Field(ge=SMALLEST_SIDE, le=LARGEST_SIDE)
    classes: Annotated[tuple[str, ...], Field(fail_fast=True)] = Field(min_length=1)
    shards: str
    epochs: int
    seed: int
    accuracy: float
    recall: Annotated[tuple[float | None, ...], Field(fail_fast=True)] = ()

    def about(self) -> About:
        """What it says, apart from its format."""
        return About(**{name: value for name, value in self if name != "format"})


class Classifier(nn.Module):
    """Maps float32 images in [-1, 1] (batch, channels, height, width) to logits (batch, classes)."""

    def __init__(self, channels: int, height: int, width: int, classes: int) -> None:
        """Raises ConfigError if images are smaller than 8 pixels."""
        super().__init__()
        if min(height, width) < SMALLEST_SIDE:
            raise ConfigError(
                f"The images are {width}x{height}, and a classifier needs at least {SMALLEST_SIDE}x{SMALLEST_SIDE}. "
                "Give a higher data.resolution (--resolution of `wgan features train`)."
            )
        widths = [WIDTH, 2 * WIDTH]
        while min(height, width) >> len(widths) > SMALLEST_SIDE:
            widths.append(min(2 * widths[-1], MOST_WIDTH))
        self.convolutions = nn.ModuleList(
            nn.Conv2d(first, second, 3, padding=1) for first, second in pairwise([channels, *widths])
        )
        inner = widths[-1] * (height >> len(widths)) * (width >> len(widths))
        self.dropout = nn.Dropout(0.25)
        self.hidden = nn.Linear(inner, HIDDEN)
        self.score = nn.Linear(HIDDEN, classes)
        # The scale of the features of real images, so that all dimensions have the same weight.
        self.register_buffer("mean", torch.zeros(sum(widths) + HIDDEN))
        self.register_buffer("deviation", torch.ones(sum(widths) + HIDDEN))

    def features(self, images: Tensor) -> Tensor:
        """float32 (batch, dimensions): each convolution's output, averaged over the image, and the hidden layer.

        The hidden layer alone would miss much that makes an image look wrong, because it is trained to ignore
        everything that does not distinguish classes.
        """
        found, hidden = self._activations(images)
        scaled: Tensor = (torch.cat([*found, hidden], 1) - self.mean) / self.deviation
        return scaled

    def forward(self, images: Tensor) -> Tensor:
        _, hidden = self._activations(images)
        logits: Tensor = self.score(hidden.relu())
        return logits

    def _activations(self, images: Tensor) -> tuple[list[Tensor], Tensor]:
        """The mean output of each convolution, and the hidden layer before its ReLU."""
        means, maps = [], images
        for convolution in self.convolutions:
            maps = convolution(maps).relu()
            means.append(maps.mean((2, 3)))
            maps = F.max_pool2d(maps, 2)
        return means, self.hidden(self.dropout(maps.flatten(1)))

    @torch.no_grad()
    def settle_scale(self, images: Tensor) -> None:
        """Set the scale of the features: mean 0 and deviation 1 over these real images, float32 in [-1, 1]."""
        features = torch.cat([self.features(part) for part in torch.split(images, CHUNK)])
        self.mean, self.deviation = features.mean(0), features.std(0).clamp(min=1e-6)


@dataclass(frozen=True)
class ClassifierFeatures:
    """A trained classifier, which gives features and class probabilities."""

    network: Classifier
    about: About
    name: str
    """The word "classifier" and the first 8 digits of the file's SHA-256."""

    @classmethod
    def load(cls, path: Path, device: torch.device) -> Self:
        """Read a file that `save` wrote.

        Raises ConfigError if there is no such file, CheckpointError if it is not a classifier.
        """
        try:
            content = read_regular(path, MOST_BYTES)
            file = parse_tensors(content)
            about = parse_json(file.metadata.get("card", ""), _Card).about()
            # Sizes are compared before memory is allocated.
            with torch.device("meta"):
                network = _network(about)
            weights = {name: tensor.clone().float() for name, tensor in file.tensors.items()}
            network.load_state_dict(weights, assign=True)
        except FileNotFoundError:
            raise ConfigError(
                f"There is no classifier at {path}. Train one: `wgan features train SHARDS --out {path}`."
            ) from None
        except (OSError, RuntimeError, ValueError) as error:
            why = (error.strerror if isinstance(error, OSError) else None) or (
                str(error) or "an empty file"
            ).splitlines()[0]
            raise CheckpointError(
                f"{path} is not a classifier made by `wgan features train` ({why}). Train it again, or name another "
                "file."
            ) from None
        return cls(network.eval().to(device), about, f"classifier {hashlib.sha256(content).hexdigest()[:8]}")

    def check_images(self, shape: tuple[int, int, int]) -> None:
        """Raise ConfigError unless (channels, height, width) is the shape of the images that it was trained on."""
        known = (self.about.channels, self.about.height, self.about.width)
        if shape != known:
            raise ConfigError(
                f"The images are {shape} (channels, height, width), and the {self.name} was trained on {known}. Train "
                "one on shards of this shape: `wgan features train SHARDS --out FILE`."
            )

    @torch.no_grad()
    def __call__(self, images: Tensor) -> Tensor:
        """uint8 (count, channels, height, width) to float32 (count, dimensions)."""
        return torch.cat([self.network.features(to_float(part)) for part in torch.split(images, CHUNK)])

    @torch.no_grad()
    def probabilities(self, images: Tensor) -> Tensor:
        """uint8 (count, channels, height, width) to float32 (count, classes). Each row sums to 1."""
        return torch.cat([self.network(to_float(part)).softmax(1) for part in torch.split(images, CHUNK)])


def cross_entropy(classifier: Classifier, images: Tensor, labels: Tensor) -> Tensor:
    """The usual loss of a classifier, without outliers."""
    return F.cross_entropy(classifier(images), labels)


def with_outliers(classifier: Classifier, images: Tensor, labels: Tensor) -> Tensor:
    """Cross entropy on the images, plus 0.3 times that of outliers, whose target is equal probabilities."""
    half = len(images) // 2
    outliers = torch.cat([join_halves(images[:half], images[half : 2 * half]), shuffle_tiles(images)])
    logits = classifier(torch.cat([images, outliers]))
    known, unknown = logits[: len(images)], logits[len(images) :]
    unsure = -unknown.log_softmax(1).mean()
    loss: Tensor = F.cross_entropy(known, labels) + OUTLIER_WEIGHT * unsure
    return loss


def join_halves(first: Tensor, second: Tensor) -> Tensor:
    """Images that join a part of one in `first` to the rest of one in `second`, along a random line.

    All three are (count, channels, height, width).
    """
    axis = 2 + int(torch.randint(2, ()))
    side = first.shape[axis]
    # A cut near the edge would hardly change the image.
    cut = int(torch.randint(side // 3, side - side // 3 + 1, ()))
    return torch.cat([first.narrow(axis, 0, cut), second.narrow(axis, cut, side - cut)], axis)


def shuffle_tiles(images: Tensor) -> Tensor:
    """The images with their tiles of 4 x 4 pixels in a random order, which is the same for all.

    Rows and columns that do not fill a tile are unchanged.
    """
    rows, columns = images.shape[2] // TILE, images.shape[3] // TILE
    inner = images[:, :, : rows * TILE, : columns * TILE]
    tiles = F.unfold(inner, TILE, stride=TILE)
    shuffled = F.fold(tiles[:, :, torch.randperm(rows * columns)], inner.shape[2:], TILE, stride=TILE)
    result = images.clone()
    result[:, :, : rows * TILE, : columns * TILE] = shuffled
    return result


@dataclass(frozen=True)
class TrainingPlan:
    """How a classifier is trained."""

    epochs: int
    """1 or more."""
    seed: int
    """Decides the initial weights, the order of the images, dropout and outliers."""
    loss: Loss = with_outliers


def train_classifier(
    images: Tensor, labels: Tensor, classes: int, plan: TrainingPlan, device: torch.device
) -> Classifier:
    """A classifier of uint8 images (count, channels, height, width) with int64 labels (count,) from 0 to classes - 1.

    The same images and plan give the same weights on the same kind of device with the same number of threads. Raises
    DataError if there are fewer images than one batch, ConfigError if they are smaller than 8 pixels.
    """
    if len(images) < BATCH:
        raise DataError(
            f"{counted(len(images), 'labelled image')} cannot train a classifier, because a batch has {BATCH}. Use "
            "more images."
        )
    with exact_arithmetic(), torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(plan.seed)
        channels, height, width = images.shape[1:]
        network = Classifier(channels, height, width, classes).to(device)
        per_epoch = len(images) // BATCH
        optimizer = torch.optim.Adam(network.parameters(), lr=LEARNING_RATE)
        batches = plan.epochs * per_epoch
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, LEARNING_RATE, batches)
        with tqdm(total=batches, desc="classifier", unit=" batches", disable=None) as bar:
            for _ in range(plan.epochs):
                order = torch.randperm(len(images))
                for chosen in torch.split(order[: per_epoch * BATCH], BATCH):
                    stopping.check()
                    value = plan.loss(network, to_float(images[chosen].to(device)), labels[chosen].to(device))
                    optimizer.zero_grad()
                    torch.autograd.backward(value)
                    optimizer.step()
                    schedule.step()
                    bar.update()
        network.eval().settle_scale(to_float(images[:SCALE_IMAGES].to(device)))
    return network


def save(network: Classifier, about: About, path: Path) -> None:
    """Write the weights, and `about` as metadata, to a safetensors file. Raises StorageError."""
    card: dict[str, Any] = {"format": FORMAT, **asdict(about)}
    tensors = {name: value.cpu().contiguous() for name, value in network.state_dict().items()}
    make_directory_of(path)
    with replacing(path) as file:
        file.write(safetensors.torch.save(tensors, metadata={"card": json.dumps(card)}))


@torch.no_grad()
def classify(network: Classifier, images: Tensor) -> Tensor:
    """The most probable class of each uint8 image (count, channels, height, width): int64 (count,), on the host."""
    device = next(network.parameters()).device
    return torch.cat(
        [network(to_float(part.to(device))).argmax(1).cpu() for part in torch.split(images, CHUNK)]
    )


def accuracy(network: Classifier, images: Tensor, labels: Tensor) -> float:
    """The share of uint8 images whose most probable class is their label."""
    return (classify(network, images) == labels).double().mean().item()


def _network(about: About) -> Classifier:
    return Classifier(about.channels, about.height, about.width, len(about.classes))
