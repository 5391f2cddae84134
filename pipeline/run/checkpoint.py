"""Checkpoints: complete or absent on disk, and safe to read, since nothing in them can run code.

    step_00010000/
      generator.safetensors  critic.safetensors  ema.safetensors
      generator_optimizer.safetensors  critic_optimizer.safetensors  ...
      state.json      counters and other plain values
      manifest.json   size and SHA-256 of each file above: written last

A checkpoint is written under a temporary name, flushed to the disk and renamed. It is valid only if the hashes of its
files are right: if a single bit has changed, or a save was interrupted, an earlier checkpoint is used.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
from collections.abc import Callable, Collection
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import Field

from pipeline.documents import Document, parse_json
from pipeline.durable import advice, create_file, remove_tree, storage_errors, sync_directory
from pipeline.errors import CheckpointError, StorageError
from pipeline.foreign_text import shown
from pipeline.regular_files import open_regular, read_regular
from pipeline.run.saved_state import ResumableState, SavedState, Step
from pipeline.run.tensor_files import Tensors, read_tensors
from pipeline.stderr import say_warning
from pipeline.wording import counted

FORMAT = "wgan-checkpoint/1"
Say = Callable[[str], None]
"""Tells the user of something."""
NAME = re.compile(r"^step_([0-9]{8,16})$")


MOST_TEXT_BYTES = 1 << 22
NEVER_READABLE = {errno.EISDIR, errno.EINVAL, errno.EFBIG}
"""What `open_regular` says of anything that is no file of such a size; other errors may pass."""
State = TypeVar("State", bound=SavedState)


class FileNote(Document):
    """Size and hash of a file of a checkpoint."""

    bytes: int
    sha256: str

    def __str__(self) -> str:
        return f"{counted(self.bytes, 'byte')} with SHA-256 {self.sha256[:16]}…"


class Versioned(Document):
    """What manifest.json has in every version."""

    format: str | None = None


class Manifest(Document):
    """manifest.json of a checkpoint."""

    step: Step
    files: dict[Annotated[str, Field(pattern=r"^[A-Za-z0-9_]+\.(safetensors|json)$")], FileNote]


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint on disk."""

    path: Path
    step: int

    def facts(self) -> SavedState:
        """The plain values that were saved with the tensors. Raises CheckpointError if they cannot be read."""
        return self._read_state(SavedState)

    def resumable_facts(self) -> ResumableState:
        """The same with those that only a resumed run needs. Raises CheckpointError if they cannot be read."""
        return self._read_state(ResumableState)

    def _read_state(self, kind: type[State]) -> State:
        path = self.path / "state.json"
        try:
            return parse_json(read_regular(path, MOST_TEXT_BYTES), kind)
        except (OSError, ValueError) as error:
            raise _unreadable(path, error) from None

    def tensors(self, group: str) -> Tensors:
        """One group of tensors by name, in host memory. Raises CheckpointError if the file cannot be read."""
        path = self.path / f"{group}.safetensors"
        try:
            return read_tensors(path).tensors
        except (OSError, ValueError) as error:
            raise _unreadable(path, error) from None


def _unreadable(path: Path, error: OSError | ValueError) -> CheckpointError:
    why = error.strerror if isinstance(error, OSError) else error
    return CheckpointError(
        f"{path} cannot be read: {why}. If the run uses several machines, run_root must be on storage that all of them "
        "share."
    )


def save_checkpoint(
    directory: Path, step: int, groups: dict[str, Tensors], facts: dict[str, Any]
) -> Checkpoint:
    """Write a checkpoint of this step completely, or not at all. Raises StorageError."""
    from safetensors.torch import save

    final, temporary = directory / f"step_{step:08d}", directory / f".tmp_step_{step:08d}"
    try:
        _remove_leftovers(directory)
        temporary.mkdir()
        sizes = {}
        for name, tensors in groups.items():
            host = {key: value.detach().cpu().contiguous() for key, value in tensors.items()}
            sizes[f"{name}.safetensors"] = _write(temporary / f"{name}.safetensors", save(host))
        sizes["state.json"] = _write(temporary / "state.json", _json(facts))
        _write(temporary / "manifest.json", _json({"format": FORMAT, "step": step, "files": sizes}))
        sync_directory(temporary)
        replaced = _set_former_aside(final)
        temporary.rename(final)
        sync_directory(directory)
        if replaced is not None:
            remove_tree(replaced)
    except OSError as error:
        with suppress(OSError):
            remove_tree(temporary)
        raise StorageError(
            f"The checkpoint of step {step} cannot be written to {directory}: {error.strerror or error}. Earlier "
            f"checkpoints are untouched. {advice(error)}, and run the same command again."
        ) from None
    return Checkpoint(final, step)


def _set_former_aside(final: Path) -> Path | None:
    """Rename the checkpoint of the same step, if there is one. Returns its new path if it is not needed any more.

    A run saves a step twice only if a signal stopped it before the step was recorded. Any other one is damaged, because
    a run resumes from a valid checkpoint and does not train this step again.
    """
    if not os.path.lexists(final):
        return None
    if not (final / "unwatched.safetensors").is_file():
        final.rename(_free_name(final, "damaged"))
        return None
    return final.rename(final.with_name(f"{final.name}.replaced"))


def restore_replaced(directory: Path) -> None:
    """Bring back a checkpoint whose replacement a kill has prevented. Raises StorageError."""
    for path in directory.glob("step_*.replaced"):
        with storage_errors(path):
            if os.path.lexists(path.with_suffix("")):
                remove_tree(path)
            else:
                path.rename(path.with_suffix(""))


