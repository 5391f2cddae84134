"""The members of a tar file as samples, by webdataset's own rules.

Members are one sample if they follow each other and have the same name up to the first dot after the last slash.
What webdataset passes over is passed over here too: folders, links, devices, names without an ending, and members named
`__NAME__`. Besides, hidden files are left out, such as those that macOS adds (`._0001.jpg`).
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import IO, Any

from pipeline.data.format.tar_reader import TarError, TarMember, read_members
from pipeline.data.sources.members import is_hidden_member
from pipeline.errors import DataError

META = re.compile(r"__[^/]*__($|/)")
"""Names that webdataset's reader takes for remarks on the tar file"""

Fields = dict[str, TarMember]
"""The members of a sample by what follows the key in their names, in lower case, such as "jpg" or "mask.png"."""


def read_samples(file: IO[bytes], where: str, passed_over: Counter[str]) -> Iterator[tuple[str, Fields]]:
    """The keys and members of the samples of an open tar file. What is passed over is counted.

    Raises TarError as `read_members` does, and DataError for a sample that has two members of one ending.
    """
    # Not above: it imports torch.
    from webdataset.tariterators import group_by_keys

    members = _visible(read_members(file), where, passed_over)
    named = ({"fname": member.name, "data": member, "__url__": where} for member in members)
    try:
        for sample in group_by_keys(named):
            fields: dict[str, Any] = {name: sample[name] for name in sample if not name.startswith("__")}
            yield sample["__key__"], fields
    except TarError:
        raise
    except ValueError as error:
        name, is_double, _ = str(error.args[0]).partition(": duplicate file name")
        if not is_double:
            raise
        raise DataError(
            f"{where}: {name} comes twice in one sample, so it is unclear which is meant. Pack the tar file again "
            "without copies."
        ) from None


def _visible(members: Iterable[TarMember], where: str, passed_over: Counter[str]) -> Iterator[TarMember]:
    from webdataset.tariterators import base_plus_ext

    for member in members:
        if member.kind == "folder":
            continue
        if is_hidden_member(member.name):
            passed_over["hidden file"] += 1
        elif META.match(member.name):
            passed_over["__NAME__ file"] += 1
        elif member.kind == "odd":
            raise DataError(
                f"{where}: {member.name} is a sparse file, or of another kind whose content is not stored as it is. "
                "Pack the tar file again without --sparse."
            )
        elif member.kind == "link":
            passed_over["linked or special file"] += 1
        elif base_plus_ext(member.name)[0] is None:
            passed_over["file without an ending"] += 1
        else:
            yield member
