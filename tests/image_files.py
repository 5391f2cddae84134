"""Image files made byte by byte: of any claimed size, with an orientation, and with parts repeated many times."""

from __future__ import annotations

import io
import struct
import zlib
from typing import Any

import numpy as np
from PIL import Image, PngImagePlugin

PNG_START = b"\x89PNG\r\n\x1a\n"


def encoded(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    """The image as a file."""
    stream = io.BytesIO()
    image.save(stream, format=kind, **options)
    return stream.getvalue()


def noise(*shape: int) -> np.ndarray:
    """Random uint8 of this shape."""
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


def png_chunk(kind: bytes, body: bytes) -> bytes:
    """A chunk with its length and checksum."""
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png_of_claimed_size(width: int, height: int, depth: int, colour: int, rows: bytes) -> bytes:
    """A PNG whose header says any size."""
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b""))
    return PNG_START + b"".join(png_chunk(*chunk) for chunk in chunks)


def png_with_pixels(side: int, pixels: bytes) -> bytes:
    """A grey PNG whose checksums are right, and whose pixels are these bytes, compressed."""
    header = struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0)
    parts = ((b"IHDR", header), (b"IDAT", zlib.compress(pixels)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(png_chunk(kind, body) for kind, body in parts)


def with_chunks(png: bytes, *chunks: bytes) -> bytes:
    """A PNG with further chunks after its header."""
    return png[:33] + b"".join(chunks) + png[33:]


def jpeg_segment(marker: int, body: bytes) -> bytes:
    """A segment with its marker and length."""
    return bytes((0xFF, marker)) + struct.pack(">H", len(body) + 2) + body


def with_segments(jpeg: bytes, *segments: bytes) -> bytes:
    """A JPEG with further segments before all others."""
    return jpeg[:2] + b"".join(segments) + jpeg[2:]


def damaged_in_the_middle(jpeg: bytes) -> bytes:
    """The JPEG with 30 bytes of its pixels overwritten."""
    middle = len(jpeg) // 2
    return jpeg[:middle] + bytes(30) + jpeg[middle + 30 :]


def with_subsampling(jpeg: bytes, *factors: int) -> bytes:
    """The JPEG with other factors of its three colours in its header, such as 0x41."""
    content, frame = bytearray(jpeg), jpeg.index(b"\xff\xc0")
    content[frame + 11 : frame + 18 : 3] = bytes(factors)
    return bytes(content)


def with_scans(times: int, size: tuple[int, int] = (16, 16)) -> bytes:
    """A progressive JPEG whose last scan, of a few bytes, is repeated."""
    jpeg = encoded(Image.new("RGB", size, (200, 10, 40)), "JPEG", progressive=True)
    last = jpeg[jpeg.rindex(b"\xff\xda") : -2]
    return jpeg[:-2] + last * times + jpeg[-2:]


def tiff(*tags: tuple[int, int, int, int], body: bytes = b"", directories: int = 1) -> bytes:
    """A little-endian TIFF of tags (number, type, count, value or offset); `body` begins at byte 8."""
    packed = struct.pack("<H", len(tags)) + b"".join(struct.pack("<HHII", *tag) for tag in tags)
    content = b"II*\0" + struct.pack("<I", 8 + len(body)) + body
    for number in range(directories):
        after = len(content) + len(packed) + 4
        content += packed + struct.pack("<I", after if number < directories - 1 else 0)
    return content


def grey_tiff_tags(width: int, height: int, strips: int = 1) -> list[tuple[int, int, int, int]]:
    """The tags of an uncompressed 8-bit grey TIFF whose strips all begin at byte 8."""
    return [
        *((256, 4, 1, width), (257, 4, 1, height), (258, 3, 1, 8), (259, 3, 1, 1), (262, 3, 1, 1)),
        *((273, 4, strips, 8), (277, 3, 1, 1), (278, 4, 1, height), (279, 4, 1, width * height)),
    ]


def exif(orientation: int) -> bytes:
    """Exif data with an orientation, as in a JPEG."""
    data = Image.Exif()
    data[0x0112] = orientation
    return data.tobytes()


def xmp(orientation: int, as_element: bool = False) -> bytes:
    """XMP metadata with an orientation."""
    space = 'xmlns:tiff="http://ns.adobe.com/tiff/1.0/"'
    inner = (
        f"<rdf:Description {space}><tiff:Orientation>{orientation}</tiff:Orientation></rdf:Description>"
        if as_element
        else f'<rdf:Description {space} tiff:Orientation="{orientation}"/>'
    )
    return f'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF>{inner}</rdf:RDF></x:xmpmeta>'.encode()


def raw_profile(orientation: int) -> str:
    """Exif data as ImageMagick writes them into a text of a PNG."""
    data = exif(orientation)
    return f"\nexif\n{len(data):8}\n{data.hex()}\n"


def turned_pngs(image: Image.Image, orientation: int) -> dict[str, bytes]:
    """The image in a PNG whose metadata say to turn it, in each way that is in use."""

    def text(keyword: str, value: str, international: bool = False, compressed: bool = False) -> bytes:
        information = PngImagePlugin.PngInfo()
        add = information.add_itxt if international else information.add_text
        add(keyword, value, zip=compressed)
        return encoded(image, pnginfo=information)

    profile, keyword = raw_profile(orientation), "Raw profile type exif"
    return {
        "eXIf": encoded(image, exif=exif(orientation)),
        "tEXt": text(keyword, profile),
        "zTXt": text(keyword, profile, compressed=True),
        "iTXt": text(keyword, profile, international=True),
        "APP1": text("Raw profile type APP1", profile),
        "XMP": text("XML:com.adobe.xmp", xmp(orientation).decode(), international=True),
        "XMP-zip": text(
            "XML:com.adobe.xmp", xmp(orientation, True).decode(), international=True, compressed=True
        ),
    }


def turned_jpegs(image: Image.Image, orientation: int) -> dict[str, bytes]:
    """The same for JPEG; in some, the orientation stands after a large preview or colour profile."""
    plain = encoded(image, "JPEG", quality=95, subsampling=0)
    exif_segment = jpeg_segment(0xE1, exif(orientation))
    parts = (jpeg_segment(0xE2, b"ICC_PROFILE\0" + bytes((part, 4)) + bytes(60_000)) for part in range(1, 5))
    profile = b"".join(parts)
    xmp_start = b"http://ns.adobe.com/xap/1.0/\0"
    return {
        "Exif": with_segments(plain, exif_segment),
        "Exif-after-240-kB": with_segments(plain, profile, exif_segment),
        "XMP": with_segments(plain, jpeg_segment(0xE1, xmp_start + xmp(orientation))),
        "XMP-element": with_segments(plain, profile, jpeg_segment(0xE1, xmp_start + xmp(orientation, True))),
    }


def turned_others(image: Image.Image, orientation: int) -> dict[str, bytes]:
    """The same for formats that are never stored in shards."""
    return {
        "WEBP-Exif": encoded(image, "WEBP", lossless=True, exif=exif(orientation)),
        "WEBP-XMP": encoded(image, "WEBP", lossless=True, xmp=xmp(orientation)),
        "TIFF": encoded(image, "TIFF", exif=exif(orientation)),
        "TIFF-LZW": encoded(image, "TIFF", exif=exif(orientation), compression="tiff_lzw"),
        "TIFF-XMP": encoded(image, "TIFF", tiffinfo={700: xmp(orientation)}),
    }
