"""What decoding large JPEGs to fewer pixels changes, and what it saves, by how many are kept for the resizing.

command:   python benchmarks/studies/reduced_jpegs.py
duration:  ten seconds; the photos come with scikit-learn
prints:    a markdown table: for each gap (how many times the wanted pixels are kept in both directions, at least) and
           wanted side, over the images that are reduced: the mean and the largest difference of a value (0 to 255) from
           decoding all pixels, the lowest PSNR, and the time of a conversion relative to decoding all pixels
"""

from __future__ import annotations

import io
import statistics
import timeit

import numpy as np
from PIL import Image
from sklearn.datasets import load_sample_images

from pipeline.data.format import conversion as converting
from pipeline.data.format.codecs import Bytes
from pipeline.data.format.conversion import PixelConversion, convert_encoded

GAPS, SIDES = (1, 2, 3, 4), (32, 64, 128)
WHOLE = 1 << 16
CUTS = ((0, 0, 256, 256), (192, 86, 448, 342), (384, 171, 640, 427), (100, 50, 412, 362))
"""Parts of the photos: left, top, right, bottom"""


def files() -> list[Bytes]:
    """Two photos of 640 x 427 pixels, and parts of them, as JPEGs."""
    photos = [Image.fromarray(photo) for photo in load_sample_images().images]
    found = []
    for image in [part for photo in photos for part in (photo, *map(photo.crop, CUTS))]:
        stream = io.BytesIO()
        image.save(stream, "JPEG", quality=90)
        found.append(np.frombuffer(stream.getvalue(), np.uint8))
    return found


def converted(file: Bytes, side: int, gap: int) -> tuple[Bytes, float]:
    """The pixels with this gap, and the seconds that they take."""
    conversion = PixelConversion((side, side), 3)
    converting.REDUCING_GAP = gap
    pixels = convert_encoded(file, None, conversion, None)
    return pixels, min(
        timeit.repeat(lambda: convert_encoded(file, None, conversion, None), number=1, repeat=7)
    )


def main() -> None:
    """Compare all gaps, and print the table."""
    print("| gap | side | images | mean | largest | lowest PSNR, dB | time |\n|-:|-:|-:|-:|-:|-:|-:|")
    images = files()
    for gap in GAPS:
        for side in SIDES:
            means, largest, noise, times = [], [], [], []
            for file in images:
                (whole, before), (pixels, now) = converted(file, side, WHOLE), converted(file, side, gap)
                difference = pixels.astype(float) - whole
                if not difference.any():
                    continue
                means.append(np.abs(difference).mean())
                largest.append(np.abs(difference).max())
                noise.append(20 * np.log10(255) - 10 * np.log10((difference**2).mean()))
                times.append(now / before)
            if means:
                print(
                    f"| {gap} | {side} | {len(means)} | {statistics.mean(means):.2f} | {max(largest):.0f} | "
                    f"{min(noise):.1f} | {statistics.median(times):.2f} |"
                )


if __name__ == "__main__":
    main()
