"""Patterns of tar files: braces by webdataset's rules, and `*` and `[...]` in the last part of a path or URL.

/data/train-{0000..1281}.tar              the names that the braces stand for, in their order
s3://bucket/train-{0000..1281}.tar
/data/*.tar   gs://bucket/train/*.tar     what is there, in the order of the names
https://host/train/*.tar                  what the page of the directory links to
hf://datasets/OWNER/NAME/train/*.tar      what the repository's directory holds
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from glob import glob, has_magic
from pathlib import Path
from shlex import quote
from typing import NamedTuple

from pipeline.data.format.arrivals import Arrivals
from pipeline.data.format.remote import check_url, is_url
from pipeline.data.format.web import FileFacts
from pipeline.data.sources.members import unreadable
from pipeline.errors import ConfigError, DataError
from pipeline.foreign_text import printable
from pipeline.option_data import RemoteOptions
from pipeline.regular_files import open_regular

MOST_FILES = 100_000
"""That one set may consist of: each takes about 300 bytes in its manifest"""
LONGEST, MOST_BRACES = 4096, 100
RANGE = re.compile(r"\{(-?\d{1,18})\.\.(-?\d{1,18})(?:\.\.-?(\d{1,18}))?\}")
REMOTE_MAGIC = re.compile(r"[*\[]")
"""In an address, a question mark begins a query"""
CONTROL = re.compile(r"[\x00-\x1f]")
OTHER_RANGE = re.compile(r"\{[^{},]*\d{19}[^{},]*\}")


class Found(NamedTuple):
    """A tar file that a pattern stands for: its absolute path or URL, and what is known of it without reading it."""

    location: str
    facts: FileFacts


def find_tars(patterns: Sequence[str], options: RemoteOptions) -> list[Found]:
    """The tar files that patterns stand for, in their order.

    Raises ConfigError for patterns that are not allowed or stand for too many files, and DataError if a file does not
    exist or none is found.
    """
    arrivals, found = Arrivals(options), dict[str, FileFacts | None]()
    for pattern in patterns:
        for location in expand_braces(pattern):
            for place, facts in _expand_magic(location, arrivals).items():
                if place in found:
                    raise ConfigError(
                        f"{_quoted(pattern)} stands for {place} a second time, so its images would be used twice. Name "
                        "each tar file once."
                    )
                found[place] = facts
        if len(found) > MOST_FILES:
            raise _too_many(pattern)
    if odd := next((place for place in found if CONTROL.search(place)), None):
        raise ConfigError(
            f"{_quoted(odd)} has a line break or another control character in its path, which a manifest cannot hold. "
            "Rename it."
        )
    if not found:
        raise DataError(f"There are no files like {' '.join(map(_quoted, patterns))}. Correct the pattern.")
    with ThreadPoolExecutor(options.parallel) as pool:
        known = pool.map(lambda item: item[1] or _look_at(item[0], arrivals), found.items())
        return [Found(place, facts) for place, facts in zip(found, known, strict=True)]


def expand_braces(pattern: str) -> list[str]:
    """The names that a pattern's braces stand for, as webdataset expands them.

    Raises ConfigError for variables of the environment, unbalanced braces and too many names.
    """
    if "::" in pattern or "${" in pattern or "\0" in pattern or len(pattern) > LONGEST:
        raise ConfigError(
            f"{_quoted(pattern)} has `::`, variables or more than {LONGEST:,} characters. Write out the names, or give "
            "a list of patterns."
        )
    if "{" not in pattern and "}" not in pattern:
        return [pattern]
    if _most_names(pattern) > MOST_FILES:
        raise _too_many(pattern)
    # Not above: it imports torch.
    from webdataset.shardlists import expand_urls

    try:
        names: list[str] = expand_urls(pattern)
    except ValueError:
        raise ConfigError(f"{_quoted(pattern)} has braces that do not match. Close each one.") from None
    return names


def _most_names(pattern: str) -> int:
    """At least the number of names that the braces stand for. They are not expanded, which could take all memory."""
    groups: list[int] = []
    total = 1
    for sign in re.findall(r"[{},]", pattern):
        if sign == "{":
            groups.append(1)
        elif sign == "," and groups:
            groups[-1] += 1
        elif sign == "}" and groups:
            total *= groups.pop()
    if pattern.count("{") > MOST_BRACES or OTHER_RANGE.search(pattern):
        return MOST_FILES + 1
    spans = [
        abs(int(last) - int(first)) // max(int(step or 1), 1) + 1
        for first, last, step in RANGE.findall(pattern)
    ]
    letters: int = 52 ** len(re.findall(r"\{[A-Za-z]\.\.[A-Za-z]", pattern))
    return total * math.prod(spans) * letters


def _expand_magic(location: str, arrivals: Arrivals) -> dict[str, FileFacts | None]:
    """The files that a path or URL stands for, each with what is known of it."""
    if is_url(location):
        directory, _, name = location.rpartition("/")
        if not REMOTE_MAGIC.search(location):
            return {check_url(location): None}
        if REMOTE_MAGIC.search(directory):
            raise ConfigError(
                f"{_quoted(location)}: only the last part of a URL can have `*` and `[...]`. Name the directory."
            )
        return {check_url(place): facts for place, facts in arrivals.find(directory, name).items()}
    path = Path(location).expanduser().absolute()
    if not has_magic(location) or path.exists():
        return {str(path): None}
    if "**" in location:
        raise ConfigError(f"{_quoted(location)}: `**` is not supported. Name the directory.")
    # As in a shell, without hidden files.
    return dict.fromkeys(sorted(glob(str(path))))  # noqa: PTH207


def _look_at(place: str, arrivals: Arrivals) -> FileFacts:
    if is_url(place):
        return arrivals.look_at(place)
    try:
        with open_regular(Path(place)) as file:
            status = os.fstat(file.fileno())
    except FileNotFoundError:
        raise DataError(f"{place} does not exist. Correct the pattern, or copy the file there.") from None
    except IsADirectoryError:
        raise DataError(
            f"{place} is a folder, and only tar files are indexed. Name those in it, {_quoted(f'{place}/*.tar')}; or "
            f"make shards of its images: `wgan shards make {quote(printable(place))} OUT`."
        ) from None
    except OSError as error:
        raise unreadable(place, error) from None
    return FileFacts(status.st_size, str(status.st_mtime_ns))


def _too_many(pattern: str) -> ConfigError:
    return ConfigError(
        f"{_quoted(pattern)} could stand for more than {MOST_FILES:,} tar files, the most that one set can have. Give "
        "other numbers, or a list of patterns."
    )


def _quoted(pattern: str) -> str:
    return repr(printable(pattern))
