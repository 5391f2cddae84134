"""Checkpoints: exact, complete or absent, and safe to read."""

from __future__ import annotations

import json
import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

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

FACTS: dict[str, Any] = {
    "identity": {
        "seed": 3,
        "images": [1, 8, 8],
        "data.manifest": "5ea1",
        "objective.clip": 0.1,
        "data.classes": None,
    },
    "counters": {"step": 3, "position": 2**40},
    "scaler": {},
    "window": {"names": ["a", "b"], "count": 2},
    "recorder": {"smooth": 0.1, "smoothed": 2},
}
FILES = ["generator.safetensors", "critic.safetensors", "window.safetensors", "state.json", "manifest.json"]


def groups(seed: int = 0) -> dict[str, dict[str, torch.Tensor]]:
    generator = torch.Generator().manual_seed(seed)
    special = torch.tensor([0x7FC00001, -0x80000000, 1], dtype=torch.int32).view(torch.float32)
    return {
        "generator": {
            "weight": torch.randn(3, 4, generator=generator),
            "transposed": torch.randn(4, 3, generator=generator).T,
            "half": torch.randn(5, generator=generator).bfloat16(),
            "double": torch.randn(2, generator=generator).double(),
            "special": special,
        },
        "critic": {"score/step": torch.tensor(7.0), "count": torch.tensor(2**53 + 1), "none": torch.zeros(0)},
        "window": {},
    }


def save(directory: Path, *steps: int) -> list[Checkpoint]:
    return [save_checkpoint(directory, step, groups(step), FACTS) for step in steps]


def names(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


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


def flip(path: Path, place: int) -> None:
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)


def replace_by_a_directory(path: Path) -> None:
    path.unlink()
    path.mkdir()


