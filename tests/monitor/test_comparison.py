"""Curves of several runs in one picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest
from matplotlib.figure import Figure
from PIL import Image

from pipeline.cli import main
from pipeline.config import dump_config, load_config
from pipeline.errors import ConfigError
from pipeline.metric_table import MetricsByTag
from pipeline.monitor.plots import comparison_figure, distinct_names, draw_comparison, label_runs, run_styles
from pipeline.monitor.records import Record
from tests.monitor.drawing import ESTIMATES, curves, records, write_records


def test_runs_are_compared_panel_by_panel_in_one_colour_each() -> None:
    runs = {
        "first": [*records([2, 4], **ESTIMATES), {"step": 4, "quality/swd": 0.5}],
        "second": records([2, 6], **ESTIMATES, **{"wasserstein/normalized": 0.25}),
    }
    figure = comparison_figure(runs)
    smooth, normalized, quality = figure.axes
    assert curves(smooth) == {"first": [(2, 2.5), (4, 2.5)], "second": [(2, 2.5), (6, 2.5)]}
    assert curves(normalized) == {"second": [(2, 0.25), (6, 0.25)]}
    assert curves(quality) == {"first": [(4, 0.5)]}
    assert quality.get_title("left") == "sliced Wasserstein distance (swd)"
    assert smooth.lines[1].get_color() == normalized.lines[0].get_color() != quality.lines[0].get_color()
    assert smooth.get_xlim() == quality.get_xlim(), "all panels have the same range of steps"


def test_the_legend_names_every_run_whatever_its_name() -> None:
    names = ["_hidden", "$x$", r"a$\frac$b", "no-estimate"]
    runs = {name: records([2], **ESTIMATES) for name in names[:-1]} | {"no-estimate": records([2])}
    figure = comparison_figure(runs)
    figure.draw_without_rendering()
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == names
    assert all(text.get_visible() for text in legend.get_texts())


def test_runs_without_estimate_and_quality_are_compared_by_their_losses() -> None:
    figure = comparison_figure({"hinge": records([2]), "least squares": records([2])})
    assert [axes.get_title("left") for axes in figure.axes] == ["critic's loss", "generator's loss"]


def test_the_styles_of_28_runs_all_differ() -> None:
    assert len({tuple(style.values()) for style in run_styles(28)}) == 28


def test_runs_of_one_name_are_told_apart_by_what_lies_above_them(tmp_path: Path) -> None:
    runs = [tmp_path / path for path in ("a/x/run", "b/x/run", "b/y/run", "other")]
    assert distinct_names(runs) == ["a/x/run", "b/x/run", "y/run", "other"]


def test_a_run_is_not_compared_with_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=r"run is named twice: a run cannot be compared with itself"):
        distinct_names([tmp_path / "run", Path("run")])


def test_more_runs_than_lines_that_look_different_are_refused(tmp_path: Path) -> None:
    runs = [tmp_path / str(number) for number in range(29)]
    with pytest.raises(ConfigError, match=r"29 runs are too many .* Name at most 28"):
        draw_comparison(runs, tmp_path / "comparison.png")


def test_plot_compares_runs_in_the_current_directory_or_another(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = [tmp_path / name for name in ("first", "second")]
    for run in runs:
        run.mkdir()
        (run / "config.yaml").touch()
        write_records(run, records([2, 4], **ESTIMATES))
    monkeypatch.chdir(tmp_path)
    for words, out in (([], Path("comparison.png")), (["--out", "a/b"], Path("a/b/comparison.png"))):
        assert main(["plot", *map(str, runs), *words]) == 0
        assert capsys.readouterr().out == f"{out}\n"
        with Image.open(out) as image:
            assert image.format == "PNG"
    assert sorted(path.name for path in runs[0].iterdir()) == ["config.yaml", "metrics.jsonl"]


def test_runs_whose_quality_is_of_different_sample_counts_say_theirs() -> None:
    plain, measured = records([2], **ESTIMATES), records([2], **ESTIMATES, **{"quality/swd": 0.5})
    names = ["a", "b", "c", "d"]
    runs = [measured, measured, plain, measured]
    assert label_runs(names, runs, [2000, 5000, 300, None]) == [
        "a (quality by 2,000 samples)",
        "b (quality by 5,000 samples)",
        "c",
        "d",
    ]
    assert label_runs(names, runs, [2000, 2000, 300, None]) == names


def test_a_run_without_a_line_in_a_comparison_says_so() -> None:
    runs = [records([2], **ESTIMATES), records([2])]
    assert label_runs(["a", "b"], runs, [None, None]) == ["a", "b (has none of these)"]
    assert label_runs(["a", "b"], runs[1:] * 2, [None, None]) == ["a", "b"]


def test_a_comparison_reads_the_sample_counts_of_its_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = [tmp_path / name for name in ("few", "many")]
    for run, samples in zip(runs, (500, 2000), strict=True):
        run.mkdir()
        quality = f"quality: {{every: 100, samples: {samples}}}"
        (run / "config.yaml").write_text(f"name: x\ndata: {{shards: y}}\nschedule: {{steps: 2}}\n{quality}\n")
        write_records(run, records([2], **{"quality/swd": 0.5}))
    drawn: list[str] = []

    def note(compared: Mapping[str, Sequence[Record]], own: MetricsByTag, scales_differ: bool) -> Figure:
        drawn.extend(compared)
        return comparison_figure(compared, own, scales_differ)

    monkeypatch.setattr("pipeline.monitor.plots.comparison_figure", note)
    draw_comparison(runs, tmp_path / "comparison.png")
    assert drawn == ["few (quality by 500 samples)", "many (quality by 2,000 samples)"]


def write_run(path: Path, *options: str) -> Path:
    """A run that has logged two steps."""
    path.mkdir()
    config = load_config(Path("digits"), [f"name={path.name}", *options])
    (path / "config.yaml").write_text(dump_config(config))
    write_records(path, records([2, 4], **ESTIMATES, **{"wasserstein/normalized": 0.5}))
    return path


def compare(tmp_path: Path, capsys: pytest.CaptureFixture[str], *runs: Path) -> tuple[list[str], list[str]]:
    """What `wgan plot` prints after the picture's name: the differing options and the warnings."""
    assert main(["plot", *map(str, runs), "--out", str(tmp_path)]) == 0
    printed = capsys.readouterr()
    return printed.out.splitlines()[1:], printed.err.splitlines()


