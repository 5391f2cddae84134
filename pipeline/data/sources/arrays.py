"""Images as one array: a .npy file, or a .npz file that may also hold labels.

    faces.npy    uint8 (count, height, width), grey; (count, height, width, 1 or 3);
                 or (count, 1 or 3, height, width), as in PyTorch
    faces.npz    such an array and, optionally, labels: whole numbers or words (count,) or (count, 1), or one-hot rows

Images of a .npy file are read one by one; a .npz file is compressed, so all of it is read into memory.
"""

from __future__ import annotations

import os
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import psutil

from pipeline.data.format.boundary import parsing
from pipeline.data.format.git_lfs import POINTER, refuse_pointer
from pipeline.data.format.picture_files.parts import MAX_PIXELS
from pipeline.data.sources import Pixels, Remarks, Source, Spec
from pipeline.data.sources.array_labels import choose_labels, describe_arrays, label_candidates
from pipeline.data.sources.in_memory import InMemory
from pipeline.data.sources.labels import LabelChoice, labels_in, to_classes
from pipeline.data.sources.leftovers import describe_left_out
from pipeline.data.sources.npy import NpyHeader, read_npy_header, to_array
from pipeline.data.sources.zip_files import list_zip
from pipeline.errors import ConfigError, DataError
from pipeline.regular_files import open_regular
from pipeline.wording import counted

LABELS = frozenset(("column",))
IMAGE_NAMES = ("images", "x", "data", "arr_0")
REMEDY = "Write it again with numpy.savez."
SHAPES = "(count, height, width), with 1 or 3 channels in the second or the last place"


class NpyFile:
    """A .npy file of images in C order; the file is opened again for each image."""

    classes: tuple[str, ...] = ()

    def __init__(self, path: Path, header: NpyHeader) -> None:
        self.name, self.path = path.stem, path
        self._header = header
        self._image = NpyHeader(header.shape[1:], header.dtype, fortran=False, start=0)
        height, width, self.native_channels = _image_shape(header.shape)
        self.native_resolution: tuple[int, int] | None = (height, width)

    def __len__(self) -> int:
        return self._header.shape[0]

    def key(self, position: int) -> str:
        return str(position)

    def label(self, position: int) -> None:
        return None

    def read(self, position: int) -> Pixels:
        size = self._image.bytes
        try:
            with open_regular(self.path) as file:
                file.seek(self._header.start + position * size)
                image = to_array(self._image, file.read(size))
        except OSError as error:
            raise DataError(f"{self.path} cannot be read: {error.strerror}. Check its permissions.") from None
        except ValueError as error:
            raise DataError(
                f"{self.path}: image {position} is truncated: {error}. Copy the file again."
            ) from None
        pixels: Pixels = _channels_last(image[None])[0]
        return np.ascontiguousarray(pixels)


def open_source(spec: Spec) -> Source:
    """Open the array file at the path `spec.name`.

    Raises DataError if it is damaged, if its images are not uint8 of the shapes above, if it holds several such
    arrays and none is named images, x, data or arr_0, or if it does not fit into memory; ConfigError if a root or a
    split is given.
    """
    spec.refuse_root()
    spec.refuse_splits(f"Give a file that holds only the {spec.split} images.")
    path = Path(spec.name)
    if path.suffix.lower() == ".npz":
        return _open_npz(path, spec.labels)
    if spec.labels.kind == "column":
        raise ConfigError(
            f"--labels {spec.labels}: {path} is one array, without labels. Give an .npz file, or a file of labels."
        )
    return _open_npy(path)


def _open_npy(path: Path) -> NpyFile:
    with parsing(path, "is not a .npy file", "Write it again with numpy.save."), open_regular(path) as file:
        refuse_pointer(path, file.read(len(POINTER)))
        file.seek(0)
        header = read_npy_header(file)
        size = file.seek(0, os.SEEK_END)
    _check_images(path, header)
    if header.fortran:
        raise DataError(
            f"{path} is in Fortran order, so its images cannot be read one by one. Write it again with "
            "numpy.save(file, numpy.ascontiguousarray(images))."
        )
    if size != header.start + header.bytes:
        raise DataError(
            f"{path} has {counted(size, 'byte')}, but {header} takes {header.start + header.bytes:,}: it was "
            "truncated or changed. Copy it again."
        )
    return NpyFile(path, header)


