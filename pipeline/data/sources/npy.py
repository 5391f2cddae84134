"""The .npy format without pickles: the header is checked before the array is read."""

from __future__ import annotations

import ast
import io
import math
import struct
import warnings
from dataclasses import dataclass
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from pipeline.data.sources import Pixels
from pipeline.errors import DataError

MAGIC = b"\x93NUMPY"
LENGTHS = {(1, 0): struct.Struct("<H"), (2, 0): struct.Struct("<I")}
"""How each version of the format stores the length of its header"""
MAX_HEADER_BYTES = 10_000
"""As in numpy.load; a longer one can take Python's parser any time"""
MAX_DIMENSIONS, MAX_BYTES = 32, 1 << 60


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
    start = stream.read(len(MAGIC) + 2)
    version = tuple(start[len(MAGIC) :])
    if not start.startswith(MAGIC) or len(version) != 2:
        raise ValueError("it does not begin with the magic string of the format")
    if version not in LENGTHS:
        raise ValueError(f"version {version} of the .npy format is not supported")
    stored = stream.read(LENGTHS[version].size)
    length = int.from_bytes(stored, "little")
    if length > MAX_HEADER_BYTES:
        raise ValueError(f"its header has {length:,} bytes, more than {MAX_HEADER_BYTES:,}")
    text = stream.read(length)
    if len(stored) < LENGTHS[version].size or len(text) < length:
        raise ValueError("it ends within its header")
    header = _parse(text.decode("latin-1"), len(start) + len(stored) + length)
    if header.bytes > MAX_BYTES:
        raise ValueError(f"its shape {header.shape} has more elements than any file")
    return header


def _parse(text: str, start: int) -> NpyHeader:
    """The header in the text of a dictionary."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of Python's parser
            fields = ast.literal_eval(text.strip())
            shape, dtype = fields["shape"], np.lib.format.descr_to_dtype(fields["descr"])
            fortran = fields["fortran_order"]
    except Exception:  # the parser alone raises half a dozen kinds, down to MemoryError
        raise ValueError("its header is damaged") from None
    is_shape = isinstance(shape, tuple) and all(
        type(side) is int and 0 <= side <= MAX_BYTES for side in shape
    )
    if not is_shape or len(shape) > MAX_DIMENSIONS or type(fortran) is not bool:
        raise ValueError("its header is damaged")
    return NpyHeader(shape, dtype, fortran, start)


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
