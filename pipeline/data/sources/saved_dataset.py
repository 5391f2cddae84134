"""The files of a saved Hugging Face dataset, checked before the library `datasets` opens them.

It opens whatever the JSON files of the folder name, wherever that is and whatever it is: a named pipe would block the
program for ever, in code that no signal interrupts.
"""

from __future__ import annotations

from collections.abc import Container
from pathlib import Path, PurePosixPath
from typing import TypeVar

from pydantic import Field

from pipeline.data.sources.folder import list_folder
from pipeline.data.sources.members import Members, unreadable
from pipeline.documents import Document, Many, parse_json
from pipeline.errors import DataError
from pipeline.foreign_text import printable
from pipeline.regular_files import read_regular, regular_size

STATE, SPLITS, INFO = "state.json", "dataset_dict.json", "dataset_info.json"
LARGEST_JSON = 1 << 26
Parsed = TypeVar("Parsed", bound=Document)


class _DataFile(Document):
    filename: str


class _State(Document):
    """state.json: which files hold the rows."""

    data_files: Many[_DataFile] = Field(alias="_data_files")


class _Splits(Document):
    """dataset_dict.json: which folders hold the splits."""

    splits: Many[str]


def check_saved_dataset(root: Path) -> None:
    """Raise DataError unless all that the JSON files of a saved dataset name are regular files and folders in it.

    What is missing is left to `datasets` to say.
    """
    members = list_folder(root)
    if members.special:
        raise DataError(f"{root} holds {printable(members.special[0])}, which no dataset needs. Remove it.")
    folders = [""]
    if SPLITS in members.files:
        splits = _parse(members, SPLITS, _Splits).splits
        folders = [f"{_inside(members, name, members.folders)}/" for name in splits]
    for folder in folders:
        for name in (f"{folder}{STATE}", f"{folder}{INFO}"):
            if name in members.files:
                _check_file(members, name)
        if f"{folder}{STATE}" in members.files:
            for file in _parse(members, f"{folder}{STATE}", _State).data_files:
                _check_file(members, _inside(members, folder + file.filename, members.files.keys()))


def _inside(members: Members, name: str, known: Container[str]) -> str:
    """The plain form of a name, which must be one of the known ones."""
    plain = str(PurePosixPath(name))
    if plain not in known:
        raise DataError(
            f"{members.path} refers to {printable(name)!r}, which is not in it, and nothing outside of it is read. "
            "Save the dataset again with Dataset.save_to_disk."
        )
    return plain


def _check_file(members: Members, name: str) -> None:
    try:
        regular_size(members.path / name, within=members.path)
    except OSError as error:
        raise unreadable(members.path / name, error) from None


def _parse(members: Members, name: str, kind: type[Parsed]) -> Parsed:
    path = members.path / name
    try:
        return parse_json(read_regular(path, LARGEST_JSON, within=members.path), kind)
    except OSError as error:
        raise unreadable(path, error) from None
    except ValueError as error:
        raise DataError(f"{path} cannot be read: {error}. Save the dataset again.") from None
