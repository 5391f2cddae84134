"""The .npy format without pickles: the header is checked before the array is read."""

from __future__ import annotations

import io
import math
from dataclasses import dataclass
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from pipeline.data.sources import Pixels
from pipeline.errors import DataError

HEADERS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}


@dataclass(frozen=True)
class NpyHeader:
    """The header of a .npy file; `start` is the offset of the first element."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    fortran: bool
    start: int

    @property
    def bytes(self) -> int:
        """The size of all elements in bytes."""
        return math.prod(self.shape) * self.dtype.itemsize

    def __str__(self) -> str:
        return f"{self.dtype} {self.shape}"


def read_npy_header(stream: IO[bytes]) -> NpyHeader:
    """Read the header at the start of a .npy file. Raises ValueError if it is not one."""
    version = np.lib.format.read_magic(stream)
    if version not in HEADERS:
        raise ValueError(f"version {version} of the .npy format is not supported")
    shape, fortran, dtype = HEADERS[version](stream)
    if any(side < 0 for side in shape):
        raise ValueError(f"the shape {shape} has negative sides")
    return NpyHeader(shape, dtype, fortran, stream.tell())


def to_array(header: NpyHeader, elements: bytes) -> npt.NDArray[Any]:
    """The array with these elements. Raises ValueError if their number differs from the header's."""
    if header.dtype.hasobject:
        raise ValueError("it holds Python objects, which are not loaded")
    if len(elements) != header.bytes:
        raise ValueError(f"{header} takes {header.bytes:,} bytes, but there are {len(elements):,}")
    flat = np.frombuffer(elements, dtype=header.dtype)
    return flat.reshape(header.shape, order="F" if header.fortran else "C")


def read_pixels(where: str, content: bytes) -> Pixels:
    """The image in a .npy file of a shard. Raises DataError, which starts with `where`, if it is none."""
    stream = io.BytesIO(content)
    try:
        header = read_npy_header(stream)
        array = to_array(header, content[header.start :])
    except ValueError as error:
        raise DataError(f"{where} cannot be read: {error}. Write it again with numpy.save.") from None
    if array.dtype != np.uint8 or array.shape[2:] not in ((), (1,), (3,)) or array.ndim < 2 or not array.size:
        raise DataError(
            f"{where} holds {header}, but an image must be uint8 (height, width), or (height, width, 1 or 3). "
            "Convert it."
        )
    return array[:, :, 0] if array.shape[2:] == (1,) else array
