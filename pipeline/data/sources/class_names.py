"""The names of numbered classes: one per line, in UTF-8, as in classes.txt next to webdataset shards."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from pipeline.errors import DataError
from pipeline.regular_files import read_regular
from pipeline.wording import counted

FILE_NAME = "classes.txt"
LARGEST_FILE = 1 << 24


def read_class_names(path: Path, within: Path | None = None) -> tuple[str, ...]:
    """The names in a file. Raises DataError as `parse_class_names` does, and if the file cannot be read.

    `within` is the folder of the set that the file belongs to, out of which it must not lead.
    """
    try:
        content = read_regular(path, LARGEST_FILE, within)
    except OSError as error:
        raise DataError(
            f"{path} cannot be read ({error.strerror}). Write one class name per line, in UTF-8."
        ) from None
    return parse_class_names(path, content)


def parse_class_names(path: Path | str, content: bytes) -> tuple[str, ...]:
    """The names in the content of the file `path`. Raises DataError if a line is empty or a name appears twice."""
    try:
        names = tuple(line.strip() for line in content.decode("utf-8-sig").rstrip().splitlines())
    except UnicodeDecodeError as error:
        raise DataError(
            f"{path} cannot be read ({error}). Write one class name per line, in UTF-8."
        ) from None
    name, times = Counter(names).most_common(1)[0] if names else ("", 0)
    if "" in names:
        raise DataError(f"{path}: line {names.index('') + 1} is empty. Write one class name per line.")
    if times > 1:
        raise DataError(f"{path} names {name!r} {times} times. Name each class once.")
    return names


def name_classes(path: Path | str, names: Sequence[str], numbers: Sequence[str]) -> tuple[str, ...]:
    """The names of the classes that are numbered "0", "1" and so on. Raises DataError if there are too few names."""
    if len(names) < len(numbers):
        raise DataError(
            f"{path} names {counted(len(names), 'class')}, but there are labels up to {len(numbers) - 1}. Give "
            f"{counted(len(numbers), 'name')}, one per line."
        )
    return tuple(names)
