"""Parts of a set that several machines make, merged into one."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.data.making.convert import Conversion
from pipeline.data.making.plan import Part, plan_shards
from pipeline.data.making.writer import make_shards, merge_parts
from pipeline.errors import ConfigError, DataError
from tests.data.making.sets import contents, make
from tests.shards import noise


@pytest.mark.parametrize("where", ["one directory", "directories of their own"])
def test_merged_parts_have_the_bytes_of_the_whole(tmp_path: Path, where: str) -> None:
    source, out = noise(22), tmp_path / "out"
    plan = plan_shards(source, Conversion((8, 8), 3), samples_per_shard=4)
    places = [out if where == "one directory" else tmp_path / str(number) for number in (1, 2, 3)]
    for number, place in enumerate(places, start=1):
        with pytest.raises(
            DataError, match=r"not complete: \d of 6 shards are missing: 00000\d|holds no parts"
        ):
            merge_parts(out, [place for place in places[: number - 1] if place != out])
        assert make_shards(plan, place, part=Part(number, 3)) is None
    merge_parts(out, [place for place in places if place != out])
    make(source, tmp_path / "whole")
    assert contents(out) == contents(tmp_path / "whole")


def test_a_merge_never_changes_files_of_someone_else(tmp_path: Path) -> None:
    plan = plan_shards(noise(8), Conversion((8, 8), 3), samples_per_shard=4)
    make_shards(plan, tmp_path / "1", part=Part(1, 2))
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "000000.tar").write_text("precious")
    with pytest.raises(
        ConfigError, match=r"is not a shard directory: it holds 1 other file, for example 000000\.tar"
    ):
        merge_parts(tmp_path / "out", [tmp_path / "1"])
    assert contents(tmp_path / "out") == {"000000.tar": b"precious"}


def test_parts_of_different_plans_are_not_merged(tmp_path: Path) -> None:
    source = noise(8)
    for number, channels in ((1, 1), (2, 3)):
        plan = plan_shards(source, Conversion((8, 8), channels), samples_per_shard=4)
        make_shards(plan, tmp_path / str(number), part=Part(number, 2))
    with pytest.raises(ConfigError, match="2 already holds different shards: their channels is 3, not 1"):
        merge_parts(tmp_path / "out", [tmp_path / "1", tmp_path / "2"])
