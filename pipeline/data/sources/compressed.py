"""Compressed tar files: unpacked once to scratch space, because images are read in any order.

Only the tar file is unpacked, not the files in it. It may take at most a gigabyte, or a hundred times the size of the
compressed file if that is more: images cannot be compressed that far, so whatever grows beyond it is no set of images.
"""

from __future__ import annotations

import bz2
import errno
import gzip
import lzma
import shlex
import sys
import tempfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

from pipeline import stopping
from pipeline.errors import ConfigError, DataError, StorageError

SMALL_BYTES, MOST_GROWTH = 1 << 30, 100
BLOCK_BYTES = 1 << 20
LZMA_MEMORY = 256 << 20  # `xz -9` needs 65 MiB; a header can ask for gigabytes

TOOLS = {
    b"\x1f\x8b": "gunzip",
    b"BZh": "bunzip2",
    b"\xfd7zXZ\0": "unxz",
    b"\x28\xb5\x2f\xfd": "unzstd",
    b"\x04\x22\x4d\x18": "unlz4",
}
"""The first bytes of compressed files, and the program that unpacks each kind."""


def tool_for(start: bytes) -> str | None:
    """The program that unpacks a file that starts like this; None if it is not compressed."""
    return next((tool for magic, tool in TOOLS.items() if start.startswith(magic)), None)


def command(path: Path, tool: str) -> str:
    """What to do to use a compressed tar file without `unpack`."""
    return f"Uncompress it first: {tool} < {shlex.quote(str(path))} > unpacked.tar, then give unpacked.tar."


def unpack(path: Path, tool: str, file: IO[bytes], scratch: Path) -> Path:
    """Write the uncompressed content of the open file `path` to a new file in `scratch`, and return its path.

    Raises DataError if the content is damaged or implausibly large, ConfigError if this Python cannot read its format,
    and StorageError if `scratch` cannot be written.
    """
    blocks = _blocks_of(path, tool, file)
    limit = max(SMALL_BYTES, MOST_GROWTH * path.stat().st_size)
    try:
        with tempfile.NamedTemporaryFile(dir=scratch, suffix=".tar", delete=False) as unpacked:
            for block in blocks:
                stopping.check()
                if unpacked.tell() + len(block) > limit:
                    raise DataError(
                        f"{path} grows to more than {limit / 1e9:.1f} GB when uncompressed, which is implausible for "
                        "images. Do not use it unless you trust who made it; if you do, uncompress it yourself."
                    )
                unpacked.write(block)
    except (EOFError, zlib.error, lzma.LZMAError, gzip.BadGzipFile, ValueError) as error:
        raise _damaged(path, error) from None
    except OSError as error:
        if error.errno is None:  # bz2 raises it for damaged data
            raise _damaged(path, error) from None
        raise StorageError(
            f"{path} is compressed, and it cannot be unpacked to {scratch}: {error.strerror}. "
            + ("Free some space there, or set " if error.errno == errno.ENOSPC else "Set ")
            + "the environment variable TMPDIR to a directory with more space."
        ) from None
    return Path(unpacked.name)


def _blocks_of(path: Path, tool: str, file: IO[bytes]) -> Iterator[bytes]:
    """The uncompressed content, block by block."""
    if tool == "gunzip":
        stream = gzip.GzipFile(fileobj=file)
        return iter(lambda: stream.read(BLOCK_BYTES), b"")
    if tool == "bunzip2":
        return _decompress(file, bz2.BZ2Decompressor)
    if tool == "unxz":
        return _decompress(file, lambda: lzma.LZMADecompressor(memlimit=LZMA_MEMORY))
    if tool == "unzstd" and sys.version_info >= (3, 14):
        from compression import zstd

        return _decompress(file, zstd.ZstdDecompressor)
    why = "Python reads from version 3.14 on" if tool == "unzstd" else "Python does not read"
    raise ConfigError(
        f"{path} is compressed with {tool.removeprefix('un')}, which {why}. {command(path, tool)}"
    )


def _decompress(file: IO[bytes], make: Callable[[], Any]) -> Iterator[bytes]:
    """The content of one or several joined streams. Raises EOFError if the last one is cut short."""
    decompressor = make()
    content = b""
    while True:
        if decompressor.eof:
            # Zeros may pad the end of a stream.
            content = decompressor.unused_data.lstrip(b"\0") or file.read(BLOCK_BYTES).lstrip(b"\0")
            if not content:
                return
            decompressor = make()
        elif decompressor.needs_input:
            content = file.read(BLOCK_BYTES)
            if not content:
                raise EOFError("it ends too early")
        if block := decompressor.decompress(content, BLOCK_BYTES):
            yield block
        content = b""


def _damaged(path: Path, error: Exception) -> DataError:
    return DataError(f"{path} is damaged: {error}. Copy it again.")