def test_runs_with_different_constraints_are_compared_with_a_warning(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    narrow = write_run(tmp_path / "narrow", "objective.clip=0.01", "seed=1")
    wide = write_run(tmp_path / "wide", "objective.clip=0.1", "seed=2")
    table, warnings = compare(tmp_path, capsys, narrow, wide)
    assert table == [
        "differing options:",
        "  seed            narrow 1, wide 2",
        "  objective.clip  narrow 0.01, wide 0.1",
    ]
    assert warnings == [
        "warning: objective.clip differs, so the critics have different scales: do not compare the heights of scores, "
        "losses and Wasserstein estimates. Compare wasserstein/normalized or figures of quality"
    ]


def test_runs_with_different_objectives_networks_and_images_are_warned_of(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    clipped = write_run(tmp_path / "clipped")
    penalized = write_run(tmp_path / "penalized", "objective.name=gradient_penalty", "model.critic_norm=none")
    wider = write_run(tmp_path / "wider", "model.width=40", "data.classes=[010]")
    table, (scales,) = compare(tmp_path, capsys, clipped, penalized)
    assert "  objective.name       clipped wasserstein, penalized gradient_penalty" in table
    assert "  objective.clip       clipped 0.1, penalized none" in table
    assert scales.startswith("warning: objective.name, objective.clip, ")
    table, (scales, images) = compare(tmp_path, capsys, clipped, wider)
    assert "  model.width   clipped 32, wider 40" in table
    assert scales.startswith("warning: model.width differs, so the critics")
    assert images.startswith("warning: data.classes differs, so the runs may have learned different images")


def test_runs_that_differ_by_their_seed_alone_are_compared_without_a_warning(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    runs = [
        write_run(tmp_path / name, f"seed={seed}", "checkpoint.every=7") for seed, name in enumerate("ab")
    ]
    assert compare(tmp_path, capsys, *runs) == (["differing options:", "  seed  a 0, b 1"], [])
    (runs[1] / "config.yaml").write_text("name: of another version")
    table, (warning,) = compare(tmp_path, capsys, *runs)
    assert table == []
    assert warning == "warning: the options of b cannot be read, so they are not compared"


def test_panels_whose_scales_differ_say_so() -> None:
    runs = {
        name: records([2], **ESTIMATES, **{"wasserstein/normalized": 0.5, "quality/swd": 1.0})
        for name in "ab"
    }
    titles = [axes.get_title("left") for axes in comparison_figure(runs, scales_differ=True).axes]
    assert titles == [
        "Wasserstein estimate, smoothed (scales differ)",
        "Wasserstein estimate / critic's slope",
        "sliced Wasserstein distance (swd)",
    ]
