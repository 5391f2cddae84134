"""Two machines that train one run, with a cable between them where this machine lets us make two networks."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.ranks import PATIENCE, free_port, read_note

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
ADDRESSES = ("10.9.0.1", "10.9.0.2")
Machines = tuple[list[list[str]], str]
"""For each machine, the words before a command that runs on it; and the address of the first one"""


def ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True, text=True)


@pytest.fixture
def machines(tmp_path: Path) -> Iterator[Machines]:
    """Two network namespaces, whose hosts have names that stand for loopback addresses, as on Debian.

    Without the rights to make them, both machines are this one.
    """
    names = [f"wgan{os.getpid()}{letter}" for letter in "ab"]
    made = []
    try:
        for name in names:
            try:
                ip("netns", "add", name)
            except (OSError, subprocess.CalledProcessError):
                yield [[], []], "127.0.0.1"
                return
            made.append(name)
        join_by_cable(names)
        hosts = tmp_path / "hosts"
        hosts.write_text(f"127.0.0.1 localhost {socket.gethostname()}\n")
        enter = 'mount --bind "$0" /etc/hosts && exec ip netns exec "$@"'
        yield [["unshare", "--mount", "bash", "-c", enter, str(hosts), name] for name in names], ADDRESSES[0]
    finally:
        for name in made:
            ip("netns", "delete", name)


def join_by_cable(names: list[str]) -> None:
    """Give each namespace one end of a cable, and an address on it."""
    ends = [name.replace("wgan", "wg") for name in names]
    ip("link", "add", ends[0], "netns", names[0], "type", "veth", "peer", "name", ends[1], "netns", names[1])
    for name, end, address in zip(names, ends, ADDRESSES, strict=True):
        ip("-n", name, "link", "set", "lo", "up")
        ip("-n", name, "addr", "add", f"{address}/24", "dev", end)
        ip("-n", name, "link", "set", end, "up")


def run_on_both(machines: Machines, words: list[list[str]]) -> list[tuple[int, str]]:
    """Start the script on both machines, with these further words. Returns the exit code and the output of each."""
    environment = {name: value for name, value in os.environ.items() if name != "GLOO_SOCKET_IFNAME"}
    environment |= {"PROCESSES_PER_MACHINE": "1", "PORT": str(free_port()), "OMP_NUM_THREADS": "1"}
    script = ["bash", str(ROOT / "launch/multi_node.sh"), "2"]
    enters, first = machines
    started = [
        subprocess.Popen(
            [*enter, *script, str(rank), first, *words[rank]],
            env=environment,
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        for rank, enter in enumerate(enters)
    ]
    try:
        outputs = [process.communicate(timeout=PATIENCE)[0] for process in started]
    finally:
        for process in started:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
    return [(process.returncode, output) for process, output in zip(started, outputs, strict=True)]


def test_two_machines_make_one_run(machines: Machines, config: str, tmp_path: Path) -> None:
    ended = run_on_both(machines, [[config, "schedule.steps=4"]] * 2)
    assert [code for code, _ in ended] == [0, 0], ended
    assert "2 x CPU (gloo)" in ended[0][1]
    assert read_note(tmp_path / "run", "DONE")["exit_code"] == 0


def test_a_machine_that_gives_up_releases_the_other_one(
    machines: Machines, config: str, tmp_path: Path
) -> None:
    """The first machine waits for it in torch, where nothing but its own threads can reach it."""
    patient = [config, "runtime.timeout_seconds=100000"]
    ended = run_on_both(machines, [patient, [*patient, f"data.shards={tmp_path / 'absent'}"]])
    assert all(code != 0 for code, _ in ended), ended
    assert "error (exit 3): rank 1: " in ended[0][1]
    note = read_note(tmp_path / "run", "FAILED")
    assert note["exit_code"] == 3
    assert "absent" in note["reason"]