DAMAGES: dict[str, Callable[[Path], object]] = {
    "two bytes short": lambda path: os.truncate(path, path.stat().st_size - 2),
    "cut in half": lambda path: os.truncate(path, path.stat().st_size // 2),
    "emptied": lambda path: os.truncate(path, 0),
    "zeroed": lambda path: path.write_bytes(bytes(path.stat().st_size)),
    "a byte longer": lambda path: path.write_bytes(path.read_bytes() + b"x"),
    "first byte flipped": lambda path: flip(path, 0),
    "middle byte flipped": lambda path: flip(path, path.stat().st_size // 2),
    "deleted": lambda path: path.unlink(),
    "a directory": replace_by_a_directory,
}


@pytest.mark.parametrize("file", FILES)
@pytest.mark.parametrize("damage", DAMAGES)
def test_every_damage_is_found_and_the_earlier_checkpoint_is_used(
    tmp_path: Path, file: str, damage: str
) -> None:
    older, newer = save(tmp_path, 1, 2)
    DAMAGES[damage](newer.path / file)
    defect = find_defect(newer)
    assert defect is not None
    assert str(newer.path) in defect
    assert newest_valid(tmp_path) == (older, [defect])


def test_a_flipped_byte_anywhere_in_the_manifest_is_found(tmp_path: Path) -> None:
    (checkpoint,) = save(tmp_path, 1)
    path = checkpoint.path / "manifest.json"
    for place in range(0, path.stat().st_size, 5):
        flip(path, place)
        assert find_defect(checkpoint) is not None, place
        flip(path, place)
    assert find_defect(checkpoint) is None


def rewrite(checkpoint: Checkpoint, **changes: Any) -> None:
    path = checkpoint.path / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format": "wgan-checkpoint/2"}, "has the format 'wgan-checkpoint/2'; this version reads"),
        ({"format": None}, "has the format None"),
        ({"step": 3}, "contains step 3"),
        ({"files": None}, "manifest.json is damaged"),
        ({"files": {}}, "does not list generator.safetensors, state.json"),
        ({"files": {"critic.safetensors": 3}}, "manifest.json is damaged"),
        ({"files": ["critic.safetensors"]}, "manifest.json is damaged"),
    ],
)
def test_a_manifest_of_another_kind_is_refused(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    older, newer = save(tmp_path, 1, 2)
    rewrite(newer, **changes)
    found, (defect,) = newest_valid(tmp_path)
    assert found == older
    assert message in defect


def test_a_checkpoint_with_the_name_of_another_step_is_not_used(tmp_path: Path) -> None:
    older, newer = save(tmp_path, 1, 2)
    shutil.copytree(newer.path, tmp_path / "step_00000009")
    shutil.rmtree(newer.path)
    found, (defect,) = newest_valid(tmp_path)
    assert found == older
    assert "step_00000009 contains step 2" in defect


def test_a_manifest_names_no_file_outside_its_checkpoint(tmp_path: Path) -> None:
    (checkpoint,) = save(tmp_path, 1)
    (tmp_path / "secret").write_text("x")
    manifest = json.loads((checkpoint.path / "manifest.json").read_text())
    rewrite(checkpoint, files=manifest["files"] | {"../secret": {"bytes": 1, "sha256": "x"}})
    defect = find_defect(checkpoint)
    assert defect is not None
    assert f"{checkpoint.path / 'manifest.json'} is damaged (files.../secret" in defect


@pytest.mark.parametrize("file", ["critic.safetensors", "manifest.json"])
def test_a_named_pipe_in_the_place_of_a_file_is_a_defect_and_not_waited_for(
    tmp_path: Path, file: str
) -> None:
    (checkpoint,) = save(tmp_path, 1)
    (checkpoint.path / file).unlink()
    os.mkfifo(checkpoint.path / file)
    assert (
        find_defect(checkpoint) == f"{checkpoint.path / file} cannot be used: it is a named pipe, not a file"
    )
    os.mkfifo(checkpoint.path / "x.safetensors")
    with pytest.raises(CheckpointError, match="it is a named pipe"):
        checkpoint.tensors("x")


def test_links_among_the_checkpoints_are_removed_and_never_followed(tmp_path: Path) -> None:
    outside, directory = tmp_path / "outside", tmp_path / "checkpoints"
    directory.mkdir()
    outside.mkdir()
    (outside / "precious").write_text("precious")
    for name in ("step_00000001", ".tmp_step_00000002", ".tmp_step_00000003", "step_00000003"):
        (directory / name).symlink_to(outside)
    save(directory, 2, 3)
    assert names(directory) == ["step_00000001", "step_00000002", "step_00000003", "step_00000003.damaged-1"]
    prune(directory, keep_last=1, keep_every=None)
    assert names(directory) == ["step_00000003", "step_00000003.damaged-1"]
    assert names(outside) == ["precious"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"counters": {"step": 3, "position": -1}}, "counters.position is -1: input should be greater than"),
        ({"counters": {"step": 3.5, "position": 1}}, "counters.step is 3.5: input should be a valid integer"),
        ({"window": {"names": "ab", "count": 1}}, "window.names is 'ab': input should be a valid"),
        (
            {"identity": {"images": [1, 8, 10**9], "data.manifest": ""}},
            r"identity.images\[2\] is 1000000000: ",
        ),
        ({"identity": {}}, "identity.images is missing"),
        ({"recorder": None}, "recorder is None"),
        ({"scaler": {"scale": "x"}}, "scaler.scale"),
        ({"best": {"metric": "fid"}}, "best.basis is missing"),
    ],
)
def test_a_state_of_other_content_is_refused_with_its_place(
    tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    checkpoint = save_checkpoint(tmp_path, 3, groups(), FACTS | change)
    with pytest.raises(CheckpointError, match=rf"state\.json cannot be read: {message}"):
        checkpoint.resumable_facts()


def test_all_damaged_gives_none_and_every_defect_newest_first(tmp_path: Path) -> None:
    for checkpoint in save(tmp_path, 1, 2, 3):
        (checkpoint.path / "critic.safetensors").unlink()
    found, defects = newest_valid(tmp_path)
    assert found is None
    assert [f"step_0000000{step}" in defect for step, defect in zip((3, 2, 1), defects, strict=True)] == [
        True
    ] * 3


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


class Canary:
    """Writes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("kind", ["pickle", "torch"])
def test_a_pickle_in_place_of_tensors_is_refused_and_never_run(tmp_path: Path, kind: str) -> None:
    (checkpoint,) = save(tmp_path, 1)
    path, canary = checkpoint.path / "critic.safetensors", tmp_path / "canary"
    if kind == "pickle":
        path.write_bytes(pickle.dumps(Canary(canary)))
    else:
        torch.save({"weight": Canary(canary)}, path)
    with pytest.raises(CheckpointError, match=r"critic\.safetensors cannot be read"):
        checkpoint.tensors("critic")
    assert find_defect(checkpoint) is not None
    assert not canary.exists()
    pickle.loads(pickle.dumps(Canary(canary)))
    assert canary.exists(), "the canary would not have sung"


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
