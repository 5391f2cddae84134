"""`wgan train` with several ranks: the real command, its exit codes, and what it prints."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
import torch

from pipeline.cli import main
from tests.ranks import PATIENCE, Ranks, checkpoints, newest, read_note, wait_until

ROOT = Path(__file__).parents[2]
LONG = ["schedule.steps=100000", "checkpoint.every=5"]

Start = Callable[..., subprocess.Popen[str]]


@pytest.fixture
def temporary(tmp_path: Path) -> Path:
    """The temporary directory of the commands, empty at first."""
    path = tmp_path / "temporary"
    path.mkdir()
    return path


@pytest.fixture
def start(temporary: Path, tmp_path: Path) -> Iterator[Start]:
    """Starts `wgan train` with these words in `tmp_path`. What is alive when the test ends is killed."""
    started = list[subprocess.Popen[str]]()

    def start(*words: str) -> subprocess.Popen[str]:
        variables = {"PYTHONPATH": str(ROOT), "TMPDIR": str(temporary), "OMP_NUM_THREADS": "1"}
        started.append(
            subprocess.Popen(
                # With -P like the installed `wgan`, which does not look for modules where the user is.
                [sys.executable, "-P", "-m", "pipeline.cli", "train", *words],
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                cwd=tmp_path,
                env={**os.environ, **variables},
                start_new_session=True,
            )
        )
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.communicate()


def finish(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    """The exit code and what was printed to standard output and standard error."""
    output, errors = process.communicate(timeout=PATIENCE)
    return process.returncode, output, errors


def wait_for_save(process: subprocess.Popen[str], run: Path) -> list[psutil.Process]:
    """Wait until the run has saved. Returns its ranks, in order."""

    def has_saved() -> bool:
        assert process.poll() is None, process.communicate()
        return any(name.startswith("step_") for name in checkpoints(run))

    wait_until(has_saved)
    return sorted(psutil.Process(process.pid).children(), key=lambda rank: int(rank.environ()["RANK"]))


def listening(process: psutil.Process) -> set[str]:
    """The addresses on which a process accepts connections."""
    return {c.laddr.ip for c in process.net_connections() if c.status == psutil.CONN_LISTEN}


@pytest.mark.slow
@pytest.mark.parametrize("words", [["--processes", "2"], ["runtime.processes=2"]])
def test_two_ranks_train_and_leave_no_temporary_file(
    words: list[str], start: Start, config: str, temporary: Path, tmp_path: Path
) -> None:
    for name in ("pipeline", "torch", "accelerate", "typing"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('a file of the user was imported')")
    relative = [Path(config).name, "run_root=runs"]
    code, output, errors = finish(start(*relative, "schedule.steps=2", *words))
    assert code == 0, errors
    assert "2 x CPU (gloo and Unix sockets)" in output
    assert read_note(tmp_path / "runs" / "run", "DONE")["exit_code"] == 0
    assert list(temporary.iterdir()) == []


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_saves_and_ends_with_75_and_one_line(
    number: signal.Signals, start: Start, config: str, temporary: Path, tmp_path: Path
) -> None:
    process = start(config, *LONG, "--processes", "2")
    ranks = wait_for_save(process, tmp_path / "run")
    assert listening(psutil.Process(process.pid)) == set()
    for rank in ranks:
        assert listening(rank)
        assert listening(rank) <= {"127.0.0.1", "::1"}
    process.send_signal(number)
    code, _, errors = finish(process)
    assert code == 75, errors
    told = [line for line in errors.splitlines() if not line.startswith("step ")]
    assert len(told) == 1, errors
    assert told[0].startswith(f"stopped: Stopped by {number.name} ")
    assert read_note(tmp_path / "run", "PREEMPTED")["exit_code"] == 75
    assert not any(rank.is_running() for rank in ranks)
    assert list(temporary.iterdir()) == []


@pytest.mark.slow
def test_an_error_of_the_ranks_is_printed_once_with_its_code(
    start: Start, ranks: Ranks, config: str, temporary: Path, tmp_path: Path
) -> None:
    first = ranks.start(1, [config, *LONG])
    wait_until(lambda: "step_00000005" in checkpoints(tmp_path / "run"), first)
    code, _, errors = finish(start(config, *LONG, "--processes", "2"))
    assert code == 9, errors
    assert errors.count("error (exit 9): ") == len(errors.splitlines()) == 1
    assert first.is_alive
    assert list(temporary.iterdir()) == []


@pytest.mark.slow
def test_a_killed_rank_is_named_with_its_signal(start: Start, config: str, tmp_path: Path) -> None:
    process = start(config, *LONG, "--processes", "2")
    ranks = wait_for_save(process, tmp_path / "run")
    ranks[1].kill()
    code, _, errors = finish(process)
    assert code == 6
    told = [line for line in errors.splitlines() if not line.startswith("step ")]
    assert len(told) == 1, errors
    assert told[0].startswith("error (exit 6): Rank 1 was ended by SIGKILL.")
    assert read_note(tmp_path / "run", "FAILED")["exit_code"] == 6


@pytest.mark.slow
def test_a_second_ctrl_c_ends_all_ranks_at_once(start: Start, config: str, tmp_path: Path) -> None:
    """The ranks cannot save, because one of them is suspended."""
    process = start(config, *LONG, "--processes", "2")
    ranks = wait_for_save(process, tmp_path / "run")
    ranks[1].suspend()
    process.send_signal(signal.SIGINT)
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(1.5)
    process.send_signal(signal.SIGINT)
    code, _, errors = finish(process)
    assert code == 130
    assert "Traceback" not in errors
    assert not any(rank.is_running() for rank in ranks)


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["schedule.step=5"], 2, "did you mean schedule.steps?"),
        (["data.shards=absent"], 3, "The shard directory absent does not exist"),
        (["schedule.global_batch=13"], 2, "13 cannot be divided equally among 2 ranks"),
        (["runtime.processes=3"], 2, "--processes 2 contradicts runtime.processes: 3"),
        (["runtime.device=cuda"], 2, "2 processes on this machine need 2 GPUs, and torch finds 1"),
    ],
)
def test_mistakes_that_need_no_ranks_are_found_before_they_start(
    words: list[str],
    code: int,
    message: str,
    config: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr("pipeline.ranks.launcher.launch", lambda *_: pytest.fail("ranks were started"))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "get_arch_list", list)
    assert main(["train", config, "--processes", "2", *words]) == code
    told = capsys.readouterr().err
    assert told.count("error (exit") == 1
    assert message in told


def test_other_options_than_the_checkpoints_are_found_before_ranks_start(
    config: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["train", config, "schedule.steps=2"]) == 0
    note = read_note(tmp_path / "run", "DONE")
    launched = list[list[str]]()

    def launch(processes: int, module: str, words: list[str]) -> int:
        launched.append(words)
        return 0

    monkeypatch.setattr("pipeline.ranks.launcher.launch", launch)
    pair = ["train", config, "--processes", "2"]
    capsys.readouterr()
    assert main([*pair, "model.width=16", "precision=bf16"]) == 4
    told = capsys.readouterr().err
    assert told.count("error (exit") == 1
    assert "model.width: 8 in the checkpoint, 16 now" in told
    assert "precision: float32 in the checkpoint, bf16 now" in told
    assert launched == []
    assert read_note(tmp_path / "run", "DONE") == note
    assert main([*pair, "schedule.steps=4"]) == 0
    assert len(launched) == 1
    # A damaged checkpoint is left to the ranks, which use an earlier one or report it.
    (newest(tmp_path / "run") / "generator.safetensors").unlink()
    assert main([*pair, "model.width=16"]) == 0
    assert len(launched) == 2


def test_checkpoints_are_compared_without_importing_torch() -> None:
    program = "import sys, pipeline.commands.train, pipeline.training.identity; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
