"""Labels of many images in one file: a table (.csv, .tsv), or dataset.json as StyleGAN's tools write it.

    file_name,label            a table; other columns are allowed
    cat/0001.png,3
    {"labels": [["00000/img00000000.png", 6], ...]}          dataset.json, also with {"name": 6, ...} or null

Images are named by their path within the source, with or without their ending, or by the last part of that path.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any
from unicodedata import normalize

import numpy as np

from pipeline.data.sources.labels import BYTE_ORDER_MARK, Label, as_label, labels_in
from pipeline.documents import Document, Many, parse_json, refuse_repeated_keys
from pipeline.errors import ConfigError, DataError
from pipeline.foreign_text import printable, shown
from pipeline.regular_files import read_regular
from pipeline.wording import counted

LARGEST_TABLE, MOST_PARTS = 1 << 28, 8_000_000
"""Bytes of a table, and parts of dataset.json, in which an image has 5 or 6."""
NAME_COLUMNS = ("file_name", "filename", "file", "path", "image", "image_id", "img", "name", "key", "id")
LABEL_COLUMNS = ("label", "labels", "class", "class_id", "target", "category", "y")

Value = int | float | str | list[int | float] | None


class DatasetJson(Document):
    """The labels of dataset.json; None if the set has no labels."""

    labels: Many[tuple[str, Any]] | dict[str, Any] | None


def parse_dataset_json(text: bytes) -> dict[str, Value] | None:
    """The labels by the names of the images; None if the set has none. Raises ValueError for other JSON texts."""
    text = text.removeprefix(BYTE_ORDER_MARK)
    whole = b'{"labels":' + text + b"}" if text.lstrip().startswith(b"[") else text
    labels = parse_json(whole, DatasetJson, MOST_PARTS).labels
    refuse_repeated_keys(whole)
    if labels is None:
        return None
    table: dict[str, Value] = {}
    for written, value in labels.items() if isinstance(labels, dict) else labels:
        name = _plain(written)
        if name in table:
            raise ValueError(f"it has two labels for {printable(name)!r}")
        table[name] = value
    return table


def values_to_labels(values: Sequence[Value]) -> list[Label]:
    """Numbers, words, or one-hot rows as labels. Raises ValueError, which says what else there is."""
    if any(isinstance(value, list) for value in values):
        try:
            rows = np.array(values, dtype=np.float64)
        except (ValueError, TypeError, OverflowError):
            raise ValueError("it holds rows of different lengths") from None
        return labels_in(rows)
    labels = [as_label(value) for value in values]
    for value, label in zip(values, labels, strict=True):
        if label is None:
            raise ValueError(f"it holds {shown(value, 60)}, which is neither a whole number nor a word")
    return [label for label in labels if label is not None]


def read_labels(path: Path, column: str, names: Sequence[str]) -> tuple[list[Label], int]:
    """The labels of the images with these names from a file, and the number of its labels that belong to no image.

    Raises ConfigError if the file or the column does not exist, and DataError if labels are missing or no classes.
    """
    table = _read(path, column, names)
    if table is None:
        raise DataError(f"{path} says that its images have no labels. Give --labels none.")
    values = find_values(path, table, names)
    try:
        return values_to_labels(values), len(table) - len(values)
    except ValueError as error:
        raise DataError(f"{path}: {error}. Labels must be the numbers or the names of classes.") from None


def find_values(path: Path, table: Mapping[str, Value], names: Sequence[str]) -> list[Value]:
    """The values of a table for the images with these names. Raises DataError if there is not exactly one for each."""
    used: dict[str, str] = {}
    values: list[Value] = []
    missing: list[str] = []
    for image in names:
        name = next((name for name in _names_of(image) if name in table), None)
        if name is None:
            missing.append(image)
        elif name in used:
            raise DataError(
                f"{path} has one label for {name!r}, but both {used[name]} and {image} have this name. Give paths "
                "in it."
            )
        else:
            used[name] = image
            values.append(table[name])
    if missing:
        spare = next((name for name in table if name not in used), None)
        others = "" if spare is None else f" It has labels for others, such as {printable(spare, 80)!r}."
        raise DataError(
            f"{path} has no label for {len(missing):,} of {counted(len(names), 'image')}, for example "
            f"{missing[0]}.{others} Add the missing labels, or give --labels none."
        )
    return values


def _plain(name: str) -> str:
    """A name in a table, written like those of images: letters with accents have two forms in Unicode."""
    return normalize("NFC", name.replace("\\", "/").removeprefix("./"))


def _names_of(image: str) -> Iterator[str]:
    """The names under which a table may list an image, the longest first."""
    parts = normalize("NFC", image).split("/")
    for first in range(len(parts)):
        name = "/".join(parts[first:])
        yield name
        if "." in parts[-1]:
            yield name.rpartition(".")[0]


def _read(path: Path, column: str, names: Sequence[str]) -> Mapping[str, Value] | None:
    try:
        content = read_regular(path, LARGEST_TABLE)
        if path.suffix.lower() != ".json":
            return _parse_table(path, content.decode("utf-8-sig"), column, names)
        if column:
            raise ConfigError(f"--labels {path}:{column}: a .json file has no columns. Leave the column out.")
        return parse_dataset_json(content)
    except FileNotFoundError:
        raise ConfigError(f"--labels {path}: there is no such file. Correct its name.") from None
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}. Check its permissions.") from None
    except (ValueError, csv.Error) as error:
        raise DataError(f"{path} cannot be read: {error}. Write a table in UTF-8, or dataset.json.") from None


def _parse_table(path: Path, text: str, column: str, images: Sequence[str]) -> Mapping[str, Value]:
    rows = (
        row for row in csv.reader(io.StringIO(text), delimiter=_delimiter(path, text), strict=True) if row
    )
    first = next(rows, None)
    if first is None:
        raise DataError(f"{path} is empty. Write the name and the label of one image per line.")
    has_header = not any(name in first for image in images for name in _names_of(image))
    header = [name.strip() for name in first] if has_header else [""] * len(first)
    name_column, label_column = _columns(path, header, column)
    table: dict[str, Value] = {}
    for number, row in enumerate(rows if has_header else chain([first], rows), start=1 + has_header):
        if len(row) != len(header):
            raise DataError(
                f"{path}: row {number} has {counted(len(row), 'value')}, but the first one has {len(header)}. "
                "Correct it."
            )
        name = _plain(row[name_column].strip())
        if name in table:
            raise DataError(f"{path} has two rows for {printable(name)!r}. Remove one of them.")
        table[name] = row[label_column]
    return table


def _delimiter(path: Path, text: str) -> str:
    """What is between the values of a row: tabs in a .tsv file, and otherwise what the first line has."""
    first_line = text.partition("\n")[0]
    if path.suffix.lower() == ".tsv":
        return "\t"
    return next((delimiter for delimiter in ",;\t" if delimiter in first_line), ",")


def _columns(path: Path, header: Sequence[str], wanted: str) -> tuple[int, int]:
    """The places of the names and of the labels."""
    lower = [name.lower() for name in header]
    names = next((lower.index(name) for name in NAME_COLUMNS if name in lower), 0)
    if wanted:
        if wanted not in header:
            raise ConfigError(f"--labels {path}:{wanted}: no such column. Its columns: {_list(header)}.")
        return names, header.index(wanted)
    others = [place for place in range(len(header)) if place != names]
    usual = [place for place in others if lower[place] in LABEL_COLUMNS]
    chosen = usual if len(usual) == 1 else others
    if len(chosen) != 1:
        raise ConfigError(
            f"--labels {path}: it is unclear which column holds the labels. Give one of them: --labels "
            f"{path}:COLUMN. Its columns: {_list(header)}."
        )
    return names, chosen[0]


def _list(header: Sequence[str]) -> str:
    return printable(", ".join(header)) if any(header) else f"{len(header)}, without names in the first row"
