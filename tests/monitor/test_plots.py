"""Curves of one run: what is drawn, and the message if there is nothing to draw."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from pipeline.cli import main
from pipeline.errors import ConfigError, StorageError
from pipeline.monitor.animation import draw_animation
from pipeline.monitor.plots import comparison_figure, curves_figure, draw_curves, panels_of, quality_tags
from pipeline.monitor.records import AlarmRecord, read_records
from tests.limits import no_file_over
from tests.monitor.drawing import ESTIMATES, SCORES, curves, records, write_records


def write_grid(run: Path, step: int, size: tuple[int, int] = (70, 70)) -> Path:
    """A grey grid, the lighter the later."""
    (run / "samples").mkdir(exist_ok=True)
    path = run / "samples" / f"step_{step:08d}.png"
    Image.new("RGB", size, (step % 256,) * 3).save(path)
    return path


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run that logged three steps and drew two grids."""
    write_records(tmp_path, records([2, 4, 6], **ESTIMATES))
    for step in (20, 40):
        write_grid(tmp_path, step)
    return tmp_path


def test_a_wasserstein_run_has_its_scores_above_its_estimate() -> None:
    lines = records([2, 4], **ESTIMATES)
    lines[1] = {**lines[1], "wasserstein/validation": 1.5}
    scores, estimate = curves_figure(lines, "digits").axes
    assert curves(scores) == {
        "critic on real images": [(2, 3.0), (4, 3.0)],
        "critic on generated images": [(2, 1.0), (4, 1.0)],
        "generator's loss": [(2, -1.0), (4, -1.0)],
    }
    assert curves(estimate) == {
        "at each log point": [(2, 2.0), (4, 2.0)],
        "smoothed": [(2, 2.5), (4, 2.5)],
        "on held-out images": [(4, 1.5)],
    }


def test_a_run_without_an_estimate_has_one_panel_with_the_critics_loss() -> None:
    (axes,) = curves_figure(records([2, 4]), "hinge").axes
    assert list(curves(axes)) == [
        "critic on real images",
        "critic on generated images",
        "generator's loss",
        "critic's loss",
    ]
    assert curves(axes)["critic's loss"] == [(2, -2.0), (4, -2.0)]


def test_the_curves_say_what_they_are() -> None:
    figure = curves_figure(records([2, 4], **ESTIMATES), "digits")
    scores, estimate = figure.axes
    assert figure.get_suptitle() == "digits"
    assert scores.get_ylabel() == "score, loss"
    assert "mean c(real) − mean c(generated)" in estimate.get_ylabel()
    assert estimate.get_xlabel() == "step (generator updates)"
    for axes in figure.axes:
        legend = axes.get_legend()
        assert legend is not None
        assert [text.get_text() for text in legend.get_texts()] == list(curves(axes))
        assert axes.get_xscale() == "linear"
        assert len({line.get_color() for line in axes.lines}) == len(axes.lines)


@pytest.mark.parametrize(("count", "is_marked"), [(1, True), (5, True), (500, False)])
def test_points_are_marked_where_they_are_few(count: int, is_marked: bool) -> None:
    """A line of one point would not be seen."""
    figure = curves_figure(records(range(count)), "x")
    assert {line.get_marker() == "." for line in figure.axes[0].lines} == {is_marked}


def test_curves_are_a_png_whatever_their_name(run: Path) -> None:
    draw_curves(run, run / "curves.jpg")
    with Image.open(run / "curves.jpg") as image:
        assert image.format == "PNG"
        assert len(image.convert("L").histogram()) > 2


