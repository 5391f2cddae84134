"""A small convolutional classifier of a labelled set: what it sees as features, and its verdicts on classes.

Trained on real images alone it is sure of nearly anything, and sees strokes of noise as digits. So it is also
shown images put together from parts of real ones, as what is of no class: there its target is the same
probability for each (Hendrycks, Mazeika, Dietterich 2019, "Deep anomaly detection with outlier exposure").
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, Self

import safetensors
import safetensors.torch
import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from torch import Tensor, nn
from tqdm import tqdm

from pipeline.durable import replacing, storage_errors
from pipeline.errors import CheckpointError, ConfigError, DataError
from pipeline.pixels import to_float

FORMAT = "wgan-classifier/1"
HIDDEN, WIDTH, MOST_WIDTH, SMALLEST_SIDE = 64, 32, 256, 8
SCALE_IMAGES = 5000
BATCH, LEARNING_RATE = 128, 2e-3
OUTLIER_WEIGHT, TILE = 0.3, 4
CHUNK = 500

Loss = Callable[["Classifier", Tensor, Tensor], Tensor]
"""Of a classifier, images in [-1, 1] (batch, channels, height, width) and labels (batch,)."""


@dataclass(frozen=True)
class About:
    """What a classifier is of, as it stands in its file."""

    channels: int
    height: int
    width: int
    classes: tuple[str, ...]
    shards: str
    """The identity of the set that it was trained on."""
    epochs: int
    seed: int
    accuracy: float
    """On images of the set that it was not trained on."""


class Classifier(nn.Module):
    """Maps images in [-1, 1], (batch, channels, height, width), to logits (batch, classes)."""

    def __init__(self, channels: int, height: int, width: int, classes: int) -> None:
        """Raises ConfigError for images of under 8 pixels."""
        super().__init__()
        if min(height, width) < SMALLEST_SIDE:
            raise ConfigError(
                f"A classifier needs images of {SMALLEST_SIDE} pixels or more, not {width}x{height}."
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
        # Of the features of real images, so that all dimensions count alike.
        self.register_buffer("mean", torch.zeros(sum(widths) + HIDDEN))
        self.register_buffer("deviation", torch.ones(sum(widths) + HIDDEN))

    def features(self, images: Tensor) -> Tensor:
        """(batch, dimensions): what each convolution finds, averaged over the image, and the hidden layer.

        The hidden layer alone is blind to much that makes an image look wrong: training shut its eyes to
        whatever does not decide between classes.
        """
        found, hidden = self._see(images)
        scaled: Tensor = (torch.cat([*found, hidden], 1) - self.mean) / self.deviation
        return scaled

    def forward(self, images: Tensor) -> Tensor:
        _, hidden = self._see(images)
        logits: Tensor = self.score(hidden.relu())
        return logits

    def _see(self, images: Tensor) -> tuple[list[Tensor], Tensor]:
        found, seen = [], images
        for convolution in self.convolutions:
            seen = convolution(seen).relu()
            found.append(seen.mean((2, 3)))
            seen = F.max_pool2d(seen, 2)
        return found, self.hidden(self.dropout(seen.flatten(1)))

    @torch.no_grad()
    def settle_scale(self, images: Tensor) -> None:
        """Take the scale of the features from real images, in [-1, 1]."""
        features = torch.cat([self.features(part) for part in torch.split(images, CHUNK)])
        self.mean, self.deviation = features.mean(0), features.std(0).clamp(min=1e-6)


@dataclass(frozen=True)
class ClassifierFeatures:
    """A trained classifier, as features and as a judge of classes."""

    network: Classifier
    about: About
    name: str
    """With the first digits of the file's SHA-256."""

    @classmethod
    def load(cls, path: Path, device: torch.device) -> Self:
        """Read what `save` wrote. Raises ConfigError or CheckpointError."""
        if not path.is_file():
            raise ConfigError(f"{path} is no file. `wgan features train SHARDS --out {path}` makes it.")
        try:
            content = path.read_bytes()
            with safetensors.safe_open(path, framework="pt") as file:
                card = json.loads((file.metadata() or {})["card"])
            if card.pop("format") != FORMAT:
                raise ValueError(f"its format is not {FORMAT}")
            about = About(**{**card, "classes": tuple(card["classes"])})
            network = _network(about)
            network.load_state_dict(safetensors.torch.load(content))
        except (OSError, SafetensorError, RuntimeError, ValueError, KeyError, TypeError) as error:
            raise CheckpointError(
                f"{path} is no classifier made by `wgan features train` ({str(error).splitlines()[0]}). Make it "
                "again, or name another file."
            ) from None
        return cls(network.eval().to(device), about, f"classifier {hashlib.sha256(content).hexdigest()[:8]}")

    def check_images(self, shape: tuple[int, int, int]) -> None:
        """Raise ConfigError unless images of (channels, height, width) are of the kind that it knows."""
        known = (self.about.channels, self.about.height, self.about.width)
        if shape != known:
            raise ConfigError(
                f"The {self.name} judges images of (channels, height, width) {known}, and these are {shape}. Train "
                "one on shards of their kind: `wgan features train SHARDS --out FILE`."
            )

    @torch.no_grad()
    def __call__(self, images: Tensor) -> Tensor:
        """uint8 (count, channels, height, width) to float32 (count, dimensions)."""
        return torch.cat([self.network.features(to_float(part)) for part in torch.split(images, CHUNK)])

    @torch.no_grad()
    def probabilities(self, images: Tensor) -> Tensor:
        """uint8 (count, channels, height, width) to float32 (count, classes), rows adding up to 1."""
        return torch.cat([self.network(to_float(part)).softmax(1) for part in torch.split(images, CHUNK)])


