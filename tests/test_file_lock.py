"""Locks between processes, by the file system or by leases where it has none."""

from __future__ import annotations

import errno
import fcntl
import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from pipeline import file_lock
from pipeline.errors import RunLockedError, StorageError
from pipeline.file_lock import FileLock, HeldError, Lease

BEAT, LEASE = 0.05, 0.4


@pytest.fixture(params=[errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP])
def without_flock(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file system without locks, and leases of a fraction of a second."""

    def flock(file: Any, kind: int) -> None:
        raise OSError(request.param, os.strerror(request.param))

    monkeypatch.setattr(fcntl, "flock", flock)
    monkeypatch.setattr(file_lock, "BEAT_SECONDS", BEAT)
    monkeypatch.setattr(file_lock, "LEASE_SECONDS", LEASE)
    monkeypatch.setattr(file_lock, "LOOK_SECONDS", 0.01)


def leases(folder: Path) -> list[Path]:
    return sorted(folder.glob("lock.*.lease"))


def dead_lease(folder: Path, is_shared: bool = False, name: str = "0" * 16) -> Path:
    """A lease that nobody renews."""
    path = folder / f"lock.{name}.lease"
    note = file_lock.LeaseNote(holder="process 7 on elsewhere", is_shared=is_shared)
    path.write_text(note.model_dump_json())
    return path


def test_a_lock_excludes_others_until_it_ends(tmp_path: Path) -> None:
    with FileLock(tmp_path / "lock"):
        with pytest.raises(HeldError, match=f"process {os.getpid()} on "), FileLock(tmp_path / "lock"):
            pass
        with pytest.raises(HeldError), FileLock(tmp_path / "lock", is_shared=True):
            pass
    with FileLock(tmp_path / "lock", is_shared=True), FileLock(tmp_path / "lock", is_shared=True):
        pass
    assert leases(tmp_path) == []


def test_without_flock_a_lease_excludes_others_until_it_ends(
    tmp_path: Path, without_flock: None, capsys: pytest.CaptureFixture[str]
) -> None:
    with FileLock(tmp_path / "lock") as lock:
        assert len(leases(tmp_path)) == 1
        for is_shared in (False, True):
            with (
                pytest.raises(HeldError, match=f"process {os.getpid()} on "),
                FileLock(tmp_path / "lock", is_shared),
            ):
                pass
        lock.check()
    assert leases(tmp_path) == []
    said = capsys.readouterr().err
    assert f"warning: the file system of {tmp_path / 'lock'} has no locks (" in said
    assert "lock is leased by process" in said
    with FileLock(tmp_path / "lock"):
        pass


def test_without_flock_a_shared_lease_lets_others_share(tmp_path: Path, without_flock: None) -> None:
    with FileLock(tmp_path / "lock", is_shared=True), FileLock(tmp_path / "lock", is_shared=True):
        assert len(leases(tmp_path)) == 2
        with pytest.raises(HeldError), FileLock(tmp_path / "lock"):
            pass
        assert len(leases(tmp_path)) == 2


def test_the_lease_of_a_killed_process_is_taken_over_after_its_time(
    tmp_path: Path, without_flock: None
) -> None:
    dead = [dead_lease(tmp_path), dead_lease(tmp_path, is_shared=True, name="1" * 16)]
    dead[1].write_text("cut sho")
    started = time.monotonic()
    with FileLock(tmp_path / "lock"):
        assert time.monotonic() - started >= LEASE
        assert not any(path.exists() for path in dead)


def test_a_lease_that_ends_while_another_waits_frees_the_lock_at_once(
    tmp_path: Path, without_flock: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(file_lock, "LEASE_SECONDS", 60.0)
    path = dead_lease(tmp_path)
    ending = threading.Thread(target=path.unlink)
    monkeypatch.setattr(file_lock, "say_warning", lambda text: ending.start() if "leased" in text else None)
    with FileLock(tmp_path / "lock"):
        ending.join()


def test_a_process_that_was_stopped_too_long_finds_its_lease_gone(
    tmp_path: Path, without_flock: None
) -> None:
    with FileLock(tmp_path / "lock") as lock:
        (path,) = leases(tmp_path)
        path.unlink()
        until = time.monotonic() + 10
        while not lock.is_lost and time.monotonic() < until:
            time.sleep(BEAT)
        with pytest.raises(RunLockedError, match="so that two processes never write the same files"):
            lock.check()


def test_of_two_that_start_at_once_at_most_one_gets_the_lease(tmp_path: Path, without_flock: None) -> None:
    outcomes: list[bool] = []
    barrier = threading.Barrier(2)

    def start() -> None:
        lease = Lease(tmp_path / "lock", is_shared=False)
        barrier.wait()
        try:
            lease.take()
            outcomes.append(True)
        except HeldError:
            lease.release()
            outcomes.append(False)

    threads = [threading.Thread(target=start) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert outcomes.count(True) <= 1
    assert len(outcomes) == 2


SHIM = """
#include <errno.h>
int flock(int file, int kind) { errno = ENOLCK; return -1; }
"""


@pytest.mark.slow
def test_a_run_trains_on_a_file_system_without_locks(tmp_path: Path, config: str) -> None:
    (tmp_path / "shim.c").write_text(SHIM)
    shim = tmp_path / "shim.so"
    if subprocess.run(["cc", "-shared", "-o", str(shim), str(tmp_path / "shim.c")], check=False).returncode:
        pytest.skip("there is no C compiler here")
    command = [sys.executable, "-m", "pipeline.train", config, "schedule.steps=2"]
    result = subprocess.run(
        command, env={**os.environ, "LD_PRELOAD": str(shim)}, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr
    assert "has no locks (No locks available). A lease is used instead" in result.stderr
    assert (tmp_path / "run" / "DONE").exists()
    assert leases(tmp_path / "run") == []


@pytest.mark.parametrize("place", ["link", "pipe", "hard"])
def test_what_is_in_the_place_of_the_lock_is_neither_followed_nor_waited_for(
    tmp_path: Path, place: str
) -> None:
    precious = tmp_path / "precious"
    precious.write_text("precious")
    if place == "link":
        (tmp_path / "lock").symlink_to(precious)
    elif place == "hard":
        (tmp_path / "lock").hardlink_to(precious)
    else:
        os.mkfifo(tmp_path / "lock")
    with pytest.raises(StorageError, match="lock cannot be written: "), FileLock(tmp_path / "lock"):
        pass
    assert precious.read_text() == "precious"