def test_the_title_is_the_runs_name_wherever_it_is_called_from(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(run)
    draw_curves(run, run / "absolute.png")
    draw_curves(Path(), run / "relative.png")
    assert (run / "absolute.png").read_bytes() == (run / "relative.png").read_bytes()


def test_a_name_that_looks_like_mathematics_is_a_name(tmp_path: Path) -> None:
    run = tmp_path / r"a$\frac$b"
    run.mkdir()
    write_records(run, records([2]))
    draw_curves(run, run / "curves.png")


def test_drawing_needs_neither_torch_nor_pyplot(run: Path) -> None:
    code = f"import sys; from pipeline.cli import main; main(['plot', {str(run)!r}])\n"
    code += "print([name for name in ('torch', 'matplotlib.pyplot') if name in sys.modules])"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.splitlines()[-1] == "[]"


@pytest.mark.parametrize(
    "cut", [b"{", b'{"step": 8, "critic/re', b"hello\n", b"3\n", b"{}\n", b"[" * 100_000]
)
def test_a_line_that_is_no_record_is_left_out_with_a_warning(
    run: Path, cut: bytes, capsys: pytest.CaptureFixture[str]
) -> None:
    path = run / "metrics.jsonl"
    path.write_bytes(path.read_bytes() + cut)
    assert [record["step"] for record in read_records(path)] == [2, 4, 6]
    warning = f"warning: {path}: skipped 1 line (of 4) that no run has written\n"
    assert capsys.readouterr().err == warning
    draw_curves(run, run / "curves.png")


@pytest.mark.parametrize("draw", [draw_curves, draw_animation])
def test_a_picture_that_cannot_be_written_leaves_the_one_before(
    run: Path, draw: Callable[[Path, Path], None]
) -> None:
    target = run / "out" / "picture"
    draw(run, target)
    before = target.read_bytes()
    with no_file_over(100), pytest.raises(StorageError, match="picture cannot be written: File too large"):
        draw(run, target)
    assert target.read_bytes() == before
    assert list(target.parent.iterdir()) == [target]


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (None, r"metrics\.jsonl cannot be read \(No such file or directory\)"),
        ("", r"metrics\.jsonl contains no record of a step"),
        ('{"step": 2, "cri', r"metrics\.jsonl contains no record of a step"),
    ],
)
def test_a_run_that_has_logged_nothing_has_no_curves(tmp_path: Path, lines: str | None, message: str) -> None:
    if lines is not None:
        (tmp_path / "metrics.jsonl").write_text(lines)
    what_to_do = (
        r", so there is nothing to draw\. Wait until the run reaches a multiple of monitor\.log_every"
    )
    with pytest.raises(ConfigError, match=message + what_to_do):
        draw_curves(tmp_path, tmp_path / "curves.png")


