"""Details of the sets that torchvision reads: orientation, labels, manipulated files, failed downloads."""

from __future__ import annotations

import pickle
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.data.sources import EMNIST, Spec, open_source
from pipeline.errors import DataError
from tests.data.sources.helpers import (
    labels,
    md5,
    pixels,
    put_cifar10,
    put_idx,
    put_mnist,
    put_stl10,
)


@pytest.fixture
def no_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty home directory, and a proxy that does not exist."""
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("http_proxy", "https_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


@pytest.mark.parametrize(
    ("name", "title", "last"),
    [("mnist", "MNIST", "9"), ("fashion-mnist", "FashionMNIST", "Ankle boot"), ("kmnist", "KMNIST", "wo")],
)
def test_the_mnist_family_gives_each_split_from_its_own_files(
    name: str, title: str, last: str, tmp_path: Path
) -> None:
    put_mnist(tmp_path, title)
    for split, count in (("train", 5), ("test", 3)):
        source = open_source(Spec(name, tmp_path, split))
        assert (source.name, len(source)) == (f"{name}-{split}", count)
        assert list(labels(source).values()) == [9, 8, 7, 6, 5][:count]
        assert [int(pixels(source, position).max()) for position in range(count)] == list(range(count))
        assert pixels(source, 0).shape == source.native_resolution == (28, 28)
        assert (len(source.classes), source.classes[9], source.native_channels) == (10, last, 1)


@pytest.mark.parametrize("name", EMNIST)
def test_emnist_is_upright_and_its_labels_fit_its_classes(name: str, tmp_path: Path) -> None:
    part = name.removeprefix("emnist-")
    counts = {"balanced": 47, "byclass": 62, "bymerge": 47, "letters": 26, "digits": 10, "mnist": 10}
    first = 1 if part == "letters" else 0
    images = np.zeros((2, 28, 28), dtype=np.uint8)
    images[:, 3, 20] = 9
    put_idx(tmp_path / "EMNIST" / "raw", f"emnist-{part}-test", images, (first, first + counts[part] - 1))
    source = open_source(Spec(name, tmp_path, "test"))
    assert pixels(source, 0)[20, 3] == 9
    assert list(labels(source).values()) == [0, counts[part] - 1]
    assert len(source.classes) == counts[part]
    assert source.classes[0] == ("a" if part == "letters" else "0")
    assert source.name == f"{name}-test"


def test_truncated_mnist_files_are_reported_as_damaged(tmp_path: Path) -> None:
    put_mnist(tmp_path)
    images = tmp_path / "MNIST" / "raw" / "train-images-idx3-ubyte"
    whole = images.read_bytes()
    for length in (0, 3, 10, len(whole) - 100):
        images.write_bytes(whole[:length])
        with pytest.raises(DataError, match=r"MNIST files in .* are damaged .*Remove them"):
            open_source(Spec("mnist", tmp_path))


class UnheardOfError(Exception):
    """Of no kind that anybody expects."""


@pytest.mark.parametrize("error", [UnheardOfError("oh no"), MemoryError(), IndexError("7"), TypeError("x")])
def test_whatever_torchvision_raises_names_the_set(
    error: Exception, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*words: object, **options: object) -> None:
        raise error

    put_mnist(tmp_path)
    monkeypatch.setattr("torchvision.datasets.MNIST.__init__", fail)
    with pytest.raises(DataError, match=r"The MNIST files in .* are damaged \(.+\)\. Remove them"):
        open_source(Spec("mnist", tmp_path))


def test_labels_that_do_not_fit_the_images_are_refused(tmp_path: Path) -> None:
    put_idx(tmp_path / "MNIST" / "raw", "train", np.zeros((2, 28, 28), np.uint8), (0, 1, 2))
    put_idx(tmp_path / "MNIST" / "raw", "t10k", np.zeros((2, 28, 28), np.uint8), (0, 10))
    with pytest.raises(DataError, match="has 2 images but 3 labels"):
        open_source(Spec("mnist", tmp_path))
    with pytest.raises(DataError, match=r"image 1 has label 10, but the set has 10 classes, numbered from 0"):
        open_source(Spec("mnist", tmp_path, "test"))


@pytest.mark.parametrize("name", ["mnist", "emnist-letters", "cifar10", "cifar100", "stl10"])
def test_without_network_access_the_message_suggests_root(name: str, no_network: Path) -> None:
    with pytest.raises(DataError, match=r"cannot be downloaded to .*wgan-pipeline.*give --root DIR"):
        open_source(Spec(name))


def test_cifar_100_has_its_fine_classes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from torchvision.datasets import CIFAR100

    folder = tmp_path / "cifar-100-python"
    folder.mkdir()
    data = np.zeros((2, 3 * 32 * 32), np.uint8)
    for name in ("train", "test"):
        content = {"data": data, "fine_labels": [99, 0], "coarse_labels": [1, 1]}
        (folder / name).write_bytes(pickle.dumps(content))
        monkeypatch.setattr(CIFAR100, f"{name}_list", [[name, md5(folder / name)]])
    names = {"fine_label_names": [f"fine {number}" for number in range(100)]}
    (folder / "meta").write_bytes(pickle.dumps(names))
    monkeypatch.setattr(CIFAR100, "meta", {**CIFAR100.meta, "md5": md5(folder / "meta")})
    source = open_source(Spec("cifar100", tmp_path))
    assert (list(labels(source).values()), source.classes[99]) == ([99, 0], "fine 99")


@pytest.mark.parametrize("name", ["data_batch_1", "test_batch", "batches.meta"])
def test_a_manipulated_cifar_file_is_never_unpickled(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Canary:
        def __reduce__(self) -> tuple[Any, ...]:
            return Path.touch, (tmp_path / "ran",)

    folder = put_cifar10(tmp_path, monkeypatch)
    (folder / name).write_bytes(pickle.dumps(Canary()))
    for split in ("train", "test"):
        with pytest.raises(
            DataError, match=r"CIFAR10 files in .*cifar-10-batches-py are damaged .*Remove them"
        ):
            open_source(Spec("cifar10", tmp_path, split))
    assert not (tmp_path / "ran").exists()


def test_cifar_files_that_are_missing_are_listed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = put_cifar10(tmp_path, monkeypatch)
    (folder / "data_batch_3").unlink()
    with pytest.raises(DataError, match=r"does not hold the CIFAR10 files \(data_batch_1, .*batches\.meta\)"):
        open_source(Spec("cifar10", tmp_path))


def test_stl_images_are_upright_and_labels_start_at_0(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_stl10(tmp_path, monkeypatch)
    for split, expected in (("train", [0, 1]), ("test", [0, 1, 2]), ("unlabeled", [None] * 4)):
        source = open_source(Spec("stl10", tmp_path, split))
        image = pixels(source, 0)
        assert (source.name, list(labels(source).values())) == (f"stl10-{split}", expected)
        assert (image.shape, image[0, 5, 0], image[5, 0, 0]) == ((96, 96, 3), 250, 0)
        assert len(source.classes) == (0 if split == "unlabeled" else 10)
        assert (source.native_resolution, source.native_channels) == ((96, 96), 3)


def test_stl_files_that_changed_are_reported_as_damaged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = put_stl10(tmp_path, monkeypatch)
    (folder / "test_X.bin").write_bytes(b"short")
    with pytest.raises(DataError, match=r"STL10 files in .*stl10_binary are damaged"):
        open_source(Spec("stl10", tmp_path))


def test_a_library_missing_for_the_celeba_download_is_named(
    no_network: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "gdown", None)
    with pytest.raises(DataError, match=r"CelebA cannot be downloaded to .*gdown.*give --root DIR"):
        open_source(Spec("celeba"))
