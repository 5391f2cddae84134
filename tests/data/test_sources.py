"""Sources: which samples they give, in which order, and what they refuse."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipeline.data.sources import Source, open_source
from pipeline.errors import ConfigError, DataError


def open_train(spec: str | Path, root: Path | None = None) -> Source:
    return open_source(str(spec), root=root, split="train")


def put_image(path: Path, value: int = 0, size: tuple[int, int] = (4, 4)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("L", size, value).save(path)


def put_mnist(root: Path, train: int = 5, test: int = 3) -> None:
    raw = root / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for prefix, count in (("train", train), ("t10k", test)):
        images = np.arange(count, dtype=np.uint8).repeat(28 * 28)
        header = struct.pack(">IIII", 0x803, count, 28, 28)
        (raw / f"{prefix}-images-idx3-ubyte").write_bytes(header + images.tobytes())
        labels = bytes(9 - number for number in range(count))
        (raw / f"{prefix}-labels-idx1-ubyte").write_bytes(struct.pack(">II", 0x801, count) + labels)


def test_an_unknown_source_is_answered_with_the_known_and_the_nearest() -> None:
    with pytest.raises(ConfigError, match=r"no folder minst .* digits, mnist\. Did you mean mnist\?"):
        open_train("minst")


def test_a_file_is_no_source(tmp_path: Path) -> None:
    put_image(tmp_path / "a.png")
    with pytest.raises(ConfigError, match=r"a\.png is a file\. Give a folder"):
        open_train(tmp_path / "a.png")


def test_digits_use_the_whole_range_of_bytes() -> None:
    source = open_train("digits")
    samples = list(source)
    images = np.stack([np.asarray(sample.image) for sample in samples])
    assert len(source) == len(samples) == 1797
    assert images.shape == (1797, 8, 8)
    assert (images.dtype, images.min(), images.max()) == (np.uint8, 0, 255)
    assert {source.classes[sample.label or 0] for sample in samples} == set("0123456789")
    assert (source.native_resolution, source.native_channels) == (16, 1)


@pytest.mark.parametrize(("root", "split"), [(Path("somewhere"), "train"), (None, "test")])
def test_digits_refuse_a_root_and_a_test_split(root: Path | None, split: str) -> None:
    with pytest.raises(ConfigError, match="digits"):
        open_source("digits", root=root, split=split)


def test_mnist_gives_each_split_from_its_own_files(tmp_path: Path) -> None:
    put_mnist(tmp_path)
    for split, count in (("train", 5), ("test", 3)):
        source = open_source("mnist", root=tmp_path, split=split)
        samples = list(source)
        assert (source.name, len(source)) == (f"mnist-{split}", count)
        assert [sample.label for sample in samples] == [9, 8, 7, 6, 5][:count]
        assert [int(np.asarray(sample.image).max()) for sample in samples] == list(range(count))
        assert np.asarray(samples[0].image).shape == (28, 28)


def test_mnist_with_a_root_never_downloads(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"MNIST/raw does not hold the four MNIST files.*correct --root"):
        open_train("mnist", tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_mnist_files_cut_short_are_reported_as_damaged(tmp_path: Path) -> None:
    put_mnist(tmp_path)
    images = tmp_path / "MNIST" / "raw" / "train-images-idx3-ubyte"
    images.write_bytes(images.read_bytes()[:-100])
    with pytest.raises(DataError, match=r"MNIST files in .* are damaged"):
        open_train("mnist", tmp_path)


def test_mnist_without_a_network_points_to_root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("http_proxy", "https_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")  # nothing listens there
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(DataError, match=r"cannot be downloaded into .*wgan-pipeline.*give --root DIR"):
        open_train("mnist")


def test_class_folders_give_labels_at_any_depth_in_the_order_of_paths(tmp_path: Path) -> None:
    for name in ("dog/b.png", "cat/deep/er/z.png", "cat/a.JPG", "dog/a.webp"):
        put_image(tmp_path / name)
    source = open_train(tmp_path)
    found = [(sample.key, sample.label) for sample in source]
    assert source.classes == ("cat", "dog")
    assert found == [("cat/a.JPG", 0), ("cat/deep/er/z.png", 0), ("dog/a.webp", 1), ("dog/b.png", 1)]
    assert (source.native_resolution, source.name, len(source)) == (None, tmp_path.name, 4)


def test_a_flat_folder_has_no_labels(tmp_path: Path) -> None:
    for name in ("2.png", "10.png"):
        put_image(tmp_path / name)
    source = open_train(tmp_path)
    assert source.classes == ()
    assert [(sample.key, sample.label) for sample in source] == [("10.png", None), ("2.png", None)]


def test_hidden_files_are_passed_over(tmp_path: Path) -> None:
    for name in ("a.png", ".b.png", ".thumbnails/c.png"):
        put_image(tmp_path / name)
    assert [sample.key for sample in open_train(tmp_path)] == ["a.png"]


def test_files_of_other_kinds_are_passed_over_with_one_warning(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    put_image(tmp_path / "cat" / "a.png")
    assert len(open_train(tmp_path)) == 1
    assert capsys.readouterr().err == ""
    for name in ("cat/b.tif", "cat/deep/c.tif", "notes.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("hello")
    assert len(list(open_train(tmp_path))) == 1
    warning = f"warning: {tmp_path}: 3 files are passed over, notes.txt for one; only .png, .jpg,"
    assert capsys.readouterr().err.startswith(warning)


def test_a_class_folder_may_be_a_link_and_a_circle_of_links_ends(tmp_path: Path) -> None:
    put_image(tmp_path / "elsewhere" / "a.png")
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "cat").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere" / "loop").symlink_to(tmp_path / "elsewhere")
    assert [sample.key for sample in open_train(tmp_path / "set")] == ["cat/a.png"]


def test_an_empty_folder_is_refused_with_the_extensions(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"holds no images: no files ending in \.png, \.jpg"):
        open_train(tmp_path)


def test_an_empty_class_folder_is_refused(tmp_path: Path) -> None:
    put_image(tmp_path / "cat" / "a.png")
    (tmp_path / "dog").mkdir()
    with pytest.raises(DataError, match=r"class folder .*dog holds no images"):
        open_train(tmp_path)


def test_loose_images_beside_class_folders_are_refused(tmp_path: Path) -> None:
    put_image(tmp_path / "loose.png")
    put_image(tmp_path / "cat" / "a.png")
    with pytest.raises(DataError, match=r"both directly \(loose\.png\) and in folders \(cat\)"):
        open_train(tmp_path)


def test_a_folder_is_listed_without_opening_its_images_and_a_broken_one_is_named(tmp_path: Path) -> None:
    put_image(tmp_path / "a.png", 7)
    whole = (tmp_path / "a.png").read_bytes()
    (tmp_path / "b.png").write_bytes(whole[:50])
    samples = iter(open_train(tmp_path))
    assert np.asarray(next(samples).image).max() == 7
    with pytest.raises(DataError, match=r"b\.png is broken: .*Replace it, or remove it"):
        next(samples)


def test_an_image_that_vanished_is_named(tmp_path: Path) -> None:
    put_image(tmp_path / "a.png")
    source = open_train(tmp_path)
    (tmp_path / "a.png").unlink()
    with pytest.raises(DataError, match=r"a\.png cannot be read: No such file"):
        list(source)


def test_a_folder_refuses_a_split_and_says_what_to_give(tmp_path: Path) -> None:
    put_image(tmp_path / "a.png")
    with pytest.raises(ConfigError, match=r"has no test split\. Give the folder of the test images itself"):
        open_source(str(tmp_path), root=None, split="test")
