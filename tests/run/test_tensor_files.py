"""Reading safetensors: bounded, and refused with a reason for anything else."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save

from pipeline.run.tensor_files import MOST_HEADER_BYTES, parse_tensors, read_tensors

CONTENT = save({"a": torch.arange(6.0).view(2, 3), "b": torch.zeros(0, 4)}, {"card": "é"})


def with_header(header: Any, data: bytes = b"") -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data


def test_tensors_and_texts_are_read(tmp_path: Path) -> None:
    (tmp_path / "x.safetensors").write_bytes(CONTENT)
    found = read_tensors(tmp_path / "x.safetensors")
    assert found.metadata == {"card": "é"}
    assert torch.equal(found.tensors["a"], torch.arange(6.0).view(2, 3))
    assert found.tensors["b"].shape == (0, 4)
    assert parse_tensors(save({"a": torch.ones(1)})).metadata == {}


def tensor(shape: list[int], size: int, dtype: str = "F32") -> dict[str, Any]:
    return {"a": {"dtype": dtype, "shape": shape, "data_offsets": [0, size]}}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "its header would have 0 bytes"),
        (b"PK\x03\x04 a pickle, perhaps", "its header would have .* bytes: the file is damaged"),
        ((MOST_HEADER_BYTES + 1).to_bytes(8, "little") + b" " * (MOST_HEADER_BYTES + 1), "its header would"),
        (CONTENT[:-1], "."),
        (CONTENT + b"x", "."),
        (with_header(b"{" * 5000), "."),
        (with_header([]), "."),
        (with_header(tensor([2**62, 4], 4), bytes(4)), "."),
        (with_header(tensor([1], 4, "F99"), bytes(4)), "."),
        (with_header({"__metadata__": {"card": 3}}), "."),
    ],
)
def test_anything_else_is_refused_in_a_few_words(content: bytes, message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        parse_tensors(content)
    assert len(str(caught.value)) < 400
    assert "\n" not in str(caught.value)


def test_what_is_no_file_is_not_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "x.safetensors")
    with pytest.raises(OSError, match="it is a named pipe"):
        read_tensors(tmp_path / "x.safetensors")
