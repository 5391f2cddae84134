"""The one check of every JSON text that is read: its types and bounds are those of a pydantic model."""

from __future__ import annotations

from typing import TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from pipeline.foreign_text import printable, shown

MOST_MISTAKES, LONGEST_VALUE = 3, 60


class Document(BaseModel):
    """What a JSON text holds. Types are strict, floats are finite, and unknown keys are ignored."""

    model_config = ConfigDict(strict=True, frozen=True, allow_inf_nan=False)


Model = TypeVar("Model", bound=Document)


def parse_json(text: bytes | str, model: type[Model]) -> Model:
    """The document in a JSON text.

    Raises ValueError with a short text, such as "shards[3].count is -1: input should be greater than 0". The text is
    never evaluated, and nesting is limited, so it can do no harm however it was made.
    """
    try:
        return model.model_validate_json(text)
    except ValidationError as error:
        raise ValueError(describe_mistakes(error)) from None


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
