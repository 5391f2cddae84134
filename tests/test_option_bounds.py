"""Every number, name and path that options can be has bounds, and what is beyond them is refused."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any

import pytest
from pydantic import TypeAdapter, ValidationError

from pipeline.errors import ConfigError
from pipeline.option_fields import fields_of_kinds
from pipeline.options import Config
from tests.configs import SMALL, load, mistakes

NUMBERS: dict[str, Any] = {
    f"{'.'.join(path)} ({kind})": Annotated[field.annotation, field]
    for path, kind, field in fields_of_kinds(Config)
    if re.search(r"\b(int|float)\b", f"{field.annotation}")
}
HUGE = [10**30, -(10**30), 1e300, -1e300, float("inf"), float("nan")]


def test_the_numbers_among_the_options_are_found() -> None:
    assert len(NUMBERS) > 60
    assert {"schedule.steps ()", "critic_optimizer.lr (adam)", "runtime.processes ()"} <= NUMBERS.keys()


@pytest.mark.parametrize("option", NUMBERS)
def test_every_number_has_two_bounds(option: str) -> None:
    adapter: TypeAdapter[Any] = TypeAdapter(NUMBERS[option])
    for value in HUGE:
        with pytest.raises(ValidationError):
            adapter.validate_python(value, strict=True)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("schedule.steps=1" + "0" * 30, "expected a value of at most 1000000000"),
        ("schedule.global_batch=1000000000000", "expected a value of at most 1048576"),
        ("critic_optimizer.lr=1.0e+308", "expected a value of at most 1e+20"),
        ("objective.clip=1.0e-300", "expected a value of at least 1e-30"),
        ("runtime.timeout_seconds=1.0e+300", "expected a value of at most 1000000.0"),
        ("name=" + "n" * 201, "expected text of at most 200 characters"),
        ('run_root="a\\0b"', "expected a path without the character NUL"),
        ("quality.classifier=" + "ü" * 128, "expected a path whose names have at most 255 bytes each"),
    ],
)
def test_what_is_beyond_a_bound_is_said_with_the_bound(tmp_path: Path, override: str, message: str) -> None:
    assert any(message in line for line in mistakes(tmp_path, SMALL, override))


def test_a_url_may_have_long_parts(tmp_path: Path) -> None:
    url = f"https://example.com/shards?signature={'a' * 300}"
    assert load(tmp_path, SMALL, f"data.shards={url}").data.shards == url


def test_a_path_with_names_of_255_bytes_is_taken(tmp_path: Path) -> None:
    path = f"{'a' * 255}/{'b' * 255}"
    assert load(tmp_path, SMALL, f"run_root={path}").run_root == path
    with pytest.raises(ConfigError):
        load(tmp_path, SMALL, f"run_root={path}c")
