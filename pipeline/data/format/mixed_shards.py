"""Several shard sets as one, whose samples follow each other: what reads a set reads a mixture in the same way.

In its manifest, the names of files begin with the number of their set, and a label is the place of its class among
those of all sets: classes of the same name are one.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import IO

import numpy as np

from pipeline.data.format.codecs import COLOURS
from pipeline.data.format.indexes import LABEL, Index
from pipeline.data.format.manifest import Manifest, Shard
from pipeline.data.format.shard_files import ShardFiles
from pipeline.data.format.shard_set import EVERYTHING, Form, ShardSet
from pipeline.errors import ConfigError


@dataclass(frozen=True)
class MixedManifest(Manifest):
    """What several sets hold together. Resolution, channels and encoding are those of the first one."""

    parts: tuple[str, ...] = ()
    """The hashes of their manifests"""

    @cached_property
    def sha256(self) -> str:
        """A hash that identifies the data, wherever the sets are."""
        return hashlib.sha256(json.dumps(["mix", *self.parts]).encode()).hexdigest()


@dataclass(frozen=True)
class MixedShards(ShardSet):
    """The sets of a mixture as one. Its `directory` is None, wherever they are."""

    parts: tuple[ShardSet, ...] = ()

    @property
    def sources(self) -> tuple[ShardSet, ...]:
        return self.parts

    @property
    def is_local(self) -> bool:
        return all(part.is_local for part in self.parts)

    def check_sizes(self, share: slice = EVERYTHING) -> None:
        for part in self.parts:
            part.check_sizes(share)

    def check_hashes(self, share: slice = EVERYTHING, show_progress: bool = False) -> None:
        for part in self.parts:
            part.check_hashes(share, show_progress)

    def form_of(self, number: int) -> Form:
        part, _ = self._places[number]
        return self.parts[part].form_of(0)

    def load_index(self, shard: Shard) -> Index:
        part, original = self._places[self._numbers[shard.name]]
        index = self.parts[part].load_index(original)
        labels, classes = index[:, LABEL], self._classes[part]
        if len(classes):
            has_label = (labels >= 0) & (labels < len(classes))
            index = np.array(index)
            index[:, LABEL] = np.where(has_label, classes[np.where(has_label, labels, 0)], -1)
        return index

    @cached_property
    def _classes(self) -> list[np.ndarray]:
        """Of each set, the places of its classes among those of all sets."""
        places = self.manifest.class_places
        return [
            np.array([places[name] for name in part.manifest.classes], dtype=np.int64) for part in self.parts
        ]

    @cached_property
    def _places(self) -> list[tuple[int, Shard]]:
        """Of each shard, the number of its set, and what that set calls it."""
        return [(number, shard) for number, part in enumerate(self.parts) for shard in part.manifest.shards]

    @cached_property
    def _numbers(self) -> dict[str, int]:
        return {shard.name: number for number, shard in enumerate(self.manifest.shards)}


class MixedFiles:
    """`ShardFiles` of several sets."""

    def __init__(self, parts: Sequence[ShardFiles]) -> None:
        self._parts = parts

    def open(self, name: str) -> IO[bytes]:
        """Open the file, as the files of its set do."""
        part, original = self._find(name)
        return part.open(original)

    def expect(self, now: Sequence[str], later: Sequence[str]) -> None:
        """Announce to each set the files of it that are being read and that come next."""
        first, second = self._by_part(now), self._by_part(later)
        for number, part in enumerate(self._parts):
            part.expect(first.get(number, []), second.get(number, []))

    def renew(self, names: Sequence[str]) -> bool:
        """Remove those of these files that are copies and have changed. Returns whether there were any."""
        # All of them, and not only up to the first that had one.
        renewed = [self._parts[number].renew(found) for number, found in self._by_part(names).items()]
        return any(renewed)

    def where(self, name: str) -> str:
        """The file's path or URL."""
        part, original = self._find(name)
        return part.where(original)

    def close(self) -> None:
        """Stop all downloads."""
        for part in self._parts:
            part.close()

    def _find(self, name: str) -> tuple[ShardFiles, str]:
        number, _, original = name.partition("/")
        return self._parts[int(number)], original

    def _by_part(self, names: Sequence[str]) -> dict[int, list[str]]:
        found: dict[int, list[str]] = {}
        for name in names:
            number, _, original = name.partition("/")
            found.setdefault(int(number), []).append(original)
        return found


def mix(parts: Sequence[ShardSet], places: Sequence[str]) -> ShardSet:
    """Several sets as one; one set stays as it is. `places` are their names in messages.

    Raises ConfigError unless their images have one shape, which no run can do without.
    """
    if len(parts) == 1:
        return parts[0]
    first, manifests = parts[0], [part.manifest for part in parts]
    for part, place in zip(parts, places, strict=True):
        if part.image_shape != first.image_shape:
            raise ConfigError(
                f"data.mix: {places[0]} holds images of {_shape(first)}, and {place} images of {_shape(part)}. A run "
                "draws images of one shape: set data.resolution (and data.channels), in which all are read."
            )
    joined = MixedManifest(
        source="; ".join(manifest.source for manifest in manifests),
        resolution=manifests[0].resolution,
        channels=manifests[0].channels,
        classes=tuple(dict.fromkeys(name for manifest in manifests for name in manifest.classes)),
        encoding=manifests[0].encoding,
        shards=tuple(
            _named(shard, number) for number, manifest in enumerate(manifests) for shard in manifest.shards
        ),
        parts=tuple(manifest.sha256 for manifest in manifests),
    )
    conversion = next((part.conversion for part in parts if part.conversion is not None), None)
    files = MixedFiles([part.files for part in parts])
    return MixedShards(joined, files, None, conversion, tuple(parts))


def _named(shard: Shard, number: int) -> Shard:
    return replace(shard, name=f"{number}/{shard.name}", index=f"{number}/{shard.index}")


def _shape(shards: ShardSet) -> str:
    channels, height, width = shards.image_shape
    return f"{height} x {width} in {COLOURS[channels]}"
