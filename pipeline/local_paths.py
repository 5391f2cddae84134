"""Paths that a config names. A shell replaces `~` and `$HOME` in its words, and nothing does so in a YAML file.

Each function is what pydantic calls a validator: it returns the path, or refuses it.
"""

from __future__ import annotations

import re
from pathlib import Path

_VARIABLE = re.compile(r"\$(\{\w+\}|[A-Za-z_]\w*)")
_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://")
LONGEST_NAME = 255
"""Most bytes of a name in the file systems that are in use."""


def plain_path(path: str) -> str:
    """Refuse variables of the shell: a directory of that name would be made. Refuse names that no file can have."""
    if "\0" in path:
        raise _expected("a path without the character NUL, which no name can contain")
    if not _URL.match(path) and any(len(name.encode()) > LONGEST_NAME for name in path.split("/")):
        raise _expected(f"a path whose names have at most {LONGEST_NAME} bytes each")
    if found := _VARIABLE.search(path):
        raise _expected(
            f"a path without variables, because {found[0]} is not replaced in a config. Write out what it stands for, "
            'or give the option on the command line in double quotes, such as "section.option=$NAME/..."'
        )
    return path


def local_path(path: str) -> str:
    """Refuse what is not in this machine's file systems."""
    if _URL.match(path):
        raise _expected(
            "a path of this machine's file systems, and this is a URL. Name a directory or file, for example where "
            "that storage is mounted"
        )
    return plain_path(path)


def with_home(path: str) -> str:
    """Replace `~` at the start by the home directory."""
    if not path.startswith("~"):
        return path
    try:
        return str(Path(path).expanduser())
    except RuntimeError:
        expected = "a path of which the home directory is known. Write the whole path, or ./~ for a name"
        raise _expected(expected) from None


def places(value: object) -> str | list[str]:
    """Check a path or a URL, or a list of at least one of them, and replace `~` in them."""
    # Not above: the help of a command reads the options and must be quick.
    from pydantic_core import PydanticKnownError

    if isinstance(value, list):
        if not value:
            raise PydanticKnownError("too_short", {"field_type": "List", "min_length": 1, "actual_length": 0})
        return [_place(item) for item in value]
    return _place(value)


def _place(value: object) -> str:
    from pydantic_core import PydanticKnownError

    if not isinstance(value, str):
        raise PydanticKnownError("string_type")
    if not value:
        raise PydanticKnownError("string_too_short", {"min_length": 1})
    return with_home(plain_path(value))


def _expected(text: str) -> Exception:
    # Not above: the help of a command reads the options and must be quick.
    from pydantic_core import PydanticCustomError

    return PydanticCustomError("path", "{expected}", {"expected": text})
