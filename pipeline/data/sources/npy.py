"""The .npy format without its pickles: the header is looked at before a byte of the array is read."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import IO, Any

import numpy as np
import numpy.typing as npt

HEADERS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}


@dataclass(frozen=True)
class NpyHeader:
    """What a .npy file says of its array; `start` is where the elements begin."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    fortran: bool
    start: int

    @property
    def bytes(self) -> int:
        """The size of the elements."""
        return math.prod(self.shape) * self.dtype.itemsize

    def __str__(self) -> str:
        return f"{self.dtype} {self.shape}"


def read_npy_header(stream: IO[bytes]) -> NpyHeader:
    """Read the header off the start of a .npy file. Raises ValueError where it is none."""
    version = np.lib.format.read_magic(stream)
    if version not in HEADERS:
        raise ValueError(f"version {version} of the .npy format is not known")
    shape, fortran, dtype = HEADERS[version](stream)
    if any(side < 0 for side in shape):
        raise ValueError(f"the shape {shape} has negative sides")
    return NpyHeader(shape, dtype, fortran, stream.tell())


def to_array(header: NpyHeader, elements: bytes) -> npt.NDArray[Any]:
    """The array of these elements. Raises ValueError where there are not as many as the header says."""
    if header.dtype.hasobject:
        raise ValueError("it holds Python objects, which are not loaded")
    if len(elements) != header.bytes:
        raise ValueError(f"{header} takes {header.bytes:,} bytes, and there are {len(elements):,}")
    flat = np.frombuffer(elements, dtype=header.dtype)
    return flat.reshape(header.shape, order="F" if header.fortran else "C")
