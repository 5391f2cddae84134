"""Exchanges between ranks of one machine, with ranks that are threads of this process."""

from __future__ import annotations

import tempfile
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from pipeline.ranks.failures import as_rank_failure
from pipeline.ranks.unix_sockets import CHUNK, UnixSockets, connect

RANKS = 3


class Talk:
    """What gathers values of threads."""

    def __init__(self) -> None:
        self._barrier, self._values = threading.Barrier(RANKS, timeout=30), [None] * RANKS

    def gather(self, rank: int, value: Any) -> list[Any]:
        self._values[rank] = value
        self._barrier.wait()
        found = list(self._values)
        self._barrier.wait()
        return found


def on_each(act: Callable[[int], Any]) -> list[Any]:
    with ThreadPoolExecutor(RANKS) as pool:
        return list(pool.map(act, range(RANKS)))


def connected(timeout: float = 30.0) -> list[UnixSockets | None]:
    talk = Talk()
    return on_each(lambda rank: connect(rank, RANKS, partial(talk.gather, rank), timeout))


@pytest.fixture
def ranks() -> Iterator[list[UnixSockets]]:
    found = [sockets for sockets in connected(timeout=0.5) if sockets is not None]
    assert len(found) == RANKS
    yield found
    for sockets in found:
        sockets.close()


@pytest.mark.parametrize("count", [1, 7, CHUNK // 4, 3 * CHUNK + 5])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.int64])
def test_all_ranks_get_the_rows_of_all(ranks: list[UnixSockets], count: int, dtype: torch.dtype) -> None:
    values = [torch.arange(count).to(dtype) + rank for rank in range(RANKS)]
    for rows in on_each(lambda rank: ranks[rank].gather(values[rank])):
        assert torch.equal(rows, torch.stack(values))


def test_exchanges_follow_each_other(ranks: list[UnixSockets]) -> None:
    def talk(rank: int) -> list[Tensor]:
        return [ranks[rank].gather(torch.full((5, number), float(rank))) for number in range(1, 40)]

    for rows in on_each(talk):
        assert [tuple(found.shape) for found in rows] == [(RANKS, 5, number) for number in range(1, 40)]
        assert all((found[rank] == rank).all() for found in rows for rank in range(RANKS))


def test_what_is_not_contiguous_keeps_its_shape(ranks: list[UnixSockets]) -> None:
    values = torch.arange(24.0).view(2, 3, 4).transpose(0, 2)
    for rows in on_each(lambda rank: ranks[rank].gather(values)):
        assert torch.equal(rows, values.expand(RANKS, *values.shape))


@pytest.mark.parametrize("count", [3, 10 * CHUNK])
def test_a_rank_that_has_ended_is_named(ranks: list[UnixSockets], count: int) -> None:
    ranks[1].close()
    with pytest.raises(RuntimeError, match="Connection closed by peer: rank 1 of this machine") as caught:
        ranks[0].gather(torch.zeros(count))
    failure = as_rank_failure(caught.value)
    assert failure is not None
    assert failure.exit_code == 6


def test_a_rank_that_hangs_is_named(ranks: list[UnixSockets]) -> None:
    with pytest.raises(RuntimeError, match="Timed out waiting for rank 1") as caught:
        ranks[0].gather(torch.zeros(3))
    failure = as_rank_failure(caught.value)
    assert failure is not None
    assert failure.exit_code == 6


def test_ranks_in_different_exchanges_do_not_take_each_others_values(ranks: list[UnixSockets]) -> None:
    def talk(rank: int) -> str:
        with pytest.raises(RuntimeError) as caught:
            ranks[rank].gather(torch.zeros(4 + (rank == 2)))
        return str(caught.value)

    assert any(
        "is in another exchange (number and bytes (1, 20)) than this one" in text for text in on_each(talk)
    )


def test_ranks_without_a_common_file_system_are_not_connected() -> None:
    talk = Talk()

    def elsewhere(rank: int) -> UnixSockets | None:
        def gather(value: Any) -> list[Any]:
            found = talk.gather(rank, value)
            return ["/absent", *found[1:]] if rank == 2 and isinstance(found[0], str) else found

        return connect(rank, RANKS, gather, 30.0)

    assert on_each(elsewhere) == [None] * RANKS


def test_nobody_else_can_connect_and_nothing_is_left(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    modes, made = [], tempfile.TemporaryDirectory

    def watched(*words: Any, **named: Any) -> Any:
        directory = made(*words, **named)
        modes.append(Path(directory.name).stat().st_mode & 0o777)
        return directory

    monkeypatch.setattr(tempfile, "TemporaryDirectory", watched)
    for sockets in connected():
        assert sockets is not None
        sockets.close()
    assert modes == [0o700]
    assert list(tmp_path.iterdir()) == []
