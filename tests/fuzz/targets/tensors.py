"""Files of tensors: exported generators with their cards, checkpoints, and classifiers."""

from __future__ import annotations

import functools
import json
import tempfile
from contextlib import suppress
from pathlib import Path

import torch
from safetensors.torch import save

from pipeline.errors import PipelineError
from pipeline.quality.features.classifier import FORMAT as CLASSIFIER
from pipeline.quality.features.classifier import About, Classifier, ClassifierFeatures
from pipeline.run.generator import FORMAT, read_generator, write_exported
from pipeline.run.initial_weights import read_weights
from tests.fuzz.attempts import try_each
from tests.fuzz.engine import target
from tests.fuzz.targets.runs import copy_run, exchange, newest, template


def repair_safetensors(data: bytes) -> bytes:
    """Correct the size of the header, which is JSON."""
    text = data[8:].decode("latin-1")
    try:
        _, end = json.JSONDecoder().raw_decode(text)
    except (ValueError, RecursionError):
        return data
    end += len(text[end:]) - len(text[end:].lstrip(" "))
    return end.to_bytes(8, "little") + data[8:]


@functools.cache
def exported() -> tuple[bytes, bytes]:
    """An exported generator, and its card as JSON."""
    path = Path(tempfile.mkdtemp()) / "x.safetensors"
    generator = read_generator(template())
    write_exported(generator, path)
    return path.read_bytes(), generator.card.model_dump_json().encode()


def draw(path: Path) -> None:
    """Read a generator, and draw an image with it."""
    generator = read_generator(path)
    image = generator.sample(1)
    assert image.shape == (1, *generator.card.image_shape)


@target("generator", lambda: [exported()[0], save({"a": torch.ones(2)})], repair_safetensors)
def read_a_generator(data: bytes, directory: Path) -> None:
    path = directory / "x.safetensors"
    path.write_bytes(data)
    with suppress(PipelineError):  # of an exported generator there is no critic
        read_weights(path, "critic")
    try_each(lambda: draw(path), lambda: read_weights(path, "generator"))


@target("card", lambda: [exported()[1]])
def read_a_card(data: bytes, directory: Path) -> None:
    path = directory / "x.safetensors"
    tensors = newest(template()).tensors("ema")
    path.write_bytes(save(tensors, {"format": FORMAT, "card": data.decode(errors="replace")}))
    draw(path)


@target(
    "checkpoint-tensors",
    lambda: [(newest(template()).path / "ema.safetensors").read_bytes(), save({})],
    repair_safetensors,
)
def read_a_checkpoint(data: bytes, directory: Path) -> None:
    run = copy_run(directory)
    exchange(run, "ema.safetensors", data)
    draw(run)


@functools.cache
def classifier() -> bytes:
    about = About(1, 8, 8, ("cat", "dog"), "5" * 64, 1, 0, 0.5, (0.5, None))
    card = {"format": CLASSIFIER, **vars(about)}
    return save(Classifier(1, 8, 8, 2).state_dict(), {"card": json.dumps(card)})


@target("classifier", lambda: [classifier()], repair_safetensors)
def read_a_classifier(data: bytes, directory: Path) -> None:
    path = directory / "classifier.safetensors"
    path.write_bytes(data)
    features = ClassifierFeatures.load(path, torch.device("cpu"))
    features.check_images((1, 8, 8))
    features.probabilities(torch.zeros(2, 1, 8, 8, dtype=torch.uint8))
