"""What is read of image files before they are decoded: orientation, limits, and which formats are decoded at all."""

from __future__ import annotations

import io
import itertools
import struct
import time
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from PIL import Image, TiffImagePlugin

from pipeline.data.format.picture_files import read_picture_file
from pipeline.data.format.pictures import decode_picture
from pipeline.data.making.convert import Conversion, convert_image
from pipeline.errors import DataError
from tests.fuzz.targets.images import other_seeds
from tests.image_files import (
    PNG_START,
    encoded,
    grey_tiff_tags,
    jpeg_segment,
    noise,
    png_chunk,
    png_of_claimed_size,
    tiff,
    turned_jpegs,
    turned_others,
    turned_pngs,
    with_chunks,
    with_scans,
    with_segments,
    xmp,
)

UPRIGHT = {
    1: lambda pixels: pixels,
    2: lambda pixels: pixels[:, ::-1],
    3: lambda pixels: pixels[::-1, ::-1],
    4: lambda pixels: pixels[::-1],
    5: lambda pixels: pixels.swapaxes(0, 1),
    6: lambda pixels: np.rot90(pixels, -1),
    7: lambda pixels: pixels[::-1, ::-1].swapaxes(0, 1),
    8: lambda pixels: np.rot90(pixels),
}
"""What each orientation does to stored pixels (height, width, channels), by the Exif standard"""


def smooth(height: int = 8, width: int = 16) -> Image.Image:
    return Image.fromarray(noise(2, 3, 3)).resize((width, height), Image.Resampling.BICUBIC)


def turned(orientation: int) -> dict[str, bytes]:
    image = smooth()
    ways = (turned_pngs, turned_jpegs, turned_others)
    return {f"{kind.__name__}-{way}": file for kind in ways for way, file in kind(image, orientation).items()}


@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_orientation_is_applied_to_the_pixels(orientation: int) -> None:
    stored = np.asarray(smooth())
    for way in ("eXIf", "XMP"):
        upright = np.asarray(decode_picture(turned_pngs(smooth(), orientation)[way]))
        assert np.array_equal(upright, UPRIGHT[orientation](stored))


@pytest.mark.parametrize(("way", "content"), turned(6).items(), ids=list(turned(6)))
def test_an_orientation_is_found_wherever_it_is_and_applied_at_every_size(way: str, content: bytes) -> None:
    assert read_picture_file(content).orientation == 6
    assert read_picture_file(content).upright_size == (16, 8)
    upright = np.rot90(np.asarray(smooth()), -1)
    tolerance = 12 if "jpeg" in way else 0
    for height, width in ((16, 8), (8, 16), (4, 2)):
        found = np.asarray(
            decode_picture(convert_image(content, Conversion((height, width), 3, fit="fit")).content)
        )
        resized = Image.fromarray(upright).resize(
            (width, height), Image.Resampling.LANCZOS if (height, width) != (16, 8) else None
        )
        assert np.abs(found.astype(int) - np.asarray(resized)).max() <= tolerance


def test_exif_data_come_before_xmp_and_broken_ones_do_not_turn_an_image() -> None:
    both = turned_jpegs(smooth(), 6)["Exif"]
    with_xmp = with_segments(both, jpeg_segment(0xE1, b"http://ns.adobe.com/xap/1.0/\0" + xmp(3)))
    assert read_picture_file(with_xmp).orientation == 6
    plain = encoded(smooth(), "JPEG")
    for broken in (b"", b"II*\0", b"MM\0*\xff\xff\xff\xff", b"II*\0\x08\0\0\0\xff\xff", b"garbage" * 9):
        content = with_segments(plain, jpeg_segment(0xE1, b"Exif\0\0" + broken))
        assert read_picture_file(content).orientation == 1
    for profile in ("", "\nexif\n 3\nzz\n", "\nexif"):
        text = png_chunk(b"tEXt", b"Raw profile type exif\0" + profile.encode())
        assert read_picture_file(with_chunks(encoded(smooth()), text)).orientation == 1


