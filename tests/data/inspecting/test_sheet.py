"""The contact sheet: which samples are shown and where, and the chart of the classes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image, ImageColor

from pipeline.data.format.manifest import load_manifest
from pipeline.data.inspecting.sheet import BAR_COLOUR, LEAST_CHART_WIDTH, contact_sheet
from pipeline.errors import ConfigError, DataError
from tests.shards import Given, noise, rehash, write

CELL = 60  # images of 8 x 8 enlarged seven times, and the gap


@pytest.fixture
def plain(tmp_path: Path) -> Path:
    """Twelve grey images of rising brightness, without labels."""
    pixels = np.repeat(np.arange(12, dtype=np.uint8) * 20, 64).reshape(12, 8, 8)
    write(Given(pixels), tmp_path / "plain", channels=1, samples_per_shard=5)
    return tmp_path / "plain"


def labelled(out: Path, labels: list[int | None], classes: tuple[str, ...]) -> Path:
    """Black images."""
    write(Given(np.zeros((len(labels), 8, 8), dtype=np.uint8), labels, classes), out, channels=1)
    return out


def bars(sheet: Image.Image) -> list[int]:
    """The length of each bar of the chart in pixels, from the top; bars of length 0 are not found."""
    is_bar = (np.asarray(sheet) == ImageColor.getrgb(BAR_COLOUR)).all(axis=2)
    lengths = is_bar.sum(axis=1)
    starts = np.flatnonzero((lengths[1:] > 0) & (lengths[:-1] == 0)) + 1
    return [int(length) for length in lengths[starts]]


def cell(sheet: Image.Image, row: int, column: int) -> npt.NDArray[np.uint8]:
    """The enlarged sample: uint8 (56, 56, 3)."""
    top, left = 4 + row * CELL, 4 + column * CELL
    return np.asarray(sheet)[top : top + 56, left : left + 56]


def test_the_sheet_shows_evenly_spaced_samples_row_by_row(plain: Path) -> None:
    sheet = contact_sheet(plain, 2, 2)
    assert (sheet.mode, sheet.size) == ("RGB", (2 * CELL + 4, 2 * CELL + 4))
    shown = [np.unique(cell(sheet, row, column)).tolist() for row in (0, 1) for column in (0, 1)]
    assert shown == [[0], [80], [140], [220]]  # the samples 0, 4, 7 and 11 of 12


def test_small_images_are_enlarged_without_blurring_and_colours_are_kept(tmp_path: Path) -> None:
    source = noise(1, labelled=False)
    write(source, tmp_path)
    expected = np.asarray(source.pictures)[0].repeat(7, axis=0).repeat(7, axis=1)
    assert (cell(contact_sheet(tmp_path, 1, 1), 0, 0) == expected).all()


def test_large_images_keep_their_size_and_aspect_ratio(tmp_path: Path) -> None:
    write(Given(np.zeros((2, 60, 90, 3), dtype=np.uint8)), tmp_path, (60, 90))
    assert contact_sheet(tmp_path, 1, 2).size == (2 * 94 + 4, 64 + 4)


def test_the_sheet_has_class_names_below_the_images(tmp_path: Path) -> None:
    named = labelled(tmp_path / "named", [0] * 4, ("dark",))
    caption = np.asarray(contact_sheet(named, 1, 4))[4 + 56 : 4 + 56 + 16, 4:60]
    assert (caption < 128).sum() > 10
    assert (caption[:, :4] == 255).all()  # in the middle


def test_a_long_class_name_is_shortened_to_the_width_of_its_image(tmp_path: Path) -> None:
    named = labelled(tmp_path / "named", [0] * 2, ("Rhinolophus ferrumequinum\nof the longest name",))
    captions = np.asarray(contact_sheet(named, 1, 2))[4 + 56 : 4 + 56 + 16]
    assert (captions[:, 60:64] == 255).all()
    assert (captions[:, 40:60] < 128).any()


@pytest.mark.parametrize("counts", [(8, 4, 2), (2, 0, 8)])
def test_the_length_of_a_bar_is_the_size_of_its_class(tmp_path: Path, counts: tuple[int, ...]) -> None:
    labels: list[int | None] = [label for label, count in enumerate(counts) for _ in range(count)]
    sheet = contact_sheet(labelled(tmp_path / "shards", labels, ("one", "two", "three")), 1, 8)
    found = bars(sheet)
    expected = [count / 8 * max(found) for count in counts if count]
    assert found == pytest.approx(expected, abs=2)
    assert max(found) > sheet.width / 2


def test_only_the_largest_and_smallest_of_many_classes_have_bars(tmp_path: Path) -> None:
    labels: list[int | None] = [label for label in range(50) for _ in range(2 if label < 25 else 1)]
    names = tuple(f"class {label}" for label in range(50))
    found = bars(contact_sheet(labelled(tmp_path / "shards", labels, names), 2, 8))
    assert len(found) == 40
    assert found[:20] == [max(found)] * 20
    assert found[20:] == pytest.approx([max(found) / 2] * 20, abs=2)


def test_a_narrow_sheet_is_widened_for_the_chart(tmp_path: Path) -> None:
    named = labelled(tmp_path / "shards", [0, 1], ("a", "b" * 300))
    sheet = contact_sheet(named, 1, 1)
    assert sheet.width == LEAST_CHART_WIDTH
    assert (np.asarray(sheet)[: CELL + 16, CELL + 4 :] == 255).all()
    assert min(bars(sheet)) > LEAST_CHART_WIDTH / 3


@pytest.mark.parametrize(
    ("asked", "rows", "columns"),
    [((4, 4), 3, 4), ((1_000_000, 5), 3, 5), ((10**9, 10**9), 1, 12), ((1, 13), 1, 12), ((10**9, 1), 12, 1)],
)
def test_a_sheet_larger_than_the_set_is_made_smaller(
    plain: Path, asked: tuple[int, int], rows: int, columns: int
) -> None:
    assert contact_sheet(plain, *asked).size == (columns * CELL + 4, rows * CELL + 4)


def test_cells_after_the_last_sample_are_empty(plain: Path) -> None:
    sheet = contact_sheet(plain, 3, 5)
    assert (cell(sheet, 2, 1) == 220).all()
    assert (np.asarray(sheet)[4 + 2 * CELL :, 4 + 2 * CELL :] == 255).all()


def test_a_sheet_of_too_many_pixels_is_refused(plain: Path) -> None:
    manifest = load_manifest(plain)
    (plain / "manifest.json").write_text(replace(manifest, resolution=(8192, 8192)).to_json())
    with pytest.raises(
        ConfigError, match=r"A sheet of 3 rows and 4 columns would have .* pixels.*fewer --rows"
    ):
        contact_sheet(plain, 8, 4)


def test_a_sheet_without_cells_is_refused(plain: Path) -> None:
    with pytest.raises(ConfigError, match="--rows 0 and --columns 3 leave no images to draw"):
        contact_sheet(plain, 0, 3)


def test_a_damaged_image_is_named(plain: Path) -> None:
    content = bytearray((plain / "000000.tar").read_bytes())
    content[512 + 20] ^= 1
    (plain / "000000.tar").write_bytes(content)
    with pytest.raises(DataError, match=r"Sample 0 of .*000000\.tar is damaged.*wgan shards check"):
        contact_sheet(plain, 1, 1)


def test_a_label_outside_the_classes_is_named(tmp_path: Path) -> None:
    named = labelled(tmp_path / "shards", [0] * 3, ("zero",))
    index = np.load(named / "000000.npy")
    index[1, 2] = -1
    np.save(named / "000000.npy", index)
    rehash(named)
    with pytest.raises(DataError, match=r"Sample 1 has label -1, but manifest\.json has 1 class,"):
        contact_sheet(named, 1, 1)
