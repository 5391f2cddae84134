"""Where a run's figures and pictures go. Only the main rank has sinks."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

from torch import Tensor
from torch.utils.tensorboard import SummaryWriter

from pipeline.durable import write_text
from pipeline.monitor.console import say_warning
from pipeline.monitor.grids import save_png


class Sink(Protocol):
    """Takes what is logged at a step. Its OSErrors are counted by `Sinks` and never stop training."""

    def scalars(self, step: int, values: Mapping[str, float]) -> None: ...

    def images(self, step: int, name: str, grid: Tensor) -> None:
        """`grid`: uint8 (channels, height, width) on the host."""
        ...

    def histograms(self, step: int, values: Mapping[str, Tensor]) -> None: ...

    def text(self, step: int, name: str, text: str) -> None: ...

    def flush(self) -> None:
        """Bring everything so far to the file system."""
        ...

    def close(self) -> None: ...


class Sinks:
    """Several sinks as one. A full disk costs plots, not the run: failures are counted and reported."""

    def __init__(self, sinks: Sequence[Sink]) -> None:
        self._sinks = list(sinks)
        self.failures = 0

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        self._each(lambda sink: sink.scalars(step, values))

    def images(self, step: int, name: str, grid: Tensor) -> None:
        self._each(lambda sink: sink.images(step, name, grid))

    def histograms(self, step: int, values: Mapping[str, Tensor]) -> None:
        self._each(lambda sink: sink.histograms(step, values))

    def text(self, step: int, name: str, text: str) -> None:
        self._each(lambda sink: sink.text(step, name, text))

    def flush(self) -> None:
        self._each(lambda sink: sink.flush())

    def close(self) -> None:
        self._each(lambda sink: sink.close())
        if self.failures:
            say_warning(f"writing records failed {self.failures} times; plots may have gaps")

    def _each(self, call: Callable[[Sink], None]) -> None:
        for sink in self._sinks:
            try:
                call(sink)
            except OSError as error:
                self.failures += 1
                if self.failures == 1:
                    name = type(sink).__name__
                    say_warning(f"{name} cannot write ({error}); training goes on")


class TensorBoard:
    """Event files in the run's directory."""

    def __init__(self, directory: Path, first_step: int, pause: float = 10.0) -> None:
        """Records at `first_step` and later that an earlier process left are hidden by TensorBoard.

        After a failure nothing is written for `pause` seconds.
        """
        self._directory, self._pause = directory, pause
        # A run that starts hides what stands at step 0 too.
        self._writer: Any = self._open(purge_step=first_step if first_step > 1 else 0)
        self._reopen_at = 0.0

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        with self._writing() as writer:
            for name, value in values.items():
                writer.add_scalar(name, value, step)

    def images(self, step: int, name: str, grid: Tensor) -> None:
        with self._writing() as writer:
            writer.add_image(name, grid, step)

    def histograms(self, step: int, values: Mapping[str, Tensor]) -> None:
        with self._writing() as writer:
            for name, value in values.items():
                writer.add_histogram(name, value, step)

    def text(self, step: int, name: str, text: str) -> None:
        with self._writing() as writer:
            # Four spaces make it a block of code in TensorBoard's Markdown.
            writer.add_text(name, "\n".join(f"    {line}" for line in text.splitlines()), step)

    def flush(self) -> None:
        with self._writing() as writer:
            writer.flush()

    def close(self) -> None:
        with self._writing() as writer:
            writer.close()

    @contextmanager
    def _writing(self) -> Iterator[Any]:
        """The event writer, or a new one some time after the last one failed: its thread is gone for good."""
        if self._writer is None:
            if time.monotonic() < self._reopen_at:
                raise OSError("the event file could not be written a moment ago")
            self._writer = self._open()
        try:
            yield self._writer
        except OSError:
            self._writer, self._reopen_at = None, time.monotonic() + self._pause
            raise

    def _open(self, purge_step: int | None = None) -> Any:
        return SummaryWriter(str(self._directory), purge_step=purge_step, flush_secs=10)


class JsonLines:
    """metrics.jsonl: one object for each logged step, {"step": ..., NAME: value, ...}."""

    def __init__(self, path: Path, first_step: int) -> None:
        """Lines of `first_step` and later, and a line that a crash cut short, are dropped."""
        kept = [line for line in _whole_lines(path) if json.loads(line)["step"] < first_step]
        write_text(path, "".join(kept))
        self._file = path.open("a", encoding="utf-8")

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        self._file.write(json.dumps({"step": step, **values}) + "\n")
        self._file.flush()

    def images(self, step: int, name: str, grid: Tensor) -> None:
        """Images have no place in it."""

    def histograms(self, step: int, values: Mapping[str, Tensor]) -> None:
        """Nor have histograms."""

    def text(self, step: int, name: str, text: str) -> None:
        """Nor has text: config.yaml and environment.json hold it."""

    def flush(self) -> None:
        """Every line is flushed as it is written."""

    def close(self) -> None:
        self._file.close()


class PngFiles:
    """The grids of one name as PNG files step_00000200.png."""

    def __init__(self, directory: Path, name: str) -> None:
        self._directory, self._name = directory, name

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Scalars have no place in it."""

    def images(self, step: int, name: str, grid: Tensor) -> None:
        if name == self._name:
            save_png(grid, self._directory / f"step_{step:08d}.png")

    def histograms(self, step: int, values: Mapping[str, Tensor]) -> None:
        """Nor have histograms."""

    def text(self, step: int, name: str, text: str) -> None:
        """Nor has text."""

    def flush(self) -> None:
        """Every file is closed as it is written."""

    def close(self) -> None:
        """Likewise."""


def _whole_lines(path: Path) -> list[str]:
    if not path.exists():
        return []
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    return [line for line in lines if line.endswith("}\n")]
