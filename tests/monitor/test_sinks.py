"""No failure of a sink stops a run."""

from __future__ import annotations

import json
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch

from pipeline.errors import ConfigError, DataError
from pipeline.monitor.files import JsonLines, PngFiles
from pipeline.monitor.own_sink import OwnSink
from pipeline.monitor.sinks import Sink, Sinks
from pipeline.options import SinkOptions
from tests.limits import no_file_over

GRID = torch.arange(3 * 4 * 5, dtype=torch.uint8).view(3, 4, 5)


def lines(path: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_full_disk_costs_pictures_and_not_the_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    picture = torch.randint(0, 256, (3, 64, 64), dtype=torch.uint8)
    sinks = Sinks([PngFiles(tmp_path, "x", 5), JsonLines(tmp_path / "metrics.jsonl", 1)])
    for step in range(1, 5):
        # Room for all lines, and for no picture.
        with no_file_over(1_000) if step in (2, 3) else nullcontext():
            sinks.images(step, "x", picture)
            sinks.scalars(step, {"loss": 0.5})
    assert sinks.failures == 2
    sinks.close()
    written = capsys.readouterr().err.splitlines()
    assert len(written) == 2
    first = tmp_path / "step_00000002.png"
    assert f"PngFiles cannot write: {first} cannot be written: File too large" in written[0]
    assert "records could not be written 2 times" in written[1]
    assert [line["step"] for line in lines(tmp_path / "metrics.jsonl")] == [1, 2, 3, 4]
    assert sorted(path.name for path in tmp_path.glob("*step*")) == ["step_00000001.png", "step_00000004.png"]


def test_lines_that_cannot_be_written_are_counted_and_the_rest_goes_on(tmp_path: Path) -> None:
    """The log that would tell of it cannot be written either: the limit holds for every file."""
    sinks = Sinks([JsonLines(tmp_path / "metrics.jsonl", 1)])
    sinks.scalars(1, {"loss": 0.5})
    with no_file_over((tmp_path / "metrics.jsonl").stat().st_size):
        sinks.scalars(2, {"loss": 0.5})
        sinks.scalars(3, {"loss": 0.5})
    assert sinks.failures == 2
    sinks.scalars(4, {"loss": 0.5})
    sinks.close()
    steps = [line["step"] for line in lines(tmp_path / "metrics.jsonl")]
    assert (steps[0], steps[-1]) == (1, 4)
    assert steps == sorted(set(steps))


def test_defects_of_the_program_are_not_swallowed(tmp_path: Path) -> None:
    sinks = Sinks([JsonLines(tmp_path / "metrics.jsonl", 1)])
    with pytest.raises(TypeError):
        sinks.scalars(1, {"loss": torch.tensor(1.0)})  # type: ignore[dict-item]
    sinks.close()


class Refusing(Sink):
    """A plug-in that says what is wrong with its options."""

    def __init__(self, options: SinkOptions, directory: Path, first_step: int) -> None:
        raise DataError("there is no table of this name")


def test_an_own_sinks_error_for_the_user_is_passed_on_as_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WGAN_PLUGINS", "tests")
    with pytest.raises(DataError, match=r"^there is no table of this name$"):
        OwnSink(SinkOptions(name="tests.monitor.test_sinks:Refusing"), tmp_path, 1)
    monkeypatch.setenv("WGAN_PLUGINS", "")
    with pytest.raises(ConfigError) as caught:
        OwnSink(SinkOptions(name="nobody.asked:For"), tmp_path, 1)
    assert str(caught.value).startswith("monitor.sinks: nobody.asked:For is a plug-in.")


def test_no_sinks_take_everything_and_do_nothing() -> None:
    sinks = Sinks([])
    sinks.scalars(1, {})
    sinks.images(1, "x", GRID)
    sinks.histograms(1, {})
    sinks.text(1, "x", "y")
    sinks.close()
    assert sinks.failures == 0
