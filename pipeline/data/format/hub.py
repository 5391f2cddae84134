"""Files at hf:// addresses, which are read from the Hub's web server, by the same rules as those of any other.

The Hub's own library follows all redirects, and has the large files fetched by a program that knows no such rules.
"""

from __future__ import annotations

import re
from urllib.parse import unquote

from pipeline.data.format.web import Address
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

    match = ADDRESS.fullmatch(url)
    if match is None:
        raise ConfigError(
            f"data.shards: {url} does not name a directory of a repository. Write hf://datasets/OWNER/NAME/DIRECTORY, "
            "or hf://datasets/OWNER/NAME@REVISION/DIRECTORY; without datasets/ it is a repository of a model."
        )
    kind, repository, revision, path = match.groups()
    address = huggingface_hub.hf_hub_url(
        repository,
        path,
        repo_type=KINDS.get(kind),
        revision=None if revision is None else unquote(revision),
    )
    return Address(address, huggingface_hub.get_token(), STORES)