def list_checkpoints(directory: Path) -> list[Checkpoint]:
    """All checkpoints in a directory, valid or not, in the order of their steps. Raises CheckpointError."""
    try:
        paths = list(directory.iterdir())
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise CheckpointError(
            f"{directory} cannot be read: {error.strerror}. Make it readable, and run the same command again."
        ) from None
    found = [(NAME.match(path.name), path) for path in paths]
    return sorted((Checkpoint(path, int(match[1])) for match, path in found if match), key=lambda c: c.step)


def newest_valid(directory: Path) -> tuple[Checkpoint | None, list[str]]:
    """The newest valid checkpoint, or None if there is none, and the defect of each newer one, newest first."""
    defects: list[str] = []
    for checkpoint in reversed(list_checkpoints(directory)):
        defect = find_defect(checkpoint)
        if defect is None:
            return checkpoint, defects
        defects.append(defect)
    return None, defects


def newest_usable(directory: Path, say: Say = say_warning) -> Checkpoint | None:
    """The newest valid checkpoint, or None if there is none yet. Says so if a newer one is passed over.

    Raises CheckpointError if there are some, but none can be used.
    """
    checkpoint, defects = newest_valid(directory)
    if checkpoint is None:
        if not defects:
            return None
        raise CheckpointError(
            f"None of the checkpoints in {directory} can be used:",
            *(f"  {defect}" for defect in defects),
            "Nothing was changed. Restore one from a copy, or train a new run under another name.",
        )
    for defect in defects:
        say(f"{defect}; the checkpoint of step {checkpoint.step} is used instead")
    return checkpoint


def find_defect(checkpoint: Checkpoint) -> str | None:
    """Why a checkpoint can never be used, or None if it is valid.

    Raises CheckpointError if it cannot be read now, since it may still be valid.
    """
    path = checkpoint.path
    try:
        text = read_regular(path / "manifest.json", MOST_TEXT_BYTES)
        if (found_format := parse_json(text, Versioned).format) != FORMAT:
            return f"{path} has the format {shown(found_format, 60)}; this version reads {FORMAT!r}"
        manifest = parse_json(text, Manifest)
        if manifest.step != checkpoint.step:
            return f"{path} contains step {manifest.step}"
        if missing := {"state.json", "generator.safetensors"} - manifest.files.keys():
            return f"{path / 'manifest.json'} does not list {', '.join(sorted(missing))}"
        for name, expected in manifest.files.items():
            found = _describe_file(path / name)
            if found != expected:
                return f"{path / name} has changed: it has {found}, but its manifest says {expected}"
    except ValueError as error:
        return f"{path / 'manifest.json'} is damaged ({error})"
    except (FileNotFoundError, NotADirectoryError) as error:
        return f"{error.filename} is missing"
    except OSError as error:
        if error.errno in NEVER_READABLE:
            return f"{error.filename} cannot be used: {error.strerror}"
        raise CheckpointError(
            f"{error.filename} cannot be read: {error.strerror}. Make it readable, and run the same command again."
        ) from None
    return None


def _describe_file(path: Path) -> FileNote:
    """Size and hash of a file. Raises OSError."""
    digest, size = hashlib.sha256(), 0
    with open_regular(path) as file:
        while block := file.read(1 << 22):
            digest.update(block)
            size += len(block)
    return FileNote(bytes=size, sha256=digest.hexdigest())


def set_aside(checkpoint: Checkpoint) -> Path:
    """Rename a damaged checkpoint, so that it is kept but never used. Returns its new path."""
    target = _free_name(checkpoint.path, "damaged")
    with storage_errors(checkpoint.path):
        checkpoint.path.rename(target)
    return target


def prune(directory: Path, keep_last: int, keep_every: int | None, kept_steps: Collection[int] = ()) -> None:
    """Delete all but the newest `keep_last`, multiples of `keep_every` and `kept_steps`. Raises StorageError."""
    for checkpoint in list_checkpoints(directory)[:-keep_last]:
        is_kept = keep_every is not None and checkpoint.step % keep_every == 0
        if not is_kept and checkpoint.step not in kept_steps:
            try:
                remove_tree(checkpoint.path)
            except OSError as error:
                raise StorageError(
                    f"{checkpoint.path} cannot be deleted: {error.strerror}. Delete it yourself, and run the same "
                    "command again."
                ) from None


def check_same_tensors(
    expected: dict[str, Tensors],
    found: dict[str, Tensors],
    path: Path,
    remedy: str = "Train under another name, or with the options that the checkpoint was made with.",
) -> None:
    """Raise CheckpointError, with the differences and the remedy, unless names, shapes and dtypes are equal."""
    wrong = []
    for group, tensors in expected.items():
        theirs = found[group]
        for name in sorted(tensors.keys() | theirs.keys()):
            here = _kind(tensors[name]) if name in tensors else "absent"
            there = _kind(theirs[name]) if name in theirs else "absent"
            if here != there:
                wrong.append(f"{group}/{name}: {there} in the checkpoint, {here} in this run")
    if wrong:
        more = [f"  and {len(wrong) - 8} more"] if len(wrong) > 8 else []
        raise CheckpointError(
            f"{path} belongs to other networks or optimizers:",
            *(f"  {line}" for line in wrong[:8]),
            *more,
            remedy,
        )


def _kind(tensor: Any) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')} {tuple(tensor.shape)}"


def _json(content: dict[str, Any]) -> bytes:
    return (json.dumps(content, indent=1) + "\n").encode()


def _write(path: Path, content: bytes) -> dict[str, Any]:
    with create_file(path) as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    return {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}


def _remove_leftovers(directory: Path) -> None:
    for path in directory.glob(".tmp_step_*"):
        remove_tree(path)


def _free_name(path: Path, suffix: str) -> Path:
    number = 1
    while os.path.lexists(target := path.with_name(f"{path.name}.{suffix}-{number}")):
        number += 1
    return target