def _open_npz(path: Path, choice: LabelChoice) -> InMemory:
    headers, rest = _read_headers(path)
    name = _find_images(path, headers)
    _check_images(path, headers[name])
    candidates = label_candidates(path, headers, name, choice)
    loadable = [key for key in (name, *candidates) if not headers[key].dtype.hasobject]
    arrays = _read_arrays(path, {key: headers[key] for key in loadable})
    images = _channels_last(arrays.pop(name))
    found, unused = choose_labels(path, {key: arrays.get(key) for key in candidates}, len(images), choice)
    others = {key: header for key, header in headers.items() if key not in (name, found)}
    left_out = ((f"{counted(len(others), 'array')} ({describe_arrays(others)})",) if others else ()) + rest
    if found is None:
        return InMemory(path.stem, images, remarks=Remarks(left_out=left_out, unused_labels=unused))
    labels, classes = to_classes(path, labels_in(arrays[found]))
    return InMemory(path.stem, images, labels, classes, Remarks(f"the array {found}", left_out, unused))


def _read_headers(path: Path) -> tuple[dict[str, NpyHeader], tuple[str, ...]]:
    """The header of each array by its name, only headers are uncompressed; and, in words, what else there is."""
    members = list_zip(path)
    names = [name for name in members.files if name.endswith(".npy")]
    others = [name for name in members.files if not name.endswith(".npy")]
    headers = {}
    with parsing(path, "is not a complete .npz file", REMEDY), zipfile.ZipFile(path) as archive:
        for name in names:
            with archive.open(name) as stream:
                headers[name.removesuffix(".npy")] = read_npy_header(stream)
    return headers, tuple(describe_left_out([members], others, "next to the arrays"))


def _find_images(path: Path, headers: Mapping[str, NpyHeader]) -> str:
    candidates = [name for name, header in headers.items() if len(header.shape) >= 3]
    if len(candidates) == 1:
        return candidates[0]
    for name in IMAGE_NAMES:
        if name in candidates:
            return name
    raise DataError(
        f"{path} holds {describe_arrays(headers)}, so it is unclear which array holds the images. Write one array "
        f"{SHAPES}, or name it {', '.join(IMAGE_NAMES[:-1])} or {IMAGE_NAMES[-1]}."
    )


def _read_arrays(path: Path, headers: Mapping[str, NpyHeader]) -> dict[str, npt.NDArray[Any]]:
    needed, available = sum(header.bytes for header in headers.values()), psutil.virtual_memory().available
    if needed > available // 2:
        raise DataError(
            f"{path} takes {needed / 1e9:.1f} GB when uncompressed, more than half of the {available / 1e9:.1f} GB "
            "of available memory. Write the images with numpy.save: images of a .npy file are read one by one."
        )
    with parsing(path, "is damaged", REMEDY), zipfile.ZipFile(path) as archive:
        return {name: _read_array(archive, f"{name}.npy", header) for name, header in headers.items()}


def _read_array(archive: zipfile.ZipFile, name: str, header: NpyHeader) -> npt.NDArray[Any]:
    with archive.open(name) as stream:
        read_npy_header(stream)
        # One byte more than needed, to notice extra bytes; `zipfile` checks the CRC at the end.
        return to_array(header, stream.read(header.bytes + 1))


def _check_images(path: Path, header: NpyHeader) -> None:
    what = f"{path} holds {header}"
    if header.dtype != np.uint8:
        raise DataError(
            f"{what}, but images must be uint8, because the value range of other types is unknown. Scale them to 0 "
            "to 255, and write images.astype(numpy.uint8)."
        )
    shape = header.shape
    if len(shape) == 3 and shape[2] in (1, 3):
        raise DataError(
            f"{what}, which looks like a single image. Give {SHAPES}; for a single image, write image[None]."
        )
    first, last = len(shape) == 4 and shape[1] in (1, 3), len(shape) == 4 and shape[3] in (1, 3)
    if first and last:
        raise DataError(
            f"{what}, so it is unclear which axis holds the channels. Write images with other sizes."
        )
    if len(shape) != 3 and not (first or last):
        raise DataError(f"{what}, but images must be {SHAPES}. Reshape them.")
    if 0 in shape:
        raise DataError(f"{what}, so it holds no images. Give a file that does.")
    height, width, _ = _image_shape(shape)
    if height * width > MAX_PIXELS:
        raise DataError(f"{what}, but an image may have at most {MAX_PIXELS:,} pixels. Cut them into parts.")


def _image_shape(shape: tuple[int, ...]) -> tuple[int, int, int]:
    """(height, width, channels)."""
    if len(shape) == 3:
        return shape[1], shape[2], 1
    return (shape[2], shape[3], shape[1]) if shape[1] in (1, 3) else (shape[1], shape[2], shape[3])


def _channels_last(images: npt.NDArray[Any]) -> Pixels:
    """The same images as uint8 (count, height, width) or (count, height, width, 3)."""
    if images.ndim == 4 and images.shape[1] in (1, 3):
        images = np.moveaxis(images, 1, 3)
    return images[:, :, :, 0] if images.ndim == 4 and images.shape[3] == 1 else images
