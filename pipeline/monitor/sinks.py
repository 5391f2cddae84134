"""Where a run's figures and pictures go. Only the main rank has sinks."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import Any, cast

import numpy as np
from PIL import Image
from tensorboard.compat.proto.summary_pb2 import Summary
from torch import Tensor
from torch.utils.tensorboard import SummaryWriter
from torch.utils.tensorboard.summary import hparams

from pipeline.durable import replacing, storage_errors, write_text
from pipeline.errors import StorageError
from pipeline.monitor.console import say_warning
from pipeline.monitor.grids import encode_png
from pipeline.run.directory import parse_record

ALARM = "health/"
"""How the names of texts begin that a person should read."""
BOX_BINS = 64
NUMBERS = (int, float)
RGB = 3
LONGEST_WAIT = 5.0
"""Seconds by which clocks of machines that continue each other's runs may differ."""


def _chart(*tags: str) -> list[Any]:
    """A chart of several curves; TensorBoard takes their names as regular expressions."""
    return ["Multiline", [f"^{tag}$" for tag in tags]]


LAYOUT = {
    "wasserstein": {
        "estimate": _chart("wasserstein/estimate", "wasserstein/estimate_smooth", "wasserstein/validation"),
        "its parts: scores of real and generated images": _chart("critic/real", "critic/fake"),
        "normalized: comparable between runs": _chart("wasserstein/normalized"),
        "losses": _chart("critic/loss", "generator/loss"),
    },
    "quality": {
        "Frechet distance of features": _chart("quality/fid_.*"),
        "kernel distance of features": _chart("quality/kid_.*"),
        "sliced Wasserstein distance": _chart("quality/swd"),
        "precision and recall": _chart("quality/(precision|recall)_.*"),
        "density and coverage": _chart("quality/(density|coverage)_.*"),
        "share of copies": _chart("quality/copied_.*"),
        "classes": _chart("quality/modes"),
        "distance of their shares": _chart("quality/class_distance"),
    },
    "speed": {
        "images a second": _chart("speed/images_per_second"),
        "share of the time that the loop waits for data": _chart("speed/data_wait_fraction"),
        "memory in MiB": _chart("memory/.*"),
    },
    "health": {
        "share of clipped weights": _chart("critic/clipped_fraction"),
        "gradient at generated images": _chart("critic/input_grad_norm"),
        "gradients of the weights": _chart("critic/grad_norm", "generator/grad_norm"),
        "diversity of generated images": _chart("generator/diversity"),
    },
}
COMPARED = ("wasserstein/estimate_smooth", "wasserstein/normalized", "speed/images_per_second")
"""The figures by which TensorBoard's table of hparams compares runs."""


class Sink:
    """Takes what is logged at a step; each kind keeps what it has a place for and ignores the rest.

    Its OSErrors and StorageErrors are counted by `Sinks` and never stop training.
    """

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Figures by name."""

    def images(self, step: int, name: str, png: bytes) -> None:
        """A picture as a PNG file's content."""

    def histograms(self, step: int, values: Mapping[str, Tensor], box: float | None = None) -> None:
        """Tensors of any shape by name. Those that lie in [-box, box] are shown against these edges."""

    def text(self, step: int, name: str, text: str) -> None:
        """Lines of text."""

    def options(self, step: int, values: Mapping[str, Any]) -> None:
        """The options of the run, by their dotted names."""

    def flush(self) -> None:
        """Bring everything so far to the file system."""

    def close(self) -> None:
        """Flush, and take no more."""


class Sinks:
    """Several sinks as one. A full disk costs plots, not the run: failures are counted and reported."""

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
            say_warning(f"writing records failed {self.failures} times; plots may have gaps")

    def _each(self, call: Callable[[Sink], None]) -> None:
        for sink in self._sinks:
            try:
                call(sink)
            except (OSError, StorageError) as error:
                self.failures += 1
                if self.failures == 1:
                    say_warning(f"{type(sink).__name__} cannot write, and training goes on: {error}")


