"""What options are, and what their values can be: numbers within bounds, names and paths.

Every number has a lower and an upper bound, also where no larger one would be wrong: 10^30 steps are a slip of the
hand, and a learning rate of 1e300 is one that float32 cannot hold.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, PlainValidator

from pipeline.local_paths import local_path, places, with_home
from pipeline.metric_table import check_name

Count = Annotated[int, Field(ge=1, le=10**9)]
Batch = Annotated[int, Field(ge=1, le=2**20)]
Threads = Annotated[int, Field(ge=1, le=256)]
Seconds = Annotated[float, Field(ge=0.001, le=1e6)]
Magnitude = Annotated[float, Field(ge=1e-30, le=1e20)]
"""A number above 0 that float32 can hold, also after some arithmetic."""

Text = Annotated[str, Field(min_length=1)]
LocalPath = Annotated[Text, AfterValidator(local_path), AfterValidator(with_home)]
LaterPath = Annotated[Text, AfterValidator(local_path)]
"""A path whose `~` is replaced where it is used."""
Places = Annotated[str | list[str], PlainValidator(places)]
"""A path or a URL, or a list of them; each can be a pattern."""
RunName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=200)]
"""File systems allow 255 bytes, and names beside it are longer."""
ClassName = Annotated[str, BeforeValidator(lambda name: str(name) if type(name) is int else name)]
"""The name of a class. It may be written as a number, such as 7 for a digit."""
MetricName = Annotated[str, AfterValidator(check_name)]


def check_sides(value: Any) -> Any:
    """Refuse what is neither a side nor [height, width], each from 1 to 4096 pixels."""
    sides = value if isinstance(value, list) and len(value) == 2 else [value]
    if all(type(side) is int and 1 <= side <= MAX_SIDE for side in sides):
        return value
    # Not above: the help of a command reads the options and must be quick.
    from pydantic_core import PydanticCustomError

    raise PydanticCustomError(
        "sides",
        "{expected}",
        {"expected": f"a side in pixels, or [height, width], from 1 to {MAX_SIDE}: 64 or [90, 160]"},
    )


MAX_SIDE = 4096
Sides = Annotated[int | list[int], PlainValidator(check_sides)]
"""The side of squares, or [height, width], in pixels."""


def sides_of(size: int | Sequence[int]) -> tuple[int, int]:
    """(height, width) of a side of squares, or of height and width, in pixels."""
    height, width = (size, size) if isinstance(size, int) else size
    return height, width


class Options(BaseModel):
    """The base of all options: unknown keys are refused, values are not converted, and nothing changes later."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)


def option(default: Any, description: str, **bounds: Any) -> Any:
    """An option with a default. `bounds` are those of pydantic's Field, such as ge=1."""
    return Field(default=default, description=description, **bounds)
