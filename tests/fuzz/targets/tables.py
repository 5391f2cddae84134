"""Data sets as Hugging Face's library saves them: a table of Arrow, and what describes it."""

from __future__ import annotations

import functools
import io
import shutil
import tempfile
from pathlib import Path

from PIL import Image

from pipeline.data.sources import Spec, open_source
from tests.fuzz.engine import target

ROWS = 3


def png(value: int) -> bytes:
    stream = io.BytesIO()
    Image.new("L", (4, 4), value).save(stream, "PNG")
    return stream.getvalue()


def read_all(spec: Spec) -> None:
    """Open a source, and read its keys, labels and first images."""
    source = open_source(spec)
    for position in range(min(ROWS, len(source))):
        source.key(position), source.label(position), source.read(position)


@functools.cache
def saved() -> Path:
    """A data set that `datasets` has saved."""
    import datasets

    datasets.disable_progress_bars()
    path = Path(tempfile.mkdtemp()) / "saved"
    rows = {
        "image": [
            {"bytes": png(1), "path": None},
            {"bytes": png(2), "path": "a.png"},
            {"bytes": png(3), "path": None},
        ],
        "label": [0, 1, 0],
        "note": ["a", None, "ü" * 20],
    }
    features = {
        "image": datasets.Image(),
        "label": datasets.ClassLabel(names=["cat", "dog"]),
        "note": datasets.Value("string"),
    }
    datasets.Dataset.from_dict(rows, features=datasets.Features(features)).save_to_disk(str(path))
    return path


def hugging_face(data: bytes, directory: Path, pattern: str) -> None:
    copy = Path(shutil.copytree(saved(), directory / "saved"))
    for path in copy.glob(pattern):
        path.write_bytes(data)
    read_all(Spec("hf:user/name", copy))


@target("arrow", lambda: [path.read_bytes() for path in saved().glob("*.arrow")])
def read_arrow(data: bytes, directory: Path) -> None:
    hugging_face(data, directory, "*.arrow")


@target("dataset-info", lambda: [(saved() / "dataset_info.json").read_bytes()])
def read_info(data: bytes, directory: Path) -> None:
    hugging_face(data, directory, "dataset_info.json")


@target("dataset-state", lambda: [(saved() / "state.json").read_bytes()])
def read_state(data: bytes, directory: Path) -> None:
    hugging_face(data, directory, "state.json")
