"""The launcher with real processes: how ranks start and end, and that an error is printed once."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NoReturn

import psutil
import pytest

from pipeline.data.format.web import kind_of
from pipeline.errors import PeerLostError, StorageError
from pipeline.ranks import launcher
from pipeline.ranks.launcher import Launch, launch
from pipeline.stopping import TRAINING_SIGNALS
from tests.ranks import wait_until

PROGRAM = "tests.rank_programs"
START = (
    "import sys; from pipeline.ranks.launcher import launch\n"
    f"sys.exit(launch(len(sys.argv) - 1, '{PROGRAM}', sys.argv[1:]))"
)
ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def short_times(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody here needs long to end."""
    monkeypatch.setattr(launcher, "SECONDS_ALONE", 2.0)
    monkeypatch.setattr(launcher, "SECONDS_TO_END", 1.0)


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Starts a launcher as a process of its own, whose words are those of the ranks."""
    started = []

    def start(*words: str) -> subprocess.Popen[str]:
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        command = [sys.executable, "-c", START, *words]
        process = subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=tmp_path,
            env=environment,
            start_new_session=True,
        )
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


def wait_for_files(*files: Path) -> None:
    wait_until(lambda: all(file.exists() for file in files))


def test_a_launch_ends_with_0_if_all_ranks_do(capfd: pytest.CaptureFixture[str]) -> None:
    assert launch(3, PROGRAM, ["exit:0"] * 3) == 0
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("words", "code", "text"),
    [
        (["refuse:a is missing", "refuse:b is missing"], 3, None),
        (["exit:0", "refuse:a is missing"], 3, "error (exit 3): a is missing"),
        (["lose:rank 1 is gone", "refuse_late:a is missing"], 3, "error (exit 3): a is missing"),
        (["refuse:a is missing", "lose:rank 0 is gone"], 3, "error (exit 3): a is missing"),
        (["lose:rank 1 is gone", "lose:rank 0 is gone"], 6, None),
        (["refuse:a is missing", "kill_late:SIGABRT"], 3, "error (exit 3): a is missing"),
        (["exit:6", "refuse_late:a is missing"], 3, "error (exit 3): a is missing"),
        (["exit:3", "refuse_late:a is missing"], 3, "error (exit 3): a is missing"),
    ],
)
def test_the_first_cause_is_printed_once_and_gives_the_exit_code(
    words: list[str], code: int, text: str | None, capfd: pytest.CaptureFixture[str]
) -> None:
    assert launch(len(words), PROGRAM, words) == code
    told = capfd.readouterr().err.splitlines()
    assert len(told) == 1
    assert told[0].startswith(f"error (exit {code}): ")
    assert text is None or told == [text]


def test_a_defect_leaves_one_traceback(capfd: pytest.CaptureFixture[str]) -> None:
    assert launch(2, PROGRAM, ["crash:one", "crash:one"]) == 1
    told = capfd.readouterr().err
    assert told.count("Traceback (most recent call last)") == 1
    assert told.splitlines()[-1] == "ValueError: one"


@pytest.mark.parametrize(
    ("name", "meaning"),
    [
        ("SIGKILL", "If nobody sent that signal, the machine may have run out of memory"),
        ("SIGABRT", "A library ended it"),
        ("SIGSEGV", "It crashed in a library"),
    ],
)
def test_a_rank_ended_by_a_signal_is_named_with_what_that_means(
    name: str, meaning: str, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(PeerLostError, match=rf"Rank 1 was ended by {name}\. {meaning}") as lost:
        launch(2, PROGRAM, ["lose:rank 1 is gone", f"kill:{name}"])
    assert lost.value.exit_code == 6
    assert capfd.readouterr().err == ""


@pytest.mark.slow
@pytest.mark.parametrize("word", ["wait", "wait_deaf"])
def test_after_a_failure_the_other_ranks_are_ended(
    word: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    began = time.monotonic()
    words = ["refuse_late:a is missing", f"{word}:{tmp_path / 'waits'}"]
    assert launch(2, PROGRAM, words) == 3
    assert (tmp_path / "waits").exists()
    assert time.monotonic() - began < 15
    assert capfd.readouterr().err == "error (exit 3): a is missing\n"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGUSR1])
def test_a_signal_to_the_launcher_lets_all_ranks_save(
    number: signal.Signals, start: Callable[..., subprocess.Popen[str]], tmp_path: Path
) -> None:
    files = [tmp_path / "rank0", tmp_path / "rank1"]
    process = start(*(f"save_when_told:{file}" for file in files))
    wait_for_files(*files)
    process.send_signal(number)
    _, errors = process.communicate(timeout=30)
    assert process.returncode == 75
    assert errors == f"stopped: Stopped by {number.name} at step 7.\n"
    assert [file.read_text() for file in files] == [number.name] * 2


def test_ctrl_c_in_a_terminal_reaches_each_rank_once(
    start: Callable[..., subprocess.Popen[str]], tmp_path: Path
) -> None:
    """A terminal sends it to the whole process group, in which the ranks must not be."""
    file = tmp_path / "rank0"
    process = start(f"save_when_told:{file}")
    wait_for_files(file)
    (rank,) = psutil.Process(process.pid).children()
    assert os.getpgid(rank.pid) != os.getpgid(process.pid)
    os.killpg(process.pid, signal.SIGINT)
    assert process.wait(30) == 75


def test_ctrl_c_ends_ranks_that_do_not_save(
    start: Callable[..., subprocess.Popen[str]], tmp_path: Path
) -> None:
    files = [tmp_path / "rank0", tmp_path / "rank1"]
    process = start(*(f"wait:{file}" for file in files))
    wait_for_files(*files)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=30)
    assert process.returncode == 75
    assert errors.startswith("stopped: Stopped by SIGINT while no step was under way, so nothing is lost.")
    assert errors.count("\n") == 1


def test_sigterm_ends_ranks_that_do_not_save(
    start: Callable[..., subprocess.Popen[str]], tmp_path: Path
) -> None:
    file = tmp_path / "rank0"
    process = start(f"wait:{file}")
    wait_for_files(file)
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=30)
    assert errors.startswith("stopped: Stopped by SIGTERM while no step was under way")
    assert process.returncode == 75


def test_ranks_do_not_outlive_a_launcher_that_is_killed(
    start: Callable[..., subprocess.Popen[str]], tmp_path: Path
) -> None:
    files = [tmp_path / "rank0", tmp_path / "rank1"]
    process = start(*(f"save_when_told:{file}" for file in files))
    wait_for_files(*files)
    ranks = psutil.Process(process.pid).children()
    process.kill()
    _, alive = psutil.wait_procs(ranks, timeout=30)
    assert not alive
    assert [file.read_text() for file in files] == ["SIGTERM"] * 2


def test_files_in_the_working_directory_do_not_replace_modules(
    start: Callable[..., subprocess.Popen[str]], tmp_path: Path
) -> None:
    for name in ("pipeline", "torch", "accelerate", "signal", "tests"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('the wrong module')")
    out = tmp_path / "facts.json"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    code = f"import sys; sys.path.remove('')\n{START}"
    command = [sys.executable, "-c", code, f"describe:{out}"]
    done = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False, timeout=60
    )
    assert (done.returncode, done.stderr) == (0, "")
    facts = json.loads(out.read_text())
    assert facts["folder"] == str(tmp_path), "relative paths are the user's"
    assert str(tmp_path) not in facts["path"]
    assert "" not in facts["path"]
    assert facts["arguments"] == [f"describe:{out}"]


def test_each_rank_gets_its_rank_and_the_world_size(tmp_path: Path) -> None:
    files = [tmp_path / f"{rank}.json" for rank in range(2)]
    assert launch(2, PROGRAM, [f"describe:{file}" for file in files]) == 0
    for rank, file in enumerate(files):
        assert json.loads(file.read_text())["environment"] == {
            "RANK": str(rank),
            "WORLD_SIZE": "2",
            "LOCAL_RANK": str(rank),
            "LOCAL_WORLD_SIZE": "2",
            "MASTER_ADDR": "127.0.0.1",
            "GLOO_SOCKET_IFNAME": "lo",
        }


def addresses_of_this_machine() -> list[str]:
    """Those under which other machines could reach it."""
    kinds = (socket.AF_INET, socket.AF_INET6)
    entries = [entry for found in psutil.net_if_addrs().values() for entry in found if entry.family in kinds]
    return [entry.address for entry in entries if kind_of(entry.address) not in ("loopback", "link-local")]


def test_the_store_of_the_ranks_refuses_connections_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    """It unpickles what others write into it."""
    addresses = addresses_of_this_machine()
    if not addresses:
        pytest.skip("this machine has no address besides those of the loopback interface")
    refused = []

    def connect(launch: Launch, number: int, environment: dict[str, str], meeting: int) -> NoReturn:
        port = int(environment["MASTER_PORT"])
        socket.create_connection((environment["MASTER_ADDR"], port), timeout=5).close()
        for address in addresses:
            with pytest.raises(ConnectionRefusedError):
                socket.create_connection((address, port), timeout=5)
            refused.append(address)
        raise StorageError("enough is known")

    monkeypatch.setattr(Launch, "_start_rank", connect)
    with pytest.raises(StorageError, match="enough is known"):
        launch(2, PROGRAM, [])
    assert refused == addresses


@pytest.mark.slow
def test_ranks_listen_on_this_machine_only(tmp_path: Path) -> None:
    files = [tmp_path / f"{rank}.json" for rank in range(3)]
    assert launch(3, PROGRAM, [f"meet:{file}" for file in files]) == 0
    for file in files:
        total, listened = json.loads(file.read_text())
        assert total == 3
        assert listened
        assert set(listened) <= {"127.0.0.1", "::1"}


@pytest.mark.slow
def test_a_launch_leaves_nothing_in_the_temporary_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setenv("TMPDIR", str(folder))
    monkeypatch.setattr("tempfile.tempdir", None)
    assert launch(2, PROGRAM, [f"meet:{tmp_path / str(rank)}" for rank in range(2)]) == 0
    assert launch(2, PROGRAM, ["refuse:a", "exit:0"]) == 3
    assert list(folder.iterdir()) == []


def test_compiled_code_comes_from_a_private_directory_that_is_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("TORCHINDUCTOR_CACHE_DIR", raising=False)
    files = [tmp_path / f"{rank}.json" for rank in range(2)]
    assert launch(2, PROGRAM, [f"describe:{file}" for file in files]) == 0
    first, second = (json.loads(file.read_text())["compiled"] for file in files)
    assert first == second
    assert first[1] == 0o700
    assert not Path(first[0]).exists()
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    assert launch(1, PROGRAM, [f"describe:{files[0]}"]) == 0
    assert json.loads(files[0].read_text())["compiled"][0] == str(tmp_path), "the user's choice"
    assert tmp_path.exists()


def test_a_launch_leaves_handlers_and_descriptors_as_they_were() -> None:
    before = [signal.getsignal(number) for number in TRAINING_SIGNALS]
    opened = psutil.Process().num_fds()
    assert launch(2, PROGRAM, ["refuse:a", "exit:0"]) == 3
    assert [signal.getsignal(number) for number in TRAINING_SIGNALS] == before
    assert psutil.Process().num_fds() == opened
