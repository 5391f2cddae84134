"""Features: what they keep, how they are saved, and what is refused."""

from __future__ import annotations

import hashlib
import pickle
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from pipeline.errors import CheckpointError, ConfigError, DataError
from pipeline.pixels import to_float
from pipeline.quality.features.classifier import (
    About,
    Classifier,
    ClassifierFeatures,
    TrainingPlan,
    accuracy,
    cross_entropy,
    save,
    train_classifier,
)
from pipeline.quality.features.inception import InceptionFeatures
from pipeline.quality.features.pixels import PixelFeatures

CPU = torch.device("cpu")
FIRST, LAST = [-1.60277, 0.09103, -0.07938], [-0.31558, 0.5082, 0.34926]
"""The first frequencies and the last sums of a ramp."""
ABOUT = About(1, 8, 8, ("a", "b"), "f" * 64, 3, 0, 0.97, (0.99, None))


def stripes(count: int) -> tuple[Tensor, Tensor]:
    """Noisy 8 x 8 images with a bright row (class 0) or column (class 1)."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 60, (count, 1, 8, 8), generator=generator, dtype=torch.uint8)
    labels = torch.arange(count) % 2
    places = torch.randint(0, 8, (count,), generator=generator)
    for image, label, place in zip(images, labels, places, strict=True):
        (image[0, place] if label == 0 else image[0, :, place]).fill_(255)
    return images, labels


def photos(count: int, channels: int, height: int, width: int) -> Tensor:
    """Smooth uint8 images with a little noise, of any size."""
    generator = torch.Generator().manual_seed(1)
    small = torch.rand(count, channels, 6, 6, generator=generator) * 220
    images = torch.nn.functional.interpolate(small, (height, width), mode="bilinear")
    return (images + 12 * torch.rand(images.shape, generator=generator)).to(torch.uint8)


def test_features_of_small_images_have_exactly_the_distances_of_their_pixels() -> None:
    images, _ = stripes(500)
    features = PixelFeatures((1, 8, 8), CPU)(images)
    assert features.shape == (500, 64)
    pixels = images.float().flatten(1) / 127.5 - 1
    assert torch.allclose(torch.cdist(features, features), torch.cdist(pixels, pixels), atol=1e-2)


@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 32, 48), (1, 6, 40), (3, 64, 64)])
def test_distances_of_features_are_those_of_pixels_but_for_a_part(shape: tuple[int, int, int]) -> None:
    images = photos(40, *shape)
    features, pixels = PixelFeatures(shape, CPU)(images), to_float(images).flatten(1)
    assert features.shape == (40, shape[0] * min(8, shape[1]) * min(8, shape[2]) + 64)
    ours = torch.cdist(features, features).square() / features.shape[1]
    theirs = torch.cdist(pixels, pixels).square() / pixels.shape[1]
    apart = ~torch.eye(40, dtype=torch.bool)
    assert (ours[apart] / theirs[apart] - 1).abs().max() < 0.1


@pytest.mark.parametrize("size", [32, 64, 128])
@pytest.mark.parametrize("period", [1, 2, 5])
def test_no_detail_is_averaged_away(size: int, period: int) -> None:
    """A faint pattern of any fineness counts with its mean square, of which sums show more or less by chance."""
    rows, columns = (torch.arange(size) // period % 2 for _ in range(2))
    pattern = 20 * (rows[:, None] ^ columns)
    images = photos(1, 3, size, size).clamp(max=230)
    plain, patterned = PixelFeatures((3, size, size), CPU)(
        torch.cat([images, images + pattern.to(torch.uint8)])
    )
    seen = (patterned - plain).square().mean() / (pattern.float() / 127.5).square().mean()
    assert 0.5 < seen < 1.6


def test_features_of_pixels_are_the_same_on_every_machine() -> None:
    """From here on for ever, or the version in their name changes, because figures would no longer compare."""
    ramp = (torch.arange(3 * 16 * 20) % 251).to(torch.uint8).view(1, 3, 16, 20)
    features = PixelFeatures((3, 16, 20), CPU)(ramp)[0]
    assert PixelFeatures.name == "pixels 2"
    assert torch.allclose(features[:3], torch.tensor(FIRST), atol=1e-4)
    assert torch.allclose(features[-3:], torch.tensor(LAST), atol=1e-4)


def test_a_classifier_learns_and_comes_back_from_its_file(tmp_path: Path) -> None:
    images, labels = stripes(1200)
    plan = TrainingPlan(epochs=3, seed=0)
    network = train_classifier(images[:1000], labels[:1000], 2, plan, CPU)
    assert accuracy(network, images[1000:], labels[1000:]) > 0.9
    save(network, ABOUT, tmp_path / "c.safetensors")
    loaded = ClassifierFeatures.load(tmp_path / "c.safetensors", CPU)
    assert loaded.about == ABOUT
    assert loaded.about.recall_by_class == {"a": 0.99}
    assert loaded.name.startswith("classifier ")
    scaled = to_float(images)
    features = loaded(images[:1000])
    assert torch.allclose(features.mean(0), torch.zeros(160), atol=1e-4)
    spread = features.std(0)
    assert ((spread - 1).abs().lt(1e-3) | spread.eq(0)).all(), "all dimensions count alike, or not at all"
    assert spread.count_nonzero() > 100
    with torch.no_grad():
        assert torch.equal(loaded(images), network.features(scaled))
        assert torch.allclose(loaded.probabilities(images), network(scaled).softmax(1))
    assert loaded(images).shape == (1200, 32 + 64 + 64)
    again = train_classifier(images[:1000], labels[:1000], 2, plan, CPU)
    save(again, ABOUT, tmp_path / "again.safetensors")
    assert (tmp_path / "again.safetensors").read_bytes() == (tmp_path / "c.safetensors").read_bytes()


def test_a_classifier_is_trained_with_deterministic_kernels() -> None:
    images, labels = stripes(128)
    seen = []

    def watch(classifier: Classifier, images: Tensor, labels: Tensor) -> Tensor:
        seen.append((torch.backends.cudnn.deterministic, torch.backends.cudnn.allow_tf32))
        return cross_entropy(classifier, images, labels)

    before = (torch.backends.cudnn.enabled, torch.backends.cudnn.deterministic)
    train_classifier(images, labels, 2, TrainingPlan(epochs=1, seed=0, loss=watch), CPU)
    assert seen == [(True, False)]
    assert (torch.backends.cudnn.enabled, torch.backends.cudnn.deterministic) == before


@pytest.mark.parametrize(("height", "width"), [(8, 8), (28, 28), (32, 48), (64, 64), (128, 128)])
def test_a_classifier_takes_images_of_many_sizes(height: int, width: int) -> None:
    network = Classifier(3, height, width, 5).eval()
    assert network(torch.zeros(2, 3, height, width)).shape == (2, 5)


def test_too_few_or_too_small_images_for_a_classifier_are_refused() -> None:
    images, labels = stripes(100)
    with pytest.raises(
        DataError, match=r"100 labelled images cannot train a classifier, because a batch has 128\. Use"
    ):
        train_classifier(images, labels, 2, TrainingPlan(epochs=1, seed=0), CPU)
    with pytest.raises(ConfigError, match="images are 4x4, and a classifier needs at least 8x8"):
        Classifier(1, 4, 4, 2)


def test_a_file_that_is_not_a_classifier_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "c.safetensors"
    with pytest.raises(
        ConfigError, match=r"There is no classifier at .*c\.safetensors\. Train one: `wgan features"
    ):
        ClassifierFeatures.load(path, CPU)
    path.write_bytes(b"no tensors")
    with pytest.raises(CheckpointError, match="is not a classifier made by `wgan features train`"):
        ClassifierFeatures.load(path, CPU)
    save(Classifier(1, 8, 8, 2), replace(ABOUT, classes=("a", "b", "c")), path)
    with pytest.raises(CheckpointError, match="is not a classifier made by"):
        ClassifierFeatures.load(path, CPU)


def test_a_classifier_of_other_images_is_refused(tmp_path: Path) -> None:
    save(Classifier(1, 8, 8, 2), ABOUT, tmp_path / "c.safetensors")
    features = ClassifierFeatures.load(tmp_path / "c.safetensors", CPU)
    features.check_images((1, 8, 8))
    with pytest.raises(
        ConfigError, match=r"are \(3, 32, 32\) \(channels, height, width\), and the .* on \(1, 8, 8\)\. Train"
    ):
        features.check_images((3, 32, 32))


class Payload:
    """Creates a file when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[object, tuple[Path]]:
        return (Path.touch, (self.mark,))


