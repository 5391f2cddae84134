"""Accelerate and torchrun as real commands. They are slow, so there are few tests."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.ranks import PATIENCE, checkpoints, free_port, read_note

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
ACCELERATE = [sys.executable, "-m", "accelerate.commands.accelerate_cli", "launch"]
PAIR = [*ACCELERATE, "--config_file", str(ROOT / "launch/accelerate/cpu2.yaml")]
SINGLE = [*ACCELERATE, "--cpu", "--num_processes", "1", "--num_machines", "1", "--mixed_precision", "no"]
SINGLE += ["--dynamo_backend", "no"]
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2"]
PROGRAM = ["-m", "pipeline.train"]


class Command:
    """A command, its output, and all processes that it started."""

    def __init__(self, words: list[str], log: Path) -> None:
        self._log = log
        environment = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
        environment["OMP_NUM_THREADS"] = "1"
        with log.open("w") as file:
            self._process = subprocess.Popen(
                words,
                stdout=file,
                stderr=subprocess.STDOUT,
                cwd=ROOT,
                env=environment,
                start_new_session=True,
            )
        self._family: set[psutil.Process] = {psutil.Process(self._process.pid)}

    @property
    def output(self) -> str:
        return self._log.read_text()

    def wait_for(self, run: Path) -> None:
        """Return when the run has saved. From then on its processes are known."""
        deadline = time.monotonic() + PATIENCE
        while not any(name.startswith("step_") for name in checkpoints(run)):
            assert self._process.poll() is None, self.output
            assert time.monotonic() < deadline, self.output
            time.sleep(0.01)
        self._meet()

    def send(self, number: signal.Signals) -> None:
        """Send a signal to the launcher only, as a scheduler does."""
        self._process.send_signal(number)

    def wait(self) -> int:
        """The launcher's exit code. Fails if a process that it started is left."""
        code = self._process.wait(PATIENCE)
        _, alive = psutil.wait_procs(self._family, timeout=30)
        assert not alive, f"left behind: {alive}\n{self.output}"
        return code

    def end(self) -> None:
        if self._process.poll() is None:
            self._meet()
        for process in self._family:
            if process.is_running():
                process.kill()
        self._process.wait()

    def _meet(self) -> None:
        self._family |= set(psutil.Process(self._process.pid).children(recursive=True))


class Shell:
    """Starts commands. Processes that are alive when the test ends are killed."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._commands = folder, list[Command]()

    def start(self, words: list[str]) -> Command:
        self._commands.append(Command(words, self._folder / f"command{len(self._commands)}.log"))
        return self._commands[-1]

    def end(self) -> None:
        for command in self._commands:
            command.end()


@pytest.fixture
def shell(tmp_path: Path) -> Iterator[Shell]:
    shell = Shell(tmp_path)
    yield shell
    shell.end()


def test_two_ranks_of_accelerate_stop_on_sigterm_and_resume(
    shell: Shell, config: str, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    words = [*PAIR, *PROGRAM, config, "checkpoint.every=20", "runtime.processes=2"]
    first = shell.start([*words, "schedule.steps=100000"])
    first.wait_for(run)
    first.send(signal.SIGTERM)
    first.wait()
    assert read_note(run, "PREEMPTED")["exit_code"] == 75, first.output
    assert "2 x CPU (gloo and Unix sockets)" in first.output
    assert "Traceback" not in first.output.split("Stopped by")[0]
    saved = int(checkpoints(run)[-1].removeprefix("step_"))
    second = shell.start([*words, f"schedule.steps={saved + 10}"])
    assert second.wait() == 0, second.output
    assert f"resumes from {run / 'checkpoints' / checkpoints(run)[0]}" in second.output
    assert read_note(run, "DONE")["reason"] == f"all {saved + 10} steps are done"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_a_single_process_saves_when_accelerate_is_ended(
    number: signal.Signals, shell: Shell, config: str, tmp_path: Path
) -> None:
    """This launcher does not pass on signals: it ends, and the kernel tells its child."""
    command = shell.start([*SINGLE, *PROGRAM, config, "checkpoint.every=20", "schedule.steps=100000"])
    command.wait_for(tmp_path / "run")
    command.send(number)
    assert command.wait() != 0
    assert read_note(tmp_path / "run", "PREEMPTED")["exit_code"] == 75, command.output


def test_two_ranks_save_when_accelerate_is_killed(shell: Shell, config: str, tmp_path: Path) -> None:
    """SIGUSR1 kills this launcher, unless PET_SIGNALS_TO_HANDLE names the signal."""
    command = shell.start([*PAIR, *PROGRAM, config, "checkpoint.every=20", "schedule.steps=100000"])
    command.wait_for(tmp_path / "run")
    command.send(signal.SIGUSR1)
    assert command.wait() != 0
    assert read_note(tmp_path / "run", "PREEMPTED")["exit_code"] == 75, command.output


def test_torchrun_starts_two_ranks_on_the_cpu(shell: Shell, config: str, tmp_path: Path) -> None:
    """torchrun ends with 0 only if both ranks do."""
    command = shell.start(
        [*TORCHRUN, "--master_port", str(free_port()), *PROGRAM, config, "runtime.processes=2"]
    )
    assert command.wait() == 0, command.output
    assert "2 x CPU (gloo and Unix sockets)" in command.output
    assert read_note(tmp_path / "run", "DONE")["exit_code"] == 0


def test_fewer_ranks_than_asked_for_are_an_error(shell: Shell, config: str) -> None:
    launch = [*ACCELERATE, "--cpu", "--num_processes", "2", "--num_machines", "1", "--mixed_precision", "no"]
    silent = shell.start([*launch, "--dynamo_backend", "no", *PROGRAM, config])
    plain = shell.start([sys.executable, *PROGRAM, config, "name=plain", "runtime.processes=2"])
    assert silent.wait() != 0
    assert plain.wait() == 2
    for command in (silent, plain):
        assert "2 processes were asked for, but 1 joined" in command.output
    assert "error (exit 2)" in silent.output
