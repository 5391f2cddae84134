"""The index of one tar file: its samples, each with one image, in one pass over the file.

An image's header and parts are looked at, and its checksum is computed; it is not decoded.
"""

from __future__ import annotations

import zlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import IO

import numpy as np

from pipeline.data.format.codecs import MAX_FILE_BYTES
from pipeline.data.format.indexes import Index
from pipeline.data.format.picture_files import jpeg, read_picture_file
from pipeline.data.format.tar_reader import TarError, TarMember
from pipeline.data.format.tar_writer import BLOCK
from pipeline.data.originals.grouping import Fields, read_samples
from pipeline.data.sources.bad_images import BadImage
from pipeline.data.sources.compressed import tool_for
from pipeline.data.sources.labels import AUTO, Label, LabelChoice, whole_numbers
from pipeline.data.sources.samples import LARGEST_JSON, keys_in_json, label_in, largest_label
from pipeline.data.threads import Advance
from pipeline.errors import DataError

PICTURES = frozenset({"jpg", "jpeg", "png", "webp"})
"""How the names of images end"""
FORMATS = ("JPEG", "PNG", "WEBP")
JPEG_END = b"\xff\xd9"
WITHOUT_IMAGE = "sample without an image"


@dataclass
class TarIndex:
    """What one tar file holds. `labels` are those of the samples, None for one without."""

    places: list[tuple[int, int, int]] = field(default_factory=list)
    """(offset, bytes, CRC-32) of each image"""
    labels: list[Label | None] = field(default_factory=list)
    bad: list[BadImage] = field(default_factory=list)
    left_out: Counter[str] = field(default_factory=Counter)
    """What is not used, and how often, such as ".json" or "hidden file" """
    json_keys: str = ""
    """What the first .json file that is not used has of what may be labels"""
    without_label: set[str] = field(default_factory=set)
    """The keys of images without a label"""
    labels_apart: set[str] = field(default_factory=set)
    """The keys of labels without an image"""

    def rows(self) -> tuple[Index, list[str]]:
        """The rows of the index, and the words that its labels are places in; none if labels are numbers."""
        found = [label for label in self.labels if label is not None]
        numbers, words = whole_numbers(found), list[str]()
        if any(isinstance(label, str) for label in numbers):
            words = sorted({str(label) for label in found})
            places = {word: place for place, word in enumerate(words)}
            numbers = [places[str(label)] for label in found]
        rows = np.full((len(self.places), 4), -1, dtype=np.int64)
        rows[:, [0, 1, 3]] = np.array(self.places, dtype=np.int64).reshape(-1, 3)
        rows[[label is not None for label in self.labels], 2] = np.array(numbers, dtype=np.int64)
        return rows, words


@dataclass(frozen=True)
class Asked:
    """What the user said of the samples: where labels come from, and which member of a sample is its image."""

    labels: LabelChoice = AUTO
    image: str | None = None
    """What follows the key in its name, such as "jpg"; None if each sample has one image"""

    def facts(self) -> dict[str, str | None]:
        """The same as JSON values."""
        return {"labels": str(self.labels), "image": self.image}


def index_tar(file: IO[bytes], where: str, asked: Asked, advance: Advance) -> TarIndex:
    """Index an open tar file; `where` is its path or URL. `advance` is called with the bytes that were read.

    Raises DataError if it is compressed or no complete tar file, for a sample of several images of which none is
    chosen, and for labels that cannot be read or lie apart from their image. Images that cannot be used are `bad`.
    """
    index, seen = TarIndex(), 0
    if (tool := tool_for(file.read(BLOCK))) is not None:
        raise DataError(
            f"{where} is compressed ({tool}), so its images cannot be read in any order. Unpack it."
        )
    try:
        for key, fields in read_samples(file, where, index.left_out):
            _take(index, file, f"{where}: {key}", fields, asked)
            end = max(member.start + member.size for member in fields.values())
            advance(end - seen)
            seen = end
    except TarError as error:
        raise DataError(f"{where} is not a complete tar file: {error}. {error.remedy}") from None
    if apart := index.labels_apart & index.without_label:
        raise DataError(
            f"{where}: the label and the image of {min(apart)} do not follow each other, so they are two samples by "
            "webdataset's rules, and the image has no label. Pack the tar file again in the order of the names (tar "
            "--sort=name), or give --labels none."
        )
    return index


def _take(index: TarIndex, file: IO[bytes], where: str, fields: Fields, asked: Asked) -> None:
    image, label = _image_in(fields, where, asked), fields.get(asked.labels.extension or "")
    for name, member in fields.items():
        if member is not label and name != image:
            index.left_out[f".{name.rpartition('.')[2]}"] += 1
            if name == "json" and not index.json_keys:
                index.json_keys = keys_in_json(_content(file, member, LARGEST_JSON)) or "none"
    if image is None:
        index.left_out[WITHOUT_IMAGE] += 1
        if label is not None:
            index.labels_apart.add(where)
        return
    content = _content(file, fields[image], MAX_FILE_BYTES)
    if (reason := _why_unusable(content, fields[image].size)) is not None:
        index.bad.append(BadImage(fields[image].name, reason))
        return
    if label is None:
        index.without_label.add(where)
    found = None
    if label is not None:
        text = _content(file, label, largest_label(asked.labels))
        found = label_in(text, f"{where}.{asked.labels.extension}", asked.labels)
    index.places.append((fields[image].start, len(content), zlib.crc32(content)))
    index.labels.append(found)


def _image_in(fields: Mapping[str, TarMember], where: str, asked: Asked) -> str | None:
    """The name of the field that is the sample's image; None if there is none."""
    if asked.image is not None:
        return asked.image if asked.image in fields else None
    images = [name for name in fields if name.rpartition(".")[2] in PICTURES]
    if len(images) > 1:
        raise DataError(
            f"{where} has {len(images)} images ({_listed(images)}), so it is unclear which is meant. Give what follows "
            f"the key in the name of one, such as --images {images[0]}."
        )
    return images[0] if images else None


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:4])


def _content(file: IO[bytes], member: TarMember, limit: int) -> bytes:
    """The content of a member, or a part of more than `limit` bytes of a larger one."""
    file.seek(member.start)
    return file.read(min(member.size, limit + 1))


def _has_end(jpeg_file: bytes) -> bool:
    """Whether a JPEG has its end mark after its pixels; other data may follow it, such as a short film."""
    return jpeg_file.endswith(JPEG_END) or jpeg_file.find(JPEG_END, jpeg.segments(jpeg_file)[-1][1]) >= 0


def _why_unusable(content: bytes, size: int) -> str | None:
    """Why an image cannot be used, as far as that is known without decoding it; None if nothing is wrong."""
    if len(content) != size or size > MAX_FILE_BYTES:
        return f"it has {size:,} bytes, more than an image can have"
    try:
        kind = read_picture_file(content).kind
    except DataError as error:
        return str(error)
    if kind not in FORMATS:
        return f"it is a {kind}, and images are read from {', '.join(FORMATS)}"
    if kind == "JPEG" and not _has_end(content):
        return "it is damaged: it ends before its end mark"
    if kind == "WEBP" and int.from_bytes(content[4:8], "little") + 8 > len(content):
        return "it is damaged: it is shorter than it says"
    return None
