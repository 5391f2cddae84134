"""The sample grids of a run as a GIF."""

from __future__ import annotations

import math
import re
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from pipeline.data.format.codecs import MAX_FILE_BYTES
from pipeline.data.format.native_output import hidden_native_output
from pipeline.data.format.picture_files import read_picture_file
from pipeline.data.format.picture_files.parts import PictureFile
from pipeline.data.format.pictures import decode_picture
from pipeline.durable import make_directory_of, replacing
from pipeline.errors import ConfigError, DataError
from pipeline.monitor.records import nothing_to_draw
from pipeline.regular_files import read_regular
from pipeline.run.directory import RunDirectory
from pipeline.stderr import say_warning
from pipeline.wording import counted

ANIMATION = "training.gif"

FRAME_NAME = re.compile(r"step_(\d{8,})\.png")
MOST_FRAMES = 60
MOST_WIDTH, MOST_HEIGHT = 640, 2560
FRAME_MILLISECONDS, LAST_FRAME_MILLISECONDS = 150, 2000
STRIP_HEIGHT = 18


def draw_animation(run: Path, target: Path) -> None:
    """Write the grids in `run`'s samples/ as a looping GIF, each with its step below it.

    Raises ConfigError if the run has no grids, StorageError if the file cannot be written.
    """
    paths = choose_frames(RunDirectory(run).samples)
    grids = {path: grid for path in paths if (grid := read_grid(path)) is not None}
    if not grids:
        raise _no_grid(paths[0].parent)
    frames = [_frame(grid, step_of(path), last_step=step_of(paths[-1])) for path, grid in grids.items()]
    durations = [FRAME_MILLISECONDS] * (len(frames) - 1) + [LAST_FRAME_MILLISECONDS]
    make_directory_of(target)
    with replacing(target) as file:
        frames[0].save(
            file, format="GIF", save_all=True, append_images=frames[1:], duration=durations, loop=0
        )


def choose_frames(samples: Path, most: int = MOST_FRAMES) -> list[Path]:
    """Up to `most` grids of a run in the order of their steps, including the first and the last.

    All have the size of the newest one, because monitor.grid may have changed when the run was resumed. Files that are
    not a complete PNG, for example after a kill or on a full disk, and those of more than 64 million pixels are skipped
    with a warning. Raises ConfigError if there is no grid.
    """
    paths = sorted((path for path in samples.glob("*") if FRAME_NAME.fullmatch(path.name)), key=step_of)
    sizes, skipped = dict[Path, tuple[int, int]](), list[str]()
    for path in paths:
        try:
            found = _read_png(read_regular(path, MAX_FILE_BYTES, path.parent))
            sizes[path] = (found.width, found.height)
        except (OSError, DataError) as error:
            skipped.append(f"{path.name}: {error.strerror if isinstance(error, OSError) else error}")
    if skipped:
        say_warning(f"{samples}: skipped {counted(len(skipped), 'grid')} (of {len(paths):,}), {skipped[0]}")
    if not sizes:
        raise _no_grid(samples)
    *_, last_size = sizes.values()
    paths = [path for path, size in sizes.items() if size == last_size]
    count = min(len(paths), most)
    return [paths[index * (len(paths) - 1) // max(count - 1, 1)] for index in range(count)]


def read_grid(path: Path) -> Image.Image | None:
    """A grid in RGB, at most 640 pixels wide; None, with a warning, if it can no longer be read.

    It is also at most 2,560 pixels high. A run that is still training may delete or replace grids after they were
    listed.
    """
    try:
        content = read_regular(path, MAX_FILE_BYTES, path.parent)
        with hidden_native_output():
            image = decode_picture(content, _read_png(content)).convert("RGB")
    except (OSError, DataError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        say_warning(f"{path} cannot be read and is skipped: {reason}")
        return None
    # By a whole factor, so that all pixels of small images stay the same size.
    return image.reduce(max(-(-image.width // MOST_WIDTH), -(-image.height // MOST_HEIGHT)))


def step_of(path: Path) -> int:
    """The step at which a grid was drawn, from its file name."""
    return int(path.stem.removeprefix("step_"))


def _read_png(content: bytes) -> PictureFile:
    found = read_picture_file(content)
    if found.kind != "PNG":
        raise DataError(f"it is a {found.kind} file")
    return found


def _frame(grid: Image.Image, step: int, last_step: int) -> Image.Image:
    """A grid, reduced to 256 colours of its own, above a strip with its step."""
    font = ImageFont.load_default(size=12)
    # The caption can be wider than a very small grid. All frames have the same width.
    width = max(grid.width, math.ceil(font.getlength(_caption(last_step))) + 8)
    frame = Image.new("RGB", (width, grid.height + STRIP_HEIGHT), "white")
    frame.paste(grid)
    ImageDraw.Draw(frame).text((4, grid.height + 1), _caption(step), fill="black", font=font)
    # Pillow dithers only if it is given a palette. Without dithering, there would be flat patches of colour.
    return frame.quantize(palette=frame.quantize(), dither=Image.Dither.FLOYDSTEINBERG)


def _caption(step: int) -> str:
    return f"step {step:,}"


def _no_grid(samples: Path) -> ConfigError:
    return nothing_to_draw(
        f"{samples} contains no complete grid such as step_00000200.png", "monitor.sample_every"
    )