def test_plot_draws_both_into_the_runs_directory_or_another(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (run / "config.yaml").touch()
    for words, out in (([], run), (["--out", str(run / "a" / "b")], run / "a" / "b")):
        assert main(["plot", str(run), *words]) == 0
        assert capsys.readouterr().out == f"{out / 'curves.png'}\n{out / 'training.gif'}\n"
        assert (out / "curves.png").is_file()
        assert (out / "training.gif").is_file()


def test_plot_says_why_there_is_no_animation_yet(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_records(tmp_path, records([2]))
    (tmp_path / "config.yaml").touch()
    assert main(["plot", str(tmp_path)]) == 0
    drawn, missing = capsys.readouterr().out.splitlines()
    assert drawn == str(tmp_path / "curves.png")
    assert missing.startswith(f"no training.gif: {tmp_path / 'samples'} contains no complete grid")


def test_quality_figures_have_a_panel_each_that_says_which_way_is_better() -> None:
    lines = [*records([2, 4, 6]), {"step": 4, "quality/swd": 0.5, "quality/recall_pixels": 0.1}]
    scores, recall, swd = curves_figure(lines, "x").axes
    assert curves(recall) == {"quality/recall_pixels": [(4, 0.1)]}
    assert curves(swd) == {"quality/swd": [(4, 0.5)]}
    assert (recall.get_ylabel(), swd.get_ylabel()) == ("higher is better", "lower is better")
    assert scores.get_xlim() == swd.get_xlim()


@pytest.mark.parametrize(
    ("tag", "direction"),
    [
        ("quality/density_classifier", "higher is better"),
        ("quality/class_distance", "lower is better"),
        ("quality/copied_pixels", "neither higher nor lower is better"),
        ("quality/of_a_plug_in", ""),
    ],
)
def test_a_panel_says_which_values_of_its_metric_are_better(tag: str, direction: str) -> None:
    *_, axes = curves_figure([*records([2]), {"step": 2, tag: 0.5}], "x").axes
    assert axes.get_ylabel() == direction


def test_an_alarm_is_a_line_through_every_panel_and_no_point_of_a_curve() -> None:
    lines = records([2, 4, 6], **ESTIMATES)
    alarm = AlarmRecord(4, "collapse", "Lower the learning rate.")
    for axes in curves_figure(lines, "x", [alarm]).axes:
        (marks,) = axes.collections
        assert [segment[:, 0].tolist() for segment in marks.get_segments()] == [[4, 4]]  # type: ignore[attr-defined]
        assert marks.get_label() == "alarm"
        assert all(len(points) == 3 for points in curves(axes).values())


def test_words_where_a_figure_should_be_are_no_points() -> None:
    lines: list[dict[str, Any]] = [
        {"step": 2, **SCORES},
        {"step": 4, **SCORES, "critic/real": "NaN"},
        {"step": 6, "critic/real": None},
        {"step": 8, "critic/real": True, "generator/loss": 10**400, "critic/fake": float("nan")},
        {"step": 10, "critic/real": 7, "quality/words": "many", "quality/late": 1.5},
    ]
    assert quality_tags(lines) == ["quality/late"]
    axes, late = curves_figure(lines, "x").axes
    assert curves(axes)["critic on real images"] == [(2, 3.0), (10, 7.0)]
    assert [len(points) for label, points in curves(axes).items() if "real" not in label] == [2, 2, 2]
    assert list(curves(late).values()) == [[(10, 1.5)]]


def test_plot_compares_nothing_where_one_run_has_logged_nothing(
    run: Path, tmp_path_factory: pytest.TempPathFactory, capsys: pytest.CaptureFixture[str]
) -> None:
    empty = tmp_path_factory.mktemp("empty")
    for path in (run, empty):
        (path / "config.yaml").touch()
    assert main(["plot", str(run), str(empty), "--out", str(run / "out")]) == 2
    assert f"{empty / 'metrics.jsonl'} cannot be read (No such file" in capsys.readouterr().err
    assert not (run / "out").exists()


def test_plot_makes_nothing_where_there_is_no_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plot", str(tmp_path / "absent"), "--out", str(tmp_path / "out")]) == 2
    assert "absent is not a run directory: it has no config.yaml" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_a_single_point_has_one_step_below_it() -> None:
    figure = curves_figure(records([20]), "x")
    figure.draw_without_rendering()
    (axes,) = figure.axes
    low, high = axes.get_xlim()
    shown = [label.get_text() for label in axes.get_xticklabels() if low <= label.get_position()[0] <= high]
    assert shown == ["20"]


@pytest.mark.parametrize(
    ("count", "name", "message"),
    [
        (
            1,
            "x.txt",
            "this name looks like a file's, and plots (curves.png and training.gif) go into a directory",
        ),
        (2, "x.png", "this name looks like a file's, and plots (comparison.png) go into a directory"),
        (1, "config.yaml", "config.yaml is a file, and plots"),
    ],
)
def test_a_file_is_no_place_for_plots(
    run: Path, count: int, name: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (run / "config.yaml").touch()
    before = sorted(run.iterdir())
    assert main(["plot", *[str(run)] * count, "--out", str(run / name)]) == 2
    assert message in capsys.readouterr().err
    assert sorted(run.iterdir()) == before


def test_a_directory_may_be_called_like_a_file_or_a_version(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (run / "config.yaml").touch()
    (run / "out.txt").mkdir()
    for name in ("out.txt", "plots.v2"):
        assert main(["plot", str(run), "--out", str(run / name)]) == 0
        assert (run / name / "curves.png").is_file()


def test_a_picture_has_a_bounded_number_of_panels(capsys: pytest.CaptureFixture[str]) -> None:
    logged = [{"step": step, **{f"quality/m{number:03}": 1.0 for number in range(150)}} for step in (1, 2)]
    assert len(panels_of(logged)) == 1 + 24
    assert "24 of 150 quality figures are drawn, the first ones by name" in capsys.readouterr().err
    assert len(comparison_figure({"a": logged, "b": logged}).axes) == 24
    assert "24 of 150" in capsys.readouterr().err
