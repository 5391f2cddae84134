"""Files of every format version that this program has written stay usable, as CHANGELOG.md promises.

`tests/old_formats` holds one small file set of each version, written by the program of its time: never write them
again. A new format version gets a set of its own.
"""

from __future__ import annotations

import json
import shutil
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest
import torch

import pipeline
from pipeline.cli import main
from pipeline.data.format.file_checks import check_hashes
from pipeline.data.format.manifest import load_manifest
from pipeline.errors import DataError
from pipeline.quality.features.classifier import About, ClassifierFeatures
from tests import shards

OLD = Path(__file__).with_name("old_formats")
CHECKPOINT = OLD / "checkpoint-1" / "checkpoints" / "step_00000002"

# The first pixels of the generator's first two images, of the latents with seed 0.
FIRST_PIXELS = torch.tensor([[-0.20593, 0.02407, 0.30534], [-0.00074, -0.00037, -0.00037]])
MEANS = torch.tensor([-0.04786, -0.00002])


def pixels_of(path: Path) -> torch.Tensor:
    return pipeline.load_generator(path).sample(2).cpu().flatten(1)


@pytest.mark.parametrize("path", [OLD / "generator-1.safetensors", OLD / "checkpoint-1", CHECKPOINT])
def test_a_generator_of_format_1_draws_the_images_it_drew(path: Path) -> None:
    pixels = pixels_of(path)
    assert torch.allclose(pixels[:, :3], FIRST_PIXELS, atol=2e-5)
    assert torch.allclose(pixels.mean(1), MEANS, atol=2e-5)


def test_training_resumes_from_a_checkpoint_of_format_1(tmp_path: Path) -> None:
    run = tmp_path / "run-1"
    shutil.copytree(OLD / "checkpoint-1", run)
    overrides = [f"run_root={tmp_path}", f"data.shards={OLD / 'shards-2'}", "schedule.steps=3"]
    assert main(["train", str(run / "config.yaml"), *overrides]) == 0
    logged = [json.loads(line)["step"] for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert logged == [3]
    assert sorted(path.name for path in (run / "checkpoints").iterdir()) == ["step_00000002", "step_00000003"]


def test_options_that_came_later_count_as_their_defaults(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run-1"
    shutil.copytree(OLD / "checkpoint-1", run)
    (checkpoint,) = (run / "checkpoints").iterdir()
    state = json.loads((checkpoint / "state.json").read_text())
    del state["identity"]["data.flip"]
    (checkpoint / "state.json").write_text(json.dumps(state))
    manifest = json.loads((checkpoint / "manifest.json").read_text())
    content = (checkpoint / "state.json").read_bytes()
    manifest["files"]["state.json"] = {"bytes": len(content), "sha256": sha256(content).hexdigest()}
    (checkpoint / "manifest.json").write_text(json.dumps(manifest))
    overrides = [f"run_root={tmp_path}", f"data.shards={OLD / 'shards-2'}", "schedule.steps=3"]
    assert main(["train", str(run / "config.yaml"), *overrides, "data.flip=true"]) == 4
    assert "data.flip: False in the checkpoint, True now" in capsys.readouterr().err
    assert main(["train", str(run / "config.yaml"), *overrides]) == 0


def test_shards_of_format_2_are_whole_and_readable() -> None:
    manifest = load_manifest(OLD / "shards-2")
    check_hashes(OLD / "shards-2", manifest.shards)
    images = shards.reader(OLD / "shards-2").read(np.arange(manifest.count))
    assert images.shape == (4, 1, 8, 8)


def test_shards_of_format_1_are_refused_with_what_to_do() -> None:
    with pytest.raises(DataError, match=r"wgan-shards/1.*wgan-shards/2.*wgan shards make"):
        load_manifest(OLD / "shards-1")


def test_shards_of_format_1_can_be_made_into_new_ones(tmp_path: Path) -> None:
    assert main(["shards", "make", str(OLD / "shards-1"), str(tmp_path / "new"), "--workers", "1"]) == 0
    made, kept = load_manifest(tmp_path / "new"), load_manifest(OLD / "shards-2")
    assert (made.count, made.resolution, made.channels, made.classes) == (4, (8, 8), 1, kept.classes)


def test_a_classifier_of_format_1_is_read_without_recall_by_class() -> None:
    classifier = ClassifierFeatures.load(OLD / "classifier-1.safetensors", torch.device("cpu"))
    assert classifier.about == About(1, 8, 8, ("cat", "dog"), "f" * 64, 3, 0, 0.75)
    assert classifier.about.recall_by_class == {}
    images = torch.zeros(2, 1, 8, 8, dtype=torch.uint8)
    assert torch.allclose(classifier.probabilities(images), torch.tensor([[0.7311, 0.2689]] * 2), atol=1e-4)
