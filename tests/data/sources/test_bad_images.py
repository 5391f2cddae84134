"""Images and labels that cannot be used."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pipeline.data.making import writer
from pipeline.data.making.convert import Conversion
from pipeline.data.making.plan import plan_shards
from pipeline.data.making.writer import find_finished, make_shards
from pipeline.data.sources.bad_images import parse_limit
from pipeline.errors import ConfigError, DataError
from tests.data.making.sets import make
from tests.shards import Given, noise


def bad_images(*bad: int) -> Given:
    """Twelve PNG files, some of them truncated."""
    from pipeline.data.format.codecs import encode

    files = [encode(pixels, "png", 95) for pixels in noise(12).pictures]  # type: ignore[arg-type]
    return Given([file[:-12] if number in bad else file for number, file in enumerate(files)])


def test_a_bad_image_is_an_error_with_name_reason_and_remedy(tmp_path: Path) -> None:
    with pytest.raises(
        DataError,
        match=r"given: \.\./5 cannot be used: it is damaged: it ends before its end mark\. .* --skip-bad N",
    ):
        make(bad_images(5), tmp_path)


@pytest.mark.parametrize("workers", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_bad_images_within_the_limit_are_left_out_and_listed(tmp_path: Path, workers: int) -> None:
    source = bad_images(4, 5, 6, 7, 9)
    plan = plan_shards(source, Conversion((8, 8), 3), samples_per_shard=4)
    with pytest.raises(
        DataError,
        match=r"more images .* than --skip-bad 4 allows, .* it is damaged.* Of the 12 images, 5 cannot",
    ):
        make_shards(plan, tmp_path, skip_bad=4, workers=workers)
    manifest = make_shards(plan, tmp_path, skip_bad=5, workers=workers)
    assert manifest is not None
    # All images of the second shard are bad, so it does not exist.
    assert [(shard.name, shard.count) for shard in manifest.shards] == [("000000.tar", 4), ("000002.tar", 3)]
    report = (tmp_path / "bad-images.txt").read_text().splitlines()
    assert report == [
        f"../{number}\tit is damaged: it ends before its end mark" for number in (4, 5, 6, 7, 9)
    ]
    assert find_finished(tmp_path, plan) == manifest


def test_a_set_of_only_bad_images_is_refused(tmp_path: Path) -> None:
    source = bad_images(*range(12))
    plan = plan_shards(source, Conversion((8, 8), 3), samples_per_shard=4)
    with pytest.raises(
        DataError, match=r"given: no image can be used, for example \.\./0: it is damaged: it ends before"
    ):
        make_shards(plan, tmp_path, skip_bad=12)


@pytest.mark.parametrize("label", [None, -1, 2])
def test_a_label_outside_the_classes_is_refused(tmp_path: Path, label: int | None) -> None:
    with pytest.raises(DataError, match=f"has label {label}, but the source has 2 classes, numbered from 0"):
        make(Given(noise(2).pictures, [0, label], ("even", "odd")), tmp_path)


def test_repaired_images_are_used_on_the_next_run(tmp_path: Path) -> None:
    def plan(source: Given) -> Any:
        return plan_shards(source, Conversion((8, 8), 3), samples_per_shard=2)

    with pytest.raises(DataError, match="than --skip-bad 1 allows"):
        make_shards(plan(bad_images(1, 5)), tmp_path, skip_bad=1)
    manifest = make_shards(plan(bad_images()), tmp_path)
    assert manifest is not None
    assert manifest.count == 12


@pytest.mark.parametrize(
    ("text", "expected"), [("0", 0), ("3", 3), ("all", 200), ("5%", 10), ("0.5%", 1), ("100%", 200)]
)
def test_the_limit_is_a_number_a_percentage_or_all(text: str, expected: int) -> None:
    assert parse_limit(text).of(200) == expected


@pytest.mark.parametrize("text", ["-1", "5 %", "101%", "some", "", "1e3"])
def test_other_limits_are_refused(text: str) -> None:
    with pytest.raises(
        ConfigError, match=r"--skip-bad .* is not a limit\. Give a number of images, a percentage"
    ):
        parse_limit(text)


def test_the_first_bad_image_says_how_many_there_are(tmp_path: Path) -> None:
    with pytest.raises(
        DataError, match=r"Of the 12 images, 3 cannot be used, for example \.\./5, \.\./6, \.\./9\."
    ):
        make(bad_images(5, 6, 9), tmp_path)


def test_bad_images_are_counted_as_far_as_there_is_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer, "SECONDS_TO_COUNT", 0.0)
    monkeypatch.setattr(writer, "TRIED_TOGETHER", 8)
    with pytest.raises(DataError, match=r"Of the 12 images, 8 were tried: \d cannot be used"):
        make(bad_images(5, 6, 9), tmp_path)


def test_a_pointer_of_git_lfs_is_named_as_such(tmp_path: Path) -> None:
    pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:0123\nsize 12345\n"
    with pytest.raises(DataError, match=r"\.\./0 cannot be used: it is a Git LFS pointer.*git lfs pull"):
        make(Given([pointer]), tmp_path)


def test_names_with_escapes_and_newlines_are_written_on_one_line(tmp_path: Path) -> None:
    source = bad_images(0)
    source.key = lambda position: f"a\x1b[2J\nb/{position}"  # type: ignore[method-assign]
    plan = plan_shards(source, Conversion((8, 8), 3))
    make_shards(plan, tmp_path, skip_bad=1)
    assert (
        tmp_path / "bad-images.txt"
    ).read_text() == "a\\x1b[2J\\nb/0\tit is damaged: it ends before its end mark\n"
