"""Ways between latents: against closed forms on the sphere, and as strips and films that loop."""

from __future__ import annotations

import math
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageSequence
from torch import Tensor

from pipeline import load_generator
from pipeline.cli import main
from pipeline.commands.film import write_animation
from pipeline.monitor.grids import image_grid
from pipeline.run.latents import latents_at, latents_of_seeds, loop_places, slerp, strip_places
from tests.trained import write_run

PLACES = torch.linspace(0, 1, 11, dtype=torch.float64)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return write_run(tmp_path)


def directions(seed: int, latent: int = 16) -> tuple[Tensor, Tensor]:
    """Two unit vectors."""
    pair = torch.randn(2, latent, generator=torch.Generator().manual_seed(seed))
    start, end = pair / pair.norm(dim=1, keepdim=True)
    return start, end


def test_a_quarter_of_a_circle_is_a_quarter_of_a_circle() -> None:
    points = slerp(torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0]), PLACES)
    angles = PLACES.float() * math.pi / 2
    torch.testing.assert_close(points, torch.stack([angles.cos(), angles.sin()], dim=1))


@pytest.mark.parametrize("seed", range(5))
def test_between_directions_it_is_the_formula_of_shoemake(seed: int) -> None:
    start, end = directions(seed)
    angle = torch.acos(start.double() @ end.double())
    t = PLACES[:, None]
    expected = (torch.sin((1 - t) * angle) * start + torch.sin(t * angle) * end) / torch.sin(angle)
    torch.testing.assert_close(slerp(start, end, PLACES), expected.float())


@pytest.mark.parametrize("seed", range(5))
def test_the_path_starts_and_ends_at_its_ends_for_any_norms(seed: int) -> None:
    start, end = directions(seed)
    points = slerp(2 * start, 5 * end, torch.tensor([0.0, 0.5, 1.0]))
    torch.testing.assert_close(points[0], 2 * start)
    torch.testing.assert_close(points[2], 5 * end)
    assert points[1].norm().item() == pytest.approx(3.5)


def test_on_the_sphere_it_stays_there_at_constant_speed() -> None:
    points = slerp(*directions(7), PLACES).double()
    assert points.norm(dim=1).numpy() == pytest.approx(1)
    steps = points.diff(dim=0).norm(dim=1)
    assert steps.numpy() == pytest.approx(steps[0].item())


@pytest.mark.parametrize("angle", [0.0, 1e-12, 1e-7, 1e-3, math.pi - 1e-7, math.pi - 1e-12, math.pi])
def test_parallel_and_opposite_directions_have_a_path_on_the_sphere(angle: float) -> None:
    start = torch.tensor([1.0, 0.0, 0.0], dtype=torch.float64)
    end = torch.tensor([math.cos(angle), math.sin(angle), 0.0], dtype=torch.float64)
    points = slerp(start, end, PLACES)
    torch.testing.assert_close(points[0], start)
    torch.testing.assert_close(points[-1], end, rtol=0, atol=1e-8)
    assert points.norm(dim=1).numpy() == pytest.approx(1)
    assert points.diff(dim=0).norm(dim=1).numpy() == pytest.approx(2 * math.sin(angle / 20), abs=1e-8)


def test_opposite_draws_do_not_pass_through_zero() -> None:
    start, _ = directions(3)
    points = slerp(start, -start, PLACES)
    assert points.isfinite().all()
    assert points.norm(dim=1).numpy() == pytest.approx(1)
    torch.testing.assert_close(points[-1], -start)


@pytest.mark.parametrize(
    ("start", "end"), [([0.0, 0.0], [3.0, 4.0]), ([3.0, 4.0], [0.0, 0.0]), ([2.0], [-2.0])]
)
def test_without_directions_the_path_is_straight(start: list[float], end: list[float]) -> None:
    points = slerp(torch.tensor(start), torch.tensor(end), PLACES)
    expected = torch.lerp(torch.tensor(start), torch.tensor(end), PLACES.float()[:, None])
    torch.testing.assert_close(points, expected)


