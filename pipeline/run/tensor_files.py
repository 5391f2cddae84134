"""The one way to read safetensors: named tensors and text, which cannot run code, from a regular file."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

from pydantic import Field
from safetensors import SafetensorError

from pipeline.documents import Document, parse_json
from pipeline.foreign_text import printable
from pipeline.regular_files import read_regular

if TYPE_CHECKING:
    from torch import Tensor
# Importing torch takes seconds, and finding checkpoints does not need it.

Tensors: TypeAlias = "dict[str, Tensor]"

MOST_BYTES, MOST_HEADER_BYTES = 1 << 34, 1 << 22
"""Largest file, and largest header: names, shapes and texts of 10,000 tensors take about 1 MB."""


class TensorFile(NamedTuple):
    """What a safetensors file holds, in host memory."""

    tensors: Tensors
    metadata: dict[str, str]


class _Header(Document):
    metadata: dict[str, str] = Field(default={}, alias="__metadata__")


def read_tensors(path: Path) -> TensorFile:
    """Read a file. Raises OSError if it cannot be read, ValueError with a short text if it is not safetensors."""
    return parse_tensors(read_regular(path, MOST_BYTES))


def parse_tensors(content: bytes) -> TensorFile:
    """Read the content of a file. Raises ValueError with a short text if it is not safetensors."""
    from safetensors.torch import load

    size = int.from_bytes(content[:8], "little")
    if not 2 <= size <= min(MOST_HEADER_BYTES, len(content) - 8):
        raise ValueError(f"its header would have {size:,} bytes: the file is damaged, or has another format")
    try:
        return TensorFile(load(content), parse_json(content[8 : 8 + size], _Header).metadata)
    # The last three: of a type of numbers that this torch does not know, and of shapes that no memory holds.
    except (SafetensorError, KeyError, RuntimeError, AssertionError) as error:
        raise ValueError(printable(str(error) or type(error).__name__)) from None
