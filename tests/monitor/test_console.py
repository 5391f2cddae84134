"""Progress on a terminal: one line that fits, whatever its width, and above it what a run says."""

from __future__ import annotations

import fcntl
import os
import struct
import sys
import termios
from collections.abc import Callable, Iterator

import pytest

from pipeline.monitor.console import Console, fitting
from pipeline.stderr import say_warning

VALUES = {
    "wasserstein/estimate_smooth": 12.3456,
    "critic/loss": -10.25,
    "generator/loss": 3.5,
    "speed/images_per_second": 1234.5,
}
Terminal = Callable[[int], Callable[[], list[str]]]


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Iterator[Terminal]:
    """Makes standard error a terminal of so many columns. Returns what reads the lines that its screen has shown."""
    opened = []

    def make(columns: int) -> Callable[[], list[str]]:
        ours, theirs = os.openpty()
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
        stream = os.fdopen(theirs, "w", encoding="utf-8")
        opened.extend([os.fdopen(ours, "rb", buffering=0), stream])
        monkeypatch.setattr(sys, "stderr", stream)

        def read() -> list[str]:
            # A terminal passes on what was written bit by bit, so a mark shows where it ends.
            stream.write("\0")
            stream.flush()
            content = b""
            while not content.endswith(b"\0"):
                content += opened[0].read(1 << 16)
            return content[:-1].decode().replace("\r\n", "\n").removesuffix("\n").split("\n")

        return read

    yield make
    for stream in opened:
        stream.close()


def last_frame(line: str) -> str:
    return line.split("\r")[-1]


@pytest.mark.parametrize(
    ("columns", "figures"),
    [
        (60, "estimate 12.35"),
        (80, "estimate 12.35, 1,234 images/s"),
        (120, "estimate 12.35, 1,234 images/s, critic -10.25, generator 3.5"),
    ],
)
def test_the_bar_fits_into_one_line_with_the_figures_that_matter(
    terminal: Terminal, columns: int, figures: str
) -> None:
    read = terminal(columns)
    console = Console(0, 2000, is_shown=True)
    console.advance(500)
    console.show(500, VALUES)
    console.close()
    (line,) = read()
    assert all(len(frame.rstrip()) <= columns for frame in line.split("\r"))
    assert last_frame(line).startswith(" 25%|")
    assert "| 500/2000 [" in last_frame(line)
    assert last_frame(line).rstrip().endswith(f" left, {figures}]")
    assert last_frame(line).split("|")[1].count(" ") + last_frame(line).count("█") >= 8


def test_nothing_is_drawn_before_the_first_step_is_done(terminal: Terminal) -> None:
    read = terminal(80)
    console = Console(0, 10, is_shown=True)
    say_warning("what a run says of itself")
    console.advance(1)
    console.close()
    first, line = read()
    assert first == "warning: what a run says of itself"
    assert " 1/10 [" in last_frame(line)


def test_a_warning_stands_on_a_line_of_its_own_above_the_bar(terminal: Terminal) -> None:
    read = terminal(80)
    console = Console(0, 10, is_shown=True)
    console.advance(5)
    say_warning("the disk is nearly full")
    console.close()
    warned, line = read()
    assert last_frame(warned) == "warning: the disk is nearly full"
    assert " 5/10 [" in last_frame(line)


def test_a_log_file_gets_lines_and_no_bar(capsys: pytest.CaptureFixture[str]) -> None:
    console = Console(0, 4, is_shown=True)
    for step in range(1, 5):
        console.advance(step)
        console.show(step, VALUES)
    console.close()
    assert capsys.readouterr().err == (
        "step 4/4, estimate (smoothed) 12.35, 1,234 images/s, critic loss -10.25, generator loss 3.5, 0:00:00 left\n"
    )


def test_objectives_without_an_estimate_show_their_losses() -> None:
    losses = {name: value for name, value in VALUES.items() if not name.startswith("wasserstein/")}
    assert fitting(losses, 50) == "1,234 images/s, critic -10.25, generator 3.5"
    assert fitting(losses, 20) == "1,234 images/s"
    assert fitting(losses, 5) == ""