class TensorBoard(Sink):
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

    def images(self, step: int, name: str, png: bytes) -> None:
        width, height = Image.open(BytesIO(png)).size
        image = Summary.Image(width=width, height=height, colorspace=RGB, encoded_image_string=png)
        with self._writing() as writer:
            writer.file_writer.add_summary(Summary(value=[Summary.Value(tag=name, image=image)]), step)

    def histograms(self, step: int, values: Mapping[str, Tensor], box: float | None = None) -> None:
        with self._writing() as writer:
            for name, value in values.items():
                writer.add_histogram(name, value, step, bins=_edges(value, box))

    def text(self, step: int, name: str, text: str) -> None:
        if not name.startswith(ALARM):
            # Four spaces make it a block of code in TensorBoard's Markdown.
            text = "\n".join(f"    {line}" for line in text.splitlines())
        with self._writing() as writer:
            writer.add_text(name, text, step)

    def options(self, step: int, values: Mapping[str, Any]) -> None:
        """As the hparams entry of the run itself, and the layout of the custom scalars beside it."""
        plain = {name: value if type(value) in NUMBERS else str(value) for name, value in values.items()}
        with self._writing() as writer:
            writer.add_custom_scalars(LAYOUT)
            # add_hparams of the writer would make a run of its own in a folder below this one.
            for summary in cast(Any, hparams)(plain, dict.fromkeys(COMPARED, 0.0)):
                writer.file_writer.add_summary(summary, step)

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
        _wait_for_a_later_name(self._directory)
        return SummaryWriter(str(self._directory), purge_step=purge_step, flush_secs=10)


class Lines(Sink):
    """A file of JSON objects, one a line, each with its step."""

    def __init__(self, path: Path, first_step: int) -> None:
        """Lines of `first_step` and later, and lines that are no such object, are dropped.

        Raises StorageError.
        """
        with storage_errors(path):
            write_text(path, "".join(_lines_before(path, first_step)))
            self._file = path.open("a", encoding="utf-8")

    def close(self) -> None:
        self._file.close()

    def _write(self, record: Mapping[str, Any]) -> None:
        self._file.write(json.dumps(record) + "\n")
        self._file.flush()


class JsonLines(Lines):
    """metrics.jsonl: one object for each logged step, {"step": ..., NAME: value, ...}."""

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        self._write({"step": step, **values})


class AlarmLines(Lines):
    """alarms.jsonl: one object for each alarm, {"step": ..., "name": ..., "text": ...}."""

    def text(self, step: int, name: str, text: str) -> None:
        if name.startswith(ALARM):
            self._write({"step": step, "name": name.removeprefix(ALARM), "text": text})


class PngFiles(Sink):
    """The grids of one name as PNG files step_00000200.png."""

    def __init__(self, directory: Path, name: str, first_step: int) -> None:
        """Grids of `first_step` and later, left by a run that did not get to save them, are deleted.

        Raises StorageError.
        """
        self._directory, self._name = directory, name
        with storage_errors(directory):
            for path in directory.glob("step_*.png"):
                step = path.stem.removeprefix("step_")
                if step.isdigit() and int(step) >= first_step:
                    path.unlink()

    def images(self, step: int, name: str, png: bytes) -> None:
        if name == self._name:
            with replacing(self._directory / f"step_{step:08d}.png") as file:
                file.write(png)


def _wait_for_a_later_name(directory: Path) -> None:
    """Wait until an event file that is made now is read after all that stand in `directory`.

    TensorBoard reads them in the order of their names, which begin with the second they were made in. Two of one
    second would be read in the order of their processes' ids, and the older might hide what the newer holds.
    """
    seconds = (path.name.split(".")[3] for path in directory.glob("events.out.tfevents.*"))
    ahead = 1 + max((int(second) for second in seconds if second.isdecimal()), default=0) - time.time()
    if ahead > LONGEST_WAIT:
        say_warning(
            f"{directory} holds event files that are {ahead:.0f} seconds ahead of this machine's clock: TensorBoard "
            "will show this part of the run before theirs. Set the clock right, and start again."
        )
    else:
        time.sleep(max(0.0, ahead))


def _edges(values: Tensor, box: float | None) -> Any:
    """Where bins meet: from edge to edge of the box where all values lie in it."""
    if box is None or bool((values.abs() > box).any()):
        return "auto"
    # Clipped weights are of float32, and may lie above the box in float64.
    edge = float(np.float32(box))
    return np.linspace(-edge, edge, BOX_BINS + 1)


def _lines_before(path: Path, first_step: int) -> list[str]:
    # What follows the last line's end is a line that a crash cut short.
    lines = path.read_bytes().split(b"\n")[:-1] if path.exists() else []
    records = [parse_record(line) for line in lines]
    if foreign := records.count(None):
        say_warning(f"{path}: {foreign} of {len(lines)} lines are no records of a run and are dropped")
    return [
        f"{line.decode()}\n"
        for line, record in zip(lines, records, strict=True)
        if record is not None and record["step"] < first_step
    ]
