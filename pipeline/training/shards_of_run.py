"""The shards of a run on all of its ranks. Imports no torch, so that a mistake is reported before the ranks meet."""

from __future__ import annotations

from collections.abc import Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Self

from pipeline.data.format.open_shards import open_shards
from pipeline.data.format.shard_set import ShardSet
from pipeline.data.originals.opening import settled
from pipeline.errors import DataError
from pipeline.option_data import DataOptions, is_pattern

if TYPE_CHECKING:
    from pipeline.ranks.runtime import Runtime


class ShardsOfRun:
    """Opens the shards, and closes them at its end.

    Tar files that a pattern names are listed and indexed by the main rank alone, before the ranks meet. The others open
    the index that it has made, after they have met.
    """

    def __init__(self, options: DataOptions, is_main: bool) -> None:
        self._options, self._is_shared = options, options.has_pattern
        self._opens_first = is_main or not self._is_shared
        self._opened: ShardSet | None = None

    def __enter__(self) -> Self:
        """Raises DataError or ConfigError."""
        if self._opens_first:
            self._options = settled(self._options)
            self._opened = open_shards(self._options)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._opened is not None:
            self._opened.files.close()

    def on_all_ranks(self, runtime: Runtime) -> ShardSet:
        """The set. All ranks call it together. Raises DataError on all of them if one cannot open it."""
        if self._is_shared:
            first, sources = self._opened, self._options.sources
            places, sha256 = runtime.gather_json(
                None if first is None else [[source.shards for source in sources], first.manifest.sha256]
            )[0]
            with runtime.agreement():
                if self._opened is None:
                    self._opened = self._open_index(places, sha256)
        assert self._opened is not None
        return self._opened

    def _open_index(self, places: Sequence[str], sha256: str) -> ShardSet:
        """The index that the main rank has made. Raises DataError if this machine does not see the same one."""
        remedy = (
            "Make an index on a disk that all machines see (`wgan shards index PATTERN OUT`), and name it in "
            "data.shards."
        )
        pairs = zip(self._options.sources, places, strict=True)
        # A set that is no pattern may be elsewhere on this machine.
        ours = [place if is_pattern(source.shards) else str(source.shards) for source, place in pairs]
        directory = " and ".join(ours)
        try:
            opened = open_shards(self._options.at(ours))
        except DataError as error:
            raise DataError(
                f"The main rank has indexed the tar files in {directory}, which this rank cannot read: {error} {remedy}"
            ) from None
        if opened.manifest.sha256 != sha256:
            opened.files.close()
            raise DataError(f"{directory} is not the index that the main rank has made. {remedy}")
        return opened
