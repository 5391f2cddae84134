"""Whole runs of one process: the files that they write, and the options that change them."""

from __future__ import annotations

import json
import subprocess
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from tests.ranks import (
    PATIENCE,
    Ranks,
    assert_same_bits,
    checkpoints,
    free_port,
    newest,
    read_metrics,
    read_note,
    read_series,
    read_state,
    read_tensors,
)

PICTURES = ["monitor.sample_every=10", "data.validation=0.1", "monitor.validation_every=5"]

SCALARS = {
    "wasserstein/estimate",
    "wasserstein/estimate_smooth",
    "wasserstein/normalized",
    "wasserstein/validation",
    "critic/real",
    "critic/fake",
    "critic/loss",
    "critic/grad_norm",
    "critic/input_grad_norm",
    "critic/slope",
    "critic/clipped_fraction",
    "generator/loss",
    "generator/grad_norm",
    "optimizer/critic_lr",
    "optimizer/generator_lr",
    "speed/images_per_second",
    "speed/data_wait_fraction",
    "speed/step_seconds",
    "memory/host_mib",
}


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_run_writes_every_file_that_its_directory_documents(
    ranks: Ranks, config: str, tmp_path: Path
) -> None:
    ranks.run(1, [config, *PICTURES, "checkpoint.every=8", "checkpoint.keep_every=16"])
    run = tmp_path / "run"
    names = {path.name for path in run.iterdir() if not path.name.startswith("events.out.tfevents")}
    assert names == {
        "config.yaml", "environment.json", "metrics.jsonl", "alarms.jsonl", "samples", "checkpoints", "lock", "DONE",
    }  # fmt: skip
    assert len(list(run.glob("events.out.tfevents*"))) == 1
    assert sorted(path.name for path in (run / "samples").iterdir()) == [
        f"step_{step:08d}.png" for step in (1, 2, 5, 10, 20)
    ]
    assert checkpoints(run) == ["step_00000016", "step_00000020"]
    assert sorted(path.name for path in newest(run).iterdir()) == sorted(
        [
            "generator.safetensors",
            "critic.safetensors",
            "ema.safetensors",
            "generator_optimizer.safetensors",
            "critic_optimizer.safetensors",
            "window.safetensors",
            "state.json",
            "manifest.json",
        ]
    )
    assert read_state(newest(run))["counters"] == {"step": 20, "position": 480}
    assert read_note(run, "DONE") | {"time": ""} == {
        "reason": "all 20 steps are done",
        "exit_code": 0,
        "time": "",
    }
    assert yaml.safe_load((run / "config.yaml").read_text())["schedule"]["steps"] == 20
    setup = json.loads((run / "environment.json").read_text())["setup"]
    assert (setup["world_size"], setup["device"], setup["precision"]) == (1, "cpu", "float32")
    assert [line["step"] for line in read_metrics(run)] == [2, 4, 5, 6, 8, 10, 12, 14, 15, 16, 18, 20]
    with Image.open(run / "samples" / "step_00000020.png") as picture:
        assert np.asarray(picture).std() > 0


def test_a_run_ends_with_curves_and_an_animation_of_its_samples(
    ranks: Ranks, config: str, tmp_path: Path
) -> None:
    run = ranks.run(1, [config, *PICTURES, "monitor.plots=true"])
    assert f"{tmp_path / 'run' / 'curves.png'}, {tmp_path / 'run' / 'training.gif'}" in run.log(0)
    with Image.open(tmp_path / "run" / "curves.png") as curves:
        assert np.asarray(curves.convert("RGB")).std() > 0
    with Image.open(tmp_path / "run" / "training.gif") as animation:
        assert animation.n_frames == 5  # type: ignore[attr-defined]


def test_a_failed_plot_is_a_warning_and_never_fails_the_run(
    ranks: Ranks, config: str, tmp_path: Path
) -> None:
    (tmp_path / "run" / "curves.png" / "taken").mkdir(parents=True)
    run = ranks.run(1, [config, *PICTURES, "monitor.plots=true"])
    assert "warning: no curves.png: " in run.log(0)
    assert (tmp_path / "run" / "training.gif").is_file()
    assert read_note(tmp_path / "run", "DONE")["exit_code"] == 0


