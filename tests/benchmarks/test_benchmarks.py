"""The benchmarks run to their end in a small setting, and print what they say. Nothing is timed."""

from __future__ import annotations

import json
import os
import re
import runpy
import sys
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from pipeline.config import load_config
from pipeline.errors import ConfigError, PipelineError
from pipeline.noise import RankRows
from tests.ranks import Ranks, read_metrics
from tests.shards import digits, write

BENCHMARKS = str(Path(__file__).parents[2] / "benchmarks" / "speed")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """300 JPEG files of 32 x 32 in two class folders."""
    pixels = np.random.default_rng(0).integers(0, 256, (300, 32, 32, 3), dtype=np.uint8)
    for number, image in enumerate(pixels):
        file = tmp_path / "images" / ("odd" if number % 2 else "even") / f"{number}.jpg"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(file)
    return tmp_path / "images"


def run_script(words: list[str]) -> int:
    """Run a benchmark like `python SCRIPT WORDS...`, but in processes that have imported torch already."""
    import torch.multiprocessing
    from torch.multiprocessing.spawn import start_processes

    torch.multiprocessing.spawn = partial(start_processes, start_method="fork")  # type: ignore[attr-defined]
    use_one_core()
    sys.argv = words
    runpy.run_path(words[0], run_name="__main__")
    return 0


def use_one_core() -> None:
    """On one core, shards are made in this process, and no other one imports everything again."""
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})


def call_loader(words: list[str]) -> int:
    """The benchmark of readers, with a smaller batch."""
    sys.path.insert(0, BENCHMARKS)
    loader: Any = import_module("loader")
    peers: Any = import_module("peers")
    use_one_core()
    peers.BATCH, loader.BATCH, loader.ROWS = 16, 16, RankRows(0, 16, 16)
    sys.argv = ["loader.py", *words]
    loader.main()
    return 0


def run(ranks: Ranks, *words: object) -> str:
    """The output of a benchmark's script."""
    return ranks.run(1, [str(word) for word in words], target=run_script).log(0)


@pytest.mark.slow
def test_readers_are_measured_beside_other_loaders(folder: Path, ranks: Ranks, tmp_path: Path) -> None:
    words = [
        "--images",
        str(folder),
        "--count",
        "80",
        "--work",
        str(tmp_path),
        "--rounds",
        "1",
        "--seconds",
        "0.01",
    ]
    printed = ranks.run(1, words, target=call_loader).log(0)
    found = re.findall(r"^### (.*), (\d+) JPEGs, read at (\d+) pixels$", printed, re.MULTILINE)
    assert [(count, side) for _, count, side in found] == [("80", "32"), ("20", "64")]
    assert len(re.findall(r"^\| this project \|( [\d,]+ \| [\d.]+ \|){2}$", printed, re.MULTILINE)) == 2
    # Others are there, or said to be missing.
    for name in ("webdataset", "ImageFolder", "litdata", "mosaicml-streaming", "SPDL"):
        rows = re.findall(
            rf"^\| {name}.*\| (?:[\d,]+|not installed: pip install .*) \|.*$", printed, re.MULTILINE
        )
        assert len(rows) == 2, name
    assert printed.count("first batch at 90% of an epoch") == 4


def test_conversion_is_measured_beside_a_loop(folder: Path, ranks: Ranks) -> None:
    printed = run(ranks, "benchmarks/speed/conversion.py", "--folder", folder, "--count", 100, "--rounds", 1)
    assert len(re.findall(r"^\| .* \| [\d,]+ \| [\d.]+ \| [\d.]+ \|$", printed, re.MULTILINE)) == 4


@pytest.mark.slow
def test_reading_at_another_size_is_measured_beside_webdataset(ranks: Ranks, tmp_path: Path) -> None:
    words = ["--work", tmp_path, "--images", 300, "--side", 8, "--rounds", 1, "--seconds", 0.01]
    printed = run(ranks, "benchmarks/speed/shapes.py", *words)
    assert len(re.findall(r"^\| .*(threads|workers) \| [\d,]+ \| [\d.,]+ \|$", printed, re.MULTILINE)) == 6


