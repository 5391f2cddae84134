"""Signals that ask a run to stop are noted and interrupt nothing, except for a second Ctrl-C."""

from __future__ import annotations

import signal
import subprocess
import sys
from types import SimpleNamespace

import pytest

from pipeline.ranks import stopping
from pipeline.ranks.stopping import SIGNALS, StopSignals


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_is_noted_and_interrupts_nothing(number: signal.Signals) -> None:
    with StopSignals() as stop:
        assert stop.received is None
        signal.raise_signal(number)
        assert stop.received == number.name


def test_the_signals_are_those_of_people_schedulers_and_launchers() -> None:
    assert {number.name for number in SIGNALS} == {"SIGTERM", "SIGINT", "SIGUSR1"}


def test_the_first_signal_is_the_one_that_is_named() -> None:
    with StopSignals() as stop:
        signal.raise_signal(signal.SIGUSR1)
        signal.raise_signal(signal.SIGTERM)
        assert stop.received == "SIGUSR1"


def test_ctrl_c_passed_on_twice_at_once_counts_once() -> None:
    with StopSignals() as stop:
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)
        assert stop.received == "SIGINT"


@pytest.mark.parametrize("first", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_again_after_a_second_stops_at_once(
    first: signal.Signals, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = SimpleNamespace(monotonic=lambda: 100.0)
    monkeypatch.setattr(stopping, "time", clock)
    with StopSignals():
        signal.raise_signal(first)
        clock.monotonic = lambda: 101.05
        # Schedulers repeat themselves: that is no reason to lose the save.
        signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGUSR1)
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)


def test_the_previous_handlers_are_restored() -> None:
    before = [signal.getsignal(number) for number in SIGNALS]
    with StopSignals():
        assert [signal.getsignal(number) for number in SIGNALS] != before
    assert [signal.getsignal(number) for number in SIGNALS] == before
    with pytest.raises(ValueError, match="on purpose"), StopSignals():
        raise ValueError("on purpose")
    assert [signal.getsignal(number) for number in SIGNALS] == before


def test_a_signal_ends_the_process_again_afterwards() -> None:
    program = (
        "import signal\nfrom pipeline.ranks.stopping import StopSignals\n"
        "with StopSignals() as stop:\n    signal.raise_signal(signal.SIGTERM)\n"
        "print(stop.received, flush=True)\nsignal.raise_signal(signal.SIGTERM)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (-signal.SIGTERM, "SIGTERM\n")
