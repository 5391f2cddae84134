"""Checks before the first step: of ranks that belong together, and of what is in the run's directory."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.ranks import Ranks, checkpoints, newest, read_note, read_state, wait_until

ROOT = Path(__file__).parents[2]


def with_options_of_its_own(arguments: list[str], *options: str) -> int:
    """Train; rank 1 has other options."""
    from pipeline.train import main

    return main([*arguments, *options] if os.environ["RANK"] == "1" else arguments)


@pytest.mark.parametrize("option", ["seed=7", "monitor.log_every=3", "critic_optimizer.lr=0.1"])
def test_ranks_with_different_options_are_refused(
    ranks: Ranks, config: str, tmp_path: Path, option: str
) -> None:
    run = ranks.start(2, [config], target=with_options_of_its_own, extra=[option])
    assert run.wait() == [2, 2], run.output
    assert "has different options from rank" in run.output
    assert option.partition("=")[0] in run.output
    assert run.output.count("error (exit 2)") == 1
    assert checkpoints(tmp_path / "run") == []


def test_ranks_with_different_images_are_refused(
    ranks: Ranks, config: str, digits: Path, tmp_path: Path
) -> None:
    other = tmp_path / "other"
    shutil.copytree(digits, other)
    manifest = json.loads((other / "manifest.json").read_text())
    (other / "manifest.json").write_text(json.dumps(manifest | {"source": "other digits"}))
    run = ranks.start(2, [config], target=with_options_of_its_own, extra=[f"data.shards={other}"])
    assert run.wait() == [2, 2], run.output
    assert "data.manifest is" in run.output


@pytest.mark.slow
def test_equal_images_at_another_path_are_accepted(
    ranks: Ranks, config: str, digits: Path, tmp_path: Path
) -> None:
    shutil.copytree(digits, tmp_path / "copy")
    ranks.run(2, [config], target=with_options_of_its_own, extra=[f"data.shards={tmp_path / 'copy'}"])


@pytest.mark.slow
def test_a_second_start_writes_nothing_to_a_run_that_is_training(
    ranks: Ranks, config: str, tmp_path: Path
) -> None:
    first = ranks.start(1, [config, "schedule.steps=100000", "checkpoint.every=5"])
    wait_until(lambda: "step_00000005" in checkpoints(tmp_path / "run"), first)
    second = ranks.start(2, [config, "runtime.timeout_seconds=3"])
    codes = second.wait()
    assert codes[0] == 9
    assert codes[1] == 6
    assert first.is_alive
    assert not (tmp_path / "run" / "FAILED").exists()


def test_a_run_whose_checkpoints_are_all_unusable_does_not_start_over(
    ranks: Ranks, config: str, tmp_path: Path
) -> None:
    arguments = [config, "checkpoint.every=10"]
    ranks.run(1, arguments)
    before = checkpoints(tmp_path / "run")
    for name in before:
        path = tmp_path / "run" / "checkpoints" / name / "manifest.json"
        path.write_text(path.read_text().replace("wgan-checkpoint/1", "wgan-checkpoint/2"))
    metrics = (tmp_path / "run" / "metrics.jsonl").read_bytes()
    run = ranks.start(1, [*arguments, "schedule.steps=30"])
    assert run.wait() == [4]
    assert "has the format 'wgan-checkpoint/2'" in run.output
    assert "Nothing was changed" in run.output
    assert checkpoints(tmp_path / "run") == before
    assert (tmp_path / "run" / "metrics.jsonl").read_bytes() == metrics


def test_a_command_that_is_refused_leaves_a_finished_run_done(
    ranks: Ranks, config: str, tmp_path: Path
) -> None:
    ranks.run(1, [config])
    written = (tmp_path / "run" / "config.yaml").read_bytes()
    run = ranks.start(2, [config, "model.latent=17"])
    assert run.wait() == [4, 4]
    assert run.output.count("model.latent: 16 in the checkpoint, 17 now") == 1
    assert read_note(tmp_path / "run", "DONE")["exit_code"] == 0
    assert (tmp_path / "run" / "config.yaml").read_bytes() == written


@pytest.mark.parametrize("world_size", [1, pytest.param(2, marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    ("option", "code"),
    [("model.name=resnet", 2), ("data.shards={root}/none", 3), ("init_from.critic={root}/none", 2)],
)
def test_a_new_run_that_is_refused_leaves_no_directory(
    option: str, code: int, world_size: int, ranks: Ranks, config: str, tmp_path: Path
) -> None:
    run = ranks.start(world_size, [config, f"run_root={tmp_path}/runs", option.format(root=tmp_path)])
    assert run.wait()[0] == code, run.output
    assert run.output.count(f"error (exit {code}): ") == 1
    assert not (tmp_path / "runs").exists()


def test_a_stopped_run_that_cannot_resume_is_marked_failed(
    ranks: Ranks, config: str, digits: Path, tmp_path: Path
) -> None:
    ranks.run(1, [config, "schedule.steps=4"])
    (tmp_path / "run" / "DONE").rename(tmp_path / "run" / "PREEMPTED")
    shards = tmp_path / "cut"
    shutil.copytree(digits, shards)
    next(shards.glob("*.tar")).unlink()
    run = ranks.start(1, [config, f"data.shards={shards}"])
    assert run.wait() == [3]
    assert "is missing" in read_note(tmp_path / "run", "FAILED")["reason"]


@pytest.mark.slow
def test_micro_batches_may_change_only_if_no_statistics_depend_on_them(
    ranks: Ranks, config: str, tmp_path: Path
) -> None:
    ranks.run(1, [config, "schedule.steps=4"])
    run = ranks.start(1, [config, "schedule.steps=6", "schedule.micro_batch=4"])
    assert run.wait() == [4]
    assert "schedule.micro_batch: None in the checkpoint, 4 now" in run.output
    plain = [config, "name=plain", "model.generator_norm=layer"]
    ranks.run(1, [*plain, "schedule.steps=4"])
    ranks.run(1, [*plain, "schedule.steps=6", "schedule.micro_batch=4"])


def test_weights_that_are_not_finite_stop_the_run_before_a_grid(ranks: Ranks, config: str) -> None:
    options = ["objective.clip=1e20", "critic_optimizer.lr=1e20", "monitor.log_every=1000"]
    run = ranks.start(2, [config, *options, "monitor.sample_every=1"])
    assert run.wait() == [5, 5], run.output
    assert "is not finite at step" in run.output
    assert "Traceback" not in run.output


@pytest.mark.slow
def test_a_launcher_config_that_starts_one_rank_of_two_is_an_error(config: str, tmp_path: Path) -> None:
    text = (ROOT / "launch" / "accelerate" / "cpu2.yaml").read_text()
    path = tmp_path / "multi_cpu.yaml"
    path.write_text(text.replace("distributed_type: MULTI_GPU", "distributed_type: MULTI_CPU"))
    command = [
        sys.executable,
        "-m",
        "accelerate.commands.accelerate_cli",
        "launch",
        "--config_file",
        str(path),
    ]
    result = subprocess.run(
        [*command, "-m", "pipeline.train", config], capture_output=True, text=True, check=False
    )
    assert result.returncode != 0
    assert "2 processes were asked for, but 1 joined" in result.stderr


def test_the_first_float16_scale_does_not_spoil_the_warm_up(ranks: Ranks, config: str) -> None:
    ranks.run(1, [config, "model.critic_norm=layer"], target=warm_up_in_float16)


def warm_up_in_float16(arguments: list[str]) -> int:
    """The GPU's float16 path on the CPU: autocast and a scaler that starts where its gradients overflow."""
    import torch
    from accelerate.optimizer import AcceleratedOptimizer

    from pipeline.train import main
    from pipeline.training.step import TrainingStep

    warm_up = TrainingStep.warm_up

    def emulated(self: TrainingStep, image_shape: tuple[int, int, int]) -> None:
        accelerator = self.runtime._accelerator
        accelerator.scaler = torch.amp.GradScaler("cpu")
        for player in (self.state.generator, self.state.critic):
            player.optimizer = AcceleratedOptimizer(
                player.optimizer.optimizer,  # type: ignore[attr-defined]
                device_placement=False,
                scaler=accelerator.scaler,
            )
            player.module.forward = torch.autocast("cpu", torch.float16)(player.module.forward)
        warm_up(self, image_shape)
        for group, tensors in self.state.named_tensors().items():
            assert tensors, f"{group} has no tensors"
            if group.endswith("optimizer"):
                assert not any(tensor.any() for tensor in tensors.values())
        assert accelerator.scaler.get_scale() == 65536.0
        raise SystemExit(0)

    TrainingStep.warm_up = emulated  # type: ignore[method-assign]
    return main(arguments)


def test_the_precision_that_auto_chooses_is_printed_and_saved(
    ranks: Ranks, config: str, tmp_path: Path
) -> None:
    from pipeline.ranks.devices import fastest_precision

    chosen = fastest_precision(torch.device("cpu"))
    run = ranks.run(1, [config, "precision=auto", "schedule.steps=1"])
    assert f"(none), {chosen}," in run.log(0)
    assert read_state(newest(tmp_path / "run"))["identity"]["precision"] == chosen
