"""What to say to a SOURCE that is none of the known ones: misspelt names, patterns, lists and URLs."""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence
from pathlib import Path

from pipeline.data.sources import REGISTRY
from pipeline.errors import ConfigError
from pipeline.wording import counted

PATTERN = re.compile(r"[*?\[]|\{[^{}]*(?:\.\.|,)[^{}]*\}")
URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")
ONE_FOLDER = (
    "If that folder holds others too, hard-link the wanted ones (ln) into a new folder, which takes no space, and give "
    "that."
)


def explain_unknown(name: str) -> ConfigError:
    """The error for a name that is no named set and at which there is no file or folder."""
    if name.startswith("pipe:"):
        return ConfigError(
            f"SOURCE {name}: commands are never run. Download the tar files into a folder, and give the folder."
        )
    if "::" in name:
        return explain_several(name.split("::"))
    if URL.match(name):
        return ConfigError(
            f"SOURCE is the URL {name} and images at a URL are not read yet. Download the archive, or the tar "
            "files into one folder, and give that. (Shards that are made can be at a URL: see data.shards.)"
        )
    if match := PATTERN.search(name):
        folder = name[: match.start()].rpartition("/")[0] or ("/" if name.startswith("/") else ".")
        return ConfigError(
            f"SOURCE {name}: patterns of names are not read yet. Give the folder that holds the files, {folder}. "
            f"{ONE_FOLDER}"
        )
    if _exists(name):
        return ConfigError(
            f"SOURCE {name} is neither a file nor a folder, but a named pipe, a socket or a device. Give a folder "
            "of images or one of the files that `wgan shards make --help` lists."
        )
    nearest = difflib.get_close_matches(name, REGISTRY, n=1)
    hint = f" Did you mean {nearest[0]}?" if nearest else ""
    return ConfigError(
        f"There is no folder, file or named source {name}.{hint} The named sources are {', '.join(REGISTRY)} and "
        "hf:NAME."
    )


def explain_several(names: Sequence[str]) -> ConfigError:
    """The error for several sources."""
    return ConfigError(
        f"{counted(len(names), 'SOURCE')} were given ({names[0]}, {names[1]}{', ...' if len(names) > 2 else ''}), "
        "but a set of shards is made from one. Give the folder that holds the files: all tar files in it are used. "
        f"{ONE_FOLDER}"
    )


def _exists(name: str) -> bool:
    try:
        return Path(name).exists()
    except (OSError, ValueError):  # a name that no file can have
        return False
