"""Progress of training: a bar on a terminal, a line every 10 seconds in a log file."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from datetime import timedelta

from tqdm import tqdm

from pipeline.stderr import say_line

SECONDS_BETWEEN_LINES = 10.0

SHOWN = {
    "wasserstein/estimate_smooth": "estimate (smoothed)",
    "critic/loss": "critic loss",
    "generator/loss": "generator loss",
}


class Console:
    """Shows step, estimate or losses, images per second and the time left, on standard error."""

    def __init__(self, first_step: int, steps: int, is_shown: bool) -> None:
        self._steps, self._first_step, self._is_shown = steps, first_step, is_shown
        self._started = self._last_line = time.monotonic()
        is_terminal = is_shown and sys.stderr.isatty()
        self._bar = tqdm(total=steps, initial=first_step, unit=" steps", disable=not is_terminal)

    def show(self, step: int, values: Mapping[str, float]) -> None:
        """Show the figures of a log point."""
        if not self._is_shown or "speed/images_per_second" not in values:
            return
        shown = [f"{word} {values[name]:.4g}" for name, word in SHOWN.items() if name in values]
        text = ", ".join([*shown, f"{values['speed/images_per_second']:,.0f} images/s"])
        if not self._bar.disable:
            self._bar.set_postfix_str(text, refresh=False)
            self._bar.update(step - self._bar.n)
        elif time.monotonic() - self._last_line > SECONDS_BETWEEN_LINES or step == self._steps:
            self._last_line = time.monotonic()
            per_step = (time.monotonic() - self._started) / (step - self._first_step)
            left = timedelta(seconds=round(per_step * (self._steps - step)))
            say_line(f"step {step}/{self._steps}, {text}, {left} left")

    def close(self) -> None:
        """End the bar, and leave it on the screen."""
        self._bar.close()