def cross_entropy(classifier: Classifier, images: Tensor, labels: Tensor) -> Tensor:
    """The loss of a classifier that is to be right."""
    return F.cross_entropy(classifier(images), labels)


def with_outliers(classifier: Classifier, images: Tensor, labels: Tensor) -> Tensor:
    """The loss of one that is also to be unsure of what is no whole image of any class."""
    half = len(images) // 2
    outliers = torch.cat([join_halves(images[:half], images[half : 2 * half]), shuffle_tiles(images)])
    logits = classifier(torch.cat([images, outliers]))
    known, unknown = logits[: len(images)], logits[len(images) :]
    # The cross entropy against equal probabilities of all classes.
    unsure = -unknown.log_softmax(1).mean()
    loss: Tensor = F.cross_entropy(known, labels) + OUTLIER_WEIGHT * unsure
    return loss


def join_halves(first: Tensor, second: Tensor) -> Tensor:
    """One part of each image of `first` beside the rest of one of `second`, cut along a random line."""
    axis = 2 + int(torch.randint(2, ()))
    side = first.shape[axis]
    # Near the edge a cut would leave the image as it is.
    cut = int(torch.randint(side // 3, side - side // 3 + 1, ()))
    return torch.cat([first.narrow(axis, 0, cut), second.narrow(axis, cut, side - cut)], axis)


def shuffle_tiles(images: Tensor) -> Tensor:
    """The images with their tiles of 4 x 4 pixels in a random order, the same in all; the margin stays."""
    rows, columns = images.shape[2] // TILE, images.shape[3] // TILE
    inner = images[:, :, : rows * TILE, : columns * TILE]
    tiles = F.unfold(inner, TILE, stride=TILE)
    shuffled = F.fold(tiles[:, :, torch.randperm(rows * columns)], inner.shape[2:], TILE, stride=TILE)
    result = images.clone()
    result[:, :, : rows * TILE, : columns * TILE] = shuffled
    return result


def train_classifier(
    images: Tensor,
    labels: Tensor,
    classes: int,
    epochs: int,
    seed: int,
    device: torch.device,
    loss: Loss = with_outliers,
) -> Classifier:
    """Train on uint8 (count, channels, height, width) and int64 (count,), from a fixed seed.

    Equal weights come of equal images, on an equal device with an equal number of threads. Raises DataError
    where there is less than one batch.
    """
    if len(images) < BATCH:
        raise DataError(
            f"{len(images)} labelled images are too few to train a classifier; {BATCH} are the least."
        )
    # As in a run: no TF32, and no kernels that add in any order.
    kernels = torch.backends.cudnn.flags(enabled=True, deterministic=True, allow_tf32=False)
    with kernels, torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        channels, height, width = images.shape[1:]
        network = Classifier(channels, height, width, classes).to(device)
        per_epoch = len(images) // BATCH
        optimizer = torch.optim.Adam(network.parameters(), lr=LEARNING_RATE)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, LEARNING_RATE, epochs * per_epoch)
        with tqdm(total=epochs * per_epoch, desc="classifier", unit=" batches", disable=None) as bar:
            for _ in range(epochs):
                order = torch.randperm(len(images))
                for chosen in torch.split(order[: per_epoch * BATCH], BATCH):
                    value = loss(network, to_float(images[chosen].to(device)), labels[chosen].to(device))
                    optimizer.zero_grad()
                    torch.autograd.backward(value)
                    optimizer.step()
                    schedule.step()
                    bar.update()
        network.eval().settle_scale(to_float(images[:SCALE_IMAGES].to(device)))
    return network


def save(network: Classifier, about: About, path: Path) -> None:
    """Write weights and what they are of. Raises StorageError."""
    card: dict[str, Any] = {"format": FORMAT, **asdict(about)}
    tensors = {name: value.cpu().contiguous() for name, value in network.state_dict().items()}
    with storage_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as file:
        file.write(safetensors.torch.save(tensors, metadata={"card": json.dumps(card)}))


@torch.no_grad()
def accuracy(network: Classifier, images: Tensor, labels: Tensor) -> float:
    """The share of uint8 images that it is right about."""
    device = next(network.parameters()).device
    right = sum(
        int((network(to_float(part.to(device))).argmax(1).cpu() == truth).sum().item())
        for part, truth in zip(torch.split(images, CHUNK), torch.split(labels, CHUNK), strict=True)
    )
    return right / len(images)


def _network(about: About) -> Classifier:
    return Classifier(about.channels, about.height, about.width, len(about.classes))
