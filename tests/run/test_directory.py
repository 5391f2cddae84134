"""A run's directory: one writer, and a note of how it ended."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from pipeline.config import load_config
from pipeline.errors import (
    ConfigError,
    DataError,
    PipelineError,
    RunLockedError,
    StopRequested,
    StorageError,
)
from pipeline.run.directory import Note, RunDirectory, open_directory

HOLD = """\
import sys, time
from pathlib import Path
from pipeline.run.directory import RunDirectory
with RunDirectory(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def holder(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process that holds the run in tmp_path / "run"."""
    arguments = [sys.executable, "-c", HOLD, str(tmp_path / "run")]
    process = subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.wait()
    process.stdout.close()


def note(path: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(path.read_text())
    return content


def test_a_second_process_is_refused_and_told_who_holds_the_lock(
    tmp_path: Path, holder: subprocess.Popen[str]
) -> None:
    for _ in range(2):
        with (
            pytest.raises(RunLockedError, match=f"in use by process {holder.pid} on ") as caught,
            RunDirectory(tmp_path / "run"),
        ):
            pass
        assert str(tmp_path / "run") in str(caught.value)
        assert "choose another name for this run" in str(caught.value)


def test_a_refused_attempt_keeps_the_note_of_the_ending(
    tmp_path: Path, holder: subprocess.Popen[str]
) -> None:
    (tmp_path / "run" / "DONE").write_text("x")
    with pytest.raises(RunLockedError), RunDirectory(tmp_path / "run"):
        pass
    assert (tmp_path / "run" / "DONE").exists()


def test_the_lock_is_free_once_its_holder_is_killed(tmp_path: Path, holder: subprocess.Popen[str]) -> None:
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    with RunDirectory(tmp_path / "run") as directory:
        assert (directory.path / "lock").read_text().startswith(f"process {os.getpid()} on ")


def test_the_lock_is_free_after_the_run_also_after_an_error(tmp_path: Path) -> None:
    for _ in range(2):
        with pytest.raises(ValueError, match="on purpose"), RunDirectory(tmp_path / "run"):
            raise ValueError("on purpose")
    with RunDirectory(tmp_path / "run"):
        pass


def test_two_runs_in_one_root_do_not_lock_each_other(tmp_path: Path) -> None:
    with RunDirectory(tmp_path / "one"), RunDirectory(tmp_path / "two"):
        pass


def test_the_folders_of_a_run_are_created(tmp_path: Path) -> None:
    with RunDirectory(tmp_path / "a" / "b" / "run") as directory:
        assert directory.checkpoints.is_dir()
        assert directory.samples.is_dir()
    with RunDirectory(tmp_path / "a" / "b" / "run"):
        pass


def test_a_finished_run_stays_done_until_training_begins(tmp_path: Path) -> None:
    with RunDirectory(tmp_path) as directory:
        directory.mark("DONE", "all 5 steps are done", 0)
    with RunDirectory(tmp_path) as directory:
        assert not directory.mark("FAILED", "a command that was refused", 4)
        assert (tmp_path / "DONE").exists()
        assert not (tmp_path / "FAILED").exists()
        directory.start("name: x\n")
        assert not (tmp_path / "DONE").exists()
        assert directory.config.read_text() == "name: x\n"
        assert directory.mark("FAILED", "in training", 5)


@pytest.mark.parametrize("ending", ["PREEMPTED", "FAILED"])
def test_the_last_ending_is_removed_when_the_run_starts_again(tmp_path: Path, ending: Any) -> None:
    with RunDirectory(tmp_path) as directory:
        assert directory.mark(ending, "for a reason", 75)
    left = note(tmp_path / ending)
    assert (left["reason"], left["exit_code"]) == ("for a reason", 75)
    with RunDirectory(tmp_path):
        assert not (tmp_path / ending).exists()


def test_the_first_failure_is_noted_and_later_ones_write_nothing(tmp_path: Path) -> None:
    with RunDirectory(tmp_path) as directory:
        assert directory.mark("FAILED", "the cause", 5)
        before = sorted(path.name for path in tmp_path.iterdir())
        assert not directory.mark("FAILED", "a consequence", 6)
        assert not RunDirectory(tmp_path).mark("FAILED", "another", 6)
    assert (note(tmp_path / "FAILED")["reason"], note(tmp_path / "FAILED")["exit_code"]) == ("the cause", 5)
    assert sorted(path.name for path in tmp_path.iterdir()) == before


def test_if_many_processes_fail_at_once_one_writes_its_note(tmp_path: Path) -> None:
    program = (
        "import sys\nfrom pathlib import Path\nfrom pipeline.run.directory import RunDirectory\n"
        "sys.stdin.read()\n"
        "print(RunDirectory(Path(sys.argv[1])).mark('FAILED', sys.argv[2], 6))\n"
    )
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", program, str(tmp_path), str(rank)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for rank in range(4)
    ]
    for process in processes:
        assert process.stdin is not None
        process.stdin.close()
    first = [process.stdout.read() == "True\n" for process in processes if process.stdout]
    assert [process.wait() for process in processes] == [0] * 4
    for process in processes:
        assert process.stdout is not None
        process.stdout.close()
    assert first.count(True) == 1
    assert note(tmp_path / "FAILED")["reason"] == str(first.index(True))
    assert [path.name for path in tmp_path.iterdir()] == ["FAILED"]


@pytest.fixture
def read_only(mount_disk: Callable[[str], Path]) -> Path:
    """A read-only file system."""
    return mount_disk("ro,size=1m")


def test_a_read_only_place_is_named_in_the_error(read_only: Path) -> None:
    path = read_only / "run"
    with (
        pytest.raises(StorageError, match=f"{path} cannot be written: Read-only file system") as caught,
        RunDirectory(path),
    ):
        pass
    assert caught.value.exit_code == 7


def test_a_run_that_became_read_only_is_named_in_the_error(read_only: Path) -> None:
    subprocess.run(["mount", "-o", "remount,rw", str(read_only)], check=True)
    with RunDirectory(read_only / "run"):
        pass
    subprocess.run(["mount", "-o", "remount,ro", str(read_only)], check=True)
    with (
        pytest.raises(StorageError, match="run/lock cannot be written: Read-only"),
        RunDirectory(read_only / "run"),
    ):
        pass


@pytest.mark.parametrize("name", ["checkpoints", "samples"])
def test_a_folder_that_is_a_link_is_not_written_to(tmp_path: Path, name: str) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / name).symlink_to("../elsewhere")
    with (
        pytest.raises(StorageError, match=f"{name} cannot be written: it is a link to {tmp_path}/elsewhere"),
        RunDirectory(tmp_path / "run"),
    ):
        pass


def test_of_a_note_that_is_no_file_or_no_json_the_reason_is_why(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path)
    assert run.ending() is None
    os.mkfifo(tmp_path / "DONE")
    why = f"{tmp_path}/DONE cannot be read: it is a named pipe, not a file."
    assert run.ending() == ("DONE", Note(reason=why))
    (tmp_path / "FAILED").write_text('{"reason": 3}')
    why = f"{tmp_path}/FAILED is not as training wrote it: reason is 3: input should be a valid string."
    assert run.ending() == ("FAILED", Note(reason=why))
    (tmp_path / "FAILED").write_text('{"reason": "x", "exit_code": 5, "time": "now", "more": 1}')
    assert run.ending() == ("FAILED", Note(reason="x", exit_code=5, time="now"))


def test_an_environment_of_other_content_is_not_used_and_says_why(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path)
    for text in (
        "{",
        "[]",
        '{"setup": 3}',
        '{"revision": "--upload-pack=x"}',
        '{"setup": {"world_size": 0}}',
    ):
        run.environment.write_text(text)
        found, mistake = run.read_environment()
        assert found is None, text
        assert mistake.startswith("environment.json is not as training wrote it: "), text
    run.environment.write_text(
        '{"python": "3.12", "setup": {"world_size": 2, "threads": 3}, "revision": "c0ffee"}'
    )
    found, mistake = run.read_environment()
    assert found is not None
    assert not mistake
    assert (found.revision, found.setup.world_size) == ("c0ffee", 2)


def test_a_file_in_the_way_is_a_storage_error(tmp_path: Path) -> None:
    (tmp_path / "run").write_text("mine")
    with pytest.raises(StorageError, match="run cannot be written: "), RunDirectory(tmp_path / "run"):
        pass
    assert (tmp_path / "run").read_text() == "mine"


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        ("poke", "runs/poke"),
        ("pokr", "runs/poke"),
        ("runs/poek", "runs/poke"),
        ("other/one", "other/one-2"),
        ("nothing-like-it", None),
        ("x" * 300, None),
    ],
)
def test_a_run_that_may_be_meant_is_named(
    given: str, meant: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for run in ("runs/poke", "other/one-2"):
        Path(run).mkdir(parents=True)
        (Path(run) / "config.yaml").touch()
    with pytest.raises(ConfigError, match="is not a run directory: it has no") as caught:
        open_directory(Path(given))
    asked = f"Did you mean {meant}? Name a directory" if meant else "config.yaml. Name a directory"
    assert asked in str(caught.value)


@pytest.mark.parametrize(
    ("put", "what"), [(os.mkfifo, "a named pipe, not a file"), (Path.mkdir, "a directory")]
)
def test_a_run_whose_config_is_no_file_is_refused_with_what_it_is(
    put: Callable[[Path], None], what: str, tmp_path: Path
) -> None:
    put(tmp_path / "config.yaml")
    with pytest.raises(ConfigError, match=rf"config\.yaml cannot be read: it is {what}\. Put the config"):
        open_directory(tmp_path)
    (tmp_path / "checkpoints").mkdir()
    with pytest.raises(ConfigError, match=rf"config\.yaml cannot be read as text: it is {what}"):
        load_config(tmp_path)


def start(path: Path, error: PipelineError, begins: bool = False) -> None:
    """A start that ends with this error, after it has written what a start writes, or has begun to train."""
    with RunDirectory(path) as directory:
        for name in ("environment.json", "metrics.jsonl", "events.out.tfevents.1.host", ".FAILED.tmp"):
            (path / name).touch()
        if begins:
            directory.start("name: run")
        directory.mark("FAILED", str(error), error.exit_code)
        raise error


def refuse(path: Path) -> None:
    with pytest.raises(DataError):
        start(path, DataError("the reason"))


def test_a_new_run_that_is_refused_leaves_nothing_behind(tmp_path: Path) -> None:
    refuse(tmp_path / "runs" / "deep" / "run")
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "runs").mkdir()
    refuse(tmp_path / "runs" / "run")
    assert list(tmp_path.rglob("*")) == [tmp_path / "runs"], "what was there before stays"


@pytest.mark.parametrize("name", ["notes.txt", "samples/mine.png", "environment.json", "checkpoints/x"])
def test_what_was_in_the_place_of_a_refused_run_stays(tmp_path: Path, name: str) -> None:
    path = tmp_path / "run" / name
    path.parent.mkdir(parents=True)
    path.write_text("mine")
    before = sorted(tmp_path.rglob("*"))
    refuse(tmp_path / "run")
    assert sorted(tmp_path.rglob("*")) == before
    assert path.read_text() == "mine"


def test_files_of_others_in_a_refused_run_keep_all_of_it(tmp_path: Path) -> None:
    def write_and_fail() -> None:
        with RunDirectory(tmp_path / "run") as directory:
            (directory.samples / "of-a-sink.png").touch()
            raise DataError("refused")

    with pytest.raises(DataError):
        write_and_fail()
    assert (tmp_path / "run" / "samples" / "of-a-sink.png").exists()
    assert (tmp_path / "run" / "lock").exists()


def test_a_run_that_has_begun_or_is_stopped_keeps_its_directory(tmp_path: Path) -> None:
    with pytest.raises(DataError):
        start(tmp_path / "begun", DataError("in training"), begins=True)
    assert note(tmp_path / "begun" / "FAILED")["reason"] == "in training"
    refuse(tmp_path / "begun")
    assert note(tmp_path / "begun" / "FAILED")["reason"] == "the reason"
    with pytest.raises(StopRequested):
        start(tmp_path / "stopped", StopRequested("stopped at step 0"))
    assert (tmp_path / "stopped" / "lock").exists()


def test_who_claims_the_note_tells_the_user_also_if_it_cannot_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: Path, is_shared: bool = False) -> Any:
        raise StorageError(f"{path} cannot be written: the disk is full")

    monkeypatch.setattr("pipeline.run.directory.replacing", full)
    directory = RunDirectory(tmp_path)
    assert directory.mark("FAILED", "the disk is full", 7)
    assert not directory.mark("FAILED", "a consequence", 6)
    with pytest.raises(StorageError):
        directory.mark("DONE", "all 5 steps are done", 0)
