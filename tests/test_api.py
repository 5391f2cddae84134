"""The Python API: runs in this process that end as the command's do, and leave the process as they found it."""

from __future__ import annotations

import gc
import json
import os
import pickle
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from torch.utils.data import DataLoader

import pipeline
from pipeline.config import load_config
from pipeline.errors import (
    ConfigError,
    DataError,
    NonFiniteError,
    PipelineError,
    RunLockedError,
    StopRequested,
)
from pipeline.train import TrainingResult
from pipeline.training.state import TrainingState
from tests import shards
from tests.ranks import (
    assert_same_bits,
    checkpoints,
    newest,
    read_metrics,
    read_note,
    read_state,
    read_tensors,
    wait_until,
)


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """The number of threads decides about the order of sums."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def python(*words: str) -> subprocess.CompletedProcess[str]:
    """Another interpreter, with one thread like this one."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, *words], capture_output=True, text=True, check=False, env=environment
    )


@pytest.mark.slow
def test_a_call_and_the_command_train_the_same_bits(config: str, tmp_path: Path) -> None:
    called = pipeline.train(config, name="called")
    command = python("-m", "pipeline.train", config, "name=command")
    assert command.returncode == 0, command.stderr
    assert_same_bits(read_tensors(newest(called.path)), read_tensors(newest(tmp_path / "command")))
    assert read_metrics(called.path) == read_metrics(tmp_path / "command")


