"""Small real files in the formats that sources read."""

from __future__ import annotations

import hashlib
import io
import pickle
import struct
import tarfile
import zipfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from pipeline.data.format.pictures import decode_picture
from pipeline.data.sources import Pixels, Source, Spec, open_source


def open_path(path: Path | str, split: str = "train") -> Source:
    return open_source(Spec(str(path), split=split))


def png(value: int = 0, size: tuple[int, int] = (4, 4)) -> bytes:
    stream = io.BytesIO()
    Image.new("L", size, value).save(stream, "PNG")
    return stream.getvalue()


def put_image(path: Path, value: int = 0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("L", (4, 4), value).save(path)


def pixels(source: Source, position: int) -> Pixels:
    picture = source.read(position)
    return np.asarray(decode_picture(picture)) if isinstance(picture, bytes) else picture


def values(source: Source) -> dict[str, tuple[int | None, int]]:
    """Key -> (label, the image's first value)."""
    return {
        source.key(position): (source.label(position), int(pixels(source, position).flat[0]))
        for position in range(len(source))
    }


def labels(source: Source) -> dict[str, int | None]:
    return {source.key(position): source.label(position) for position in range(len(source))}


def put_tar(path: Path, members: Iterable[tuple[str | tarfile.TarInfo, bytes]]) -> Path:
    with tarfile.open(path, "w") as archive:
        for name, content in members:
            info = tarfile.TarInfo(name) if isinstance(name, str) else name
            if isinstance(name, str):
                info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return path


def put_zip(path: Path, members: Iterable[tuple[str | zipfile.ZipInfo, bytes]]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members:
            archive.writestr(name, content)
    return path


def put_idx(folder: Path, prefix: str, images: Pixels, targets: Iterable[int]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    header = struct.pack(">IIII", 0x803, *images.shape)
    (folder / f"{prefix}-images-idx3-ubyte").write_bytes(header + images.tobytes())
    content = bytes(targets)
    (folder / f"{prefix}-labels-idx1-ubyte").write_bytes(struct.pack(">II", 0x801, len(content)) + content)


def put_mnist(root: Path, title: str = "MNIST") -> None:
    """5 train and 3 test images; the pixels of each are its number, and the labels are 9, 8, ..."""
    for prefix, count in (("train", 5), ("t10k", 3)):
        images = np.arange(count, dtype=np.uint8).repeat(28 * 28).reshape(count, 28, 28)
        put_idx(root / title / "raw", prefix, images, (9 - number for number in range(count)))


def md5(path: Path) -> str:
    return hashlib.md5(path.read_bytes()).hexdigest()


def put_cifar10(root: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two images per batch file; torchvision is given their hashes."""
    from torchvision.datasets import CIFAR10

    folder = root / "cifar-10-batches-py"
    folder.mkdir()
    lists = {}
    for kind in ("train_list", "test_list"):
        entries: list[Any] = []
        for name, _ in getattr(CIFAR10, kind):
            value = len(entries)
            data = np.full((2, 3, 32, 32), value, dtype=np.uint8)
            data[:, 0] = 200  # red
            content = {"data": data.reshape(2, -1), "labels": [value, 9]}
            (folder / name).write_bytes(pickle.dumps(content))
            entries.append([name, md5(folder / name)])
        lists[kind] = entries
    names = [f"class {number}" for number in range(10)]
    (folder / "batches.meta").write_bytes(pickle.dumps({"label_names": names}))
    for kind, entries in lists.items():
        monkeypatch.setattr(CIFAR10, kind, entries)
    monkeypatch.setattr(CIFAR10, "meta", {**CIFAR10.meta, "md5": md5(folder / "batches.meta")})
    return folder


def put_stl10(root: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Images whose first row is bright, in a file that stores them column by column."""
    from torchvision.datasets import STL10

    folder = root / "stl10_binary"
    folder.mkdir()
    for part, count in (("train", 2), ("test", 3), ("unlabeled", 4)):
        columns = np.zeros((count, 3, 96, 96), dtype=np.uint8)
        columns[:, :, :, 0] = 250
        (folder / f"{part}_X.bin").write_bytes(columns.tobytes())
        (folder / f"{part}_y.bin").write_bytes(bytes(range(1, count + 1)))
    for kind in ("train_list", "test_list"):
        entries = [[name, md5(folder / name)] for name, _ in getattr(STL10, kind)]
        monkeypatch.setattr(STL10, kind, entries)
    return folder


def put_celeba(root: Path) -> Path:
    folder = root / "celeba"
    lines = []
    for number, split in enumerate((0, 0, 1, 2), start=1):
        put_image(folder / "img_align_celeba" / f"{number:06}.jpg", number)
        lines.append(f"{number:06}.jpg {split}\n")
    (folder / "list_eval_partition.txt").write_text("".join(lines))
    return folder


def put_lsun(root: Path, split: str = "train") -> Path:
    import lmdb

    folder = root / f"bedroom_{split}_lmdb"
    with (
        lmdb.open(str(folder), map_size=1 << 20) as environment,
        environment.begin(write=True) as transaction,
    ):
        transaction.put(b"0a", png(1))
        transaction.put(b"0b", png(2))
    return folder


LMDB_PAGE = 512


def lmdb_node(key: bytes, value: bytes = b"", flags: int = 0, size: int | None = None) -> bytes:
    """A node of a leaf; with the flag 1 its value is the number of the page that holds `size` bytes."""
    node = struct.pack("<IHH", len(value) if size is None else size, flags, len(key)) + key + value
    return node + bytes(len(node) % 2)


def lmdb_branch(child: int) -> bytes:
    """A node of a branch."""
    return struct.pack("<IHH", child, 0, 0)


def lmdb_page(number: int, kind: int, nodes: Iterable[bytes], repeat: int = 1) -> bytes:
    """A page of a tree, 1 for a branch and 2 for a leaf, whose table names each node `repeat` times."""
    places: list[int] = []
    content = b""
    for node in nodes:
        content = node + content
        places += [LMDB_PAGE - len(content)] * repeat
    end, start = 16 + 2 * len(places), LMDB_PAGE - len(content)
    table = struct.pack(f"<Q2xHHH{len(places)}H", number, kind, end, start, *places)
    return table + bytes(start - end) + content


def lmdb_large(number: int, value: bytes, kind: int = 4) -> bytes:
    """A page that begins with a large value."""
    return (struct.pack("<Q2xHI", number, kind, 1) + value).ljust(LMDB_PAGE, b"\0")


def lmdb_of(*pages: bytes, entries: int, last: int | None = None) -> bytes:
    """An LMDB file of pages of which the first, page 2, is the root; `last` is the number of its last page."""
    metas = b""
    for number in range(2):
        last_page = 1 + len(pages) if last is None else last
        database = struct.pack("<IHH24xQQ", 0, 0, 1, entries, 2)
        meta = struct.pack("<II16xI44x", 0xBEEFC0DE, 1, LMDB_PAGE) + database
        meta += struct.pack("<QQ", last_page, number)
        metas += (struct.pack("<Q2xH4x", number, 8) + meta).ljust(LMDB_PAGE, b"\0")
    return metas + b"".join(pages)


def put_hugging_face(folder: Path) -> Path:
    import datasets

    rows = {"image": [{"bytes": png(value), "path": None} for value in (1, 2, 3)], "label": [0, 1, 1]}
    features = datasets.Features(
        {"image": datasets.Image(), "label": datasets.ClassLabel(names=["cat", "dog"])}
    )
    datasets.Dataset.from_dict(rows, features=features).save_to_disk(str(folder))
    return folder
