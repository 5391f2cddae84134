"""Every loop and every wait ends when the stop flag is set, and every command with the code of its signal."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch

from pipeline import stopping
from pipeline.errors import Terminated
from tests.chaos_server import chaos
from tests.ranks import PATIENCE, read_note, wait_until

ROOT = Path(__file__).parents[1]
SOON = 20.0
"""Seconds. Two are promised, on a machine that is not as busy as one that runs tests."""

Work = Callable[[Path, Path], object]
"""What is to stop, given a set of shards and an empty directory."""


def hash_shards(shards: Path, out: Path) -> None:
    from pipeline.data.format.file_checks import check_hashes
    from pipeline.data.format.manifest import load_manifest

    check_hashes(shards, load_manifest(shards).shards)


def check(shards: Path, out: Path) -> None:
    from pipeline.data.inspecting.check import check_shards

    check_shards(shards)


def index(shards: Path, out: Path) -> None:
    from pipeline.data.inspecting.index_in_place import index_in_place

    for tar in shards.glob("*.tar"):
        shutil.copy(tar, out)
    index_in_place(out)


def measure(shards: Path, out: Path) -> None:
    from pipeline.data.inspecting.statistics import measure

    measure(shards)


def make(shards: Path, out: Path) -> None:
    from tests.shards import digits, write

    write(digits(), out / "made", 16, 1, 128)


def decode(shards: Path, out: Path) -> None:
    from pipeline.data.reading.cache import Node, decode_all
    from tests.shards import reader

    decode_all(reader(shards), Node(), show_progress=False)


def learn_features(shards: Path, out: Path) -> None:
    from pipeline.quality.features.classifier import TrainingPlan, train_classifier

    images = torch.zeros(256, 1, 16, 16, dtype=torch.uint8)
    train_classifier(images, torch.zeros(256).long(), 2, TrainingPlan(1000, 0), torch.device("cpu"))


def draw(shards: Path, out: Path) -> None:
    from pipeline.run.generator import generate

    generate(torch.nn.Identity(), torch.zeros(10, 4))


def evaluate(shards: Path, out: Path) -> None:
    from pipeline.quality.evaluation import Evaluation
    from tests.quality import together

    rank = together.Rank(0, together.Together(1))
    Evaluation(together.options(["swd"]), together.real(), rank, 4, 0).measure(together.draw)


def wait_for_a_lease(shards: Path, out: Path) -> None:
    from pipeline.file_lock import FileLock

    def refuse(file: object, kind: int) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    (out / "lock.0123456789abcdef.lease").write_text(json.dumps({"holder": "another", "is_shared": False}))
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("fcntl.flock", refuse)
        with FileLock(out / "lock"):
            pass


def wait_for_a_lock_of_the_cache(shards: Path, out: Path) -> None:
    from pipeline.data.format.disk_cache import DiskCache
    from pipeline.data.format.downloads import Patience
    from pipeline.option_data import RemoteOptions

    cache, patience = DiskCache(out, 1000), Patience.of("a shard", RemoteOptions())
    with (out / ".lock").open("ab") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with cache.writing("0" * 64, 10, patience.wait):
            pass


def download(shards: Path, out: Path) -> None:
    from pipeline.data.format.remote import fetch_manifest
    from pipeline.option_data import RemoteOptions

    with chaos(shards.parent, rate=1.0, faults=("stalled",)) as server:
        fetch_manifest(f"{server.url}/{shards.name}", RemoteOptions(directory=str(out)))


WORK = [
    hash_shards,
    check,
    index,
    measure,
    make,
    decode,
    learn_features,
    draw,
    evaluate,
    wait_for_a_lease,
    wait_for_a_lock_of_the_cache,
    download,
]


@pytest.mark.parametrize("work", WORK, ids=lambda work: work.__name__)
def test_every_loop_and_wait_looks_at_the_flag(work: Work, digits: Path, tmp_path: Path) -> None:
    with stopping.listening(saves=False):
        signal.raise_signal(signal.SIGTERM)
        with pytest.raises(Terminated):
            work(digits, tmp_path)


SLOW_IMPORT = """
import os, sys, time

class Slow:
    def find_spec(self, name, path=None, target=None):
        if name == "torch":
            open(os.environ["SIGNS"] + "/" + str(os.getpid()), "w").close()
            time.sleep(300)

