"""LSUN: photos of ten kinds of scenes, one LMDB for each kind, without labels.

    root/bedroom_train_lmdb/data.mdb      lsun-bedroom

They must be downloaded and unzipped by hand.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from pipeline.data.format.codecs import MAX_FILE_BYTES
from pipeline.data.sources import Source, Spec
from pipeline.data.sources.lmdb_file import CutError, Value, find_values, read_value
from pipeline.data.sources.members import too_large
from pipeline.errors import ConfigError, DataError
from pipeline.regular_files import open_regular

PREFIX = "lsun-"
REMEDY = "Download and unzip it again."


class Lsun:
    """The images of one kind and split, in the order of their keys, which are hashes."""

    classes: tuple[str, ...] = ()
    native_resolution: tuple[int, int] | None = None
    native_channels = 3

    def __init__(self, name: str, file: Path, values: Sequence[Value]) -> None:
        self.name, self.file = name, file
        self._keys = [value.key for value in values]
        # An array needs much less memory than millions of tuples.
        self._places = np.array([(value.offset, value.size, value.page) for value in values], dtype=np.int64)

    def __len__(self) -> int:
        return len(self._keys)

    def key(self, position: int) -> str:
        return self._keys[position].decode("ascii", "backslashreplace")

    def label(self, position: int) -> None:
        return None

    def read(self, position: int) -> bytes:
        offset, size, page = self._places[position].tolist()
        if size > MAX_FILE_BYTES:
            raise too_large(f"{self.file}: {self.key(position)}")
        try:
            with open_regular(self.file) as file:
                content = read_value(file, Value(self._keys[position], offset, size, page))
        except OSError as error:
            raise DataError(
                f"{self.file}: {self.key(position)} cannot be read: {error.strerror}. Check the file."
            ) from None
        except ValueError as error:
            raise DataError(f"{self.file}: {self.key(position)} is damaged: {error}. {REMEDY}") from None
        if len(content) != size:
            raise DataError(
                f"{self.file} became shorter while it was read: {self.key(position)} is cut. {REMEDY}"
            )
        return content


def open_source(spec: Spec) -> Source:
    """Open the LMDB of the kind and split in `spec.root`.

    Raises ConfigError without a root, and for a split other than train and val; DataError if the LMDB is missing,
    damaged or empty.
    """
    spec.check_split(("train", "val"))
    kind = spec.name.removeprefix(PREFIX).replace("-", "_")
    folder = f"{kind}_{spec.split}_lmdb"
    if spec.root is None:
        raise ConfigError(
            f"{spec.name} is not downloaded automatically. Download {folder} from the LSUN site, unzip it, and give "
            "--root DIR, the folder that holds it."
        )
    file = spec.root.resolve() / folder / "data.mdb"
    values = _find_values(file, spec.root)
    if not values:
        raise DataError(f"{file} holds no images. {REMEDY}")
    return Lsun(f"{spec.name}-{spec.split}", file, values)


def _find_values(file: Path, root: Path) -> list[Value]:
    try:
        return find_values(file)
    except (FileNotFoundError, NotADirectoryError):
        raise DataError(
            f"{root} has no {file.parent.name}/data.mdb. Download and unzip it there, or correct --root."
        ) from None
    except OSError as error:
        raise DataError(
            f"{file} cannot be read: {error.strerror}. Check its permissions, or correct --root."
        ) from None
    except CutError as error:
        raise DataError(f"{file} is truncated: {error}. {REMEDY}") from None
    except ValueError as error:
        raise DataError(f"{file} is not a readable LMDB: {error}. {REMEDY}") from None