def test_each_row_starts_where_the_last_one_ends_and_the_strip_closes() -> None:
    stops = torch.randn(3, 8, generator=torch.Generator().manual_seed(0))
    rows = latents_at(stops, strip_places(3, 5)).view(3, 5, 8)
    torch.testing.assert_close(rows[:, 0], stops)
    torch.testing.assert_close(rows[:, -1], stops.roll(-1, 0))


@pytest.mark.parametrize("stops", [2, 3, 8])
def test_a_loop_has_a_constant_speed_and_no_seam(stops: int) -> None:
    """Stops of unlike norms, at unlike angles."""
    places = torch.randn(stops, 8, generator=torch.Generator().manual_seed(1))
    places *= torch.linspace(0.5, 2, stops)[:, None]
    points = latents_at(places, loop_places(places, 3000))
    assert points.shape == (3000, 8)
    torch.testing.assert_close(points[0], places[0])
    steps = torch.cat([points, points[:1]]).double().diff(dim=0).norm(dim=1)
    # At a corner a step cuts it off; there are as many corners as stops.
    even = steps.sort().values[stops:]
    assert even.min() > 0.995 * even.max()
    assert steps.min() > 0.5 * steps.max()


def test_a_loop_passes_all_stops() -> None:
    stops = torch.randn(5, 8, generator=torch.Generator().manual_seed(1))
    points = latents_at(stops, loop_places(stops, 1000))
    nearest = torch.cdist(stops, points).min(dim=1)
    assert nearest.values.max() < 0.02
    assert (nearest.indices.diff() > 0).all(), "in their order"


def test_the_strip_is_a_picture_of_the_path_between_seeds(run: Path, tmp_path: Path) -> None:
    out = tmp_path / "strip.png"
    words = ["--seeds", "3,9,4", "--positions", "5", "--truncation", "1", "--out", str(out)]
    assert main(["interpolate", str(run), *words]) == 0
    generator = load_generator(run)
    stops = torch.cat(list(latents_of_seeds(8, [3, 9, 4], 1.0)))
    expected = image_grid(generator.draw(latents_at(stops, strip_places(3, 5))), columns=5)
    with Image.open(out) as picture:
        assert picture.size == (5 * 34 + 2, 3 * 34 + 2)
        assert np.array_equal(np.asarray(picture), expected.permute(1, 2, 0))


def test_a_strip_is_written_into_the_runs_samples_by_default(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["interpolate", str(run)]) == 0
    path = run / "samples" / "step_00000004-ema-interpolation-seeds0-7.png"
    assert capsys.readouterr().out == f"8 pairs of step 4 (ema): {path}\n"
    with Image.open(path) as picture:
        assert picture.size == (9 * 34 + 2, 8 * 34 + 2)


@pytest.mark.parametrize("name", ["loop.gif", "loop.MP4"])
def test_an_animation_has_25_frames_a_second_from_the_first_latent_on(
    run: Path, tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "films" / name
    words = ["--out", str(tmp_path / "strip.png"), "--animation", str(out), "--seeds", "5-7"]
    assert main(["interpolate", str(run), *words, "--seconds", "0.6"]) == 0
    assert f"15 frames, 0.6 s: {out}" in capsys.readouterr().out
    frames = film(out)
    assert frames.shape == (15, 256, 256, 3)
    (first,) = load_generator(run).sample(1, seed=5).cpu()
    expected = (first[0] + 1) * 127.5
    middles = frames[0, 16::32, 16::32, 0].astype(float)
    assert np.abs(middles - expected.numpy()).max() < 6


def film(path: Path) -> np.ndarray:
    """All frames: uint8 (count, height, width, 3)."""
    if path.suffix.lower() == ".mp4":
        import av

        with av.open(str(path)) as container:
            stream = container.streams.video[0]
            assert (stream.codec_context.name, stream.codec_context.pix_fmt) == ("h264", "yuv420p")
            assert stream.average_rate == 25
            return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(stream)])
    with Image.open(path) as image:
        assert image.info["loop"] == 0
        shown = [(np.asarray(f.convert("RGB")), f.info["duration"]) for f in ImageSequence.Iterator(image)]
    assert {duration for _, duration in shown} == {40}
    return np.stack([frame for frame, _ in shown])