@pytest.mark.slow
def test_other_objectives_have_losses_and_no_wasserstein_estimate(
    ranks: Ranks, config: str, tmp_path: Path
) -> None:
    for name in ("least_squares", "cross_entropy", "hinge"):
        run = ranks.run(1, [config, f"objective.name={name}", f"name={name}", "monitor.sample_every=10"])
        tags = read_series(tmp_path / name).keys()
        assert {"critic/real", "critic/fake", "critic/loss", "generator/loss"} <= tags
        assert not [tag for tag in tags if tag.startswith("wasserstein/")]
        assert "critic loss" in run.log(0)


@pytest.mark.slow
def test_an_alarm_appears_once_on_console_in_tensorboard_and_in_its_file(
    ranks: Ranks, config: str, tmp_path: Path
) -> None:
    options = ["critic_optimizer.lr=10.0", "generator_optimizer.lr=1e-9", "monitor.log_every=1"]
    run = ranks.run(1, [config, *options, "schedule.steps=80", "checkpoint.every=75"])
    (line,) = [
        alarm
        for alarm in map(json.loads, (tmp_path / "run" / "alarms.jsonl").read_text().splitlines())
        if alarm["name"] == "clip_saturation"
    ]
    assert 50 <= line["step"] < 75
    assert "Lower critic_optimizer.lr or raise objective.clip" in line["text"]
    assert run.log(0).count(f"warning: step {line['step']}: {line['text']}") == 1
    events = EventAccumulator(str(tmp_path / "run")).Reload()
    (shown,) = events.Tensors("health/clip_saturation/text_summary")
    assert (shown.step, shown.tensor_proto.string_val[0].decode()) == (line["step"], line["text"])
    more = ranks.run(1, [config, *options, "schedule.steps=140"])
    assert "weights are at -clip or clip" not in more.log(0), "a resumed run does not print it again"


@pytest.mark.slow
def test_the_normalized_estimate_does_not_depend_on_the_critics_scale(
    ranks: Ranks, config: str, tmp_path: Path
) -> None:
    """A critic in a wider box has steeper slopes and a larger estimate; their ratio is in pixel units."""
    for clip in ("0.02", "0.2"):
        options = [f"objective.clip={clip}", "critic_optimizer.lr=2e-3", "generator_optimizer.lr=1e-9"]
        ranks.run(1, [config, *options, "schedule.steps=60", "schedule.critic_updates=5", f"name=c{clip}"])
    narrow, wide = (read_metrics(tmp_path / f"c{clip}") for clip in ("0.02", "0.2"))
    assert wide[-1]["wasserstein/estimate"] > 20 * narrow[-1]["wasserstein/estimate"]
    # Each is of one batch, so the mean over the log points is compared, not the last value.
    ratios = [
        w["wasserstein/normalized"] / n["wasserstein/normalized"] for w, n in zip(wide, narrow, strict=True)
    ]
    assert sum(ratios) / len(ratios) == pytest.approx(1, abs=0.3)


@pytest.mark.slow
def test_the_normalized_estimate_does_not_depend_on_how_often_it_is_logged(
    ranks: Ranks, config: str, tmp_path: Path
) -> None:
    """It belongs to the critic of the log point, while the estimate is a mean over several critics."""
    options = ["critic_optimizer.lr=2e-3", "objective.clip=0.1"]
    for every in (1, 20):
        ranks.run(1, [config, *options, f"monitor.log_every={every}", f"name=every{every}"])
    often, seldom = (read_metrics(tmp_path / f"every{every}")[-1] for every in (1, 20))
    assert often["wasserstein/normalized"] == seldom["wasserstein/normalized"]
    assert often["wasserstein/estimate"] > 1.2 * seldom["wasserstein/estimate"]


@pytest.mark.slow
def test_the_resolved_config_repeats_the_run(ranks: Ranks, config: str, tmp_path: Path) -> None:
    ranks.run(1, [config, "seed=3", "name=first"])
    ranks.run(1, [str(tmp_path / "first" / "config.yaml"), "name=second"])
    assert_same_bits(read_tensors(newest(tmp_path / "first")), read_tensors(newest(tmp_path / "second")))
    ranks.run(1, [config, "seed=4", "name=third"])
    first, third = (read_tensors(newest(tmp_path / name)) for name in ("first", "third"))
    assert any((first[name] != third[name]).any() for name in first)


