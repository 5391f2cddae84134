"""Looking at finished shards: whether they are sound, and what the images are."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont
from tqdm import tqdm

from pipeline.data.convert import decode_png
from pipeline.data.manifest import Manifest, Shard, check_sizes, file_sha256, load_index, load_manifest
from pipeline.data.tar_index import index_shard
from pipeline.errors import ConfigError, DataError

PADDING = 2
SMALLEST_CELL = 56
CAPTION_HEIGHT = 14
MOST_PIXELS = 1 << 28


@dataclass(frozen=True)
class Report:
    """What `check_shards` found: one line a defect, each naming its file; none for sound shards."""

    manifest: Manifest
    findings: tuple[str, ...]


def check_shards(directory: Path) -> Report:
    """Check every file against the manifest, every index against its tar file, and decode every image.

    All defects are collected. Raises DataError only where there is no readable manifest to check by.
    """
    manifest = load_manifest(directory)
    with tqdm(total=manifest.count, unit="image", desc="check", disable=None) as bar:
        findings = tuple(
            finding
            for shard in manifest.shards
            for finding in _check_shard(directory, manifest, shard, bar.update)
        )
    return Report(manifest, findings)


def _check_shard(
    directory: Path, manifest: Manifest, shard: Shard, advance: Callable[[int], object]
) -> Iterator[str]:
    missing = [name for name in (shard.name, shard.index) if not (directory / name).is_file()]
    if missing:
        yield from (f"{directory / name}: missing" for name in missing)
        return
    yield from _check_files(directory, shard)
    try:
        index = index_shard(directory / shard.name)
    except DataError as error:
        yield f"{directory / shard.name}: {error}"
        return
    yield from _check_index(directory, shard, index)
    with (directory / shard.name).open("rb") as file:
        for position, (offset, size, label) in enumerate(index.tolist()):
            file.seek(offset)
            place = f"{directory / shard.name}: image {position}"
            yield from (f"{place}: {defect}" for defect in _check_sample(file.read(size), label, manifest))
            advance(1)


def _check_files(directory: Path, shard: Shard) -> Iterator[str]:
    found = (directory / shard.name).stat().st_size
    if found != shard.bytes:
        yield f"{directory / shard.name}: {found} bytes instead of {shard.bytes}"
    for name, expected in ((shard.name, shard.sha256), (shard.index, shard.index_sha256)):
        if file_sha256(directory / name) != expected:
            yield f"{directory / name}: its SHA-256 is not the manifest's, so its content changed"


def _check_index(directory: Path, shard: Shard, real: npt.NDArray[np.int64]) -> Iterator[str]:
    if len(real) != shard.count:
        yield f"{directory / shard.name}: {len(real)} samples instead of {shard.count}"
    try:
        index = load_index(directory, shard)
    except DataError as error:
        yield f"{directory / shard.index}: {error}"
        return
    if not np.array_equal(index, real):
        yield f"{directory / shard.index}: does not agree with the members of {shard.name}"


def _check_sample(encoded: bytes, label: int, manifest: Manifest) -> Iterator[str]:
    try:
        decode_png(encoded, manifest.resolution, manifest.channels)
    except DataError as error:
        yield str(error)
    first, last = (0, len(manifest.classes) - 1) if manifest.classes else (-1, -1)
    if not first <= label <= last:
        yield f"label {label} is outside {first} to {last}"


def contact_sheet(directory: Path, rows: int, columns: int) -> Image.Image:
    """Draw up to rows x columns samples, evenly spaced over the set, with class names where there are any.

    Small images are enlarged by whole factors, so that their pixels stay visible. Raises ConfigError for
    a sheet without cells or of too many pixels, DataError where the shards cannot be read.
    """
    if rows < 1 or columns < 1:
        raise ConfigError(f"A sheet of {rows} x {columns} has no cells. Give at least 1 row and 1 column.")
    manifest = load_manifest(directory)
    check_sizes(directory, manifest)
    columns = min(columns, manifest.count)
    rows = min(rows, -(-manifest.count // columns))
    height, width = manifest.resolution
    factor = max(1, -(-SMALLEST_CELL // min(height, width)))
    caption = CAPTION_HEIGHT if manifest.classes else 0
    cell_width, cell_height = width * factor + PADDING, height * factor + caption + PADDING
    size = (columns * cell_width + PADDING, rows * cell_height + PADDING)
    if size[0] * size[1] > MOST_PIXELS:
        raise ConfigError(
            f"A sheet of {rows} x {columns} would have {size[0]:,} x {size[1]:,} pixels, over {MOST_PIXELS:,} in "
            "all. Give fewer --rows or --columns."
        )
    mode = "L" if manifest.channels == 1 else "RGB"
    sheet = Image.new(mode, size, "white")
    for cell, position in enumerate(_evenly_spaced(manifest.count, rows * columns)):
        image, label = _read_sample(directory, manifest, position)
        corner = (PADDING + cell % columns * cell_width, PADDING + cell // columns * cell_height)
        sheet.paste(image.resize((width * factor, height * factor), Image.Resampling.NEAREST), corner)
        if manifest.classes:
            text = _caption(manifest.classes[label], width * factor, caption, mode)
            sheet.paste(text, (corner[0], corner[1] + height * factor))
    return sheet


def _evenly_spaced(count: int, wanted: int) -> list[int]:
    return [int(position) for position in np.linspace(0, count - 1, min(count, wanted)).round()]


def _read_sample(directory: Path, manifest: Manifest, position: int) -> tuple[Image.Image, int]:
    """The sample at `position` of the whole set, and its label."""
    for shard in manifest.shards:
        if position < shard.count:
            break
        position -= shard.count
    offset, size, label = load_index(directory, shard)[position].tolist()
    with (directory / shard.name).open("rb") as file:
        file.seek(offset)
        encoded = file.read(size)
    try:
        image = decode_png(encoded, manifest.resolution, manifest.channels)
        if manifest.classes and not 0 <= label < len(manifest.classes):
            raise DataError(f"label {label} is no class")
    except DataError as error:
        raise DataError(
            f"{directory / shard.name}, image {position}: {error}. `wgan shards check` lists all defects."
        ) from None
    return image, label


def _caption(text: str, width: int, height: int, mode: str) -> Image.Image:
    """The text on white, cut off where it is wider than the image above it."""
    strip = Image.new(mode, (width, height), "white")
    ImageDraw.Draw(strip).text((0, 0), text, fill="black", font=ImageFont.load_default(size=10))
    return strip
