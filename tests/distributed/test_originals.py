"""Training straight from tar files of others: a pattern is enough, with any number of ranks."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import pipeline
from pipeline.data.originals.opening import open_data
from pipeline.errors import ConfigError, DataError
from pipeline.option_data import DataOptions, RemoteOptions
from pipeline.train import main
from tests.data.originals.corpus import Members, pack, picture
from tests.distributed.test_order import BATCH, BATCHES, fingerprints, keep_batches
from tests.ranks import Ranks

TARS, PER_TAR, SIDE = 5, 12, 16


def members(number: int) -> Members:
    """Samples of several kinds of files, of several sizes, of which one in four has no label."""
    found: Members = []
    for place in range(PER_TAR):
        key, kind = f"{number}/{place:02d}", ("JPEG", "PNG", "WEBP")[place % 3]
        found.append((f"{key}.{kind.lower()}", picture(number * PER_TAR + place, kind)))
        found += [(f"{key}.cls", b"1")] if place % 4 else []
    return found


@pytest.fixture
def originals(tmp_path: Path) -> Path:
    for number in range(TARS):
        (tmp_path / f"train-{number:02d}.tar").write_bytes(pack(members(number)))
    return tmp_path


def words(config: str, originals: Path, *more: str) -> list[str]:
    pattern = f"data.shards={originals}/train-{{00..{TARS - 1:02d}}}.tar"
    shape = [f"data.resolution={SIDE}", "data.channels=1", "data.shuffle_shards=2", "data.cache=none"]
    return [config, pattern, *shape, f"data.remote.directory={originals}/cache", *more]


def test_two_ranks_get_the_images_of_one_from_an_index_that_the_main_rank_makes(
    ranks: Ranks, config: str, originals: Path
) -> None:
    both = ranks.run(2, words(config, originals, "name=both"), target=keep_batches, extra=[str(originals)])
    (made,) = (originals / "cache" / "indexes").iterdir()
    assert str(made) in both.log(0)
    assert str(made) not in both.log(1)
    before = {path.name: path.stat().st_mtime_ns for path in made.glob("*.index")}
    ranks.run(1, words(config, originals, "name=alone"), target=keep_batches, extra=[str(originals)])
    assert {path.name: path.stat().st_mtime_ns for path in made.glob("*.index")} == before
    halves = [np.load(originals / f"both_rank{rank}.npy") for rank in range(2)]
    alone = np.load(originals / "alone_rank0.npy")
    assert np.array_equal(np.concatenate(halves, axis=1), alone)
    seen = fingerprints(alone.reshape(-1, 1, SIDE, SIDE))
    assert len(seen) == BATCH * BATCHES
    # Each epoch has each image once.
    count = TARS * PER_TAR
    for first in range(0, len(seen) - count + 1, count):
        assert len(set(seen[first : first + count])) == count


def test_a_run_resumes_from_tar_files_that_moved_and_not_from_others(
    config: str, originals: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(words(config, originals, "schedule.steps=1")) == 0
    moved = originals / "moved"
    moved.mkdir()
    for path in originals.glob("train-*.tar"):
        shutil.move(path, moved / path.name)
    pattern = f"data.shards={moved}/*.tar"
    assert main([*words(config, originals), pattern, "schedule.steps=2"]) == 0
    assert "steps are done" in capsys.readouterr().out
    (moved / "train-05.tar").write_bytes(pack(members(9)))
    assert main([*words(config, originals), pattern, "schedule.steps=3"]) == 4
    said = capsys.readouterr()
    assert "its tar files have changed: 1 tar file new. Runs on the old ones cannot be resumed" in said.out
    assert "data.manifest: " in said.err
    assert (
        "data.manifest identifies the images: data.shards or data.mix names others, or their set was"
        in said.err
    )


def test_what_only_an_index_can_choose_is_said_with_its_command(
    originals: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data: dict[str, Any] = {"resolution": SIDE, "remote": RemoteOptions(directory=str(originals / "cache"))}
    (originals / "json.tar").write_bytes(pack([("a.jpg", picture(1)), ("a.json", b'{"label": 1}')]))
    open_data(DataOptions(shards=f"{originals}/json.tar", **data))
    said = capsys.readouterr().out
    assert (
        "labels not used: 1 KEY.json (--labels json:KEY, where KEY is one of label). Options that begin"
        in said
    )
    (originals / "two.tar").write_bytes(pack([("a.jpg", picture(1)), ("a.png", picture(1, "PNG"))]))
    with pytest.raises(
        DataError, match=r"--images jpg\. Options that begin with -- are those of `wgan shards index"
    ):
        open_data(DataOptions(shards=f"{originals}/two.tar", **data))
    with pytest.raises(DataError, match=r"no files like .*Correct the pattern\.$"):
        open_data(DataOptions(shards=f"{originals}/none-*.tar", **data))


def test_a_size_must_be_chosen(originals: Path) -> None:
    dataset = pipeline.open_shards
    with pytest.raises(ConfigError, match=r"set data\.resolution"):
        dataset(f"{originals}/*.tar")
