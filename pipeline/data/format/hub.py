"""Files at hf:// addresses, which are read from the Hub's web server, by the same rules as those of any other.

The Hub's own library follows all redirects, and has the large files fetched by a program that knows no such rules.
"""

from __future__ import annotations

import re
from typing import NamedTuple
from urllib.parse import quote, unquote

from pipeline.data.format.web import Address, FileFacts
from pipeline.errors import ConfigError

ADDRESS = re.compile(
    r"hf://(?:(datasets|spaces)/)?((?!(?:datasets|spaces|buckets|kernels)/)[\w.-]+/[\w.-]+)"
    r"(?:@(refs/(?:pr|convert)/[^/]+|[^/]+))?/(.+)",
    re.ASCII,
)
KINDS = {"datasets": "dataset", "spaces": "space"}
STORES = ("hf.co", "huggingface.co")
"""Where the Hub keeps large files: its server redirects to subdomains of these."""


def web_address(url: str) -> Address:
    """Where to read the file at an hf:// address, with the user's token (HF_TOKEN, or that of `hf auth login`).

    Raises ConfigError unless the address names a repository with its owner; ImportError without huggingface_hub.
    """
    import huggingface_hub

    place = _place(url)
    address = huggingface_hub.hf_hub_url(
        place.repository, place.path, repo_type=place.kind, revision=place.revision
    )
    return Address(address, huggingface_hub.get_token(), STORES)


def list_files(url: str) -> dict[str, FileFacts | None]:
    """The files in the directory of a repository, by name, with their sizes. Raises ConfigError as `web_address` does,
    and errors of the library.
    """
    import huggingface_hub

    # A file in it, because the address of a repository's own directory would not be known as one.
    place = _place(f"{url}/x")
    entries = huggingface_hub.HfApi().list_repo_tree(
        place.repository,
        place.path.rpartition("/")[0] or None,
        revision=place.revision,
        repo_type=place.kind,
    )
    files = (entry for entry in entries if isinstance(entry, huggingface_hub.RepoFile))
    return {quote(file.path.rpartition("/")[2]): FileFacts(file.size, file.blob_id) for file in files}


class _Place(NamedTuple):
    """A file in a repository."""

    kind: str | None
    repository: str
    revision: str | None
    path: str


def _place(url: str) -> _Place:
    match = ADDRESS.fullmatch(url)
    if match is None:
        raise ConfigError(
            f"data.shards: {url} does not name a directory of a repository. Write hf://datasets/OWNER/NAME/DIRECTORY, "
            "or hf://datasets/OWNER/NAME@REVISION/DIRECTORY; without datasets/ it is a repository of a model."
        )
    kind, repository, revision, path = match.groups()
    return _Place(KINDS.get(kind), repository, None if revision is None else unquote(revision), path)
