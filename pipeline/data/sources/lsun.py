"""LSUN: photos of ten kinds of scenes, one LMDB for each kind, without labels.

    root/bedroom_train_lmdb/data.mdb      lsun-bedroom

They must be downloaded and unzipped by hand. Needs the extra `lsun`.
"""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

from pipeline.data.format.codecs import MAX_FILE_BYTES
from pipeline.data.sources import Source, Spec
from pipeline.data.sources.members import too_large
from pipeline.errors import ConfigError, DataError

PREFIX = "lsun-"

# An LMDB must not be opened twice in a process, not even by copies of a source or in several threads.
# Forked processes may keep using it: readers without locks share only the mapped file.
_OPEN: dict[Path, Any] = {}
_LOCK = threading.Lock()


class Lsun:
    """The images of one kind and split, in the order of their keys, which are hashes."""

    classes: tuple[str, ...] = ()
    native_resolution: tuple[int, int] | None = None
    native_channels = 3

    def __init__(self, name: str, path: Path, keys: list[bytes]) -> None:
        self.name, self.path = name, path
        self._keys = keys

    def __len__(self) -> int:
        return len(self._keys)

    def key(self, position: int) -> str:
        return self._keys[position].decode("ascii", "backslashreplace")

    def label(self, position: int) -> None:
        return None

    def read(self, position: int) -> bytes:
        environment = _environment(self.path)
        import lmdb

        try:
            with environment.begin(buffers=True) as transaction:
                content = transaction.get(self._keys[position])
                if content is None:
                    raise DataError(
                        f"{self.path} no longer has the image {self.key(position)}: the file has changed. Start again."
                    )
                if len(content) > MAX_FILE_BYTES:
                    raise too_large(f"{self.path}: {self.key(position)}")
                return bytes(content)
        except lmdb.Error as error:
            raise DataError(
                f"{self.path}: {self.key(position)} cannot be read: {error}. Download and unzip the LMDB again."
            ) from None


def open_source(spec: Spec) -> Source:
    """Open the LMDB of the kind and split in `spec.root`.

    Raises ConfigError without a root, for a split other than train and val, and if the library is not installed;
    DataError if the LMDB is missing, damaged or empty.
    """
    spec.check_split(("train", "val"))
    kind = spec.name.removeprefix(PREFIX).replace("-", "_")
    folder = f"{kind}_{spec.split}_lmdb"
    if spec.root is None:
        raise ConfigError(
            f"{spec.name} is not downloaded automatically. Download {folder} from the LSUN site, unzip it, and give "
            "--root DIR, the folder that holds it."
        )
    path = spec.root.resolve() / folder
    try:
        is_there = (path / "data.mdb").is_file()
    except OSError as error:
        raise DataError(
            f"{path} cannot be read: {error.strerror}. Check its permissions, or correct --root."
        ) from None
    if not is_there:
        raise DataError(
            f"{spec.root} has no {folder}/data.mdb. Download and unzip it there, or correct --root."
        )
    keys = _read_keys(path)
    if not keys:
        raise DataError(f"{path} holds no images. Download and unzip it again.")
    return Lsun(f"{spec.name}-{spec.split}", path, keys)


def _read_keys(path: Path) -> list[bytes]:
    environment = _environment(path)
    import lmdb

    try:
        with environment.begin() as transaction:
            return list(transaction.cursor().iternext(keys=True, values=False))
    except lmdb.Error as error:
        raise DataError(f"{path} is damaged: {error}. Download and unzip it again.") from None


def _environment(path: Path) -> Any:
    try:
        import lmdb
    except ModuleNotFoundError:
        raise ConfigError(
            "LSUN needs the library lmdb, which is not installed. Install it: pip install 'wgan-pipeline[lsun]'"
        ) from None
    with _LOCK:
        if path not in _OPEN:
            try:
                environment = lmdb.open(
                    str(path), readonly=True, lock=False, create=False, readahead=False, meminit=False
                )
            except lmdb.Error as error:
                raise DataError(
                    f"{path} is not a readable LMDB: {error}. Download and unzip it again."
                ) from None
            _refuse_cut(path, environment)
            _OPEN[path] = environment
        return _OPEN[path]


def _refuse_cut(path: Path, environment: Any) -> None:
    """Raise DataError if the file ends before its last page.

    It is memory-mapped, so reading the missing part would kill the process with SIGBUS, without a message.
    """
    needed = (environment.info()["last_pgno"] + 1) * environment.stat()["psize"]
    found = (path / "data.mdb").stat().st_size
    if found < needed:
        environment.close()
        raise DataError(
            f"{path / 'data.mdb'} is truncated: it has {found:,} of {needed:,} bytes. Download and unzip it again."
        )