def test_a_payload_in_place_of_inception_weights_does_not_run(tmp_path: Path) -> None:
    path, mark = tmp_path / "weights.pth", tmp_path / "ran"
    for content in (pickle.dumps(Payload(mark)), None):
        if content is None:
            torch.save(Payload(mark), path)
        else:
            path.write_bytes(content)
        with pytest.raises(
            CheckpointError, match=r"weights\.pth cannot be read as tensors .* could run code"
        ):
            InceptionFeatures.load(path, CPU)
        assert not mark.exists()
    torch.load(path, weights_only=False)
    assert mark.exists(), "the payload is a real one"


def test_weights_of_another_network_are_refused(tmp_path: Path) -> None:
    torch.save({"weight": torch.zeros(3)}, tmp_path / "weights.pth")
    with pytest.raises(
        CheckpointError, match="does not contain the weights of torch-fidelity's Inception network"
    ):
        InceptionFeatures.load(tmp_path / "weights.pth", CPU)
    with pytest.raises(
        ConfigError,
        match=r"none\.pth cannot be read: No such file or directory\. Name a file with the weights",
    ):
        InceptionFeatures.load(tmp_path / "none.pth", CPU)
    with pytest.raises(ConfigError, match=r"cannot be read: it is a directory\. Name a file with"):
        InceptionFeatures.load(tmp_path, CPU)


