"""Labels of any form as classes: which labels were asked for, and how numbers and words become classes.

Whole numbers are the classes with these numbers, from 0. Anything else is a word, and the classes are the words in
alphabetical order.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from pipeline.errors import ConfigError, DataError
from pipeline.foreign_text import printable

Label = int | str
"""A class by its number, or by its name."""
Labels = npt.NDArray[np.int64]
"""int64 (images,), the positions of the images' classes; -1 if the images have no labels."""

MOST_CLASSES = 1_000_000
MOST_DIGITS = 9
LONGEST_NUMBER, LONGEST_WORD = 64, 200
WHOLE = re.compile(r"(0|[1-9][0-9]{0,8})(?:\.0{1,20})?")
"""Also as programs write whole numbers of a column that may have gaps, which makes its type a float"""
BYTE_ORDER_MARK = b"\xef\xbb\xbf"

Kind = Literal["auto", "none", "folders", "cls", "txt", "json", "column", "file"]
TABLE = re.compile(r"(.+\.(?:csv|tsv|json))(?::(.+))?", re.IGNORECASE | re.DOTALL)


@dataclass(frozen=True)
class LabelChoice:
    """Where labels come from. `name` is the key of `json`, the column of `column` and, optionally, of `file`."""

    kind: Kind = "auto"
    name: str = ""
    path: Path | None = None

    def __str__(self) -> str:
        text = str(self.path) if self.path is not None else self.kind
        return f"{text}:{self.name}" if self.name else text

    @property
    def extension(self) -> str | None:
        """The ending of the files next to the images that hold the labels; None if labels are not in such files."""
        return {"auto": "cls", "cls": "cls", "txt": "txt", "json": "json"}.get(self.kind)


AUTO = LabelChoice()
CHOICES = (
    "`none`, `folders`, `cls` or `txt` (KEY.cls, KEY.txt), `json:KEY` (a key of KEY.json), `column:NAME` (of a Hugging "
    "Face set or an .npz file), or a file: LABELS.csv, LABELS.tsv or dataset.json"
)


def parse_label_choice(text: str) -> LabelChoice:
    """The value of --labels. Raises ConfigError, which lists what is possible."""
    if text in ("none", "folders", "cls", "txt"):
        return LabelChoice(text)  # type: ignore[arg-type]  # the names of kinds
    kind, _, name = text.partition(":")
    if kind in ("json", "column") and name:
        return LabelChoice(kind, name)  # type: ignore[arg-type]
    if table := TABLE.fullmatch(text):
        return LabelChoice("file", table[2] or "", Path(table[1]))
    raise ConfigError(f"--labels {text} is not known. Give {CHOICES}.")


def parse_number(text: bytes) -> int | None:
    """The whole number in a label file, which may have spaces around it, a newline or a byte order mark; else None."""
    digits = text.removeprefix(BYTE_ORDER_MARK).strip()
    return int(digits) if digits.isdigit() and len(digits) <= MOST_DIGITS else None


def parse_label(text: bytes) -> Label | None:
    """The number or the word in a label file: one printable line of at most 200 characters; else None."""
    try:
        word = text.decode("utf-8-sig").strip()
    except UnicodeDecodeError:
        return None
    return as_label(word)


def as_label(value: object) -> Label | None:
    """A value of a JSON text or a table as a label; None if it is neither a whole number nor a word.

    Only digits without leading zeros are a number: 007 is a word.
    """
    match value:
        case bool():
            return str(value).lower()
        case int() if 0 <= value < 10**MOST_DIGITS:
            return value
        case float() if value.is_integer() and 0 <= value < 10**MOST_DIGITS:
            return int(value)
        case str() if re.fullmatch(r"0|[1-9][0-9]{0,8}", value.strip()):
            return int(value)
        case str() if value.strip().isprintable() and 0 < len(value.strip()) <= LONGEST_WORD:
            return value.strip()
    return None


