"""Where a run's figures and pictures go. Only the main rank has sinks."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from torch import Tensor
from torch.utils.tensorboard import SummaryWriter

from pipeline.durable import write_text
from pipeline.monitor.grids import save_png


class Sink(Protocol):
    """Takes what is logged at a step. Its OSErrors are counted by `Sinks` and never stop training."""

    def scalars(self, step: int, values: Mapping[str, float]) -> None: ...

    def images(self, step: int, name: str, grid: Tensor) -> None:
        """`grid`: uint8 (channels, height, width) on the host."""
        ...

    def histograms(self, step: int, values: Mapping[str, Tensor]) -> None: ...

    def text(self, step: int, name: str, text: str) -> None: ...

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

    def close(self) -> None:
        self._each(lambda sink: sink.close())
        if self.failures:
            print(f"warning: {self.failures} records could not be written; plots have gaps", file=sys.stderr)

    def _each(self, call: Callable[[Sink], None]) -> None:
        for sink in self._sinks:
            try:
                call(sink)
            except OSError as error:
                self.failures += 1
                if self.failures == 1:
                    name = type(sink).__name__
                    print(f"warning: {name} cannot write ({error}); training goes on", file=sys.stderr)


class TensorBoard:
    """Event files in the run's directory."""

    def __init__(self, directory: Path, first_step: int) -> None:
        """Records at `first_step` and later that an earlier process left are hidden by TensorBoard."""
        # A run that starts hides what stands at step 0 too.
        purge_step = first_step if first_step > 1 else 0
        self._writer: Any = SummaryWriter(str(directory), purge_step=purge_step, flush_secs=10)

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)

    def images(self, step: int, name: str, grid: Tensor) -> None:
        self._writer.add_image(name, grid, step)

    def histograms(self, step: int, values: Mapping[str, Tensor]) -> None:
        for name, value in values.items():
            self._writer.add_histogram(name, value, step)

    def text(self, step: int, name: str, text: str) -> None:
        # Four spaces make it a block of code in TensorBoard's Markdown.
        self._writer.add_text(name, "\n".join(f"    {line}" for line in text.splitlines()), step)

    def close(self) -> None:
        self._writer.close()


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

    def close(self) -> None:
        """Every file is closed as it is written."""


def _whole_lines(path: Path) -> list[str]:
    if not path.exists():
        return []
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    return [line for line in lines if line.endswith("}\n")]