@pytest.mark.slow
def test_the_memory_of_a_shared_cache_does_not_grow_with_the_ranks(ranks: Ranks, tmp_path: Path) -> None:
    write(digits(), tmp_path / "set", 64, 3, 500)
    printed = run(ranks, "benchmarks/speed/shared_cache.py", "--shards", tmp_path / "set", "--ranks", 1, 2)
    sizes = [float(size) for size in re.findall(r"^\| \d \| ([\d.]+) \|", printed, re.MULTILINE)]
    decoded = 1797 * 64 * 64 * 3 / 2**20
    assert sizes[1] == pytest.approx(decoded, rel=0.1)
    assert sizes[0] >= 0.9 * decoded


def test_the_images_that_runs_are_judged_by_are_those_of_the_shards(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend("benchmarks/studies")
    from image_sets import read_shards

    write(digits(), tmp_path / "set", 8, 1, 500)
    images, labels, classes = read_shards(tmp_path / "set")
    source = digits()
    assert (images.shape, images.is_contiguous(), len(classes)) == ((1797, 1, 8, 8), True, 10)
    assert labels.tolist() == [source.label(position) for position in range(1797)]


@pytest.fixture
def benchmark(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Imports a benchmark by its name."""
    monkeypatch.syspath_prepend(BENCHMARKS)
    return import_module


def call(words: list[str], module: str, function: str, *more: Any) -> int:
    """What a rank runs: a function of a benchmark. Its return value is the exit code."""
    sys.path.insert(0, BENCHMARKS)
    return getattr(import_module(module), function)(words, *more) or 0


def call_memory(words: list[str]) -> int:
    """The memory benchmark, run in this process, which has already imported torch."""
    sys.path.insert(0, BENCHMARKS)
    memory: Any = import_module("memory")
    target = Path(words[0]).with_name("found.json")

    def here(work: Any, command: list[str]) -> Any:
        work(0, command, str(target))
        return json.loads(target.read_text())

    memory.in_process = here
    memory.POINTS = 20
    return memory.main(words)


@pytest.mark.slow
def test_the_trainer_is_measured_beside_its_bare_loop(config: str, ranks: Ranks, tmp_path: Path) -> None:
    words = [config, "--rounds", "2", "--steps", "3", "--out", str(tmp_path / "out")]
    run_of_it = ranks.run(1, words, target=call, extra=("overhead", "main"))
    assert re.search(r"the trainer: [\d.]+ times as long", run_of_it.output)
    found = json.loads((tmp_path / "out/overhead-run.json").read_text())
    shares = found["shares"]
    # Nothing is held out, so there is no validation.
    assert len(shares) == 6
    assert "validation" not in shares
    assert shares["figures of log points"]["times_a_step"] == 0.5
    assert shares["digest of all state"]["times_a_step"] == pytest.approx(1 / 100 + 1 / 1000)
    for share in shares.values():
        expected = share["seconds"] * share["times_a_step"] / found["bare_step_seconds"]
        assert share["of_bare"] == pytest.approx(expected)
    # One process takes no digest, so that is no part of its time.
    added = sum(share["of_bare"] for name, share in shares.items() if name != "digest of all state")
    assert found["ratio"] == pytest.approx(found["each_step"] + added)
    assert (tmp_path / "out/overhead-run.png").stat().st_size > 0


def test_the_bare_loop_trains_as_the_trainer_does(config: str, benchmark: Any, tmp_path: Path) -> None:
    timing, options = benchmark("timing"), load_config(Path(config), [])
    runtime = benchmark("pipeline.ranks.runtime").join(options)
    states = []
    for name, train in (("bare", timing.train_bare), ("whole", timing.train_whole)):
        with timing.open_trainer(options, runtime, tmp_path / name) as trainer:
            train(trainer, 2)
            train(trainer, 1)
            assert (trainer.state.counters.step, trainer.state.counters.position) == (3, 72)
            states.append({key: value.clone() for key, value in trainer.state.flat_tensors().items()})
    assert all(value.equal(states[1][key]) for key, value in states[0].items())


def test_processor_time_is_refused_on_a_gpu(
    config: str, benchmark: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    assert benchmark("overhead").main([config, "--clock", "cpu", "--device", "cuda"]) == 2
    assert "--clock cpu measures the CPU only" in capsys.readouterr().err


@pytest.mark.slow
def test_memory_is_watched_and_measured_by_batch(config: str, ranks: Ranks, tmp_path: Path) -> None:
    words = [config, "--steps", "20", "--batches", "12", "24", "--out", str(tmp_path / "out")]
    run_of_it = ranks.run(1, words, target=call_memory)
    assert len(re.findall(r"^\| \d+ \| [\d,]+ \| [\d,]+ \|  \|$", run_of_it.output, re.MULTILINE)) == 2
    found = json.loads((tmp_path / "out/memory-run.json").read_text())
    assert [int(step) for step in found["seen"]] == list(range(1, 21))
    for look in found["seen"].values():
        parts = look["its own memory"] + look["mapped files"] + look["shared memory"]
        assert look["process"] == pytest.approx(parts, abs=1.0)
    last = found["seen"]["20"]
    # The networks, their average and two optimizers stay; no graph or batch is left over from a step.
    assert last["live tensors"] == pytest.approx(found["seen"]["5"]["live tensors"], rel=0.01)
    assert found["slopes"]["live tensors"]["at_end"] == last["live tensors"] > 0
    assert (tmp_path / "out/memory-run.png").stat().st_size > 0


def test_a_slope_is_that_of_the_steps_after_the_warm_up(benchmark: Any) -> None:
    seen = {step: {"process": 100 + 0.003 * step if step >= 20 else 0.0} for step in range(0, 101, 5)}
    slope = benchmark("memory").slopes(seen)["process"]
    assert slope.per_1000_steps == pytest.approx(3.0)
    assert (slope.low, slope.high) == (pytest.approx(3.0), pytest.approx(3.0))
    assert slope.at_end == pytest.approx(100.3)


def test_a_storage_counts_once_however_many_tensors_view_it(benchmark: Any) -> None:
    torch = benchmark("torch")
    tensor = torch.zeros(10, 10)
    objects = [tensor, tensor[2:], tensor.T, torch.zeros(3), "no tensor"]
    assert benchmark("memory").tensor_bytes(objects) == 400 + 12


def test_another_batch_keeps_the_critics_proportion(config: str, benchmark: Any) -> None:
    options = load_config(Path(config), ["schedule.global_batch=64", "schedule.critic_batch=32"])
    timing = benchmark("timing")
    assert timing.batch_options(options, 16) == ["schedule.global_batch=16", "schedule.critic_batch=8"]
    assert timing.batch_options(load_config(Path(config), []), 16) == ["schedule.global_batch=16"]
    with pytest.raises(
        ConfigError,
        match="global batch of 3 the critic's batch would not be a whole number: the config has 32",
    ):
        timing.batch_options(options, 3)


@pytest.mark.slow
def test_what_ranks_all_reduce_is_what_their_parameters_come_to(
    config: str, ranks: Ranks, tmp_path: Path
) -> None:
    ranks.run(2, [config], target=call, extra=("traffic", "count_as_rank", str(tmp_path)))
    counted = json.loads((tmp_path / "counts").read_text())
    gradient_bytes, gradient_calls, other_bytes, other_calls, by_parameters, *idle_seconds = counted
    assert gradient_bytes == by_parameters > 0
    # Two critic updates and one of the generator, each in one bucket; batch norm's are many and small.
    assert gradient_calls == 3
    assert other_calls > 3
    assert other_bytes < gradient_bytes
    assert all(0 < seconds < 1 for seconds in idle_seconds)


@pytest.mark.slow
def test_throughput_is_measured_by_the_command_that_trains(
    config: str, tmp_path: Path, benchmark: Any
) -> None:
    throughput = benchmark("throughput")
    kind = throughput.Kind("one process", 1, 1, 12)
    options = load_config(Path(config), [])
    assert throughput.train(kind, options, [config], 6, tmp_path / "runs") > 0
    assert [line["step"] for line in read_metrics(tmp_path / "runs/run")] == list(range(1, 8))
    with pytest.raises(
        PipelineError, match=r"(?s)pipeline.cli train .* ended with exit code 2:.*data\.shards"
    ):
        throughput.train(kind, options, [config, "data.shards="], 6, tmp_path / "runs")


def test_the_first_log_point_is_no_part_of_the_throughput(benchmark: Any) -> None:
    # Equally many images at 100 and at 300 a second take as long as all of them at 150.
    assert benchmark("throughput").throughput([1.0, 100.0, 300.0]) == pytest.approx(150.0)


def test_all_kinds_on_cpus_use_the_same_cores(benchmark: Any) -> None:
    throughput = benchmark("throughput")
    found = [(k.scaling, k.ranks, k.threads, k.global_batch) for k in throughput.kinds([1, 2, 4], 64, True)]
    assert found[0] == ("one process", 1, 4, 64)
    assert found[1:4] == [("strong", 2, 2, 64), ("weak", 2, 2, 128), ("apart", 2, 2, 64)]
    assert found[4:] == [("strong", 4, 1, 64), ("weak", 4, 1, 256), ("apart", 4, 1, 64)]
    on_gpus = throughput.kinds([1, 2], 64, False)
    assert {kind.threads for kind in on_gpus} == {1}
    assert "apart" not in {kind.scaling for kind in on_gpus}, "all would take the first GPU"


def test_runs_apart_share_the_batch_and_add_up(
    config: str, tmp_path: Path, benchmark: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    throughput = benchmark("throughput")
    trained = []

    def train_run(kind: Any, config: Any, words: Any, steps: int, place: Path) -> float:
        trained.append((kind.ranks, kind.threads, kind.global_batch, place.name))
        return 100.0

    monkeypatch.setattr(throughput, "train_run", train_run)
    kind = throughput.Kind("apart", 2, 1, 64)
    assert throughput.train(kind, load_config(Path(config), []), [config], 6, tmp_path) == 200.0
    assert sorted(trained) == [(1, 1, 32, "0"), (1, 1, 32, "1")]


def test_efficiency_is_that_within_a_round(benchmark: Any) -> None:
    throughput = benchmark("throughput")
    one, two = throughput.Kind("one process", 1, 2, 64), throughput.Kind("strong", 2, 1, 64)
    found = {one: [100.0, 200.0], two: [90.0, 190.0]}
    assert throughput.efficiencies(found, on_cpu=True)[1].efficiency == [0.9, 0.95]
    assert throughput.efficiencies(found, on_cpu=False)[1].efficiency == [0.45, 0.475]


def test_more_ranks_than_cores_are_refused(benchmark: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    scaling = benchmark("scaling")
    monkeypatch.setattr(scaling, "available_cores", lambda: 3)
    assert scaling.choose_ranks(None, "cpu") == [1, 2]
    assert scaling.choose_ranks([3], "cpu") == [1, 3]
    with pytest.raises(ConfigError, match=r"--ranks 1 4: this machine has 3 cores"):
        scaling.choose_ranks([4], "cpu")


def test_the_model_adds_what_is_not_hidden_to_the_computation(benchmark: Any) -> None:
    model, traffic_of = benchmark("cluster_model"), benchmark("traffic").Traffic
    cluster = model.Cluster(gpus_per_node=8, intra=1e9, inter=1e8, latency=0.001, overlap=0.5)
    # 10^9 bytes by a ring of 4: 2 x 3/4 s and 6 hops. 8 bytes by a tree of 16: 2 x 4 hops, and not a ring's 30.
    assert cluster.all_reduce_seconds(1e9, 4) == pytest.approx(1.506)
    assert cluster.all_reduce_seconds(8, 16) == pytest.approx(0.008, rel=1e-4)
    # Across nodes the same bytes take the slower link.
    assert cluster.all_reduce_seconds(1e9, 16) == pytest.approx(2 * 15 / 16 * 10 + 0.03)
    traffic = traffic_of(2 * 10**9, 2, 0, 0, 2 * 10**9, 0.0, 0.0)
    found = model.predict(traffic, cluster, 3.0, 64, 4)
    assert found.exposed_seconds == pytest.approx(1.506)
    assert found.weak_efficiency == pytest.approx(3.0 / 4.506)
    assert found.strong_efficiency == pytest.approx(3.0 / (4 * (0.75 + 1.506)))
    assert model.predict(traffic, cluster, 3.0, 64, 128).strong_efficiency is None
