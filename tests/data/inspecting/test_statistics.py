"""The statistics of a set, compared with NumPy's for the same pixels."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from pipeline.data.inspecting import statistics
from pipeline.data.inspecting.statistics import choose_classes, measure
from pipeline.errors import DataError
from tests.shards import Given, noise, rehash, write


def skewed(count: int = 30, channels: int = 3) -> Given:
    """Images whose channels differ; the values from 10 to 200 in red, to 100 and 50 in green and blue."""
    tops = np.array([200, 100, 50][:channels])
    pixels = np.random.default_rng(1).integers(10, tops + 1, (count, 6, 9, channels)).astype(np.uint8)
    pixels[0, 0, 0], pixels[0, 0, 1] = 10, tops
    labels: list[int | None] = [0 if number < 20 else 2 for number in range(count)]
    return Given(pixels.squeeze(3) if channels == 1 else pixels, labels, ("many", "none", "few"), "skewed")


@pytest.mark.parametrize("channels", [1, 3])
def test_statistics_are_those_of_the_decoded_pixels(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, channels: int
) -> None:
    monkeypatch.setattr(
        statistics, "BATCH_BYTES", 7 * 6 * 9 * channels
    )  # batches across shards, and a smaller last one
    source = skewed(channels=channels)
    write(source, tmp_path / "shards", (6, 9), channels)
    found = measure(tmp_path / "shards")
    pixels = np.asarray(source.pictures).reshape(-1, channels)
    values = pixels / 255
    np.testing.assert_allclose(found.mean, values.mean(axis=0), rtol=1e-12)
    np.testing.assert_allclose(found.std, values.std(axis=0), rtol=1e-12)
    np.testing.assert_allclose(found.network_mean, (pixels / 127.5 - 1).mean(axis=0), rtol=1e-12)
    np.testing.assert_allclose(found.network_std, (pixels / 127.5 - 1).std(axis=0), rtol=1e-12)
    assert found.lowest == (10,) * channels
    assert found.highest == (200, 100, 50)[:channels]
    assert found.histogram.dtype == np.int64
    assert found.histogram.shape == (channels, 256)
    for channel in range(channels):
        assert (found.histogram[channel] == np.bincount(pixels[:, channel], minlength=256)).all()


def test_the_shares_of_black_and_white_are_counted(tmp_path: Path) -> None:
    pixels = np.full((4, 8, 8), 255, dtype=np.uint8)
    pixels[0] = 0
    pixels[1] = 100
    write(Given(pixels), tmp_path / "shards", channels=1)
    found = measure(tmp_path / "shards")
    assert (found.share_at_0, found.share_at_255) == ((0.25,), (0.5,))


def test_images_of_one_value_have_no_deviation(tmp_path: Path) -> None:
    write(Given(np.full((3, 8, 8), 77, dtype=np.uint8)), tmp_path / "shards", channels=1)
    found = measure(tmp_path / "shards")
    assert found.std == (0.0,)
    assert found.mean == (77 / 255,)


def test_classes_without_images_are_counted_too(tmp_path: Path) -> None:
    write(skewed(), tmp_path / "shards", (6, 9))
    assert measure(tmp_path / "shards").class_counts == (20, 0, 10)


def test_the_stored_size_does_not_count_tar_headers(tmp_path: Path) -> None:
    write(noise(5), tmp_path / "shards", encoding="raw")
    found = measure(tmp_path / "shards")
    assert (found.encoded_bytes, found.bytes_per_image) == (5 * 8 * 8 * 3, 8 * 8 * 3)


def test_the_text_has_a_line_for_each_channel_and_class(tmp_path: Path) -> None:
    write(skewed(), tmp_path / "shards", (6, 9))
    found = measure(tmp_path / "shards")
    lines = str(found).splitlines()
    assert lines[0] == "skewed: 30 images of 6 x 9 in colour"
    assert lines[1] == f"png: {found.bytes_per_image:.0f} bytes per image on average; 162 when decoded"
    red = lines[4].split()
    assert red[:2] == ["red", f"{found.mean[0]:.3f}"]
    assert red[-4:] == ["10", "200", "0.0%", "0.0%"]
    assert [line.split() for line in lines[-4:]] == [
        ["images", "of", "each", "class"],
        ["many", "20", "66.7%"],
        ["none", "0", "0.0%"],
        ["few", "10", "33.3%"],
    ]


def test_the_text_of_a_set_without_labels_has_no_classes(tmp_path: Path) -> None:
    write(noise(5, channels=1, labelled=False), tmp_path / "shards", channels=1)
    assert "class" not in str(measure(tmp_path / "shards"))


def test_control_characters_in_class_names_are_escaped(tmp_path: Path) -> None:
    pixels = np.zeros((2, 8, 8), dtype=np.uint8)
    write(Given(pixels, [0, 1], ("\x1b[2Jred", "two\nlines")), tmp_path / "shards", channels=1)
    text = str(measure(tmp_path / "shards"))
    assert "\x1b" not in text
    assert "two\\nlines " in text


def test_only_the_largest_and_smallest_of_many_classes_are_listed() -> None:
    assert choose_classes([1, 9, 5]) == ([0, 1, 2], "images of each class")
    chosen, title = choose_classes(list(range(100)))
    assert chosen == [*range(99, 79, -1), *range(19, -1, -1)]
    assert title == "images of each class: the 20 largest and the 20 smallest of 100 classes"


def test_a_damaged_image_is_named(tmp_path: Path) -> None:
    write(noise(5), tmp_path)
    path = tmp_path / "000001.tar"
    content = bytearray(path.read_bytes())
    content[int(np.load(tmp_path / "000001.npy")[0, 0]) + 20] ^= 1
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"Sample 0 of .*000001\.tar is damaged.*wgan shards check"):
        measure(tmp_path)


def test_a_label_outside_the_classes_is_named(tmp_path: Path) -> None:
    write(noise(5), tmp_path)
    index = np.load(tmp_path / "000001.npy")
    index[0, 2] = 7
    np.save(tmp_path / "000001.npy", index)
    rehash(tmp_path)
    with pytest.raises(
        DataError, match=r"Sample 4 has label 7, but manifest\.json has 2 classes, numbered from 0"
    ):
        measure(tmp_path)


def test_truncated_shards_are_refused(tmp_path: Path) -> None:
    write(noise(5), tmp_path)
    (tmp_path / "000001.tar").write_bytes(b"")
    with pytest.raises(DataError, match=r"000001\.tar has 0 bytes, but manifest\.json says"):
        measure(tmp_path)
