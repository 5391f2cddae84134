"""The one check of every JSON text that is read: its types and bounds are those of a pydantic model."""

from __future__ import annotations

import json
from typing import Annotated, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from pipeline.foreign_text import printable, shown

MOST_MISTAKES, LONGEST_VALUE = 3, 60
MOST_PARTS = 1_000_000
"""Of a JSON text: a comma is one part, and each key, list and object four. While a text is checked, a part takes up to
200 bytes of memory, and a mistake a kilobyte."""


class Document(BaseModel):
    """What a JSON text holds. Types are strict, floats are finite, and unknown keys are ignored."""

    model_config = ConfigDict(strict=True, frozen=True, allow_inf_nan=False)


Model = TypeVar("Model", bound=Document)
Item = TypeVar("Item")
Many = Annotated[list[Item], Field(fail_fast=True)]
"""A list that can be long: only its first mistake is noted, because a million of them take a gigabyte."""


def parse_json(text: bytes | str, model: type[Model], most_parts: int = MOST_PARTS) -> Model:
    """The document in a JSON text.

    Raises ValueError with a short text, such as "shards[3].count is -1: input should be greater than 0". The text is
    never evaluated, and nesting is limited, so it can do no harm however it was made.
    """
    content = text.encode() if isinstance(text, str) else text
    if 4 * len(content) > most_parts and _count_parts(content) > most_parts:
        raise ValueError("it holds more values than such a file can have")
    try:
        return model.model_validate_json(content)
    except ValidationError as error:
        raise ValueError(describe_mistakes(error)) from None


def _count_parts(content: bytes) -> int:
    """At most four for each byte. Those within strings are counted too."""
    return content.count(b",") + 4 * sum(map(content.count, (b":", b"[", b"{")))


def refuse_repeated_keys(text: bytes) -> None:
    """Raise ValueError if an object of a text that `parse_json` has taken has a key twice: others would be unused."""
    json.loads(text, object_pairs_hook=_refuse_repeated)


def _refuse_repeated(pairs: list[tuple[str, object]]) -> None:
    seen = set[str]()
    for key, _ in pairs:
        if key in seen:
            raise ValueError(f"it has the key {printable(key, LONGEST_VALUE)!r} twice in one object")
        seen.add(key)


def describe_mistakes(error: ValidationError) -> str:
    """The first of pydantic's mistakes, in a few words each."""
    mistakes = error.errors(include_url=False, include_context=False)
    shown = "; ".join(_describe(mistake) for mistake in mistakes[:MOST_MISTAKES])
    return shown + (f"; and {len(mistakes) - MOST_MISTAKES} more" if len(mistakes) > MOST_MISTAKES else "")


def _describe(mistake: object) -> str:
    """One of pydantic's mistakes in words."""
    assert isinstance(mistake, dict)
    message = str(mistake["msg"])
    message = printable(message[:1].lower() + message[1:])
    if not mistake["loc"]:
        return message
    place = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in mistake["loc"]).lstrip(
        "."
    )
    if mistake["type"] == "missing":
        return f"{printable(place)} is missing"
    return f"{printable(place)} is {shown(mistake['input'], LONGEST_VALUE)}: {message}"