def colours(count: int, height: int, width: int) -> Tensor:
    """Frames of one colour each, around the colour wheel."""
    angle = torch.arange(count) * 2 * math.pi / count
    values = torch.stack([128 + 100 * torch.cos(angle + shift) for shift in (0, 2, 4)], dim=1).to(torch.uint8)
    return values[:, :, None, None].expand(count, 3, height, width)


@pytest.mark.parametrize(
    ("name", "size", "shown_size"),
    [
        ("x.gif", (257, 301), (257, 301)),
        ("x.mp4", (257, 301), (258, 302)),
        ("x.gif", (16, 32), (256, 512)),
        ("x.mp4", (86, 87), (258, 262)),
    ],
)
def test_animations_keep_colours_and_have_sides_that_formats_allow(
    tmp_path: Path, name: str, size: tuple[int, int], shown_size: tuple[int, int]
) -> None:
    frames = colours(8, *size)
    write_animation(frames, tmp_path / name)
    shown = film(tmp_path / name)
    assert shown.shape == (8, *shown_size, 3)
    assert np.abs(shown.mean(axis=(1, 2)) - frames[:, :, 0, 0].numpy()).max() < 6


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--seeds", "3"], "a path needs two latents or more"),
        (["--seeds", "3-1"], "ends before it begins"),
        (["--positions", "1"], "--positions 1: expected a whole number from 2 to 10,000"),
        (["--seeds", "0-999", "--positions", "11"], "over 10,000 images, too many for one picture"),
        (["--truncation", "-1"], "truncation -1.0: expected a number from 0.000001 to 1,000"),
        (["--out", "{run}"], "is a directory, and a strip is one file"),
        (["--seconds", "3"], "Add --animation FILE.gif"),
        (["--out", "x.txt"], "--out x.txt: a strip is written as .png, and this name ends in .txt"),
        (["--animation", "x.webm"], "--animation x.webm: an animation is written as .gif or .mp4"),
        (["--animation", "x.gif", "--seconds", "0"], "--seconds 0: an animation takes from 0.2"),
        (["--animation", "x.gif", "--seconds", "-1"], "--seconds -1: an animation takes from 0.2"),
        (["--animation", "x.gif", "--seconds", "nan"], "--seconds nan: an animation takes from 0.2"),
        (["--animation", "x.gif", "--seconds", "0.1"], "takes from 0.2 to 120 seconds"),
        (["--animation", "x.gif", "--seeds", "0-120"], "--seconds 121: an animation takes"),
    ],
)
def test_mistakes_are_reported_before_anything_is_drawn(
    run: Path, words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["interpolate", str(run), *[word.format(run=run) for word in words]]) == 2
    assert message in capsys.readouterr().err
    assert not (run / "samples").exists()


def test_without_pyav_an_mp4_is_refused_before_anything_is_drawn(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "av", None)
    assert main(["interpolate", str(run), "--animation", "x.mp4"]) == 2
    assert "MP4 needs PyAV, which is not installed. Install it with" in capsys.readouterr().err
    assert not (run / "samples").exists()


def test_a_strip_of_many_single_seeds_has_a_name_that_file_systems_take(run: Path) -> None:
    seeds = ",".join(map(str, range(0, 400, 2)))
    assert main(["interpolate", str(run), "--seeds", seeds, "--positions", "2"]) == 0
    (path,) = (run / "samples").iterdir()
    assert path.name.startswith("step_00000004-ema-interpolation-seeds0..398-200-")