def test_a_finished_run_says_so_and_changes_no_file(ranks: Ranks, config: str, tmp_path: Path) -> None:
    ranks.run(1, [config])
    before = contents(tmp_path / "run")
    again = ranks.run(1, [config])
    assert "is complete: all 20 steps are done. To train longer, raise schedule.steps." in again.log(0)
    after = contents(tmp_path / "run")
    for changing in ("lock", "DONE"):
        before.pop(changing)
        after.pop(changing)
    assert after == before
    assert read_note(tmp_path / "run", "DONE")["reason"] == "all 20 steps are done"


def test_a_larger_number_of_steps_resumes_the_run(ranks: Ranks, config: str, tmp_path: Path) -> None:
    ranks.run(1, [config, "schedule.steps=12", "name=grown"])
    ranks.run(1, [config, "schedule.steps=20", "name=grown"])
    ranks.run(1, [config, "schedule.steps=20", "name=whole"])
    assert_same_bits(read_tensors(newest(tmp_path / "grown")), read_tensors(newest(tmp_path / "whole")))
    assert read_metrics(tmp_path / "grown") == read_metrics(tmp_path / "whole")


def test_the_directory_of_a_run_resumes_it_where_it_is_now(ranks: Ranks, config: str, tmp_path: Path) -> None:
    ranks.run(1, [config, "schedule.steps=12", "seed=3"])
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "run").rename(tmp_path / "elsewhere" / "moved")
    run = ranks.run(1, [str(tmp_path / "elsewhere" / "moved"), "schedule.steps=20"])
    assert f"{tmp_path}/elsewhere/moved: resumes from " in run.log(0)
    assert not (tmp_path / "run").exists()
    ranks.run(1, [config, "schedule.steps=20", "seed=3", "name=whole"])
    assert_same_bits(
        read_tensors(newest(tmp_path / "elsewhere" / "moved")), read_tensors(newest(tmp_path / "whole"))
    )
    run = ranks.run(1, [str(tmp_path / "whole"), "name=fresh", "schedule.steps=2"])
    assert f"{tmp_path}/fresh: a new run, up to step 2" in run.log(0)


def test_a_run_is_not_made_shorter_than_it_is(ranks: Ranks, config: str, tmp_path: Path) -> None:
    ranks.run(1, [config, "schedule.steps=4"])
    for note in ("DONE", "FAILED"):
        refused = ranks.start(1, [config, "schedule.steps=3"])
        assert refused.wait() == [2]
        assert "schedule.steps: 3 is less than the 4 steps that " in refused.output
        assert (
            f"{tmp_path}/run already has, and a run cannot be made shorter. Give 4 or more" in refused.output
        )
        read_note(tmp_path / "run", note)
        (tmp_path / "run" / note).unlink()
    stopped = ranks.run(1, [config, "schedule.steps=4"])
    assert "is complete: all 4 steps are done" in stopped.log(0)


@pytest.mark.slow
def test_bf16_trains_like_float32_up_to_rounding(ranks: Ranks, config: str, tmp_path: Path) -> None:
    options = ["schedule.steps=60", "critic_optimizer.lr=1e-3", "objective.clip=0.05"]
    for precision in ("bf16", "float32"):
        ranks.run(1, [config, *options, f"precision={precision}", f"name={precision}"])
    rough, fine = (read_series(tmp_path / name)["wasserstein/estimate"] for name in ("bf16", "float32"))
    assert np.isfinite(rough).all()
    assert rough != fine
    assert rough[-1][1] > 0
    assert fine[-1][1] > 0
    assert rough[-1][1] == pytest.approx(fine[-1][1], rel=0.3)
    weights = read_tensors(newest(tmp_path / "bf16"))
    assert {str(array.dtype) for name, array in weights.items() if name.startswith("critic/")} == {"float32"}


def test_gradient_clipping_bounds_the_step(ranks: Ranks, config: str, tmp_path: Path) -> None:
    """The size of an RMSprop or Adam step does not depend on the gradient's size, but the squared average does."""
    ranks.run(1, [config, "critic_grad_clip=1e-4", "name=clipped", "schedule.steps=3"])
    ranks.run(1, [config, "name=free", "schedule.steps=3"])

    def squares(name: str) -> float:
        tensors = read_tensors(newest(tmp_path / name))
        return sum(
            float(array.sum())
            for key, array in tensors.items()
            if key.startswith("critic_optimizer/") and key.endswith("square_avg")
        )

    # Each of the six updates adds at most 1% of the squared norm.
    assert 0 < squares("clipped") <= 6 * 0.01 * 1e-4**2 * 1.001
    assert squares("free") > 100 * squares("clipped")


