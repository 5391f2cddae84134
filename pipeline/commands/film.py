"""Images as an animation that loops: GIF or MP4."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import IO

import numpy as np
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from pipeline.durable import make_directory_of, replacing
from pipeline.pixels import on_checkerboard

FRAMES_PER_SECOND = 25
"""A frame takes 40 ms; a GIF counts in hundredths of a second."""
SMALLEST_SIDE = 256
PALETTE_FRAMES = 32


def write_animation(frames: Tensor, target: Path) -> None:
    """Write uint8 (count, channels, height, width) as an animation that loops: H.264 if `target` is .mp4, else GIF.

    Images with alpha are on a checkerboard of grey squares. Small images are enlarged to at least 256 pixels a side,
    each pixel to a square. Raises StorageError.
    """
    write = _write_mp4 if target.suffix.lower() == ".mp4" else _write_gif
    make_directory_of(target)
    with replacing(target) as file:
        write(on_checkerboard(frames), file)


def _pictures(frames: Tensor) -> Iterator[Image.Image]:
    """The frames as enlarged pictures, grey or RGB."""
    factor = max(1, -(-SMALLEST_SIDE // min(frames.shape[-2:])))
    for frame in tqdm(frames, unit=" frames", leave=False, disable=None):
        pixels = frame.repeat_interleave(factor, 1).repeat_interleave(factor, 2).permute(1, 2, 0).numpy()
        yield Image.fromarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels)


def _write_gif(frames: Tensor, file: IO[bytes]) -> None:
    pictures = _pictures(frames)
    if frames.shape[1] != 1:
        # One palette for all frames: they would flicker if each had its own.
        chosen = frames[:: -(-len(frames) // PALETTE_FRAMES)].permute(0, 2, 3, 1).flatten(0, 1)
        palette = Image.fromarray(chosen.numpy()).quantize()
        pictures = (picture.quantize(palette=palette) for picture in pictures)
    first = next(pictures)
    duration = 1000 // FRAMES_PER_SECOND
    first.save(file, format="GIF", save_all=True, append_images=pictures, duration=duration, loop=0)


def _write_mp4(frames: Tensor, file: IO[bytes]) -> None:
    import av

    with av.open(file, "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=FRAMES_PER_SECOND, options={"crf": "16"})
        stream.pix_fmt = "yuv420p"
        for number, picture in enumerate(_pictures(frames)):
            # In yuv420p, blocks of 2 x 2 pixels share a colour, so sides must be even: the last row is repeated.
            padding = ((0, picture.height % 2), (0, picture.width % 2), (0, 0))
            pixels = np.pad(np.asarray(picture.convert("RGB")), padding, mode="edge")
            if number == 0:
                stream.height, stream.width = pixels.shape[:2]
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode())