def test_exif_data_of_more_than_one_segment_are_joined() -> None:
    image = smooth()
    whole = turned_jpegs(image, 8)["Exif"]
    start = whole.index(b"Exif\0\0") + 6
    first, rest = whole[start : start + 10], whole[start + 10 : whole.index(b"\xff\xe0", start)]
    segments = [jpeg_segment(0xE1, b"Exif\0\0" + part) for part in (first, rest)]
    assert read_picture_file(with_segments(encoded(image, "JPEG"), *segments)).orientation == 8


def refusal(content: bytes) -> str:
    """Why a file is refused, at its own size and at another one."""
    for side in (64, 16):
        with pytest.raises(DataError) as caught:
            convert_image(content, Conversion((side, side), 3))
    return str(caught.value)


def test_a_png_chunk_longer_than_the_file_is_refused_by_its_length() -> None:
    start = png_of_claimed_size(64, 64, 8, 2, b"")[:33]
    for kind, size in itertools.product((b"IDAT", b"iCCP", b"tEXt"), (0xFFFFFFFF, 0x7FFFFFFF, 1000)):
        content = start + struct.pack(">I", size) + kind + bytes(7)
        assert len(content) == 48
        assert refusal(content) == (
            f"it is damaged: its part {kind.decode()} says that it has {size:,} bytes, but the file ends before them"
        )


def test_more_png_chunks_than_any_image_has_are_refused() -> None:
    png = encoded(smooth())
    assert "more than 100,000 chunks" in refusal(with_chunks(png, png_chunk(b"teSt", b"") * 100_001))
    assert convert_image(with_chunks(png, png_chunk(b"teSt", b"") * 1000), Conversion((8, 8), 3)).content


@pytest.mark.parametrize(
    ("change", "found"),
    [
        (lambda png: png[:33] + png[8:33] + png[33:], "it does not begin with one header"),
        (lambda png: PNG_START + png[33:], "it does not begin with one header"),
        (lambda png: png[:-12], "it ends before its end mark"),
        (lambda png: png[:45] + b"\0" + png[46:], "the checksum of its part IDAT is wrong"),
        (lambda png: with_chunks(png, b"\0\0\0\0tIME\0\0\0\0"), "the checksum of its part tIME is wrong"),
    ],
)
def test_a_png_whose_structure_is_damaged_is_refused(change: Callable[[bytes], bytes], found: str) -> None:
    assert refusal(change(encoded(smooth()))) == f"it is damaged: {found}"


