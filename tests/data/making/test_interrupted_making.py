"""Making shards that is interrupted, killed, locked or out of disk space: what remains, and how it continues."""

from __future__ import annotations

import fcntl
import json
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline.data.format.manifest import load_manifest
from pipeline.data.inspecting.shard_index import index_shard
from pipeline.data.making.convert import Conversion
from pipeline.data.making.plan import plan_shards
from pipeline.data.making.writer import make_shards
from pipeline.data.sources import Picture
from pipeline.errors import ConfigError, RunLockedError, StorageError
from tests.data.making.sets import contents, make, names
from tests.limits import no_file_over
from tests.shards import Given, digits, noise


class Failing(Given):
    """Fails at image 6 from the second read on; the first read estimates the size of the shards."""

    def __init__(self, failure: Callable[[], object]) -> None:
        whole = noise(10)
        super().__init__(whole.pictures, whole.labels, whole.classes, "noise")
        self.fail = failure
        self.is_armed = False

    def read(self, position: int) -> Picture:
        if position == 6:
            if self.is_armed:
                self.fail()
            self.is_armed = True
        return super().read(position)


def interrupt() -> None:
    raise KeyboardInterrupt


def test_finished_shards_are_not_made_again_after_an_interruption(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        make(Failing(interrupt), tmp_path)
    assert names(tmp_path) == [".making", ".plan.json", "000000.json", "000000.npy", "000000.tar"]
    made = (tmp_path / "000000.tar").stat().st_mtime_ns
    make(noise(10), tmp_path)
    assert (tmp_path / "000000.tar").stat().st_mtime_ns == made
    make(noise(10), tmp_path / "clean")
    clean = contents(tmp_path / "clean")
    shutil.rmtree(tmp_path / "clean")
    assert contents(tmp_path) == clean


def test_an_unfinished_set_of_another_plan_is_kept_until_overwrite(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        make(Failing(interrupt), tmp_path)
    with pytest.raises(
        ConfigError, match=r"already holds different shards: their channels is 3, not 1.*--overwrite"
    ):
        make(noise(10), tmp_path, channels=1)
    make(noise(10), tmp_path, channels=1, overwrite=True)
    assert load_manifest(tmp_path).channels == 1


def test_what_a_version_began_that_decodes_large_jpegs_whole_is_not_finished(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        make(Failing(interrupt), tmp_path)
    plan = tmp_path / ".plan.json"
    facts = json.loads(plan.read_text())
    del facts["reducing_gap"]
    plan.write_text(json.dumps(facts))
    with pytest.raises(
        ConfigError, match=r"another version began them, which decodes large JPEGs .*--overwrite"
    ):
        make(noise(10), tmp_path)
    make(noise(10), tmp_path, overwrite=True)
    # A finished set stays complete whatever version made it.
    assert load_manifest(tmp_path).plan == facts


@pytest.mark.parametrize("damage", ["", "{", '{"shard": {}, "bad": []}', '{"shard": null}'])
def test_only_the_shard_of_a_damaged_record_is_made_again(tmp_path: Path, damage: str) -> None:
    with pytest.raises(KeyboardInterrupt):
        make(Failing(interrupt), tmp_path)
    (tmp_path / "000000.json").write_text(damage)
    assert len(make(noise(10), tmp_path)) == 7


def test_a_directory_is_locked_while_shards_are_made(tmp_path: Path) -> None:
    with (tmp_path / ".making").open("wb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(RunLockedError, match="Another process is making shards in"):
            make(noise(4), tmp_path)
    make(noise(4), tmp_path)


PROGRAM = """
import sys
from pathlib import Path
from typing import Any
from pipeline.data.making.convert import Conversion
from pipeline.data.making.plan import plan_shards
from pipeline.data.sources import Spec, open_source
from pipeline.data.making.writer import make_shards

if __name__ == "__main__":
    digits = open_source(Spec("digits"))
    plan = plan_shards(digits, Conversion((16, 16), 1), samples_per_shard=20)
    make_shards(plan, Path(sys.argv[1]), workers=2)
"""


@pytest.mark.slow
def test_a_rerun_after_a_kill_gives_the_same_bytes(tmp_path: Path) -> None:
    killed, script = tmp_path / "killed", tmp_path / "make.py"
    script.write_text(PROGRAM)
    process = subprocess.Popen([sys.executable, script, killed], cwd=Path.cwd(), env={"PYTHONPATH": "."})
    while not (killed / "000002.tar").exists():
        assert process.poll() is None, "the set was finished, or failed, before it could be killed"
        time.sleep(0.001)
    time.sleep(random.uniform(0, 0.05))
    process.send_signal(signal.SIGKILL)
    process.wait()
    left = names(killed)
    assert "manifest.json" not in left
    for name in left:
        if name.endswith(".tar") and not name.startswith("."):
            assert len(index_shard(killed / name).rows) == 20
    # Workers of the killed process may still be running: what they write must not harm the next run.
    for place in (killed, tmp_path / "clean"):
        plan = plan_shards(digits(), Conversion((16, 16), 1), samples_per_shard=20)
        make_shards(plan, place)
    assert contents(killed) == contents(tmp_path / "clean")


@pytest.fixture
def small_disk(mount_disk: Callable[[str], Path]) -> Path:
    """A file system of one megabyte."""
    return mount_disk("size=1m")


def test_a_too_small_disk_is_refused_before_anything_is_written(small_disk: Path) -> None:
    with pytest.raises(
        StorageError, match=r"disk/out has 0\.00 GB of free space, but 1,000 images will need about 0\.00 GB"
    ):
        make(noise(1000), small_disk / "out")
    assert names(small_disk) == []


def test_finished_shards_are_kept_when_the_disk_is_full(small_disk: Path) -> None:
    filler = small_disk / "filler"

    def fill() -> None:
        filler.write_bytes(bytes(shutil.disk_usage(small_disk).free))

    with pytest.raises(StorageError, match=r"000001\.\w+ cannot be written: No space left on device\. Free"):
        make(Failing(fill), small_disk / "out", samples_per_shard=5)
    assert [name for name in names(small_disk / "out") if name.endswith("tar")] == ["000000.tar"]
    filler.unlink()
    assert len(make(noise(10), small_disk / "out", samples_per_shard=5)) == 5


def test_a_file_size_limit_is_a_storage_error(tmp_path: Path) -> None:
    too_large = pytest.raises(StorageError, match=r"000000\.tar cannot be written: File too large")
    with no_file_over(20_000), too_large:
        make(noise(100), tmp_path, samples_per_shard=100)
    assert not (tmp_path / "000000.tar").exists()
