"""A folder of image files: one subfolder per class, or all files in one place and without labels.

    faces/0001.jpg                     all images in one folder: no labels
    animals/cat/one/a.png              the class is the first subfolder; folders inside it do not matter
    animals/train/cat/a.png            if there is only one subfolder and it holds only folders, the classes are
                                       the first level with several folders

Nothing outside the folder is read: a link to a folder outside is refused here, a link to a file when it is read. A link
to a folder inside is left out, because the files of that folder are listed anyway.
"""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

from pipeline import stopping
from pipeline.data.format.codecs import MAX_FILE_BYTES
from pipeline.data.sources import Source, Spec
from pipeline.data.sources.listing import ListedImages, list_images
from pipeline.data.sources.members import Container, Members, Where, is_hidden, too_large, unreadable
from pipeline.data.sources.samples import FILE_LABELS, asked_of
from pipeline.errors import DataError
from pipeline.regular_files import open_regular

LABELS = FILE_LABELS


def open_source(spec: Spec) -> Source:
    """List the images in the folder `spec.name`.

    Raises DataError if there are none, if a class folder has none, or if there are images both in class folders and
    next to them; ConfigError if a root or a split is given.
    """
    spec.refuse_root()
    spec.refuse_splits(f"Give the folder that holds only the {spec.split} images.")
    path = Path(spec.name)
    # Only the name, not the path: shards stay the same if the folder is moved.
    name = path.resolve().name or "folder"
    return ListedImages(name, list_images(path, [list_folder(path)], asked_of(spec)))


def list_folder(path: Path) -> Members:
    """All visible files and folders below `path`, sorted by name.

    Raises DataError if a folder cannot be read, and for links to folders that are not below `path`.
    """
    members = Members(Container("folder", path, path, read_from_folder))
    root = Path(os.path.realpath(path))
    pending = [""]
    while pending:
        stopping.check()
        folder = pending.pop()
        try:
            with os.scandir(path / folder) as entries:
                found = sorted(entries, key=lambda entry: entry.name)
        except OSError as error:
            raise unreadable(path / folder, error) from None
        for entry in found:
            if _add(members, f"{folder}{entry.name}", entry, root):
                pending.append(f"{folder}{entry.name}/")
    return members


def _add(members: Members, name: str, entry: os.DirEntry[str], root: Path) -> bool:
    """Add what was found under this name; return whether it is a folder to look into."""
    if is_hidden(entry.name):
        members.hidden.add(name)
    elif entry.is_dir(follow_symlinks=False):
        members.folders.add(name)
        return True
    elif entry.is_symlink() and _leads_to_folder(entry):
        _leave_out_linked_folder(members, name, root)
    elif entry.is_symlink() or entry.is_file():  # a link that leads nowhere or out is refused when it is read
        members.files[name] = ()
    else:
        members.special.append(f"{name}, {kind_of(entry.stat().st_mode)}")
    return False


def _leads_to_folder(link: os.DirEntry[str]) -> bool:
    try:
        return link.is_dir()
    except OSError:  # for example links that lead to each other
        return False


def _leave_out_linked_folder(members: Members, name: str, root: Path) -> None:
    target = Path(os.path.realpath(members.path / name))
    if not target.is_relative_to(root):
        raise DataError(
            f"{members.path / name} is a link to the folder {target}, outside of {members.path}, and nothing outside "
            f"of it is read. Copy the folder there, or make a copy of the set with its links followed: cp -rL "
            f"{members.path} COPY."
        )
    members.special.append(f"{name}, a link to another folder of the set")


def kind_of(mode: int) -> str:
    """What a file that is neither regular nor a folder is, with its article."""
    if stat.S_ISFIFO(mode):
        return "a named pipe"
    return "a socket" if stat.S_ISSOCK(mode) else "a device"


def read_from_folder(container: Container, name: str, _where: Where) -> bytes:
    """The content of a file of a folder. Raises DataError as `read_image_file` does."""
    return read_image_file(f"{container.path}/{name}", within=container.path)


def read_image_file(file: Path | str, within: Path | None = None) -> bytes:
    """The content of a file.

    Raises DataError if it cannot be read, is not a regular file, is too large for an image, or is a link that leads out
    of the folder `within`; without `within`, links are followed.
    """
    try:
        descriptor = _open(file, within)
        try:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode):
                raise DataError(f"{file} is not a regular file. Remove it.")
            if status.st_size > MAX_FILE_BYTES:
                raise too_large(file)
            content = os.read(descriptor, status.st_size)
            # Network file systems may return less than requested.
            while len(content) < status.st_size and (
                rest := os.read(descriptor, status.st_size - len(content))
            ):
                content += rest
        finally:
            os.close(descriptor)
    except OSError as error:
        raise unreadable(file, error) from None
    if len(content) != status.st_size:
        raise DataError(f"{file} became shorter while it was read. Copy it again.")
    return content


def _open(file: Path | str, within: Path | None) -> int:
    """A descriptor of the file, which may be of any kind.

    O_NONBLOCK, because opening a named pipe would otherwise wait for a writer. Direct system calls, because Python's
    file objects take longer to open than a small image takes to read.
    """
    flags = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC
    if within is None:
        return os.open(file, flags)
    try:
        return os.open(file, flags | os.O_NOFOLLOW)
    except OSError as error:
        if error.errno != errno.ELOOP:
            raise
    with open_regular(Path(file), within) as opened:  # a link
        return os.dup(opened.fileno())
