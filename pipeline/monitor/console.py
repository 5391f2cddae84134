"""Progress of training: a bar on a terminal, a line every 10 seconds in a log file."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Mapping
from typing import NamedTuple, Never

from tqdm import tqdm

from pipeline.stderr import say_line
from pipeline.wording import duration

SECONDS_BETWEEN_LINES = 10.0
USUAL_WIDTH = 80
SHORTEST_BAR = 10


class Figure(NamedTuple):
    """One of the figures that are shown: its words in a log, and on the bar, where there is less room."""

    words: str
    short: str
    form: str = "{words} {value:.4g}"


FIGURES = {
    "wasserstein/estimate_smooth": Figure("estimate (smoothed)", "estimate"),
    "speed/images_per_second": Figure("images/s", "images/s", "{value:,.0f} {words}"),
    "critic/loss": Figure("critic loss", "critic"),
    "generator/loss": Figure("generator loss", "generator"),
}
"""The most important first: the bar leaves out the last ones if the terminal is narrow."""
BAR = "{percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt} [{remaining} left{postfix}]"


class Console:
    """Shows step, estimate or losses, images per second and the time left, on standard error."""

    def __init__(self, first_step: int, steps: int, is_shown: bool) -> None:
        self._steps, self._first_step, self._is_shown = steps, first_step, is_shown
        self._started = self._last_line = time.monotonic()
        self._bar: tqdm[Never] | None = None

    def advance(self, step: int) -> None:
        """Show that this step is done, on a terminal."""
        if not (self._is_shown and sys.stderr.isatty()):
            return
        if self._bar is None:
            # Not before the first step is done: what a run says of itself comes first.
            self._bar = tqdm(total=self._steps, initial=step, bar_format=BAR, dynamic_ncols=True)
        self._bar.update(step - self._bar.n)

    def show(self, step: int, values: Mapping[str, float]) -> None:
        """Show the figures of a log point, whose step is done."""
        if not self._is_shown or "speed/images_per_second" not in values:
            return
        if self._bar is not None:
            others = f"100%|| {self._steps}/{self._steps} [00:00:00 left, ]"
            self._bar.set_postfix_str(fitting(values, _width() - len(others) - SHORTEST_BAR))
        elif time.monotonic() - self._last_line > SECONDS_BETWEEN_LINES or step == self._steps:
            self._last_line = time.monotonic()
            per_step = (time.monotonic() - self._started) / (step - self._first_step)
            left = duration(per_step * (self._steps - step))
            figures = [
                figure.form.format(words=figure.words, value=values[name])
                for name, figure in FIGURES.items()
                if name in values
            ]
            say_line(f"step {step}/{self._steps}, {', '.join(figures)}, {left} left")

    def close(self) -> None:
        """End the bar, and leave it on the screen."""
        if self._bar is not None:
            self._bar.close()


def fitting(values: Mapping[str, float], width: int) -> str:
    """As many of the figures as this many columns hold, the most important ones."""
    text = ""
    for name, figure in FIGURES.items():
        if name in values:
            longer = ", ".join(
                filter(None, [text, figure.form.format(words=figure.short, value=values[name])])
            )
            if len(longer) > width:
                break
            text = longer
    return text


def _width() -> int:
    """The columns of the terminal."""
    try:
        return os.get_terminal_size(sys.stderr.fileno()).columns
    except OSError:
        return USUAL_WIDTH
