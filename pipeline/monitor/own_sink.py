"""Sinks that are plug-ins. If one fails, only what it would have written is lost."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from pipeline.errors import ConfigError, PipelineError, StorageError
from pipeline.foreign_text import without_credentials
from pipeline.monitor.grids import Png
from pipeline.monitor.sinks import Sink
from pipeline.options import SinkOptions
from pipeline.plugins import SINK, load_plugin


class OwnSink(Sink):
    """A sink that is a plug-in. Its exceptions count as failed writes, which are reported and never stop training."""

    def __init__(self, options: SinkOptions, directory: Path, first_step: int) -> None:
        """`directory` is the run directory; steps from `first_step` on are new.

        Raises ConfigError, or a PipelineError of the plug-in's own.
        """
        self._name = options.name
        kind = load_plugin(SINK, options.name)
        try:
            self._sink: Sink = kind(options, directory, first_step)
        except PipelineError:
            raise
        except Exception as error:  # the plug-in's own code may raise anything
            raise ConfigError(
                f"monitor.sinks: {options.name} cannot be created ({_said(error)}). Fix it or remove it."
            ) from error

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        self._try(lambda: self._sink.scalars(step, values))

    def images(self, step: int, name: str, png: Png) -> None:
        self._try(lambda: self._sink.images(step, name, png))

    def histograms(self, step: int, values: Mapping[str, Tensor], box: float | None = None) -> None:
        self._try(lambda: self._sink.histograms(step, values, box))

    def text(self, step: int, name: str, text: str) -> None:
        self._try(lambda: self._sink.text(step, name, text))

    def options(self, step: int, values: Mapping[str, Any]) -> None:
        self._try(lambda: self._sink.options(step, values))

    def flush(self) -> None:
        self._try(self._sink.flush)

    def close(self) -> None:
        self._try(self._sink.close)

    def _try(self, call: Callable[[], None]) -> None:
        try:
            call()
        except Exception as error:
            raise StorageError(f"{self._name}: {_said(error)}") from error


def _said(error: Exception) -> str:
    """An error of a plug-in, which may hold what a server or a library has said."""
    return without_credentials(f"{type(error).__name__}: {error}")
