"""Checks of the paths that a command will write to, before it does any work."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from pipeline.durable import storage_errors
from pipeline.errors import ConfigError

FILE_ENDING = re.compile(r"\.[A-Za-z]{2,4}\d?")
"""The ending of a name that looks like a file's: .png and .mp4, but neither .v2 nor .2024."""


def check_file(
    option: str, target: Path, what: str, suffixes: Sequence[str] = (), otherwise: str = ""
) -> None:
    """Raise ConfigError unless `target` can be a file with one of these suffixes, such as ".png".

    Without suffixes every name is allowed. The message names `option`, `what` is to be written, and the other flag
    (`otherwise`) with which the name would be right. Raises StorageError if the name is too long.
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
    """Raise ConfigError if `target` is a file, or does not exist and has a name that looks like a file's.

    `what` are the files that are to be written into it. Raises StorageError if the name is too long.
    """
    with storage_errors(target):
        is_directory, exists = target.is_dir(), target.exists()
    if is_directory:
        return
    if exists:
        raise ConfigError(f"{option} {target} is a file, and {what} go into a directory. Name a directory.")
    if FILE_ENDING.fullmatch(target.suffix):
        raise ConfigError(
            f"{option} {target}: this name looks like a file's, and {what} go into a directory. Name a directory, or "
            "create one with this name first."
        )