def test_a_call_returns_what_the_run_came_to(config: str, tmp_path: Path) -> None:
    result = pipeline.train(config)
    assert (result.path, result.ending, result.steps) == (tmp_path / "run", "all 20 steps are done", 20)
    last = json.loads((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()[-1])
    assert last.pop("step") == 20
    assert result.metrics == last
    assert "wasserstein/estimate" in result.metrics
    assert read_note(result.path, "DONE")["exit_code"] == 0
    assert pipeline.train(config) == result, "a finished run has nothing to do"


@pytest.mark.slow
def test_more_steps_resume_a_run_bit_for_bit(config: str) -> None:
    pipeline.train(config, name="grown", schedule={"steps": 4})
    grown = pipeline.train(config, name="grown", schedule={"steps": 6})
    whole = pipeline.train(config, name="whole", schedule={"steps": 6})
    assert (grown.steps, whole.steps) == (6, 6)
    assert_same_bits(read_tensors(newest(grown.path)), read_tensors(newest(whole.path)))
    assert read_metrics(grown.path) == read_metrics(whole.path)


@pytest.mark.slow
def test_a_file_a_mapping_and_a_config_make_the_same_run(config: str) -> None:
    sources: list[Any] = [
        config,
        Path(config),
        yaml.safe_load(Path(config).read_text()),
        load_config(Path(config)),
    ]
    written = []
    for number, source in enumerate(sources):
        result = pipeline.train(source, name=f"run{number}", schedule={"steps": 2})
        content = yaml.safe_load((result.path / "config.yaml").read_text())
        assert content.pop("name") == f"run{number}"
        written.append(content)
    assert all(content == written[0] for content in written)


def test_overrides_change_only_the_options_that_they_name(config: str, digits: Path) -> None:
    result = pipeline.train(
        config,
        seed=3,
        schedule={"steps": 2},
        objective={"name": "hinge"},
        **{"data.shards": digits, "monitor.log_every": 1},
    )
    content = yaml.safe_load((result.path / "config.yaml").read_text())
    assert (content["seed"], content["objective"]["name"], content["data"]["shards"]) == (
        3,
        "hinge",
        str(digits),
    )
    assert (content["schedule"]["steps"], content["schedule"]["global_batch"]) == (2, 12)
    assert [line["step"] for line in read_metrics(result.path)] == [1, 2]


def test_sections_in_sections_are_merged_as_dotted_names_are(config: str, tmp_path: Path) -> None:
    lines = (
        Path(config)
        .read_text()
        .replace("critic_updates: 2", "critic_updates: 2, bursts: {every: 9, first_steps: 0}")
    )
    (tmp_path / "bursts.yaml").write_text(lines)
    calls: list[tuple[Any, dict[str, Any]]] = [
        (tmp_path / "bursts.yaml", {"schedule": {"bursts": {"critic_updates": 3}, "steps": 1}}),
        (load_config(tmp_path / "bursts.yaml"), {"schedule.bursts.critic_updates": 3, "schedule.steps": 1}),
    ]
    for number, (source, options) in enumerate(calls):
        path = pipeline.train(source, name=f"run{number}", **options).path
        content = yaml.safe_load((path / "config.yaml").read_text())
        assert content["schedule"]["bursts"] == {"first_steps": 0, "every": 9, "critic_updates": 3}


@pytest.mark.parametrize("config", [5, None, ["digits"], b"digits"])
def test_a_config_of_a_wrong_type_is_refused_with_what_it_may_be(config: Any) -> None:
    with pytest.raises(
        ConfigError, match=r"of type \w+\. Give a YAML file's path, a preset's name .* a dict of"
    ):
        pipeline.train(config)


def test_mistakes_are_raised_and_not_printed(
    config: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(ConfigError, match=r"override: schedule\.step: .*did you mean schedule\.steps\?"):
        pipeline.train(config, schedule={"step": 5})
    with pytest.raises(ConfigError, match=r"config: 1 mistake\n  name: is required"):
        pipeline.train({"data": {"shards": "x"}, "schedule": {"steps": 1}})
    with pytest.raises(ConfigError, match="There is no config"):
        pipeline.train(tmp_path / "absent.yaml")
    with pytest.raises(DataError, match="absent"):
        pipeline.train(config, data={"shards": str(tmp_path / "absent")})
    printed = capfd.readouterr()
    assert printed.err == ""
    assert not (tmp_path / "run").exists()


def test_an_error_that_is_kept_holds_no_network(config: str) -> None:
    with pytest.raises(NonFiniteError) as caught:
        pipeline.train(config, objective={"clip": 1e20}, critic_optimizer={"lr": 1e20})
    assert isinstance(caught.value, PipelineError)
    gc.collect()
    assert not [found for found in gc.get_objects() if type(found) is TrainingState]


def interrupt_after_a_save(run: Path) -> threading.Thread:
    """Send this process what Ctrl-C sends, once the run has saved its first checkpoint."""

    def interrupt() -> None:
        wait_until(lambda: any(name.startswith("step_") for name in checkpoints(run)))
        os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    thread.start()
    return thread


@pytest.mark.slow
def test_an_interrupt_saves_the_run_and_the_same_call_resumes_it(config: str, tmp_path: Path) -> None:
    options: dict[str, Any] = {"schedule": {"steps": 60}, "checkpoint": {"every": 5}}
    handler = signal.getsignal(signal.SIGINT)
    thread = interrupt_after_a_save(tmp_path / "stopped")
    with pytest.raises(StopRequested, match="SIGINT"):
        pipeline.train(config, name="stopped", **options)
    thread.join()
    assert signal.getsignal(signal.SIGINT) is handler
    step = read_state(newest(tmp_path / "stopped"))["counters"]["step"]
    assert 5 <= step < 60
    assert read_note(tmp_path / "stopped", "PREEMPTED")["exit_code"] == 75
    stopped = pipeline.train(config, name="stopped", **options)
    whole = pipeline.train(config, name="whole", **options)
    assert_same_bits(read_tensors(newest(stopped.path)), read_tensors(newest(whole.path)))


def in_a_thread(results: list[TrainingResult], config: str, **options: Any) -> threading.Thread:
    thread = threading.Thread(target=lambda: results.append(pipeline.train(config, **options)))
    thread.start()
    return thread


def test_a_thread_trains_what_the_main_thread_trains(config: str) -> None:
    results: list[TrainingResult] = []
    in_a_thread(results, config, name="thread", schedule={"steps": 3}).join()
    (result,) = results
    main = pipeline.train(config, name="main", schedule={"steps": 3})
    assert (result.steps, result.ending) == (main.steps, main.ending)
    assert_same_bits(read_tensors(newest(result.path)), read_tensors(newest(main.path)))


@pytest.mark.slow
def test_a_second_run_at_the_same_time_is_refused(config: str, tmp_path: Path) -> None:
    results: list[TrainingResult] = []
    options = {"schedule": {"steps": 40}, "checkpoint": {"every": 2}}
    thread = in_a_thread(results, config, name="first", **options)
    wait_until(lambda: bool(checkpoints(tmp_path / "first")))
    with pytest.raises(RunLockedError, match="This process is training another run"):
        pipeline.train(config, name="second")
    thread.join()
    assert not (tmp_path / "second").exists()
    assert results[0].steps == 40
    assert pipeline.train(config, name="second", schedule={"steps": 1}).steps == 1


def threads_of_run(run: Path) -> int:
    threads: int = json.loads((run / "environment.json").read_text())["setup"]["threads"]
    return threads


def test_a_run_sets_torchs_threads_and_restores_the_callers(
    config: str, capsys: pytest.CaptureFixture[str]
) -> None:
    run = pipeline.train(config, schedule={"steps": 2}).path
    assert threads_of_run(run) == 1, "null is torch's choice, here that of the fixture"
    assert ", 1 thread each," in capsys.readouterr().out
    for threads, steps in [(2, 4), (3, 6)]:
        result = pipeline.train(config, schedule={"steps": steps}, runtime={"threads": threads})
        assert result.steps == steps, "another number does not keep a run from being resumed"
        assert threads_of_run(run) == threads
        assert f", {threads} threads each," in capsys.readouterr().out
        assert torch.get_num_threads() == 1
    assert pipeline.train(config, schedule={"steps": 8}, runtime={"threads": "adapt"}).steps == 8
    assert ", up to 1 thread each (fewer beside busy processes," in capsys.readouterr().out


@pytest.mark.slow
def test_runs_of_one_process_have_each_their_own_precision(config: str) -> None:
    runs = [
        pipeline.train(
            config,
            name=f"run{number}",
            precision=precision,
            runtime={"device": device},
            schedule={"steps": 3},
        )
        for number, (precision, device) in enumerate(
            [("float32", "cpu"), ("bf16", "cpu"), ("auto", "auto"), ("float32", "cpu")]
        )
    ]
    found = [read_state(newest(run.path))["identity"]["precision"] for run in runs]
    assert (found[0], found[1], found[3]) == ("float32", "bf16", "float32")
    first, rough, _, last = (read_tensors(newest(run.path)) for run in runs)
    assert_same_bits(first, last)
    assert any((first[name] != rough[name]).any() for name in first)


def settings() -> dict[str, Any]:
    """What belongs to the whole process and a run may change."""
    cudnn, matmul = torch.backends.cudnn, torch.backends.cuda.matmul
    return {
        "tf32": (matmul.allow_tf32, cudnn.allow_tf32, torch.get_float32_matmul_precision()),
        "cudnn": (cudnn.deterministic, cudnn.benchmark),
        "threads": torch.get_num_threads(),
        "gradients": torch.is_grad_enabled(),
        "random numbers": torch.get_rng_state().tolist(),
        "environment": dict(os.environ),
        "handlers": [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)],
    }


@pytest.mark.parametrize("options", [{}, {"critic_optimizer.lr": 1e20, "objective.clip": 1e20}])
def test_a_run_leaves_the_process_as_it_found_it(
    options: dict[str, Any], config: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from accelerate import Accelerator
    from accelerate.state import AcceleratorState, GradientState, PartialState

    monkeypatch.setenv("ACCELERATE_DYNAMO_BACKEND", "no")
    precision, deterministic = torch.get_float32_matmul_precision(), torch.backends.cudnn.deterministic
    try:
        torch.set_float32_matmul_precision("medium")
        torch.backends.cudnn.deterministic = False
        own = Accelerator(cpu=True, mixed_precision="bf16")
        torch.manual_seed(5)
        with torch.no_grad():
            before = settings()
            if options:
                with pytest.raises(NonFiniteError):
                    pipeline.train(config, **options)
            else:
                pipeline.train(config, precision="float32")
            assert settings() == before
        assert own.mixed_precision == "bf16"
    finally:
        torch.set_float32_matmul_precision(precision)
        torch.backends.cudnn.deterministic = deterministic
        for singleton in (AcceleratorState, GradientState, PartialState):
            singleton._shared_state.clear()


def test_the_package_is_imported_without_torch() -> None:
    program = (
        "import sys, pipeline\n"
        "assert 'torch' not in sys.modules\n"
        "assert callable(pipeline.train) and pipeline.train.main\n"
        "assert 'torch' not in sys.modules\n"
        "import pipeline.train as module\n"
        "assert module is pipeline.train\n"
    )
    result = python("-c", program)
    assert result.returncode == 0, result.stderr


def test_a_name_that_the_package_lacks_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="has no attribute 'trian'"):
        pipeline.trian  # noqa: B018


def test_shards_are_a_data_set_of_images_with_their_labels(tmp_path: Path) -> None:
    source = shards.noise(10)
    shards.write(source, tmp_path / "set")
    dataset = pipeline.open_shards(tmp_path / "set")
    assert (len(dataset), dataset.image_shape, dataset.classes) == (10, (3, 8, 8), ("even", "odd"))
    image, label = dataset[3]
    assert (image.dtype, image.shape, image.is_contiguous(), type(label)) == (
        torch.uint8,
        (3, 8, 8),
        True,
        int,
    )
    found = {image.permute(1, 2, 0).numpy().tobytes(): label for image, label in dataset}  # type: ignore[attr-defined]
    assert found == {
        np.asarray(pixels).tobytes(): number % 2 for number, pixels in enumerate(source.pictures)
    }


def test_an_index_counts_from_either_end_and_ends_with_the_set(tmp_path: Path) -> None:
    shards.write(shards.noise(10), tmp_path / "set")
    dataset = pipeline.open_shards(str(tmp_path / "set"))
    assert torch.equal(dataset[-1][0], dataset[9][0])
    for index in (10, -11):
        with pytest.raises(IndexError, match=f"index {index} is outside of a set of 10 images"):
            dataset[index]


def test_images_without_labels_have_the_label_minus_one(tmp_path: Path) -> None:
    shards.write(shards.noise(10, labelled=False), tmp_path / "set")
    (batch,) = DataLoader(pipeline.open_shards(tmp_path / "set"), batch_size=10)
    assert batch[1].tolist() == [-1] * 10


@pytest.mark.parametrize("start", [None, "fork", pytest.param("spawn", marks=pytest.mark.slow)])
def test_a_data_loader_reads_shards_with_and_without_workers(digits: Path, start: str | None) -> None:
    dataset = pipeline.open_shards(digits)
    expected = [dataset[index] for index in range(600)]
    loader = DataLoader(dataset, batch_size=128, num_workers=2 if start else 0, multiprocessing_context=start)
    images, labels = (torch.cat(parts) for parts in zip(*loader, strict=True))
    assert (images.dtype, labels.dtype) == (torch.uint8, torch.int64)
    assert torch.equal(images, torch.stack([image for image, _ in expected]))
    assert labels.tolist() == [label for _, label in expected]


def test_a_data_set_is_pickled_without_its_open_files(digits: Path) -> None:
    dataset = pipeline.open_shards(digits)
    image, label = dataset[7]
    content = pickle.dumps(dataset)
    assert len(content) < 20_000
    copy = pickle.loads(content)
    assert torch.equal(copy[7][0], image)
    assert copy[7][1] == label


def test_shards_that_are_missing_are_a_data_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="absent"):
        pipeline.open_shards(tmp_path / "absent")
