"""Text from outside (file names, class names, servers, cards) made safe to show on a console, in a log or on a page."""

from __future__ import annotations

import re
import reprlib
from collections.abc import Iterable

LONGEST_NAME, LONGEST_MESSAGE = 200, 20_000

# With limits, because a search for names of any length takes minutes in a text of a hundred thousand hyphens.
_URL = re.compile(r"\b([a-z][a-z0-9+.-]{0,20})://([^\s'\"<>]+)", re.IGNORECASE)
_HOST = re.compile(r"(\[[0-9a-f:.]*\]|[^:]*)(:\d{0,5})?", re.IGNORECASE)
_SECRET = re.compile(
    r"(\b(?:authorization|bearer)['\"]?(?:\s{0,9}[=:]\s{0,9}|\s{1,9})"
    r"|(?:token|password|passwd|secret|signature|credential|api-?_?key|access-?_?key)[\w-]{0,100}['\"]?\s{0,9}[=:]\s{0,9})"
    r"(?:b?['\"])?(?:(?:basic|bearer)\s{1,9})?[^\s&,;'\"]{4,}",
    re.IGNORECASE,
)


def printable(text: str, limit: int = LONGEST_NAME) -> str:
    """One line without control characters: escapes, newlines and marks that turn the reading direction become `\\x1b`.

    URLs lose what can be secret, and a text of more than `limit` characters its middle: in this order, because half of
    an address would not be known as one.
    """
    return _escaped(shortened(without_secrets(text), limit))


def shown(value: object, limit: int) -> str:
    """A value as Python writes it, on one line of at most about `limit` characters.

    Only what is shown is looked at: the value may be of any size, and nested without end.
    """
    short = _Short()
    short.maxlevel, short.maxstring, short.maxother = 4, limit, limit
    short.maxlist = short.maxtuple = short.maxdict = 20
    return printable(short.repr(value), limit)


class _Short(reprlib.Repr):
    """Cuts texts, but no address in the middle of what can be secret."""

    def repr_str(self, x: str, level: int) -> str:
        return repr(shortened(without_secrets(x[:LONGEST_MESSAGE]), self.maxstring))


def printable_lines(text: str, limit: int = LONGEST_MESSAGE) -> str:
    """Like `printable`, for a message of several lines: keeps newlines."""
    return "\n".join(map(_escaped, shortened(without_secrets(text), limit).split("\n")))


def storable(text: str) -> str:
    """The text as UTF-8 can hold it: in names of files, bytes that are no UTF-8 become `\\xff`."""
    return text.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def safe_lines(lines: Iterable[str], limit: int = LONGEST_MESSAGE) -> list[str]:
    """Lines for a console, each of them `printable`.

    They come one by one, because in one text a newline of a name could not be told from those between lines.
    """
    return [printable(line, limit) for line in lines]


def shortened(text: str, limit: int) -> str:
    """The text, without its middle if it has more than `limit` characters."""
    if len(text) <= limit:
        return text
    half = limit // 2
    return f"{text[:half]} … {text[-half:]}"


def without_secrets(text: str) -> str:
    """The text with its URLs reduced to host and path: no user, password, query or fragment, which can be secrets."""
    return _URL.sub(lambda match: f"{match[1]}://{_bare(match[1].lower(), match[2])}", text)


def without_credentials(text: str) -> str:
    """Like `without_secrets`, for what a server or a library says: no `token=...` or `Authorization: ...` either."""
    return _SECRET.sub(lambda match: f"{match[1]}(removed)", without_secrets(text))


def _bare(scheme: str, rest: str) -> str:
    """The part of a URL after `://`, as host and path."""
    # After hf://, what follows @ is a revision.
    if scheme != "hf" or ":" in rest.partition("@")[0]:
        rest = _without_user(rest)
    address = re.split(r"[?#]", rest, maxsplit=1)[0]
    removed = "?(removed)" if len(address) < len(rest) else ""
    return address + removed


def _without_user(rest: str) -> str:
    """The part of a URL after `://` without a user and a password. Those may hold any sign, also / and ?."""
    host = re.split(r"[/?#]", rest, maxsplit=1)[0]
    if "@" in host:
        return rest[host.rindex("@") + 1 :]
    if _HOST.fullmatch(host):
        return rest
    # What looks like a port is the beginning of a password. Without an @ after it, it is unknown where that ends.
    _, at, after = rest.rpartition("@")
    return after if at else "(removed)"


def _escaped(line: str) -> str:
    if line.isprintable():
        return line
    return "".join(character if character.isprintable() else _escape(character) for character in line)


def _escape(character: str) -> str:
    if "\udc80" <= character <= "\udcff":
        return (
            f"\\x{ord(character) - 0xDC00:02x}"  # how Python reads a byte that is no UTF-8, in names of files
        )
    return character.encode("unicode_escape").decode("ascii")
