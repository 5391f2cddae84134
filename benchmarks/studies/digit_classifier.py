"""Small convolutional classifiers that are trained on real images and judge generated ones.

The plain classifier is trained on digits only, and is confident about nearly everything: it gives one class a
probability over 0.9 for 60% of the images that join the top of one digit to the bottom of another, and for 41% of
smooth random blobs. The strict classifier is therefore also trained on joined images. Its target for them is the
same probability for every class (Hendrycks, Mazeika, Dietterich 2019, "Deep anomaly detection with outlier
exposure").
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import safetensors
import safetensors.torch
import torch
import torch.nn.functional as F
from image_sets import LabelledImages, read_shards
from safetensors import SafetensorError
from torch import Tensor, nn
from tqdm import tqdm

from pipeline.data.format.manifest import load_manifest
from pipeline.durable import replacing, storage_errors
from pipeline.errors import CheckpointError
from pipeline.pixels import to_float

EPOCHS, BATCH, LEARNING_RATE, SEED = 10, 128, 2e-3, 0
OUTLIER_WEIGHTS = {"plain": 0.0, "strict": 0.1}


class DigitClassifier(nn.Module):
    """Maps images float32 (batch, channels, side, side) in [-1, 1] to logits float32 (batch, classes)."""

    def __init__(self, channels: int, side: int, classes: int) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(channels, 16, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(16, 32, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Flatten(),
        )
        self.head = nn.Sequential(
            nn.Linear(32 * (side // 4) ** 2, 128), nn.ReLU(), nn.Dropout(0.25), nn.Linear(128, classes)
        )

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.head(self.features(images))
        return logits


class Judges(NamedTuple):
    """Both classifiers."""

    plain: DigitClassifier
    strict: DigitClassifier


def obtain_judges(train: Path, cache: Path | None) -> Judges:
    """Read the classifiers of the shards `train` from the directory `cache`, or train those that are missing.

    Newly trained classifiers are written to `cache`, if it is given. Raises DataError if the shards cannot be used, and
    CheckpointError if a cached classifier cannot be read or was trained on other shards.
    """
    return Judges(**{kind: obtain_judge(kind, train, cache) for kind in OUTLIER_WEIGHTS})


def obtain_judge(kind: str, train: Path, cache: Path | None) -> DigitClassifier:
    """One of them, "plain" or "strict", in the same way."""
    path = None if cache is None else cache / f"{kind}.safetensors"
    if path is not None and path.exists():
        return load_classifier(path, train)
    classifier = train_classifier(read_shards(train), OUTLIER_WEIGHTS[kind])
    if path is not None:
        save_classifier(classifier, path, train)
    return classifier


def train_classifier(real: LabelledImages, outlier_weight: float) -> DigitClassifier:
    """Train on the CPU from a fixed seed. The same images and number of threads give the same weights."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(SEED)
        classifier = _untrained(real.images.shape[1:], len(real.classes))
        batches_an_epoch = len(real.images) // BATCH
        optimizer = torch.optim.Adam(classifier.parameters(), lr=LEARNING_RATE)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, LEARNING_RATE, EPOCHS * batches_an_epoch)
        for epoch in range(EPOCHS):
            order = torch.randperm(len(real.images))
            bar = tqdm(range(batches_an_epoch), desc=f"classifier, epoch {epoch + 1}/{EPOCHS}", disable=None)
            for batch in bar:
                chosen = order[batch * BATCH : (batch + 1) * BATCH]
                loss = _loss(classifier, to_float(real.images[chosen]), real.labels[chosen], outlier_weight)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                schedule.step()
    return classifier.eval()


@torch.no_grad()
def class_probabilities(classifier: DigitClassifier, images: Tensor) -> Tensor:
    """Maps images uint8 (count, channels, side, side) to probabilities float32 (count, classes); rows add up to 1."""
    return torch.cat([classifier(to_float(part)).softmax(1) for part in images.split(500)])


def save_classifier(classifier: DigitClassifier, path: Path, train: Path) -> None:
    """Write the weights as safetensors, with the identity of the training shards. Raises StorageError."""
    about = {"shards": load_manifest(train).sha256}
    with storage_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as file:
        file.write(safetensors.torch.save(classifier.state_dict(), metadata=about))


def load_classifier(path: Path, train: Path) -> DigitClassifier:
    """Read what `save_classifier` wrote. Raises CheckpointError if it was trained on other shards than `train`."""
    manifest = load_manifest(train)
    classifier = _untrained((manifest.stored.channels, *manifest.stored.resolution), len(manifest.classes))
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            about = file.metadata() or {}
        if about.get("shards") != manifest.sha256:
            raise CheckpointError(
                f"{path} was trained on shards other than {train}, so it may not know these images. {_REMEDY}"
            )
        classifier.load_state_dict(safetensors.torch.load_file(path))
    except (OSError, SafetensorError, RuntimeError) as error:
        raise CheckpointError(
            f"{path} cannot be read as a classifier of these images: {error}. {_REMEDY}"
        ) from None
    return classifier.eval()


_REMEDY = "Remove it to train a new one, or name another directory with --classifiers."


def _loss(classifier: DigitClassifier, images: Tensor, labels: Tensor, outlier_weight: float) -> Tensor:
    if outlier_weight == 0:
        return F.cross_entropy(classifier(images), labels)
    logits = classifier(torch.cat([images, _joined(images)]))
    known, outliers = logits[: len(images)], logits[len(images) :]
    # The cross entropy against equal probabilities of all classes.
    unsure = -outliers.log_softmax(1).mean()
    return F.cross_entropy(known, labels) + outlier_weight * unsure


def _joined(images: Tensor) -> Tensor:
    """Images whose one part comes from the first half of the batch and whose other part from the second half."""
    first, second = images[: len(images) // 2], images[len(images) // 2 :]
    axis, side = 2 + int(torch.randint(2, ())), images.shape[2]
    # A cut near the edge would leave one digit whole.
    cut = int(torch.randint(side // 3, side - side // 3 + 1, ()))
    return torch.cat([first.narrow(axis, 0, cut), second.narrow(axis, cut, side - cut)], axis)


def _untrained(image_shape: tuple[int, ...], classes: int) -> DigitClassifier:
    channels, side, _ = image_shape
    return DigitClassifier(channels, side, classes)