def whole_numbers(labels: Sequence[Label]) -> Sequence[Label]:
    """The labels as numbers if all are whole ones, some of them in a form such as 3.0; otherwise as they are."""
    if not any(isinstance(label, str) for label in labels):
        return labels
    found = [WHOLE.fullmatch(str(label)) for label in labels]
    numbers = [int(match[1]) for match in found if match]
    return numbers if len(numbers) == len(labels) else labels


def to_classes(place: Path | str, labels: Sequence[Label]) -> tuple[Labels, tuple[str, ...]]:
    """The positions of the classes, and their names: numbers from 0 to the highest, or words in alphabetical order.

    Raises DataError, which names `place`, if there are too many classes.
    """
    if not labels:
        return np.empty(0, dtype=np.int64), ()
    labels = whole_numbers(labels)
    if any(isinstance(label, str) for label in labels):
        words = [str(label) for label in labels]
        names = sorted(set(words))
        _refuse_many(place, len(names))
        positions = {name: position for position, name in enumerate(names)}
        return np.array([positions[word] for word in words], dtype=np.int64), tuple(names)
    numbers = np.array(labels, dtype=np.int64)
    return numbers, number_names(place, int(numbers.max()))


def number_names(place: Path | str, highest: int) -> tuple[str, ...]:
    """The names of numbered classes: "0" to the highest number. Raises DataError if these are too many."""
    if highest >= MOST_CLASSES:
        raise DataError(
            f"{place}: with the label {highest} there would be more than {MOST_CLASSES:,} classes. Number the classes "
            "from 0."
        )
    return tuple(map(str, range(highest + 1)))


def _refuse_many(place: Path | str, count: int) -> None:
    if count > MOST_CLASSES:
        raise DataError(
            f"{place}: there are {count:,} different labels, more than the {MOST_CLASSES:,} classes that a set can "
            "have. Choose other labels, or give --labels none."
        )


def labels_in(array: npt.NDArray[Any]) -> list[Label]:
    """The labels in an array (count,) or (count, 1), or the positions of the ones in one-hot rows (count, classes).

    Whole numbers may have any type of integer or float; strings are words. Raises ValueError, which says what else
    there is.
    """
    shape = array.shape
    if array.ndim == 2 and shape[1] == 1:
        array = array[:, 0]
    if array.ndim == 2:
        return _one_hot(array)
    if array.ndim != 1:
        raise ValueError(f"its shape is {shape}, not one label for each image")
    if array.dtype.kind in "US":
        return _words(array)
    if array.dtype.kind not in "biuf":
        raise ValueError(f"its type is {array.dtype}, neither numbers nor words")
    whole = np.isfinite(array) & (array == np.floor(array)) if array.dtype.kind == "f" else array == array
    if not whole.all():
        raise ValueError(f"it holds {array[~whole][0]}, which is not a whole number")
    if len(array) and not (array.min() >= 0 and array.max() < MOST_CLASSES):
        raise ValueError(
            f"it holds labels from {array.min()} to {array.max()}, but labels must be 0 to {MOST_CLASSES - 1:,}"
        )
    numbers: list[Label] = array.astype(np.int64).tolist()
    return numbers


def _one_hot(rows: npt.NDArray[Any]) -> list[Label]:
    if rows.dtype.kind not in "biuf":
        raise ValueError(f"its shape is {rows.shape} and its type {rows.dtype}, not one label for each image")
    is_one = rows == 1
    if not ((is_one | (rows == 0)).all() and (is_one.sum(axis=1) == 1).all()):
        raise ValueError(
            f"its {rows.shape[1]:,} columns are not one-hot, so an image has several labels or none"
        )
    return list(map(int, is_one.argmax(axis=1)))


def _words(array: npt.NDArray[Any]) -> list[Label]:
    words = [text.decode("utf-8", "replace") if isinstance(text, bytes) else text for text in array.tolist()]
    labels = [as_label(word) for word in words]
    for word, label in zip(words, labels, strict=True):
        if label is None:
            raise ValueError(f"it holds {printable(repr(word), 60)}, which is not the name of a class")
    return [label for label in labels if label is not None]
