"""Figures, pictures, histograms and texts as TensorBoard event files."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import numpy as np
from tensorboard.compat.proto.summary_pb2 import Summary
from torch import Tensor
from torch.utils.tensorboard import summary

from pipeline.durable import storage_errors
from pipeline.foreign_text import printable, printable_lines, without_credentials
from pipeline.monitor.charts import Layout
from pipeline.monitor.event_file import EventFile
from pipeline.monitor.grids import Png
from pipeline.monitor.sinks import ALARM_PREFIX, Sink
from pipeline.stderr import say_warning

BOX_BINS = 64
NUMBERS = (int, float)
RGB = 3
LONGEST_TEXT = 100_000
LONGEST_WAIT = 5.0
"""Seconds by which the clocks of machines that resume each other's runs may differ."""


COMPARED = ("wasserstein/estimate_smooth", "wasserstein/normalized", "speed/images_per_second")
"""The figures by which TensorBoard's table of hparams compares runs."""


class TensorBoard(Sink):
    """Event files in the run's directory."""

    def __init__(
        self, directory: Path, first_step: int, layout: Layout | None = None, pause: float = 10.0
    ) -> None:
        """TensorBoard will hide what earlier processes have recorded at `first_step` and later.

        `layout` has the charts of custom scalars; they are written with the options. After a failure nothing is
        written for `pause` seconds. Raises StorageError.
        """
        self._directory, self._layout, self._pause = directory, layout, pause
        # A new run also hides what was recorded at step 0.
        with storage_errors(directory):
            self._file: EventFile | None = self._open(purge_step=first_step if first_step > 1 else 0)
        self._reopen_at = 0.0

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        found = [Summary.Value(tag=name, simple_value=value) for name, value in values.items()]
        with self._writing() as file:
            file.add(step, Summary(value=found))

    def images(self, step: int, name: str, png: Png) -> None:
        image = Summary.Image(
            width=png.width, height=png.height, colorspace=RGB, encoded_image_string=png.content
        )
        with self._writing() as file:
            file.add(step, Summary(value=[Summary.Value(tag=name, image=image)]))

    def histograms(self, step: int, values: Mapping[str, Tensor], box: float | None = None) -> None:
        make = cast(Any, summary.histogram)
        with self._writing() as file:
            file.add(step, *(make(name, value, _edges(value, box)) for name, value in values.items()))

    def text(self, step: int, name: str, text: str) -> None:
        text = printable_lines(without_credentials(text), LONGEST_TEXT)
        if not name.startswith(ALARM_PREFIX):
            # Four spaces make it a block of code in TensorBoard's Markdown.
            text = "\n".join(f"    {line}" for line in text.splitlines())
        with self._writing() as file:
            file.add(step, cast(Any, summary.text)(name, text))

    def options(self, step: int, values: Mapping[str, Any]) -> None:
        """Write the hparams entry of the run itself, and the layout of its custom scalars."""
        plain = {
            name: value if type(value) in NUMBERS else printable(without_credentials(str(value)))
            for name, value in values.items()
        }
        make: Any = summary
        found = [make.custom_scalars(self._layout)] if self._layout else []
        # SummaryWriter.add_hparams would make a run of its own in a folder below this one.
        found += make.hparams(plain, dict.fromkeys(COMPARED, 0.0))
        with self._writing() as file:
            file.add(step, *found)

    def close(self) -> None:
        if self._file is not None:
            self._file.close()

    @contextmanager
    def _writing(self) -> Iterator[EventFile]:
        """The event file. Some time after a failure it is a new one: TensorBoard reads a file up to a broken record."""
        if self._file is None:
            if time.monotonic() < self._reopen_at:
                raise OSError("the event file could not be written a moment ago")
            self._reopen_at = time.monotonic() + self._pause
            self._file = self._open()
        try:
            yield self._file
        except OSError:
            self._file.close()
            self._file, self._reopen_at = None, time.monotonic() + self._pause
            raise

    def _open(self, purge_step: int | None = None) -> EventFile:
        _wait_for_a_later_name(self._directory)
        return EventFile(self._directory, purge_step)


def _wait_for_a_later_name(directory: Path) -> None:
    """Wait until a new event file will be read after all that are in `directory`.

    TensorBoard reads them in the order of their names, which begin with the second they were made in. Two of one
    second would be read in the order of their processes' ids, and the older might hide what the newer holds.
    """
    seconds = (path.name.split(".")[3] for path in directory.glob("events.out.tfevents.*"))
    ahead = 1 + max((int(second) for second in seconds if second.isdecimal()), default=0) - time.time()
    if ahead > LONGEST_WAIT:
        say_warning(
            f"{directory} contains event files from {ahead:.0f} seconds ahead of this machine's clock: TensorBoard "
            "will show this part of the run before theirs. Correct the clock and start again."
        )
    else:
        time.sleep(max(0.0, ahead))


def _edges(values: Tensor, box: float | None) -> Any:
    """The edges of the bins: they span the box if all values are in it."""
    if box is None or bool((values.abs() > box).any()):
        return "auto"
    # Clipped weights are float32 and may exceed the box in float64.
    edge = float(np.float32(box))
    return np.linspace(-edge, edge, BOX_BINS + 1)
