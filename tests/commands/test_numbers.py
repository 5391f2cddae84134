"""Every number on the command line has bounds, and is refused in one line beyond them."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from functools import partial

import pytest

from pipeline.cli import _parser, main
from pipeline.commands.arguments import parse_step

CHECKED_LATER = {"--channels", "--truncation", "--validation", "--seconds"}
"""Numbers whose bounds are checked where they are used, by Python callers too."""


def flags(
    parser: argparse.ArgumentParser, words: tuple[str, ...] = ()
) -> Iterator[tuple[str, argparse.Action]]:
    """Every flag, after the words of its command."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for name, sub in action.choices.items():
                yield from flags(sub, (*words, name))
        elif action.option_strings:
            yield " ".join(words), action


ALL = [(command, action) for command, action in flags(_parser())]
WHOLE = [(command, action) for command, action in ALL if isinstance(action.type, partial)]


def test_no_flag_takes_any_number() -> None:
    unbounded = {action.option_strings[0] for _, action in ALL if action.type in (int, float)}
    assert unbounded <= CHECKED_LATER
    assert len(WHOLE) > 12


@pytest.mark.parametrize(("command", "action"), WHOLE, ids=lambda part: getattr(part, "dest", part))
def test_a_number_beyond_its_bounds_is_an_error_in_one_line(
    command: str, action: argparse.Action, capsys: pytest.CaptureFixture[str]
) -> None:
    flag = action.option_strings[0]
    for value in ("-1", "1" + "0" * 30, "9" * 5000, "nan", "²"):
        assert main([*command.split(), "x", f"{flag}={value}"]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith(f"error (exit 2): {flag} {value[:15]}")
        assert "expected a whole number from" in line


@pytest.mark.parametrize("text", ["²", "", "-1", "+1", "1e3", "9" * 19, "9" * 5000])
def test_what_is_no_step_is_none(text: str) -> None:
    assert parse_step(text) is None
    assert parse_step("1000") == 1000


def test_a_nul_in_an_argument_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["sample", "runs/a\0b"]) == 2
    assert "contains the character NUL" in capsys.readouterr().err


@pytest.mark.parametrize(
    "words",
    [
        ["report", "x" * 300],
        ["plot", "x" * 300],
        ["evaluate", "x" * 300],
        ["export", "x" * 300, "--out", "a.onnx"],
        ["shards", "check", "x" * 300],
        ["shards", "stats", "x" * 300],
        ["shards", "make", "digits", "x" * 300],
        ["train", "x" * 300],
        ["doctor", "x" * 300],
        ["interpolate", "x" * 5000],
    ],
    ids=lambda words: " ".join(words)[:20],
)
def test_a_name_that_no_file_can_have_is_refused(
    words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(words) in (2, 3, 7)
    assert capsys.readouterr().err.startswith("error (exit ")
