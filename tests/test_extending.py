"""Every worked example of docs/extending.md runs, with its options checked and its identity in the run's."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline import plugins
from pipeline.cli import main
from pipeline.data.format.manifest import load_manifest
from tests.ranks import Ranks, read_metrics, read_series, read_state, read_tensors

PAGE = Path(__file__).parents[1] / "docs" / "extending.md"
EXAMPLES = dict(re.findall(r"```python\n# (\w+\.py)\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL))


@pytest.fixture(autouse=True)
def working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """All examples of the page, as files of the working directory that nothing has imported yet."""
    for name, code in EXAMPLES.items():
        (tmp_path / name).write_text(code)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(plugins, "_asked_for", set())
    yield
    for name in EXAMPLES:
        sys.modules.pop(Path(name).stem, None)


def train(config: str, *overrides: str) -> int:
    return main(["train", config, "schedule.steps=4", *overrides])


NETWORK = ("model.name=my_networks:Shallow", "model.width=8", "model.latent=4")


def test_the_network_trains_and_its_options_are_part_of_the_run(config: str, tmp_path: Path) -> None:
    assert train(config, *NETWORK) == 0
    identity = read_state(tmp_path / "run/checkpoints/step_00000004")["identity"]
    assert identity["model.name"] == "my_networks:Shallow"
    assert identity["model.width"] == 8


def test_a_checkpoint_of_other_plugin_options_is_refused(
    config: str, capfd: pytest.CaptureFixture[str]
) -> None:
    assert train(config, *NETWORK) == 0
    assert main(["train", config, "schedule.steps=6", *NETWORK, "model.width=9"]) == 4
    assert "model.width: 8 in the checkpoint, 9 now" in capfd.readouterr().err


def test_an_unknown_option_of_a_plugin_is_refused_with_the_nearest(
    config: str, capfd: pytest.CaptureFixture[str]
) -> None:
    assert train(config, *NETWORK, "model.witdh=3") == 2
    assert "model.witdh: unknown option; did you mean model.width?" in capfd.readouterr().err


def test_a_run_with_a_plugin_is_sampled_only_on_request(
    config: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    assert train(config, *NETWORK) == 0
    monkeypatch.setattr(plugins, "_asked_for", set())
    assert main(["sample", str(tmp_path / "run"), "--count", "4", "--out", "x.png"]) == 2
    assert "WGAN_PLUGINS=my_networks" in capfd.readouterr().err
    monkeypatch.setenv("WGAN_PLUGINS", "my_networks")
    assert main(["sample", str(tmp_path / "run"), "--count", "4", "--out", "x.png"]) == 0
    assert (tmp_path / "x.png").exists()


def test_an_exported_plugin_network_is_read_only_on_request(
    config: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    assert train(config, *NETWORK) == 0
    file = str(tmp_path / "own.safetensors")
    assert main(["export", str(tmp_path / "run"), "--format", "safetensors", "--out", file]) == 0
    monkeypatch.setattr(plugins, "_asked_for", set())
    assert main(["sample", file, "--count", "4", "--out", "x.png"]) == 2
    assert "WGAN_PLUGINS=my_networks" in capfd.readouterr().err
    monkeypatch.setenv("WGAN_PLUGINS", "my_networks")
    assert main(["sample", file, "--count", "4", "--out", "x.png"]) == 0


def test_a_plugin_with_batch_norm_of_each_rank_is_refused(
    config: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    code = EXAMPLES["my_networks.py"].replace(
        "nn.ReLU(),", "nn.BatchNorm1d(options.width),\n                nn.ReLU(),"
    )
    (tmp_path / "my_networks.py").write_text(code)
    assert train(config, *NETWORK) == 2
    assert "is a torch BatchNorm1d" in capfd.readouterr().err


OBJECTIVE = ("objective.name=my_objectives:Relativistic", "objective.weight=1.0")


def test_the_objective_trains_alike_in_one_process_and_two(config: str, tmp_path: Path, ranks: Ranks) -> None:
    words = [config, "schedule.steps=4", *OBJECTIVE, "model.critic_norm=layer"]
    ranks.run(1, [*words, "name=one"])
    ranks.run(2, [*words, "name=two"])
    one, two = (read_tensors(tmp_path / name / "checkpoints/step_00000004") for name in ("one", "two"))
    for name in (key for key in one if key.startswith(("critic/", "generator/"))):
        np.testing.assert_allclose(one[name], two[name], rtol=1e-3, atol=1e-4, err_msg=name)


def test_the_version_of_an_objective_is_part_of_the_run(
    config: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert train(config, *OBJECTIVE) == 0
    # Of another size than before: Python compares size and second of a source with those of its compiled form.
    (tmp_path / "my_objectives.py").write_text(
        EXAMPLES["my_objectives.py"].replace('version = "1"', 'version = "1.1"')
    )
    sys.modules.pop("my_objectives")
    assert main(["train", config, "schedule.steps=6", *OBJECTIVE]) == 4
    assert "plugins.objective: 1 in the checkpoint, 1.1 now" in capfd.readouterr().err


def test_alternating_rounds_of_pairs_are_refused(config: str, capfd: pytest.CaptureFixture[str]) -> None:
    assert train(config, *OBJECTIVE, "schedule.critic_rounds=alternating") == 2
    assert "alternating cannot be used with the objective Relativistic" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("model.name=json:dumps", "must be a class with a Generator and a Critic, and it has no Generator"),
        ("objective.name=json:dumps", r"must be a subclass of pipeline\.objectives\.Objective"),
        ('quality.metrics=["json:loads"]', "must be a class with a `metric` and a function `measure`"),
        ('monitor.sinks=[{name: "json:dumps"}]', r"must be a subclass of pipeline\.monitor\.sinks\.Sink"),
    ],
)
def test_an_object_of_another_kind_is_refused_with_what_it_lacks(
    override: str, expected: str, config: str, capfd: pytest.CaptureFixture[str]
) -> None:
    assert train(config, override) == 2
    assert re.search(expected, capfd.readouterr().err)


def test_a_source_of_another_kind_is_refused(capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["shards", "make", "json:dumps", "out"]) == 2
    assert "SOURCE: json:dumps failed (TypeError" in capfd.readouterr().err
    assert main(["shards", "make", "builtins:repr", "out"]) == 2
    assert "gave str, which is not a source: it has no name" in capfd.readouterr().err


def test_the_penalty_of_an_own_objective_refuses_batch_norm(
    config: str, capfd: pytest.CaptureFixture[str]
) -> None:
    assert train(config, *OBJECTIVE, "model.critic_norm=batch") == 2
    assert "batch norm does not work with the objective Relativistic" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("layer", "expected"),
    [("nn.Dropout(0.5)", "is a Dropout"), ("BatchNorm2d(1)", "is a batch norm, and its Options say none")],
)
def test_layers_that_break_a_promise_are_refused(
    layer: str, expected: str, config: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    code = EXAMPLES["my_networks.py"].replace("nn.Tanh(),", f"nn.Tanh(),\n                {layer},")
    (tmp_path / "my_networks.py").write_text(f"from pipeline.models.norms import BatchNorm2d\n{code}")
    assert train(config, *NETWORK) == 2
    assert expected in capfd.readouterr().err


def test_the_best_metric_must_be_measured(config: str, capfd: pytest.CaptureFixture[str]) -> None:
    assert (
        train(config, "quality.every=2", "quality.keep_best=my_metrics:Brightness", "schedule.stepz=3") == 2
    )
    told = capfd.readouterr().err
    assert "my_metrics:Brightness is not one of quality.metrics" in told
    assert "schedule.stepz: unknown option" in told


def test_a_metric_on_the_command_line_needs_no_further_trust(
    config: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert train(config) == 0
    monkeypatch.setattr(plugins, "_asked_for", set())
    words = ["evaluate", str(tmp_path / "run"), "--samples", "128", "--metrics", "my_metrics:Brightness"]
    assert main(words) == 0


def test_a_network_with_nested_options_is_loaded_from_a_checkpoint(config: str, tmp_path: Path) -> None:
    code = EXAMPLES["my_networks.py"].replace(
        "class Shallow:", "class Inner(Options):\n    depth: int = 1\n\n\nclass Shallow:"
    )
    code = code.replace("        width: int", "        inner: Inner = Inner()\n        width: int", 1)
    code = code.replace("import option\n", "import Options, option\n")
    (tmp_path / "my_networks.py").write_text(code)
    assert train(config, *NETWORK, "model.inner.depth=2") == 0
    checkpoint = str(tmp_path / "run/checkpoints/step_00000004")
    assert main(["sample", checkpoint, "--count", "4", "--out", str(tmp_path / "x.png")]) == 0


def test_the_source_becomes_shards(tmp_path: Path) -> None:
    assert main(["shards", "make", "my_source:open_source", "stripes"]) == 0
    manifest = load_manifest(tmp_path / "stripes")
    assert (manifest.count, manifest.resolution, list(manifest.classes)) == (
        64,
        (16, 16),
        ["upright", "level"],
    )


def test_the_metric_is_measured_plotted_and_kept_best(
    config: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ["quality.every=2", "quality.samples=128", "quality.keep_best=my_metrics:Brightness"]
    assert train(config, *words, 'quality.metrics=["my_metrics:Brightness"]') == 0
    assert [step for step, _ in read_series(tmp_path / "run")["quality/brightness"]] == [2, 4]
    assert main(["evaluate", str(tmp_path / "run"), "--metrics", "my_metrics:Brightness"]) == 0
    record = json.loads((tmp_path / "run/evaluations.jsonl").read_text())
    assert 0 <= record["metrics"]["my_metrics:Brightness"] <= 255
    monkeypatch.setattr(plugins, "_asked_for", set())
    assert main(["report", str(tmp_path / "run")]) == 0
    assert "difference in brightness (brightness)" in (tmp_path / "run/report.html").read_text()


SINK: list[Any] = ['monitor.sinks=[{name: "my_sinks:Csv", tag: critic/loss}]', "monitor.log_every=1"]


def test_the_sink_receives_each_point_once_also_after_a_resume(config: str, tmp_path: Path) -> None:
    assert train(config, *SINK) == 0
    assert main(["train", config, "schedule.steps=6", *SINK]) == 0
    lines = (tmp_path / "run/figures.csv").read_text().splitlines()
    logged = [f"{line['step']},{line['critic/loss']}" for line in read_metrics(tmp_path / "run")]
    assert lines == logged
    assert len(lines) == 6


def test_a_sink_that_fails_costs_no_step(
    config: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    code = EXAMPLES["my_sinks.py"].replace(
        "        if self._tag in values:", "        raise ValueError('no')\n        if 0:"
    )
    (tmp_path / "my_sinks.py").write_text(code)
    assert train(config, *SINK) == 0
    told = capfd.readouterr().err
    assert told.count("my_sinks:Csv: ValueError: no") == 1
    assert "records could not be written 4 times" in told
    assert len(read_metrics(tmp_path / "run")) == 4


def test_a_sink_that_cannot_be_made_stops_the_run_at_once(
    config: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "figures.csv").mkdir()
    code = EXAMPLES["my_sinks.py"].replace("        lines = ", "        1 / 0\n        lines = ")
    (tmp_path / "my_sinks.py").write_text(code)
    assert train(config, *SINK) == 2
    assert "my_sinks:Csv cannot be created (ZeroDivisionError" in capfd.readouterr().err