@pytest.mark.parametrize("content", [[torch.zeros(3)], {"weight": 3}, {3: torch.zeros(3)}, torch.zeros(3)])
def test_tensors_without_names_are_refused_as_weights(content: object, tmp_path: Path) -> None:
    torch.save(content, tmp_path / "weights.pth")
    kind = type(content).__name__
    with pytest.raises(
        CheckpointError, match=rf"weights\.pth contains an object of type {kind}, and weights are a dict"
    ):
        InceptionFeatures.load(tmp_path / "weights.pth", CPU)


@pytest.mark.parametrize("content", [b"", b'{"weights": 3}', b"PK\x03\x04 and no archive"])
def test_a_file_without_tensors_is_refused_as_weights(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "weights.pth").write_bytes(content)
    with pytest.raises(
        CheckpointError, match=r"weights\.pth cannot be read as tensors .*\. Name another file"
    ):
        InceptionFeatures.load(tmp_path / "weights.pth", CPU)


def offer(content: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the library download its weights from a file with this content, into a directory of the test."""
    import torch_fidelity.feature_extractor_inceptionv3 as library

    source = tmp_path / "weights-6726825d.pth"
    source.write_bytes(content)
    monkeypatch.setattr(library, "URL_INCEPTION_V3", source.as_uri())
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "home"))


def test_a_download_of_other_content_is_refused_and_not_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    offer(b"<html>please log in</html>", tmp_path, monkeypatch)
    with pytest.raises(
        DataError,
        match=r"its SHA-256 does not begin with 6726825d .* Download file:.*6726825d\.pth on another",
    ):
        InceptionFeatures.load(None, CPU)
    assert list((tmp_path / "home").rglob("*.*")) == []


def test_a_damaged_earlier_download_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    offer(b"", tmp_path, monkeypatch)
    kept = tmp_path / "home" / "hub" / "checkpoints" / "weights-6726825d.pth"
    kept.parent.mkdir(parents=True)
    kept.write_bytes(b"cut short")
    with pytest.raises(
        CheckpointError, match=rf"{kept} cannot be read as tensors .* delete this one if it was"
    ):
        InceptionFeatures.load(None, CPU)


def test_a_download_that_cannot_be_written_names_torch_home(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    offer(b"", tmp_path, monkeypatch)
    (tmp_path / "home").touch()
    with pytest.raises(
        ConfigError, match=r"weights cannot be written to .*: Not a directory\. .* TORCH_HOME to another"
    ):
        InceptionFeatures.load(None, CPU)


def test_a_failed_download_says_how_to_name_the_weights_file(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    for name in ("http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    with pytest.raises(
        DataError, match=r"weights cannot be downloaded .*\. Download https://.*inception.*\.pth on"
    ):
        InceptionFeatures.load(None, CPU)


def test_inception_features_are_those_of_the_library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch_fidelity.feature_extractor_inceptionv3 as library

    torch.manual_seed(0)
    with monkeypatch.context() as patched:
        # Random weights: the constructor would download the real ones.
        patched.setattr(library, "load_state_dict_from_url", lambda *_, **__: {})
        patched.setattr(library.FeatureExtractorInceptionV3, "load_state_dict", lambda *_, **__: None)
        source = library.FeatureExtractorInceptionV3("inception", ["2048"])
    torch.save(source.state_dict(), tmp_path / "weights.pth")
    images = torch.randint(0, 256, (2, 1, 28, 28), dtype=torch.uint8)
    features = InceptionFeatures.load(tmp_path / "weights.pth", CPU)
    digest = hashlib.sha256((tmp_path / "weights.pth").read_bytes()).hexdigest()
    assert features.name == f"inception {digest[:8]}"
    found = features(images)
    assert found.shape == (2, 2048)
    assert found.std() > 0
    assert torch.allclose(found, source(images.expand(-1, 3, -1, -1))[0], atol=1e-5)
