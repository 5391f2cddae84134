"""Arrays of images: .npy and .npz files as sources, and .npy members of tar files."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.data.format.tar_writer import END, header
from pipeline.data.sources import Spec, open_source
from tests.fuzz.engine import target

IMAGES = np.arange(2 * 4 * 5 * 3, dtype=np.uint8).reshape(2, 4, 5, 3)


def read_source(path: Path, most: int = 4, scratch: Path | None = None) -> None:
    """Open a source, and read its keys, labels and first images. Compressed files are unpacked to `scratch`."""
    source = open_source(Spec(str(path), scratch=scratch))
    for position in range(min(most, len(source))):
        source.key(position), source.label(position), source.read(position)


def npy(array: Any, version: tuple[int, int] | None = None) -> bytes:
    stream = io.BytesIO()
    np.lib.format.write_array(stream, np.asarray(array), version)
    return stream.getvalue()


def npy_seeds() -> list[bytes]:
    arrays = (IMAGES, IMAGES[:, :, :, 0], IMAGES.transpose(0, 3, 1, 2).copy(), np.asfortranarray(IMAGES))
    structured = np.zeros(2, dtype=[("a", "u1"), ("b", "<f4", (2, 2))])
    others = (IMAGES.astype(np.float32), np.array(["a", "b"]), structured, np.array(5))
    return [*map(npy, (*arrays, *others)), npy(IMAGES, (2, 0))]


def npz(write: Any, **arrays: Any) -> bytes:
    stream = io.BytesIO()
    write(stream, **arrays)
    return stream.getvalue()


def npz_seeds() -> list[bytes]:
    labels = np.array([0, 1])
    return [
        npz(np.savez, x=IMAGES, y=labels),
        npz(np.savez_compressed, images=IMAGES, labels=labels[:, None], names=np.array(["cat", "dog"])),
        npz(np.savez_compressed, arr_0=np.zeros((2, 300, 300), np.uint8), arr_1=np.eye(2)),
    ]


@target("npy", npy_seeds)
def read_npy(data: bytes, directory: Path) -> None:
    (directory / "a.npy").write_bytes(data)
    read_source(directory / "a.npy")


@target("npz", npz_seeds)
def read_npz(data: bytes, directory: Path) -> None:
    (directory / "a.npz").write_bytes(data)
    read_source(directory / "a.npz")


@target("npy-in-tar", lambda: [npy(IMAGES[0]), npy(IMAGES[0, :, :, 0]), npy(IMAGES[0].astype(float))])
def read_npy_member(data: bytes, directory: Path) -> None:
    content = (
        header("a.npy", len(data)) + data + bytes(-len(data) % 512) + header("a.cls", 1) + b"3" + bytes(511)
    )
    (directory / "a.tar").write_bytes(content + END)
    read_source(directory / "a.tar")
