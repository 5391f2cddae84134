"""What a run writes its figures and pictures to. Only the main rank has sinks."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import Tensor

from pipeline.errors import StorageError
from pipeline.monitor.grids import Png, encode_png
from pipeline.stderr import say_warning
from pipeline.wording import counted

ALARM_PREFIX = "health/"
"""How the names of the texts begin that a person should read."""


class Sink:
    """Receives what is logged at a step. Each kind overrides the methods for what it keeps, and ignores the rest.

    `Sinks` counts its OSErrors and StorageErrors, and they never stop training.
    """

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Figures by name."""

    def images(self, step: int, name: str, png: Png) -> None:
        """A picture, encoded once for all sinks."""

    def histograms(self, step: int, values: Mapping[str, Tensor], box: float | None = None) -> None:
        """Tensors of any shape by name. If all values are in [-box, box], the bins span this range."""

    def text(self, step: int, name: str, text: str) -> None:
        """Lines of text."""

    def options(self, step: int, values: Mapping[str, Any]) -> None:
        """The options of the run, by their dotted names."""

    def flush(self) -> None:
        """Write everything so far to the file system."""

    def close(self) -> None:
        """Flush and close. Nothing is logged afterwards."""


class Sinks:
    """Several sinks as one. A sink that fails, for example on a full disk, is reported and never stops training."""

    def __init__(self, sinks: Sequence[Sink]) -> None:
        self._sinks = list(sinks)
        self.failures = 0

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        self._each(lambda sink: sink.scalars(step, values))

    def images(self, step: int, name: str, grid: Tensor) -> None:
        """`grid`: uint8 (channels, height, width) on the host."""
        png = encode_png(grid)
        self._each(lambda sink: sink.images(step, name, png))

    def histograms(self, step: int, values: Mapping[str, Tensor], box: float | None = None) -> None:
        self._each(lambda sink: sink.histograms(step, values, box))

    def text(self, step: int, name: str, text: str) -> None:
        self._each(lambda sink: sink.text(step, name, text))

    def options(self, step: int, values: Mapping[str, Any]) -> None:
        self._each(lambda sink: sink.options(step, values))

    def flush(self) -> None:
        self._each(lambda sink: sink.flush())

    def close(self) -> None:
        self._each(lambda sink: sink.close())
        if self.failures:
            say_warning(
                f"records could not be written {counted(self.failures, 'time')}, so plots may have gaps"
            )

    def _each(self, call: Callable[[Sink], None]) -> None:
        for sink in self._sinks:
            try:
                call(sink)
            except (OSError, StorageError) as error:
                self.failures += 1
                if self.failures == 1:
                    why = (error.strerror if isinstance(error, OSError) else None) or str(error)
                    say_warning(f"{type(sink).__name__} cannot write: {why.rstrip('.')}. Training continues.")
