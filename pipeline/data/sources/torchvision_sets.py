"""Shared by all sets that torchvision reads: where their files are, and helpful errors if they cannot be read."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from pipeline.data.format.boundary import reason
from pipeline.data.sources import Spec
from pipeline.errors import DataError, PipelineError

T = TypeVar("T")


@dataclass(frozen=True)
class Files:
    """The files of a set: `names`, in the folder `folder` of a root. `title` is the usual name of the set."""

    title: str
    folder: str
    names: Sequence[str]


def open_with_torchvision(spec: Spec, files: Files, read: Callable[[Path, bool], T]) -> T:
    """Return `read(root, download)` with `spec.root`; without a root, download once into the user's cache.

    Raises DataError, which names the set, if the files are missing or damaged or if the download fails.
    """
    root = spec.root or Path.home() / ".cache" / "wgan-pipeline"
    download = spec.root is None
    try:
        return read(root, download)
    except PipelineError:
        raise
    except Exception as error:  # torchvision, its download tools and pickle raise nearly anything
        raise DataError(_explain(files, root / files.folder, download, reason(error))) from error


def _explain(files: Files, folder: Path, download: bool, why: str) -> str:
    title, listed = files.title, ", ".join(files.names)
    try:
        are_there = all((folder / name).exists() for name in files.names)
    except OSError as error:  # for example if a folder above may not be entered
        return (
            f"{folder} cannot be read: {error.strerror}. Check its permissions, or give another --root DIR."
        )
    if are_there:
        return f"The {title} files in {folder} are damaged ({why}). Remove them, and copy or download them again."
    if download:
        return (
            f"{title} cannot be downloaded to {folder} ({why}). Without network access, copy its files ({listed}) "
            f"from another machine to DIR/{files.folder} and give --root DIR."
        )
    return (
        f"{folder} does not hold the {title} files ({listed}). Copy them there, correct --root, or leave --root out "
        "to download them."
    )
