"""A contact sheet: some images of a set and, if it has labels, how many images each class has."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import matplotlib
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from pipeline.data.format.codecs import Bytes
from pipeline.data.format.shard_set import ShardSet
from pipeline.data.inspecting.statistics import choose_classes, count_classes, load_columns, open_to_look
from pipeline.errors import ConfigError
from pipeline.wording import counted

GAP = 4
SMALLEST_CELL = 56
CAPTION_HEIGHT = 16
MOST_PIXELS = 1 << 28

MARGIN = 12
LEAST_CHART_WIDTH = 400
TITLE_HEIGHT, BAR_PITCH, BAR_HEIGHT = 26, 18, 12
BAR_COLOUR, TRACK_COLOUR, TEXT_COLOUR = "#0072B2", "#EEEEEE", "#333333"
FONT_SIZE, TITLE_SIZE = 11, 13


def contact_sheet(directory: Path, rows: int, columns: int, resolution: int | None = None) -> Image.Image:
    """Draw up to rows x columns samples, evenly spaced over the set, as an RGB image, as `open_to_look` reads them.

    If the set has labels, the class name is below each sample, and a bar chart at the bottom has the size of each
    class; with more than 40 classes, of the largest and the smallest. Small images are enlarged by a whole factor, so
    that their pixels stay visible. Raises ConfigError for a sheet without cells or with too many pixels, and
    DataError if the shards cannot be read.
    """
    if rows < 1 or columns < 1:
        raise ConfigError(
            f"--rows {rows} and --columns {columns} leave no images to draw. Give at least 1 of each."
        )
    shards = open_to_look(directory, resolution)
    grid = _Grid(shards, rows, columns)
    # These import PyTorch, which takes seconds.
    from pipeline.data.reading.reader import ShardReader
    from pipeline.pixels import on_checkerboard

    count = shards.manifest.count
    ids = np.linspace(0, count - 1, min(count, grid.cells)).round().astype(np.int64)
    pixels = on_checkerboard(ShardReader(shards).read(ids)).permute(0, 2, 3, 1).numpy()
    if not shards.manifest.classes:
        return grid.draw(pixels, None)
    labels = load_columns(shards)[1]
    counts = count_classes(shards.manifest, labels)
    sheet = grid.draw(pixels, [shards.manifest.classes[label] if label >= 0 else "" for label in labels[ids]])
    return _stack(sheet, _draw_chart(shards.manifest.classes, counts, max(sheet.width, LEAST_CHART_WIDTH)))


class _Grid:
    """Cells of equal size, filled row by row; there are no more of them than samples need."""

    def __init__(self, shards: ShardSet, rows: int, columns: int) -> None:
        """Raises ConfigError if the sheet would have too many pixels."""
        manifest = shards.manifest
        self.columns = min(columns, manifest.count)
        self.rows = min(rows, -(-manifest.count // self.columns))
        height, width = shards.size
        factor = max(1, -(-SMALLEST_CELL // min(height, width)))
        self.image_size = (width * factor, height * factor)
        self.pitch = (
            self.image_size[0] + GAP,
            self.image_size[1] + GAP + (CAPTION_HEIGHT if manifest.classes else 0),
        )
        self.size = (self.columns * self.pitch[0] + GAP, self.rows * self.pitch[1] + GAP)
        if self.size[0] * self.size[1] > MOST_PIXELS:
            raise ConfigError(
                f"A sheet of {counted(self.rows, 'row')} and {counted(self.columns, 'column')} would have "
                f"{self.size[0]:,} x {self.size[1]:,} pixels, more than {MOST_PIXELS:,} in all. Give fewer --rows or "
                "--columns."
            )

    @property
    def cells(self) -> int:
        return self.rows * self.columns

    def draw(self, pixels: Bytes, captions: Sequence[str] | None) -> Image.Image:
        """Draw `pixels`, uint8 (count, height, width, channels), with a caption below each if the set has labels."""
        sheet = Image.new("RGB", self.size, "white")
        draw = ImageDraw.Draw(sheet)
        for cell, sample in enumerate(pixels):
            row, column = divmod(cell, self.columns)
            left, top = GAP + column * self.pitch[0], GAP + row * self.pitch[1]
            image = Image.fromarray(sample.squeeze(axis=2) if sample.shape[2] == 1 else sample)
            sheet.paste(image.resize(self.image_size, Image.Resampling.NEAREST), (left, top))
            if captions is not None:
                width, height = self.image_size
                text = _fit(captions[cell], width)
                middle = (left + width / 2, top + height + CAPTION_HEIGHT / 2)
                draw.text(middle, text, fill=TEXT_COLOUR, font=_font(FONT_SIZE), anchor="mm")
        return sheet


def _draw_chart(classes: Sequence[str], counts: Sequence[int], width: int) -> Image.Image:
    """Draw a bar for each class, with its name on the left and its number of images on the right."""
    chosen, title = choose_classes(counts)
    chart = Image.new("RGB", (width, TITLE_HEIGHT + len(chosen) * BAR_PITCH + 2 * MARGIN), "white")
    draw = ImageDraw.Draw(chart)
    draw.text((MARGIN, MARGIN), _fit(title, width - 2 * MARGIN, TITLE_SIZE), "black", _font(TITLE_SIZE))
    font = _font(FONT_SIZE)
    names = [_fit(classes[label], width // 3) for label in chosen]
    numbers = [f"{counts[label]:,}" for label in chosen]
    left = MARGIN + max(font.getlength(name) for name in names) + 8
    right = width - MARGIN - max(font.getlength(number) for number in numbers) - 8
    for row, (label, name, number) in enumerate(zip(chosen, names, numbers, strict=True)):
        middle = MARGIN + TITLE_HEIGHT + row * BAR_PITCH + BAR_PITCH / 2
        top, bottom = middle - BAR_HEIGHT / 2, middle + BAR_HEIGHT / 2 - 1
        end = left + (right - left) * counts[label] / max(counts)
        draw.text((left - 8, middle), name, TEXT_COLOUR, font, anchor="rm")
        draw.rectangle((left, top, right, bottom), TRACK_COLOUR)
        if counts[label]:
            draw.rectangle((left, top, end, bottom), BAR_COLOUR)
        draw.text((width - MARGIN, middle), number, TEXT_COLOUR, font, anchor="rm")
    return chart


def _stack(upper: Image.Image, lower: Image.Image) -> Image.Image:
    stacked = Image.new("RGB", (max(upper.width, lower.width), upper.height + lower.height), "white")
    stacked.paste(upper, (0, 0))
    stacked.paste(lower, (0, upper.height))
    return stacked


def _fit(text: str, width: int, size: int = FONT_SIZE) -> str:
    """The text on one line, shortened to at most `width` pixels."""
    text = " ".join(text.split())
    font = _font(size)
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(text + "…") > width:
        text = text[:-1]
    return text.rstrip() + "…"


@lru_cache
def _font(size: int) -> ImageFont.FreeTypeFont:
    """DejaVu Sans, which comes with Matplotlib and covers more languages than Pillow's own font."""
    return ImageFont.truetype(str(Path(matplotlib.get_data_path(), "fonts", "ttf", "DejaVuSans.ttf")), size)
