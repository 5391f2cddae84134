"""Image files of every format, for conversion to shards and for training."""

from __future__ import annotations

import io
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, PngImagePlugin

from pipeline.data.format.native_output import hidden_native_output
from pipeline.data.making.convert import Conversion, convert_image
from pipeline.errors import DataError
from tests.fuzz.engine import target

SMALL, OWN = Conversion((4, 5), 3), Conversion((24, 20), 3)
"""Another size than the seeds', at which JPEGs are decoded to half of their sides, and their own."""


def picture(mode: str = "RGB") -> Image.Image:
    """20 x 24 pixels, some of them noise."""
    pixels = np.random.default_rng(0).integers(0, 256, (24, 20, 3), dtype=np.uint8)
    pixels[4:20] //= 16
    return Image.fromarray(pixels).convert(mode)


def save(kind: str, mode: str = "RGB", **options: Any) -> bytes:
    """A picture as a file."""
    stream = io.BytesIO()
    picture(mode).save(stream, kind, **options)
    return stream.getvalue()


def exif(orientation: int = 6) -> Image.Exif:
    """Exif data with an orientation."""
    data = Image.Exif()
    data[0x0112], data[0x010E] = orientation, "a test"
    return data


def repair_png(data: bytes) -> bytes:
    """Correct the checksums of all chunks, as far as the lengths lead."""
    place, repaired = 8, bytearray(data)
    while place + 12 <= len(repaired):
        size = int.from_bytes(repaired[place : place + 4], "big")
        end = place + 8 + size
        if end + 4 > len(repaired):
            break
        repaired[end : end + 4] = zlib.crc32(repaired[place + 4 : end]).to_bytes(4, "big")
        place = end + 4
    return bytes(repaired)


def png_seeds() -> list[bytes]:
    text = PngImagePlugin.PngInfo()
    text.add_text("Raw profile type exif", "\nexif\n 8\n4578696600000000\n", zip=True)
    text.add_itxt("XML:com.adobe.xmp", '<x tiff:Orientation="3"/>')
    frames = [picture(), picture().rotate(180), picture("L").convert("RGB")]
    return [
        save("PNG"),
        *(save("PNG", mode) for mode in ("1", "L", "LA", "P", "RGBA", "I;16")),
        save("PNG", exif=exif()),
        save("PNG", pnginfo=text),
        save("PNG", save_all=True, append_images=frames),
    ]


def jpeg_seeds() -> list[bytes]:
    xmp = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:Description tiff:Orientation="3"/></x:xmpmeta>'
    return [
        save("JPEG", quality=90),
        save("JPEG", progressive=True, quality=80),
        *(save("JPEG", mode) for mode in ("L", "CMYK")),
        save("JPEG", exif=exif(), restart_marker_blocks=1),
        save("JPEG", xmp=xmp, comment=b"a comment", icc_profile=bytes(300)),
        save("MPO", save_all=True, append_images=[picture()]),
    ]


def gif_seeds() -> list[bytes]:
    frames = [picture("P"), picture("P").rotate(90)]
    return [
        save("GIF", "P"),
        save("GIF", "L", transparency=3),
        save("GIF", save_all=True, append_images=frames),
    ]


def webp_seeds() -> list[bytes]:
    frames = [picture(), picture().rotate(90)]
    return [
        save("WEBP", quality=80),
        save("WEBP", "RGBA", lossless=True, exif=exif(), icc_profile=bytes(300)),
        save("WEBP", save_all=True, append_images=frames, duration=50),
    ]


def tiff_seeds() -> list[bytes]:
    kinds = ("raw", "tiff_lzw", "tiff_adobe_deflate", "packbits", "jpeg")
    return [
        *(save("TIFF", compression=kind) for kind in kinds),
        *(save("TIFF", "1", compression=kind) for kind in ("group3", "group4")),
        *(save("TIFF", mode) for mode in ("RGBA", "CMYK", "P", "I;16", "F", "LAB")),
        save("TIFF", exif=exif(), save_all=True, append_images=[picture()]),
    ]


def plain_pnm() -> list[bytes]:
    values = b" ".join(b"%d" % value for value in np.asarray(picture()).reshape(-1))
    return [
        b"P3\n# a comment\n20 24\n255\n" + values,
        b"P1 4 2\n0 1 0 1\n1 0 1 0\n",
        b"P2 2 2 65535\n0 1 2 65535\n",
        b"P6 20 24 255\n" + bytes(np.asarray(picture()).reshape(-1)),
        b"P5 2 2 65535\n" + bytes(8),
        b"P4 16 2\n" + bytes(4),
        b"Pf 2 2 -1.0\n" + bytes(16),
        b"P7\nWIDTH 2\nHEIGHT 2\nDEPTH 3\nMAXVAL 255\nTUPLTYPE RGB\nENDHDR\n" + bytes(12),
    ]


def bmp_seeds() -> list[bytes]:
    return [save("BMP", mode) for mode in ("1", "L", "P", "RGB", "RGBA")] + [save("DIB")]


def other_seeds() -> list[bytes]:
    """Formats that Pillow knows and that no source may decode."""
    kinds = (("ICO", "RGB"), ("TGA", "RGB"), ("PCX", "L"), ("SGI", "RGB"), ("EPS", "RGB"), ("PDF", "RGB"))
    more = (("IM", "RGB"), ("XBM", "1"), ("JPEG2000", "RGB"), ("DDS", "RGB"), ("QOI", "RGB"))
    return [save(*kind) for kind in kinds + more]


def check_picture(data: bytes, directory: Path) -> None:
    """A file is refused at every size, or taken at every size with the same size of pixels."""
    verdicts = []
    for conversion in (SMALL, OWN):
        try:
            with hidden_native_output():
                convert_image(data, conversion)
            verdicts.append("")
        except DataError as error:
            verdicts.append(str(error))
    assert len(set(verdicts)) == 1, f"refused at one size only: {verdicts}"
    if verdicts[0]:
        raise DataError(verdicts[0])


FORMATS: dict[str, tuple[Callable[[], list[bytes]], Callable[[bytes], bytes] | None]] = {
    "png": (png_seeds, repair_png),
    "jpeg": (jpeg_seeds, None),
    "gif": (gif_seeds, None),
    "webp": (webp_seeds, None),
    "tiff": (tiff_seeds, None),
    "pnm": (plain_pnm, None),
    "bmp": (bmp_seeds, None),
    "other-formats": (other_seeds, None),
}


for name, (seeds, repair) in FORMATS.items():
    target(name, seeds, repair)(check_picture)