@pytest.mark.slow
def test_the_average_lags_behind_the_generator(ranks: Ranks, config: str, tmp_path: Path) -> None:
    ranks.run(1, [config, "ema_decay=0.9", "generator_optimizer.lr=1e-3", "name=slow"])
    ranks.run(1, [config, "ema_decay=0.0", "generator_optimizer.lr=1e-3", "name=none"])
    slow, none = (read_tensors(newest(tmp_path / name)) for name in ("slow", "none"))
    names = [name.removeprefix("ema/") for name in slow if name.startswith("ema/")]
    assert all(np.array_equal(none[f"ema/{name}"], none[f"generator/{name}"]) for name in names)
    assert not np.array_equal(slow["ema/project.weight"], slow["generator/project.weight"])
    assert all(np.array_equal(slow[f"generator/{name}"], none[f"generator/{name}"]) for name in names)


def test_bursts_give_the_critic_more_updates(ranks: Ranks, config: str, tmp_path: Path) -> None:
    bursts = "schedule.bursts={first_steps: 2, every: 10, critic_updates: 7}"
    ranks.run(1, [config, bursts])
    # Steps 0, 1 and 10 have 7 updates, the other 17 have 2.
    assert read_state(newest(tmp_path / "run"))["counters"]["position"] == 12 * (3 * 7 + 17 * 2)


def test_every_documented_scalar_is_in_tensorboard(ranks: Ranks, config: str, tmp_path: Path) -> None:
    ranks.run(1, [config, *PICTURES])
    series = read_series(tmp_path / "run")
    assert not SCALARS - series.keys()
    steps = [step for step, _ in series["wasserstein/estimate"]]
    assert steps == list(range(2, 21, 2))
    for line in read_metrics(tmp_path / "run"):
        for name in line.keys() - {"step"}:
            assert dict(series[name])[int(line["step"])] == pytest.approx(line[name], rel=1e-6, abs=1e-12)
    estimate, parts = (
        dict(series["wasserstein/estimate"]),
        (dict(series["critic/real"]), dict(series["critic/fake"])),
    )
    for step in steps:
        assert estimate[step] == pytest.approx(parts[0][step] - parts[1][step], abs=1e-7)


class Page:
    """TensorBoard's own server."""

    def __init__(self, logs: Path, output: Path) -> None:
        self._port = free_port()
        words = [sys.executable, "-m", "tensorboard.main", "--logdir", str(logs), "--port", str(self._port)]
        with output.open("w") as file:
            self._process = subprocess.Popen(
                [*words, "--host", "127.0.0.1", "--load_fast", "false"], stdout=file, stderr=file
            )

    def get(self, path: str, **query: str) -> Any:
        address = f"http://127.0.0.1:{self._port}/{path}?{urllib.parse.urlencode(query)}"
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(address, timeout=30) as answer:
            return json.load(answer)

    def wait_for(self, run: str, tag: str, points: int) -> list[list[float]]:
        """The (time, step, value) of a series, once the server has read all its points."""
        deadline = time.monotonic() + PATIENCE
        while True:
            try:
                found = self.get("data/plugin/scalars/tags").get(run, {})
                series = self.get("data/plugin/scalars/scalars", run=run, tag=tag) if tag in found else []
                if len(series) == points:
                    return series
            except (urllib.error.URLError, ConnectionError):
                assert self._process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.1)

    def end(self) -> None:
        self._process.kill()
        self._process.wait()


@pytest.fixture
def page(tmp_path: Path) -> Iterator[Page]:
    page = Page(tmp_path, tmp_path / "tensorboard.log")
    yield page
    page.end()


@pytest.mark.slow
def test_tensorboard_serves_the_run(ranks: Ranks, config: str, tmp_path: Path, page: Page) -> None:
    ranks.run(1, [config, *PICTURES])
    expected = read_series(tmp_path / "run")["wasserstein/estimate"]
    points = page.wait_for("run", "wasserstein/estimate", len(expected))
    assert [(step, value) for _, step, value in points] == [
        (step, pytest.approx(value)) for step, value in expected
    ]
    assert not SCALARS - page.get("data/plugin/scalars/tags")["run"].keys()
    images = page.get("data/plugin/images/tags")["run"].keys()
    assert images == {"samples/generated", "samples/real", "samples/ema"}
    texts = {tag.removesuffix("/text_summary") for tag in page.get("data/plugin/text/tags")["run"]}
    assert {"run/config", "run/environment"} <= texts
