"""Checkpoints: exact, complete or absent, and kept as the options say."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from pipeline.errors import CheckpointError, StorageError
from pipeline.run.checkpoint import (
    Checkpoint,
    check_same_tensors,
    find_defect,
    list_checkpoints,
    newest_valid,
    prune,
    restore_replaced,
    save_checkpoint,
    set_aside,
)
from tests.run.checkpoints import FACTS, FILES, groups, names, save


def test_what_was_saved_is_loaded_with_the_same_bits(tmp_path: Path) -> None:
    (checkpoint,) = save(tmp_path, 3)
    assert checkpoint.resumable_facts().model_dump(exclude_unset=True, by_alias=True, mode="json") == FACTS
    assert checkpoint.facts().identity.values() == FACTS["identity"]
    for group, tensors in groups(3).items():
        found = checkpoint.tensors(group)
        assert found.keys() == tensors.keys()
        for name, value in tensors.items():
            assert (found[name].dtype, found[name].shape) == (value.dtype, value.shape)
            bits, expected = (t.contiguous().view(-1).view(torch.uint8) for t in (found[name], value))
            assert torch.equal(bits, expected), name


def test_a_checkpoint_is_these_files_and_nothing_else_is_left(tmp_path: Path) -> None:
    (checkpoint,) = save(tmp_path, 3)
    assert names(tmp_path) == ["step_00000003"]
    assert names(checkpoint.path) == sorted(FILES)
    assert find_defect(checkpoint) is None


def test_what_is_saved_is_the_state_of_that_moment(tmp_path: Path) -> None:
    tensors = groups()
    checkpoint = save_checkpoint(tmp_path, 1, tensors, FACTS)
    tensors["generator"]["weight"].zero_()
    assert torch.equal(checkpoint.tensors("generator")["weight"], groups()["generator"]["weight"])


def test_no_directory_and_an_empty_one_hold_no_checkpoint(tmp_path: Path) -> None:
    assert newest_valid(tmp_path / "absent") == (None, [])
    assert newest_valid(tmp_path) == (None, [])


def test_the_newest_has_the_largest_step_not_the_latest_time(tmp_path: Path) -> None:
    save(tmp_path, 200_000_000, 3, 99_999_999)
    assert [checkpoint.step for checkpoint in list_checkpoints(tmp_path)] == [3, 99_999_999, 200_000_000]
    os.utime(tmp_path / "step_00000003")
    found, _ = newest_valid(tmp_path)
    assert found is not None
    assert found.step == 200_000_000


def test_leftovers_of_an_interrupted_save_are_ignored_then_removed(tmp_path: Path) -> None:
    (good,) = save(tmp_path, 1)
    shutil.copytree(good.path, tmp_path / ".tmp_step_00000002")
    (tmp_path / ".tmp_step_00000002" / "manifest.json").unlink()
    (tmp_path / ".tmp_step_00000001").mkdir()
    assert newest_valid(tmp_path) == (good, [])
    save(tmp_path, 2)
    assert names(tmp_path) == ["step_00000001", "step_00000002"]


def test_a_damaged_checkpoint_is_renamed_for_a_new_one_and_kept(tmp_path: Path) -> None:
    (damaged,) = save(tmp_path, 5)
    (damaged.path / "manifest.json").write_text("{}")
    assert set_aside(damaged).name == "step_00000005.damaged-1"
    assert newest_valid(tmp_path) == (None, [])
    (again,) = save(tmp_path, 5)
    (again.path / "manifest.json").write_text("{}")
    (good,) = save(tmp_path, 5)
    assert names(tmp_path) == ["step_00000005", "step_00000005.damaged-1", "step_00000005.damaged-2"]
    assert newest_valid(tmp_path) == (good, [])


@pytest.mark.parametrize(
    ("keep_last", "keep_every", "left"),
    [
        (1, None, [60]),
        (2, None, [50, 60]),
        (9, None, [10, 20, 30, 40, 50, 60]),
        (1, 20, [20, 40, 60]),
        (2, 30, [30, 50, 60]),
        (1, 1000, [60]),
    ],
)
def test_the_newest_and_every_nth_checkpoint_are_kept(
    tmp_path: Path, keep_last: int, keep_every: int | None, left: list[int]
) -> None:
    save(tmp_path, 10, 20, 30, 40, 50, 60)
    (tmp_path / "step_00000010.damaged-1").mkdir()
    prune(tmp_path, keep_last, keep_every)
    assert [checkpoint.step for checkpoint in list_checkpoints(tmp_path)] == left
    assert (tmp_path / "step_00000010.damaged-1").exists()


def save_unwatched(directory: Path, step: int) -> Checkpoint:
    """Save a step that a signal stopped before it was recorded."""
    return save_checkpoint(directory, step, {**groups(step), "unwatched": {"real": torch.zeros(1)}}, FACTS)


def test_a_step_saved_before_it_was_recorded_is_replaced_once_it_is(tmp_path: Path) -> None:
    save_unwatched(tmp_path, 20)
    save(tmp_path, 20)
    assert names(tmp_path) == ["step_00000020"]
    assert not (tmp_path / "step_00000020" / "unwatched.safetensors").exists()


def test_a_kill_while_it_is_replaced_loses_neither(tmp_path: Path) -> None:
    path = save_unwatched(tmp_path, 20).path
    path.rename(tmp_path / "step_00000020.replaced")
    restore_replaced(tmp_path)
    assert names(tmp_path) == ["step_00000020"]
    path.rename(tmp_path / "step_00000020.replaced")
    save(tmp_path, 20)
    restore_replaced(tmp_path)
    assert names(tmp_path) == ["step_00000020"]
    assert not (path / "unwatched.safetensors").exists()


@pytest.fixture
def small_disk(mount_disk: Callable[[str], Path]) -> Path:
    """A file system of one megabyte."""
    return mount_disk("size=1m")


def test_a_full_disk_leaves_earlier_checkpoints_and_no_partial_one(small_disk: Path) -> None:
    large = groups() | {"ema": {"weight": torch.randn(90_000)}}
    first, second = (save_checkpoint(small_disk, step, large, FACTS) for step in (1, 2))
    with pytest.raises(StorageError, match=r"step 3 cannot be written to .*No space left") as caught:
        save_checkpoint(small_disk, 3, large, FACTS)
    assert "Earlier checkpoints are untouched" in str(caught.value)
    assert names(small_disk) == ["step_00000001", "step_00000002"]
    assert find_defect(first) is None
    assert newest_valid(small_disk) == (second, [])
    prune(small_disk, 1, None)
    third = save_checkpoint(small_disk, 3, large, FACTS)
    assert newest_valid(small_disk) == (third, [])


def test_a_missing_directory_is_a_storage_error(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match=r"step 1 cannot be written to .*absent: No such file"):
        save(tmp_path / "absent", 1)


def test_a_group_that_is_missing_is_named(tmp_path: Path) -> None:
    (checkpoint,) = save(tmp_path, 1)
    with pytest.raises(CheckpointError, match=r"step_00000001/ema\.safetensors cannot be read"):
        checkpoint.tensors("ema")


def test_tensors_of_other_networks_are_refused_by_name(tmp_path: Path) -> None:
    ours = {"critic": {"a": torch.zeros(2, 3), "b": torch.zeros(2), "c": torch.zeros(1)}}
    theirs = {"critic": {"a": torch.zeros(3, 2), "b": torch.zeros(2).half(), "d": torch.zeros(())}}
    check_same_tensors(ours, {"critic": {k: v + 1 for k, v in ours["critic"].items()}}, tmp_path)
    with pytest.raises(CheckpointError) as caught:
        check_same_tensors(ours, theirs, tmp_path / "step_00000001")
    assert str(caught.value).splitlines() == [
        f"{tmp_path / 'step_00000001'} belongs to other networks or optimizers:",
        "  critic/a: float32 (3, 2) in the checkpoint, float32 (2, 3) in this run",
        "  critic/b: float16 (2,) in the checkpoint, float32 (2,) in this run",
        "  critic/c: absent in the checkpoint, float32 (1,) in this run",
        "  critic/d: float32 () in the checkpoint, absent in this run",
        "Train under another name, or with the options that the checkpoint was made with.",
    ]


def test_a_long_list_of_differences_is_cut(tmp_path: Path) -> None:
    ours = {"critic": {str(number): torch.zeros(1) for number in range(20)}}
    with pytest.raises(CheckpointError, match="and 12 more") as caught:
        check_same_tensors(ours, {"critic": {}}, tmp_path)
    assert str(caught.value).count("absent in the checkpoint") == 8