sys.meta_path.insert(0, Slow())
"""


class Command:
    """A `wgan` command as a process of its own."""

    def __init__(self, words: list[str], folder: Path, variables: dict[str, str]) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-P", "-m", "pipeline.cli", *words],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=folder,
            env={**os.environ, "PYTHONPATH": str(ROOT), **variables},
            start_new_session=True,
        )

    def stop(self, number: int) -> tuple[int, str]:
        """Send a signal to the whole process group, as a terminal does. Returns exit code and errors."""
        began = time.monotonic()
        family = psutil.Process(self.process.pid).children(recursive=True)
        os.killpg(self.process.pid, number)
        _, errors = self.process.communicate(timeout=PATIENCE)
        assert time.monotonic() - began < SOON, errors
        assert "Traceback" not in errors, errors
        _, alive = psutil.wait_procs(family, timeout=SOON)
        assert not alive
        return self.process.returncode, errors

    @property
    def opened(self) -> set[str]:
        """The names of the files that it has open."""
        try:
            return {Path(file.path).name for file in psutil.Process(self.process.pid).open_files()}
        except psutil.Error:
            return set()

    def wait_until(self, condition: Callable[[], bool]) -> None:
        def holds() -> bool:
            assert self.process.poll() is None or condition(), self.process.communicate()
            return condition()

        wait_until(holds)


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Command]]:
    """Starts `wgan` with these words in `tmp_path`."""
    started: list[Command] = []

    def start(*words: object, **variables: str) -> Command:
        started.append(Command([str(word) for word in words], tmp_path, variables))
        return started[-1]

    yield start
    for command in started:
        command.process.kill()
        command.process.communicate()


Start = Callable[..., Command]


@pytest.fixture
def slow_import(tmp_path: Path) -> tuple[dict[str, str], Path]:
    """Variables with which importing torch takes for ever, and a directory with a file for each process that tries."""
    hook, signs = tmp_path / "hook", tmp_path / "signs"
    hook.mkdir()
    signs.mkdir()
    (hook / "sitecustomize.py").write_text(SLOW_IMPORT)
    return {"PYTHONPATH": f"{hook}:{ROOT}", "SIGNS": str(signs)}, signs


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "number", "code"),
    [
        (["train"], signal.SIGTERM, 75),
        (["train"], signal.SIGINT, 75),
        (["train", "--processes", "2"], signal.SIGTERM, 75),
        (["sample"], signal.SIGTERM, 143),
        (["sample"], signal.SIGINT, 130),
    ],
    ids=["train TERM", "train INT", "two ranks", "sample TERM", "sample INT"],
)
def test_a_signal_during_imports(
    words: list[str],
    number: int,
    code: int,
    start: Start,
    slow_import: tuple[dict[str, str], Path],
    config: str,
    tmp_path: Path,
) -> None:
    variables, signs = slow_import
    command = start(words[0], config if words[0] == "train" else tmp_path, *words[1:], **variables)
    command.wait_until(lambda: len(list(signs.iterdir())) == (2 if "--processes" in words else 1))
    found, errors = command.stop(number)
    assert found == code
    assert len(errors.splitlines()) == 1, errors
    assert errors.startswith(
        f"{'interrupted' if code == 130 else 'stopped'}: Stopped by {signal.Signals(number).name}"
    )
    if words == ["train"]:
        assert read_note(tmp_path / "run", "PREEMPTED")["exit_code"] == 75


@pytest.fixture
def huge(digits: Path, tmp_path: Path) -> Path:
    """A set whose first shard has 2 TB, of which the disk holds nothing."""
    shards = tmp_path / "huge"
    shutil.copytree(digits, shards)
    manifest = json.loads((shards / "manifest.json").read_text())
    manifest["shards"][0]["bytes"] = 1 << 41
    (shards / "manifest.json").write_text(json.dumps(manifest))
    os.truncate(shards / manifest["shards"][0]["name"], 1 << 41)
    return shards


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_while_shards_are_hashed(number: int, code: int, start: Start, huge: Path) -> None:
    command = start("shards", "check", huge)
    command.wait_until(lambda: "000000.tar" in command.opened)
    assert command.stop(number)[0] == code


@pytest.mark.slow
@pytest.mark.parametrize("fault", ["stalled", "unavailable"])
def test_a_signal_while_the_manifest_is_downloaded(
    fault: str, start: Start, config: str, digits: Path, tmp_path: Path
) -> None:
    with chaos(digits.parent, rate=1.0, faults=(fault,)) as server:
        command = start("train", config, f"data.shards={server.url}/{digits.name}")
        command.wait_until(lambda: server.done[fault] > 0)
        code, errors = command.stop(signal.SIGTERM)
    assert code == 75
    assert errors.splitlines()[-1].startswith("stopped: Stopped by SIGTERM")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)], ids=["SIGTERM", "SIGINT"]
)
@pytest.mark.parametrize("is_late", [False, True], ids=["while workers start", "while they write"])
def test_a_signal_while_workers_make_shards(
    is_late: bool, number: int, code: int, start: Start, tmp_path: Path
) -> None:
    np.save(tmp_path / "images.npy", np.zeros((200_000, 16, 16), dtype=np.uint8))
    command = start("shards", "make", "images.npy", "made", "--workers", "2")
    family = psutil.Process(command.process.pid)

    def writes() -> bool:
        if is_late:
            return any((tmp_path / "made").glob(".*.tar.*.tmp"))
        return any("forkserver" in " ".join(child.cmdline()) for child in family.children())

    command.wait_until(writes)
    found, errors = command.stop(number)
    assert found == code
    assert f"Stopped by {signal.Signals(number).name}" in errors
    assert "worker" not in errors
    left = [path.name for path in (tmp_path / "made").iterdir()] if (tmp_path / "made").exists() else []
    assert "manifest.json" not in left
