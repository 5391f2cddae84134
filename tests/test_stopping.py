"""The stop flag: what sets it, what looks at it, and what happens to a program that does not."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from pipeline import stopping
from pipeline.errors import Interrupted, StopRequested, Terminated
from pipeline.stopping import TRAINING_SIGNALS

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize("number", TRAINING_SIGNALS)
def test_a_signal_sets_the_flag_and_interrupts_nothing(number: signal.Signals) -> None:
    with stopping.listening(saves=True):
        assert stopping.received() is None
        stopping.check()
        signal.raise_signal(number)
        assert stopping.received() == number.name
        with pytest.raises(StopRequested, match=f"Stopped by {number.name} while no step was under way"):
            stopping.check()
    assert stopping.received() is None


@pytest.mark.parametrize(
    ("number", "kind", "code"), [(signal.SIGINT, Interrupted, 130), (signal.SIGTERM, Terminated, 143)]
)
def test_a_command_ends_with_the_code_that_a_shell_gives(
    number: signal.Signals, kind: type[Exception], code: int
) -> None:
    before = signal.getsignal(signal.SIGUSR1)
    with stopping.listening(saves=False):
        assert signal.getsignal(signal.SIGUSR1) is before, "a command has nothing to save"
        signal.raise_signal(number)
        with pytest.raises(kind) as stop:
            stopping.check()
    assert stop.value.exit_code == code  # type: ignore[attr-defined]


def test_the_first_signal_is_the_one_that_is_named() -> None:
    with stopping.listening(saves=True):
        signal.raise_signal(signal.SIGUSR1)
        signal.raise_signal(signal.SIGTERM)
        assert stopping.received() == "SIGUSR1"


def test_a_wait_ends_soon_after_the_signal_in_any_thread() -> None:
    began, ends = time.monotonic(), []

    def sleep() -> None:
        with pytest.raises(Terminated):
            stopping.wait(60)
        ends.append(time.monotonic())

    with stopping.listening(saves=False):
        threads = [threading.Thread(target=sleep) for _ in range(2)]
        for thread in threads:
            thread.start()
        signal.raise_signal(signal.SIGTERM)
        sleep()
        for thread in threads:
            thread.join()
    assert len(ends) == 3
    assert max(ends) - began < 30


def test_a_wait_without_a_signal_lasts_as_long_as_it_should() -> None:
    began = time.monotonic()
    stopping.wait(0.25)
    assert time.monotonic() - began >= 0.25


def test_nothing_raises_while_the_flag_is_held() -> None:
    with stopping.listening(saves=True):
        with stopping.held():
            signal.raise_signal(signal.SIGTERM)
            stopping.check()
        with pytest.raises(StopRequested):
            stopping.check()
        stopping.settle()
        stopping.check()


def test_ctrl_c_passed_on_twice_at_once_counts_once() -> None:
    with stopping.listening(saves=True):
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)
        assert stopping.received() == "SIGINT"


@pytest.mark.parametrize("first", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_again_after_a_second_stops_at_once(
    first: signal.Signals, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = SimpleNamespace(monotonic=lambda: 100.0)
    monkeypatch.setattr(stopping, "time", clock)
    with stopping.listening(saves=True), stopping.held():
        signal.raise_signal(first)
        clock.monotonic = lambda: 101.05
        # Schedulers repeat themselves: that is no reason to lose the save.
        signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGUSR1)
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)


def test_the_previous_handlers_are_restored() -> None:
    before = [signal.getsignal(number) for number in TRAINING_SIGNALS]
    with stopping.listening(saves=True):
        inside = [signal.getsignal(number) for number in TRAINING_SIGNALS]
        assert inside != before
        with stopping.listening(saves=False):
            assert [signal.getsignal(number) for number in TRAINING_SIGNALS] == inside
        assert [signal.getsignal(number) for number in TRAINING_SIGNALS] == inside
    assert [signal.getsignal(number) for number in TRAINING_SIGNALS] == before
    with pytest.raises(ValueError, match="on purpose"), stopping.listening(saves=True):
        raise ValueError("on purpose")
    assert [signal.getsignal(number) for number in TRAINING_SIGNALS] == before


def test_no_other_file_handles_signals() -> None:
    users = [
        path.name
        for path in (ROOT / "pipeline").rglob("*.py")
        if any(
            word in path.read_text()
            for word in ("signal.signal(", "set_wakeup_fd", "except KeyboardInterrupt")
        )
    ]
    assert sorted(users) == ["cli.py", "stopping.py", "train.py"], "the two programs tell of a second Ctrl-C"


def run_program(body: str, saves: bool) -> tuple[int, str]:
    """A program of its own that listens, and whose body does not look at the flag. Its exit code and its last words."""
    program = (
        "import signal, sys, threading, time\nfrom pipeline import stopping\n"
        f"with stopping.listening({saves}, ends_process=True, last_words=lambda error: print(error, flush=True)):\n"
        + "".join(f"    {line}\n" for line in body.splitlines())
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False, timeout=60, cwd=ROOT
    )
    assert done.stderr == ""
    return done.returncode, done.stdout


BUSY = "signal.raise_signal(signal.{})\nlock = threading.Lock()\nlock.acquire()\nlock.acquire()"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "saves", "code"), [("SIGTERM", True, 75), ("SIGTERM", False, 143), ("SIGINT", False, 130)]
)
def test_a_program_that_does_not_look_at_the_flag_is_ended(name: str, saves: bool, code: int) -> None:
    returncode, words = run_program(BUSY.format(name), saves)
    assert returncode == code
    assert words.startswith(f"Stopped by {name}")


@pytest.mark.slow
def test_a_program_whose_last_words_are_stuck_is_ended_all_the_same() -> None:
    stuck = "stopping.SECONDS_TO_SPEAK = 0.2\nwords = stopping.last_words(lambda error: time.sleep(100))\n"
    returncode, words = run_program(stuck + "words.__enter__()\n" + BUSY.format("SIGTERM"), saves=True)
    assert (returncode, words) == (75, "")


@pytest.mark.slow
def test_a_program_is_ended_once_it_no_longer_holds_the_flag() -> None:
    body = (
        "began = time.monotonic()\n"
        "with stopping.held():\n"
        "    signal.raise_signal(signal.SIGTERM)\n"
        "    time.sleep(1.5)\n"
        "    print('saved', flush=True)\n"
        "time.sleep(60)"
    )
    returncode, words = run_program(body, saves=True)
    assert returncode == 75
    assert words.splitlines()[0] == "saved"


@pytest.mark.slow
def test_a_program_that_has_said_how_it_ends_does_not_hang_at_its_end() -> None:
    body = (
        "stopping.leave(3)\nthreading.Thread(target=time.sleep, args=(60,)).start()\nsignal.raise_signal(15)"
    )
    assert run_program(body, saves=False) == (3, "")


def test_a_process_starts_with_the_signals_of_its_first_moments_delayed() -> None:
    program = (
        "import os, signal\nfrom pipeline import stopping\nos.kill(os.getpid(), signal.SIGTERM)\n"
        "with stopping.listening(saves=True):\n    print(stopping.received(), flush=True)\n"
    )
    with stopping.delayed():
        process = subprocess.Popen(
            [sys.executable, "-c", program], stdout=subprocess.PIPE, text=True, cwd=ROOT
        )
    assert signal.pthread_sigmask(signal.SIG_BLOCK, []) == set()
    output, _ = process.communicate(timeout=60)
    assert (process.returncode, output) == (0, "SIGTERM\n")