def test_a_text_that_unpacks_to_gigabytes_is_not_unpacked() -> None:
    packed = zlib.compress(bytes(1 << 24), 9)
    for kind, keyword in ((b"zTXt", b"Raw profile type exif\0\0"), (b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0")):
        content = with_chunks(encoded(smooth()), png_chunk(kind, keyword + packed))
        assert read_picture_file(content).orientation == 1
        assert np.array_equal(np.asarray(decode_picture(content)), np.asarray(smooth()))


def test_a_jpeg_of_more_scans_than_any_photo_has_is_refused_at_once() -> None:
    bomb = with_scans(5000, (512, 512))
    started = time.monotonic()
    assert "it is stored in 5,010 scans, each of 262,144 pixels" in refusal(bomb)
    assert time.monotonic() - started < 1
    large = bytearray(with_scans(30))
    frame = large.index(b"\xff\xc2")
    large[frame + 5 : frame + 9] = struct.pack(">HH", 8000, 8000)
    assert "it is stored in 40 scans, each of 64,000,000 pixels" in refusal(bytes(large))


def test_a_jpeg_with_a_broken_colour_profile_is_decoded_like_one_without() -> None:
    plain = encoded(smooth(64, 64), "JPEG")
    broken = with_segments(plain, jpeg_segment(0xE2, b"ICC_PROFILE\0\1\1" + bytes(60_000)) * 2)
    assert np.array_equal(np.asarray(decode_picture(broken)), np.asarray(decode_picture(plain)))
    assert "a damaged JPEG" in refusal(broken[:-60])


def test_a_jpeg_of_two_sizes_is_refused() -> None:
    frame = jpeg_segment(0xC0, b"\x08" + struct.pack(">HH", 4, 4))
    assert refusal(with_segments(encoded(smooth(), "JPEG"), frame)) == "it is damaged: it has two sizes"


def test_ordinary_progressive_jpegs_are_decoded() -> None:
    content = encoded(smooth(64, 64), "JPEG", progressive=True, quality=95)
    pixels = np.asarray(decode_picture(content)).astype(int)
    assert np.abs(pixels - np.asarray(smooth(64, 64))).max() < 12


@pytest.mark.parametrize(
    "content",
    [
        b"GIF89a" + struct.pack("<HHBBB", 9000, 9000, 0, 0, 0) + b"," + bytes(9),
        b"GIF89a" + struct.pack("<HHBBB", 1, 1, 0, 0, 0) + b"," + struct.pack("<HHHHB", 8999, 8999, 1, 1, 0),
        b"RIFF\0\0\0\0WEBPVP8X\x0a\0\0\0\0\0\0\0" + (8999).to_bytes(3, "little") * 2,
        b"RIFF\0\0\0\0WEBPVP8 \x0a\0\0\0\0\0\0\x9d\x01\x2a" + struct.pack("<HH", 9000, 9000),
        b"RIFF\0\0\0\0WEBPVP8L\x0a\0\0\0\x2f" + struct.pack("<I", 8999 | 8999 << 14),
        b"BM" + bytes(12) + struct.pack("<IiiHHI", 40, 9000, -9000, 1, 24, 0),
        b"BM" + bytes(12) + struct.pack("<IHHHH", 12, 9000, 9000, 1, 24),
        b"P6 9000 9000 255\n",
        b"P1\n# a comment\n9000 9000\n",
        tiff(*grey_tiff_tags(9000, 9000)),
        png_of_claimed_size(9000, 9000, 8, 2, b""),
        b"\xff\xd8" + jpeg_segment(0xC0, b"\x08" + struct.pack(">HH", 9000, 9000)) + jpeg_segment(0xDA, b""),
    ],
    ids=lambda content: content[:16].decode("latin-1").encode("unicode_escape").decode(),
)
def test_a_declared_size_of_81_megapixels_is_refused_in_every_format(content: bytes) -> None:
    assert refusal(content) == "it has 9000 x 9000 pixels, more than 64,000,000, the limit for decoding"


def test_a_gif_of_endless_comments_is_refused() -> None:
    gif = encoded(smooth(), "GIF")
    header = 13 + (3 << (gif[10] & 7) + 1)
    bomb = gif[:header] + b"!\xfe\x01a\0" * 60_000 + gif[header:]
    assert "more than 100,000 blocks" in refusal(bomb)
    few = gif[:header] + b"!\xfe\x01a\0" * 100 + gif[header:]
    assert np.array_equal(np.asarray(decode_picture(few)), np.asarray(decode_picture(gif)))


def test_a_run_length_coded_bmp_is_decoded_unless_it_is_large() -> None:
    header = struct.pack("<IiiHHIIiiII", 40, 4, 2, 1, 8, 1, 0, 0, 0, 256, 0)
    palette = b"".join(bytes((value, value, value, 0)) for value in range(256))
    start = b"BM" + struct.pack("<IHHI", 0, 0, 0, 14 + len(header) + len(palette)) + header + palette
    small = start + b"\x04\x07\0\0\x04\x09\0\1"
    assert np.asarray(decode_picture(small)).tolist() == [[9] * 4, [7] * 4]
    wide = bytearray(small)
    wide[18:26] = struct.pack("<ii", 1 << 25, 1)
    assert "a large run-length coded BMP" in refusal(bytes(wide))


def test_a_tiff_sees_its_decoder_without_metadata_and_further_images() -> None:
    pixels = noise(8, 16)
    tags = grey_tiff_tags(16, 8)
    plain = tiff(*tags, body=pixels.tobytes())
    assert np.array_equal(np.asarray(decode_picture(plain)), pixels)
    thousands = tiff(*tags, body=pixels.tobytes(), directories=2000)
    assert np.array_equal(np.asarray(decode_picture(thousands)), pixels)
    # A directory within itself, and a text of 4 GB.
    loop = tiff(*tags, (34665, 4, 1, 8 + 128), (40000, 2, 0xFFFFFFFF, 8), body=pixels.tobytes())
    assert np.array_equal(np.asarray(decode_picture(loop)), pixels)


@pytest.mark.parametrize(
    ("tags", "found"),
    [
        (grey_tiff_tags(16, 8, strips=2), "its size needs 1 strip, but it has 2"),
        (
            [*grey_tiff_tags(16, 8)[:-1], (279, 4, 1, 1 << 30)],
            "its strips or tiles have more bytes than the file",
        ),
        (
            [*grey_tiff_tags(16, 8), (322, 4, 1, 60_000), (323, 4, 1, 60_000)],
            "it has 60000 x 60000 pixels, more than",
        ),
        ([*grey_tiff_tags(16, 8)[:3], (259, 3, 1, 34925)], "a TIFF with the compression 34925"),
        (
            [
                *grey_tiff_tags(60_000, 1000)[:-2],
                (278, 4, 1, 1),
                (324, 4, 1, 8),
                (322, 4, 1, 1),
                (323, 4, 1, 1),
            ],
            "more than 100,000 strips or tiles",
        ),
    ],
)
def test_a_tiff_whose_tags_contradict_each_other_is_refused(
    tags: list[tuple[int, int, int, int]], found: str
) -> None:
    assert found in refusal(tiff(*tags, body=bytes(128)))


def test_formats_that_are_not_on_the_list_are_never_decoded() -> None:
    for content in (
        *other_seeds(),
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n",
        b"<svg/>",
        b"RIFF1234WAVE",
    ):
        assert refusal(content).startswith("it is not an image in a supported format")


def several(kind: str, **options: Any) -> bytes:
    pictures = [Image.fromarray(noise(8, 8, 3)).rotate(90 * turns) for turns in range(3)]
    return encoded(pictures[0], kind, save_all=True, append_images=pictures[1:], **options)


def with_smaller_versions() -> bytes:
    """A TIFF whose second and third directories say that they are smaller versions of the first."""
    stream = io.BytesIO()
    with TiffImagePlugin.AppendingTiffWriter(stream) as file:
        for kind in (0, 1, 1):
            Image.fromarray(noise(8, 8, 3)).save(file, "TIFF", tiffinfo={254: kind})
            file.newFrame()
    return stream.getvalue()


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        *((several(kind), True) for kind in ("GIF", "PNG", "WEBP", "TIFF")),
        *(
            (encoded(Image.fromarray(noise(8, 8, 3)), kind), False)
            for kind in ("GIF", "PNG", "WEBP", "TIFF", "PPM")
        ),
        (several("GIF")[:-1], True),
        (encoded(Image.fromarray(noise(8, 8, 3)), "GIF")[:-1], False),
        (several("TIFF", big_tiff=True), True),
        (with_smaller_versions(), False),
        (2 * encoded(Image.fromarray(noise(8, 8, 3)), "PPM"), True),
        (2 * encoded(Image.fromarray(noise(8, 9) > 99), "PPM"), True),
    ],
)
def test_further_frames_and_pages_are_noticed(content: bytes, expected: bool) -> None:
    assert read_picture_file(content).frames_follow is expected
