"""A GIF of a run's sample grids: which are shown and how."""

from __future__ import annotations

import os
import struct
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageSequence

from pipeline.errors import ConfigError
from pipeline.monitor.animation import STRIP_HEIGHT, choose_frames, draw_animation, read_grid


def write_grid(run: Path, step: int, size: tuple[int, int] = (70, 70)) -> Path:
    """A grey grid, the lighter the later."""
    (run / "samples").mkdir(exist_ok=True)
    path = run / "samples" / f"step_{step:08d}.png"
    Image.new("RGB", size, (step % 256,) * 3).save(path)
    return path


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run that has drawn two grids."""
    for step in (20, 40):
        write_grid(tmp_path, step)
    return tmp_path


def frames(path: Path) -> list[Image.Image]:
    with Image.open(path) as animation:
        return [frame.copy() for frame in ImageSequence.Iterator(animation)]


def steps_of(paths: Sequence[Path]) -> list[int]:
    return [int(path.stem[5:]) for path in paths]


def test_the_animation_shows_every_grid_in_the_order_of_the_steps(run: Path) -> None:
    for step in (200, 120):
        write_grid(run, step)
    draw_animation(run, run / "training.gif")
    shown = [frame.convert("L").getpixel((10, 10)) for frame in frames(run / "training.gif")]
    assert shown == pytest.approx([20, 40, 120, 200], abs=4)


def test_the_animation_loops_and_holds_its_last_frame(run: Path) -> None:
    write_grid(run, 60)
    draw_animation(run, run / "training.gif")
    with Image.open(run / "training.gif") as animation:
        assert animation.format == "GIF"
        assert animation.info["loop"] == 0
    assert [frame.info["duration"] for frame in frames(run / "training.gif")] == [150, 150, 2000]


def test_frames_that_are_alike_stay_apart(run: Path) -> None:
    """If the grids do not change, the frames still do: each has its step below the grid."""
    for step in range(1000, 5000, 1000):
        Image.new("RGB", (70, 70)).save(run / "samples" / f"step_{step:08d}.png")
    draw_animation(run, run / "training.gif")
    strips = [np.asarray(frame.convert("L"))[70:] for frame in frames(run / "training.gif")]
    assert len(strips) == 6
    assert all(strip.min() < 64 < 192 < strip.max() for strip in strips), "there is dark text on white"
    assert len({strip.tobytes() for strip in strips}) == 6


def test_one_grid_is_an_animation_too(tmp_path: Path) -> None:
    write_grid(tmp_path, 20)
    draw_animation(tmp_path, tmp_path / "training.gif")
    assert len(frames(tmp_path / "training.gif")) == 1


@pytest.mark.parametrize("count", [1, 2, 59, 60, 61, 150])
def test_at_most_60_frames_are_chosen_evenly_with_the_first_and_the_last(tmp_path: Path, count: int) -> None:
    for step in range(1, count + 1):
        write_grid(tmp_path, step, size=(2, 2))
    steps = steps_of(choose_frames(tmp_path / "samples"))
    assert len(steps) == min(count, 60)
    assert (steps[0], steps[-1]) == (1, count)
    gaps = set(np.diff(steps).tolist())
    assert not gaps or 1 <= min(gaps) <= max(gaps) <= min(gaps) + 1


def test_steps_of_more_than_eight_digits_are_in_order_too(run: Path) -> None:
    for step in (99_999_999, 100_000_000):
        write_grid(run, step)
    assert steps_of(choose_frames(run / "samples")) == [20, 40, 99_999_999, 100_000_000]


def test_other_files_are_no_frames(run: Path) -> None:
    samples = run / "samples"
    for name in (
        "demo.png",
        "step_00000040-ema-seed0.png",
        "step_7.png",
        ".step_00000050.png",
        "step_00000050.gif",
    ):
        Image.new("RGB", (70, 70)).save(samples / name)
    (samples / "step_00000060.png").mkdir()
    Image.new("RGB", (70, 70)).save(samples / "step_00000080.png", format="JPEG")
    assert steps_of(choose_frames(samples)) == [20, 40]


@pytest.mark.parametrize(
    "damage", [lambda data: b"", lambda data: data[:-20], lambda data: data[:60] + b"x" + data[61:]]
)
def test_a_damaged_grid_is_passed_over(run: Path, damage: Callable[[bytes], bytes]) -> None:
    path = write_grid(run, 60)
    path.write_bytes(damage(path.read_bytes()))
    assert steps_of(choose_frames(run / "samples")) == [20, 40]


@pytest.mark.parametrize("kind", [os.mkfifo, lambda path: path.symlink_to("../secret.png")])
def test_what_is_no_file_of_the_run_is_passed_over(run: Path, kind: Callable[[Path], None]) -> None:
    """A named pipe would block for ever, and a picture from elsewhere would go into a report."""
    Image.new("RGB", (70, 70)).save(run / "secret.png")
    kind(run / "samples" / "step_00000060.png")
    assert steps_of(choose_frames(run / "samples")) == [20, 40]
    assert read_grid(run / "samples" / "step_00000060.png") is None


def test_a_grid_that_claims_to_be_huge_is_passed_over_with_a_warning(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write_grid(run, 60)
    content = bytearray(path.read_bytes())
    content[16:24] = struct.pack(">II", 20_000, 20_000)
    content[29:33] = zlib.crc32(content[12:29]).to_bytes(4, "big")
    path.write_bytes(content)
    assert steps_of(choose_frames(run / "samples")) == [20, 40]
    assert capsys.readouterr().err == (
        f"warning: {run}/samples: skipped 1 grid (of 3), step_00000060.png: it has 20000 x 20000 pixels, more than "
        "64,000,000, the limit for decoding\n"
    )


def test_frames_have_the_size_of_the_newest_grid(run: Path) -> None:
    for step in (60, 80):
        write_grid(run, step, size=(138, 104))
    draw_animation(run, run / "training.gif")
    assert [frame.size for frame in frames(run / "training.gif")] == [(138, 104 + STRIP_HEIGHT)] * 2
    assert steps_of(choose_frames(run / "samples")) == [60, 80]


@pytest.mark.parametrize(
    ("size", "shown"),
    [
        ((640, 300), (640, 300)),
        ((641, 300), (321, 150)),
        ((1282, 1282), (428, 428)),
        ((2066, 2066), (517, 517)),
        ((800, 14_000), (134, 2334)),
    ],
)
def test_wide_frames_are_scaled_down_by_a_whole_factor(
    tmp_path: Path, size: tuple[int, int], shown: tuple[int, int]
) -> None:
    write_grid(tmp_path, 20, size)
    draw_animation(tmp_path, tmp_path / "training.gif")
    assert frames(tmp_path / "training.gif")[0].size == (shown[0], shown[1] + STRIP_HEIGHT)


def test_below_a_small_grid_there_is_room_for_the_step(tmp_path: Path) -> None:
    for step in (20, 12_345_678):
        write_grid(tmp_path, step, size=(36, 36))
    draw_animation(tmp_path, tmp_path / "training.gif")
    first, last = (np.asarray(frame.convert("L")) for frame in frames(tmp_path / "training.gif"))
    assert first.shape == last.shape
    assert last[36:, -2:].min() > 192, "the text ends before the strip does"


def test_gradients_of_colour_stay_smooth(tmp_path: Path) -> None:
    """A GIF has 256 colours; neighbourhoods keep the colours of the grid on average."""
    y, x = np.mgrid[0:256, 0:256].astype(np.uint8)
    (tmp_path / "samples").mkdir()
    grid = np.stack([x, y, 255 - x], axis=-1)
    Image.fromarray(grid).save(tmp_path / "samples" / "step_00000001.png")
    draw_animation(tmp_path, tmp_path / "training.gif")
    shown = np.asarray(frames(tmp_path / "training.gif")[0].convert("RGB"))[:256]
    error = (shown.astype(float) - grid).reshape(32, 8, 32, 8, 3).mean((1, 3))
    assert np.abs(error).mean() < 2


@pytest.mark.parametrize("has_directory", [True, False])
def test_a_run_that_has_drawn_no_grid_has_no_animation(tmp_path: Path, has_directory: bool) -> None:
    if has_directory:
        (tmp_path / "samples").mkdir()
    with pytest.raises(
        ConfigError, match=r"samples contains no complete grid.*multiple of monitor\.sample_every"
    ):
        draw_animation(tmp_path, tmp_path / "training.gif")


@pytest.mark.parametrize("damage", [Path.unlink, lambda path: path.write_bytes(path.read_bytes()[:60])])
def test_a_grid_that_goes_while_it_is_drawn_is_left_out_with_a_warning(
    run: Path,
    damage: Callable[[Path], object],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    write_grid(run, 60)
    chosen = choose_frames(run / "samples")
    monkeypatch.setattr("pipeline.monitor.animation.choose_frames", lambda samples: chosen)
    damage(chosen[1])
    draw_animation(run, run / "training.gif")
    assert len(frames(run / "training.gif")) == 2
    assert f"warning: {chosen[1]} cannot be read and is skipped: " in capsys.readouterr().err
    for path in chosen:
        path.unlink(missing_ok=True)
    with pytest.raises(ConfigError, match="samples contains no complete grid"):
        draw_animation(run, run / "training.gif")
