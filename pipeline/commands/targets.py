"""Where a command is told to write: names that cannot work are refused before any work is done."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from pipeline.durable import storage_errors
from pipeline.errors import ConfigError

FILE_ENDING = re.compile(r"\.[A-Za-z]{2,4}\d?")
"""Of a name that reads like a file's: .png and .mp4, but neither .v2 nor .2024."""


def check_file(
    option: str, target: Path, what: str, suffixes: Sequence[str] = (), otherwise: str = ""
) -> None:
    """Raise ConfigError unless `target` can be a file with one of these suffixes, such as ".png".

    Without suffixes any name will do. The message says that `option` gave the name, `what` is to be written,
    and how else (`otherwise`) the name could be right. Raises StorageError where the name is too long.
    """
    with storage_errors(target):
        is_directory = target.is_dir()
    if is_directory:
        raise ConfigError(
            f"{option} {target} is a directory, and {what} is one file. Name a file in it{otherwise}."
        )
    if suffixes and target.suffix.lower() not in suffixes:
        known = " or ".join(suffixes)
        found = f"ends in {target.suffix}" if target.suffix else "has no ending"
        raise ConfigError(
            f"{option} {target}: {what} is written as {known}, and this name {found}. Name a file that ends in "
            f"{known}{otherwise}."
        )


def check_directory(option: str, target: Path, what: str) -> None:
    """Raise ConfigError where `target` is a file, or reads like one and is not there yet.

    `what` are the files that are to be written into it. Raises StorageError where the name is too long.
    """
    with storage_errors(target):
        is_directory, exists = target.is_dir(), target.exists()
    if is_directory:
        return
    if exists:
        raise ConfigError(f"{option} {target} is a file, and {what} go into a directory. Name a directory.")
    if FILE_ENDING.fullmatch(target.suffix):
        raise ConfigError(
            f"{option} {target}: this name reads like a file's, and {what} go into a directory. Name a directory; one "
            "with such a name must be there already."
        )
