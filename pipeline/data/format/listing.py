"""The files that a web server's page of a directory links to."""

from __future__ import annotations

from html.parser import HTMLParser
from urllib.parse import urljoin

MOST_BYTES = 1 << 26


class _Links(HTMLParser):
    """Collects where the links of a page lead."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """A start tag, with its attributes."""
        self.found += [value for name, value in attrs if tag == "a" and name == "href" and value]


def links_in(url: str, page: bytes) -> list[str]:
    """The names of the files in the directory at `url` that its page links to, as they are written in addresses.

    Links to folders, to other places and with a query are none of them.
    """
    links = _Links()
    links.feed(page.decode("utf-8", "replace"))
    links.close()
    targets = [urljoin(f"{url}/", link) for link in links.found]
    names = [target.removeprefix(f"{url}/") for target in targets if target.startswith(f"{url}/")]
    return [name for name in dict.fromkeys(names) if name and not any(sign in name for sign in "/?#")]
