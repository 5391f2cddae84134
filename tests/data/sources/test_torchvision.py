"""The named sets that torchvision reads, with small files in their formats."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest

from pipeline.data.sources import REGISTRY, Source, Spec, open_source
from pipeline.errors import ConfigError, DataError
from tests.data.sources.helpers import (
    labels,
    pixels,
    put_celeba,
    put_cifar10,
    put_idx,
    put_lsun,
    put_mnist,
    put_stl10,
    values,
)
from tests.shards import reader, write


def open_named(name: str, root: Path, split: str = "train") -> Source:
    return open_source(Spec(name, root, split))


@pytest.mark.parametrize(("name", "title"), [("mnist", "MNIST"), ("fashion-mnist", "FashionMNIST")])
def test_both_splits_of_mnist_and_similar_sets_are_read(tmp_path: Path, name: str, title: str) -> None:
    put_mnist(tmp_path, title)
    train, test = open_named(name, tmp_path), open_named(name, tmp_path, "test")
    assert (train.name, len(train), train.native_resolution, train.native_channels) == (
        f"{name}-train",
        5,
        (28, 28),
        1,
    )
    assert values(train) == {str(number): (9 - number, number) for number in range(5)}
    assert (test.name, len(test), len(test.classes)) == (f"{name}-test", 3, 10)


def test_emnist_is_upright_and_its_letters_are_numbered_from_0(tmp_path: Path) -> None:
    images = np.zeros((2, 28, 28), dtype=np.uint8)
    images[:, :, 3] = 9  # a column in the file is a row of the image
    put_idx(tmp_path / "EMNIST" / "raw", "emnist-letters-train", images, [1, 26])
    source = open_named("emnist-letters", tmp_path)
    assert (pixels(source, 0)[3] == 9).all()
    assert pixels(source, 0).sum() == 28 * 9
    assert [source.classes[source.label(position) or 0].lower() for position in (0, 1)] == ["a", "z"]


def test_cifar_is_colour_with_its_classes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put_cifar10(tmp_path, monkeypatch)
    train = open_named("cifar10", tmp_path)
    assert (len(train), train.native_resolution, train.native_channels) == (10, (32, 32), 3)
    assert pixels(train, 2)[0, 0].tolist() == [200, 1, 1]
    assert labels(train)["2"] == 1
    assert len(open_named("cifar10", tmp_path, "test")) == 2


def test_a_changed_cifar_file_is_never_unpickled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, canary = put_cifar10(tmp_path, monkeypatch), tmp_path / "canary"

    class Payload:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return Path.touch, (canary,)  # type: ignore[return-value]

    (folder / "data_batch_3").write_bytes(pickle.dumps(Payload()))
    with pytest.raises(DataError, match=r"The CIFAR10 files in .* are damaged \(.*\)\. Remove them"):
        open_named("cifar10", tmp_path)
    assert not canary.exists()
    pickle.loads((folder / "data_batch_3").read_bytes())
    assert canary.exists(), "the payload would have shown it"


def test_stl10_is_read_row_by_row_and_its_unlabeled_split_has_no_labels(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_stl10(tmp_path, monkeypatch)
    train = open_named("stl10", tmp_path)
    assert train.native_resolution == (96, 96)
    image = pixels(train, 0)
    assert image.shape == (96, 96, 3)
    assert [train.label(position) for position in (0, 1)] == [0, 1]
    unlabeled = open_named("stl10", tmp_path, "unlabeled")
    assert (len(unlabeled), unlabeled.classes, unlabeled.label(0)) == (4, (), None)


def test_celeba_gives_the_files_of_a_split(tmp_path: Path) -> None:
    put_celeba(tmp_path)
    counts = {
        split: len(open_named("celeba", tmp_path, split)) for split in ("train", "valid", "test", "all")
    }
    assert counts == {"train": 2, "valid": 1, "test": 1, "all": 4}
    source = open_named("celeba", tmp_path)
    assert (source.key(0), source.native_resolution, source.classes) == ("000001.jpg", (218, 178), ())
    content = (tmp_path / "celeba" / "img_align_celeba" / "000001.jpg").read_bytes()
    assert source.read(0) == content


@pytest.mark.parametrize("line", ["../../secret.jpg 0", "/etc/passwd.jpg 0", "a/b.jpg 0", "000001.jpg"])
def test_file_names_of_celeba_cannot_leave_its_folder(tmp_path: Path, line: str) -> None:
    folder = put_celeba(tmp_path)
    (folder / "list_eval_partition.txt").write_text(line + "\n")
    with pytest.raises(
        DataError, match=r"CelebA files in .* are damaged \(list_eval_partition\.txt has an invalid line"
    ):
        open_named("celeba", tmp_path)


def test_missing_faces_are_reported_before_any_work(tmp_path: Path) -> None:
    folder = put_celeba(tmp_path)
    (folder / "img_align_celeba" / "000002.jpg").unlink()
    with pytest.raises(
        DataError,
        match=r"not complete: 1 of 2 images of the train split are missing, for example 000002\.jpg",
    ):
        open_named("celeba", tmp_path)


def test_lsun_gives_the_bytes_of_its_database(tmp_path: Path) -> None:
    put_lsun(tmp_path)
    source = open_named("lsun-bedroom", tmp_path)
    assert values(source) == {"0a": (None, 1), "0b": (None, 2)}


@pytest.mark.parametrize(
    ("name", "root", "split", "error", "message"),
    [
        (
            "lsun-bedroom",
            None,
            "train",
            ConfigError,
            "is not downloaded automatically. Download bedroom_train",
        ),
        ("lsun-bedroom", "", "val", DataError, "has no bedroom_val_lmdb/data.mdb"),
        (
            "lsun-bedroom",
            "",
            "test",
            ConfigError,
            "--split test: lsun-bedroom has no such split. Its splits: train, val",
        ),
        ("mnist", "", "train", DataError, "does not hold the MNIST files"),
        (
            "mnist",
            "",
            "valid",
            ConfigError,
            "--split valid: mnist has no such split. Its splits: train, test",
        ),
        ("cifar100", "", "train", DataError, "does not hold the CIFAR100 files"),
        ("stl10", "", "train", DataError, "does not hold the STL10 files"),
        ("celeba", "", "train", DataError, "does not hold the CelebA files"),
    ],
)
def test_missing_files_are_reported_with_what_to_do(
    tmp_path: Path, name: str, root: str | None, split: str, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        open_source(Spec(name, None if root is None else tmp_path, split))


@pytest.mark.parametrize("name", ["mnist", "cifar10", "stl10", "celeba", "lsun-bedroom"])
def test_an_unreadable_root_is_reported(name: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"cannot be read: File name too long\. Check .*--root"):
        open_named(name, tmp_path / ("a" * 300))


@pytest.mark.parametrize("damage", ["cut", "swapped"])
def test_damaged_mnist_files_are_named(tmp_path: Path, damage: str) -> None:
    put_mnist(tmp_path)
    file = tmp_path / "MNIST" / "raw" / "train-images-idx3-ubyte"
    content = file.read_bytes()
    file.write_bytes(content[:200] if damage == "cut" else bytes(16) + content[16:])
    with pytest.raises(DataError, match=r"The MNIST files in .*raw are damaged .*Remove them"):
        open_named("mnist", tmp_path)


def test_a_failed_download_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Path, "home", lambda: tmp_path)

    def no_network(*arguments: object, **options: object) -> None:
        raise OSError("Network is unreachable")

    monkeypatch.setattr("torchvision.datasets.mnist.download_and_extract_archive", no_network)
    with pytest.raises(DataError, match=r"MNIST cannot be downloaded to .*give --root DIR"):
        open_source(Spec("mnist"))


def test_a_failed_download_of_celeba_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class QuotaError(Exception):
        pass

    def refuse(*arguments: object, **options: object) -> None:
        raise QuotaError("Too many users have downloaded this file")

    monkeypatch.setattr(Path, "home", lambda: tmp_path)
    monkeypatch.setattr("torchvision.datasets.CelebA", refuse)
    with pytest.raises(
        DataError, match=r"CelebA cannot be downloaded to .* \(Too many users .*give --root DIR"
    ):
        open_source(Spec("celeba"))


def test_cached_faces_need_no_download(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / ".cache" / "wgan-pipeline").mkdir(parents=True)
    put_celeba(tmp_path / ".cache" / "wgan-pipeline")
    monkeypatch.setattr(Path, "home", lambda: tmp_path)
    monkeypatch.setattr("torchvision.datasets.CelebA", None)
    assert len(open_source(Spec("celeba"))) == 2


def test_every_registered_name_has_a_module_that_opens_it() -> None:
    from importlib import import_module

    for module in set(REGISTRY.values()):
        assert callable(import_module(module).open_source)


def test_named_sources_can_be_pickled_and_made_to_shards(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_mnist(tmp_path)
    put_celeba(tmp_path)
    put_lsun(tmp_path)
    put_cifar10(tmp_path, monkeypatch)
    put_stl10(tmp_path, monkeypatch)
    for name in ("mnist", "celeba", "lsun-bedroom", "cifar10", "stl10"):
        source = open_named(name, tmp_path)
        copy = pickle.loads(pickle.dumps(source))
        assert values(copy) == values(source)
        manifest = write(copy, tmp_path / f"{name}-shards", 8, source.native_channels)
        assert len(reader(tmp_path / f"{name}-shards").read(np.arange(manifest.count))) == len(source)
