"""A run as one HTML page, from before its first step to its end."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from pipeline.cli import main
from pipeline.commands.report_charts import MOST_GRIDS, draw_charts, read_grids
from pipeline.commands.report_page import render
from pipeline.errors import ConfigError
from pipeline.monitor.animation import choose_frames
from pipeline.monitor.records import AlarmRecord
from tests.commands.reports import (
    CONFIG,
    EVALUATION,
    FIGURES,
    sections,
    write_checkpoint,
    write_grid,
    write_lines,
)

OPTIONAL_SECTIONS = {"quality", "evaluations", "alarms"}
SECTIONS = {"curves", "samples", "reproduce", "config", "environment", "checkpoints"}


@pytest.fixture
def begun(tmp_path: Path) -> Path:
    """A run that has done nothing yet but to write its options."""
    run = tmp_path / "sevens"
    run.mkdir()
    (run / "config.yaml").write_text(yaml.safe_dump(CONFIG))
    return run


@pytest.fixture
def run(begun: Path) -> Path:
    """The same run at step 400 of 1,000."""
    write_lines(begun / "metrics.jsonl", *({"step": step, **FIGURES} for step in range(20, 420, 20)))
    environment = {"python": "3.11.7", "setup": {"world_size": 1, "device_name": "CPU"}, "revision": "c0ffee"}
    (begun / "environment.json").write_text(json.dumps(environment))
    for step in (200, 400):
        write_grid(begun, step)
        write_checkpoint(begun, step)
    return begun


def test_a_run_that_trains_says_how_far_it_is(run: Path) -> None:
    head = sections(render(run))["head"]
    assert "RUNNING It has left no note of its end: it is still training, or was killed." in head
    assert "Steps 400 of 1,000" in head
    assert "Images per second 1,234" in head
    assert "Training time 0:03:20" in head
    assert "Wasserstein estimate 2.25" in head
    assert "1 x CPU" in head
    assert "Alarms" not in head


@pytest.mark.parametrize("word", ["DONE", "PREEMPTED", "FAILED"])
def test_a_run_that_stopped_says_how_and_why(run: Path, word: str) -> None:
    note = {"reason": "the reason of it", "exit_code": 0, "time": "2026-01-02T03:04:05+0000"}
    (run / word).write_text(json.dumps(note))
    head = sections(render(run))["head"]
    assert f"{word} the reason of it 2026-01-02T03:04:05+0000" in head
    assert "RUNNING" not in head


def test_a_run_that_has_only_begun_says_what_will_be_in_each_section(begun: Path) -> None:
    found = sections(render(begun))
    assert found.keys() == SECTIONS | {"head"}
    assert "Steps 0 of 1,000" in found["head"]
    assert "The run has logged nothing yet. It logs at multiples of monitor.log_every." in found["curves"]
    assert (
        "The run has drawn no samples yet. It draws at multiples of monitor.sample_every." in found["samples"]
    )
    assert "There is no environment.json, because training has not begun." in found["environment"]
    assert "Manifest not known: there is no checkpoint yet" in found["reproduce"]
    assert "The run has saved none yet." in found["checkpoints"]


def test_a_run_whose_training_never_began_has_no_page_but_the_cause(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "FAILED").write_text(json.dumps({"reason": "no such shards", "exit_code": 3, "time": ""}))
    assert main(["report", str(tmp_path)]) == 2
    said = capsys.readouterr().err
    assert f"{tmp_path} has nothing to report: the run failed before its training began" in said
    assert "The cause: no such shards" in said
    assert not (tmp_path / "report.html").exists()


def test_optional_sections_appear_when_there_is_something_to_show(run: Path) -> None:
    assert sections(render(run)).keys() == SECTIONS | {"head"}
    advice = "Lower the learning rate."
    write_lines(run / "metrics.jsonl", {"step": 400, "quality/swd": 0.5})
    write_lines(run / "alarms.jsonl", {"step": 400, "name": "collapse", "text": advice})
    write_lines(run / "evaluations.jsonl", {"step": 400, "metrics": {"fid": 12.3}})
    found = sections(render(run))
    assert found.keys() == SECTIONS | OPTIONAL_SECTIONS | {"head"}
    assert "400 collapse Lower the learning rate." in found["alarms"]
    assert "Alarms 1 the first at step 400" in found["head"]
    assert "Best swd 0.5 step 400" in found["head"]
    assert "swd 0.5 400 0.5 400 lower" in found["quality"]


def test_the_summary_names_the_figure_that_chooses_the_best_checkpoint(run: Path) -> None:
    write_lines(run / "metrics.jsonl", {"step": 400, "quality/fid_pixels": 9.0, "quality/swd": 0.5})
    assert "Best fid_pixels 9" in sections(render(run))["head"]
    quality = {"every": 200, "metrics": ["fid", "swd"], "keep_best": "swd"}
    (run / "config.yaml").write_text(yaml.safe_dump({**CONFIG, "quality": quality}))
    assert "Best swd 0.5" in sections(render(run))["head"]


def test_the_page_shows_each_evaluation_once_and_the_number_of_samples(run: Path) -> None:
    write_lines(run / "metrics.jsonl", {"step": 400, "quality/swd": 0.5})
    write_lines(run / "evaluations.jsonl", *[{**EVALUATION, "metrics": {"fid": fid}} for fid in (7.25, 6.5)])
    quality = {"every": 200, "samples": 1500}
    (run / "config.yaml").write_text(yaml.safe_dump({**CONFIG, "quality": quality}))
    found = sections(render(run))
    assert "6.5" in found["evaluations"]
    assert "7.25" not in found["evaluations"]
    assert "Measured during training, on 1,500 samples each time." in found["quality"]


def test_charts_are_in_the_colours_of_the_page_and_hold_no_address() -> None:
    charts = draw_charts(
        [{"step": 1, **FIGURES, "quality/swd": 0.5}, {"step": 2}], [AlarmRecord(2, "collapse", "text")]
    )
    assert [chart.title for chart in charts] == [
        "Scores and loss",
        "Wasserstein estimate",
        "sliced Wasserstein distance (swd)",
    ]
    for chart in charts:
        colours = {key.colour for key in chart.keys} | {"ink", "rule"}
        assert all(f"var(--{colour})" in chart.svg for colour in colours)
        # What may remain is white or black where nothing of it is seen.
        assert set(re.findall(r"#[0-9a-fA-F]{6}", chart.svg)) <= {"#ffffff", "#000000"}
        assert set(re.findall(r"https?://[^\"]*", chart.svg)) <= {
            "http://www.w3.org/2000/svg",
            "http://www.w3.org/1999/xlink",
        }


def test_the_charts_of_a_run_are_the_same_each_time() -> None:
    lines = [{"step": step, **FIGURES} for step in (1, 2)]
    assert draw_charts(lines, []) == draw_charts(lines, [])


def test_at_most_12_grids_are_shown_with_the_first_and_the_last(begun: Path) -> None:
    for step in range(1, 41):
        write_grid(begun, step, width=4)
    steps = [grid.step for grid in read_grids(begun / "samples")]
    assert len(steps) == MOST_GRIDS
    assert (steps[0], steps[-1]) == (1, 40)


def test_large_grids_are_made_small_enough_to_send(begun: Path) -> None:
    for step in (1, 2):
        write_grid(begun, step, width=1056, noise=True)
    grids = read_grids(begun / "samples")
    assert {(grid.width, grid.height) for grid in grids} == {(528, 528)}
    assert {grid.uri.partition(";")[0] for grid in grids} == {"data:image/webp"}
    most = max(len(grid.uri) for grid in grids)
    assert most * MOST_GRIDS < 5_000_000, "noise is the worst of all pictures"


def test_the_commands_make_the_same_run_under_another_name(run: Path) -> None:
    reproduce = sections(render(run))["reproduce"]
    assert "Shards data/digits" in reproduce
    assert "Manifest (SHA-256) 5ea1" in reproduce
    commands = ["git checkout c0ffee", "sha256sum data/digits/manifest.json"]
    commands.append(f"wgan train {run}/config.yaml name=sevens-again")
    assert reproduce.endswith(" ".join(commands))


def test_the_commands_start_as_many_ranks_and_are_quoted_for_a_shell(run: Path) -> None:
    (run / "environment.json").write_text(json.dumps({"setup": {"world_size": 2}, "revision": None}))
    (run / "config.yaml").write_text(yaml.safe_dump({**CONFIG, "data": {"shards": "https://example.org/x"}}))
    strange = run.rename(run.with_name("a; b"))
    reproduce = sections(render(strange))["reproduce"]
    assert reproduce.endswith(f"wgan train '{strange}/config.yaml' name=sevens-again --processes 2")
    assert "git" not in reproduce
    assert "sha256sum" not in reproduce


def test_checkpoints_are_listed_with_their_sizes(run: Path) -> None:
    found = sections(render(run))["checkpoints"]
    assert re.search(r"200 2\.0 MB .* 400 2\.0 MB", found)


def test_the_classes_are_listed_as_the_columns_of_the_samples(run: Path) -> None:
    assert "Classes" not in sections(render(run))["reproduce"]
    write_checkpoint(run, 600, classes=["cat", "<dog>"])
    assert "Classes (columns of the samples, from the left) cat, <dog>" in sections(render(run))["reproduce"]
    write_checkpoint(run, 800, classes=[f"c{number}" for number in range(40)])
    found = sections(render(run))["reproduce"]
    assert "Classes (some of 40: columns of the samples, from the left) c0, c2, c4," in found
    assert "c36, c38" in found


def test_a_checkpoint_deleted_meanwhile_costs_only_the_manifest(run: Path) -> None:
    (run / "checkpoints" / "step_00000400" / "state.json").unlink()
    found = sections(render(run))
    assert "Manifest not known:" in found["reproduce"]
    assert "state.json cannot be read" in found["reproduce"]


def test_a_config_of_another_version_is_reported_and_the_rest_is_shown(run: Path) -> None:
    (run / "config.yaml").write_text("unknown_option: 3\n")
    found = sections(render(run))
    assert "unknown_option" in found["config"]
    assert "Steps 400" in found["head"]
    assert "there is no command that repeats the run" in found["reproduce"]


def test_a_line_that_a_kill_cut_short_is_left_out_with_one_warning_a_file(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names = ("metrics.jsonl", "alarms.jsonl", "evaluations.jsonl")
    counts = (21, 1, 1)
    for name in names:
        with (run / name).open("a") as file:
            file.write('{"step": 420, "cri')
    assert "Steps 400" in sections(render(run))["head"]
    assert capsys.readouterr().err.splitlines() == [
        f"warning: {run / name}: skipped 1 line (of {count}) that no run has written"
        for name, count in zip(names, counts, strict=True)
    ]


@pytest.mark.parametrize("damage", [Path.unlink, lambda path: path.write_bytes(path.read_bytes()[:60])])
def test_a_grid_deleted_meanwhile_is_left_out_with_a_warning(
    run: Path,
    damage: Callable[[Path], object],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    chosen = choose_frames(run / "samples")
    monkeypatch.setattr("pipeline.commands.report_charts.choose_frames", lambda samples, most: chosen)
    damage(chosen[0])
    assert [grid.step for grid in read_grids(run / "samples")] == [400]
    assert f"warning: {chosen[0]} cannot be read and is skipped: " in capsys.readouterr().err


def test_what_a_run_holds_is_text_on_the_page(run: Path) -> None:
    script = "<script>alert(1)</script>"
    (run / "config.yaml").write_text(yaml.safe_dump({**CONFIG, "data": {"shards": script}}))
    write_lines(run / "metrics.jsonl", {"step": 400, f"quality/{script}": 0.5})
    write_lines(run / "alarms.jsonl", {"step": 400, "name": script, "text": script})
    page = render(run.rename(run.with_name("<b>bold")))
    assert page.count("<script>") == page.count("<script") == 1
    assert "<b>" not in page
    assert page.count("&lt;script&gt;alert(1)&lt;/script&gt;") >= 5


def test_report_writes_into_the_run_or_elsewhere_and_says_the_size(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for words, target in (
        ([], run / "report.html"),
        (["--out", f"{tmp_path}/a/b.html"], tmp_path / "a/b.html"),
    ):
        assert main(["report", str(run), *words]) == 0
        assert capsys.readouterr().out == f"{target} ({target.stat().st_size / 1e3:.0f} kB)\n"
        assert target.read_text().startswith("<!doctype html>")


def test_a_report_leaves_the_run_as_it_was(run: Path, tmp_path: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in run.rglob("*")}
    assert main(["report", str(run), "--out", str(tmp_path / "report.html")]) == 0
    assert {path: path.stat().st_mtime_ns for path in run.rglob("*")} == before


def test_metrics_that_cannot_be_read_are_named(begun: Path) -> None:
    (begun / "metrics.jsonl").mkdir()
    with pytest.raises(ConfigError, match=r"metrics\.jsonl cannot be read \(it is a directory\)"):
        render(begun)


def test_what_is_not_a_run_directory_is_refused(tmp_path: Path) -> None:
    with pytest.raises(
        ConfigError, match=r"is not a run directory: it has no config\.yaml\..* Name a directory that"
    ):
        render(tmp_path)


def test_a_directory_is_refused_as_the_name_of_a_page(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["report", str(run), "--out", str(tmp_path)]) == 2
    assert "is a directory, and a report is one file. Name a file in it." in capsys.readouterr().err


def test_a_page_has_a_name_that_browsers_open(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["report", str(run), "--out", str(tmp_path / "x.txt")]) == 2
    assert (
        "x.txt: a report is written as .html or .htm, and this name ends in .txt" in capsys.readouterr().err
    )
    assert not (tmp_path / "x.txt").exists()


def test_a_path_that_cannot_be_written_is_named(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", str(run), "--out", str(run / "config.yaml" / "report.html")]) == 7
    assert "report.html cannot be written" in capsys.readouterr().err
