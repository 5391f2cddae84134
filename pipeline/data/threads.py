"""Work shared by the threads of a process: decoding and hashing release the GIL, so threads run in parallel."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from concurrent.futures import CancelledError, ThreadPoolExecutor
from threading import Event, Lock
from typing import Any, TypeVar

from tqdm import tqdm

from pipeline import stopping
from pipeline.cores import available_cores

Advance = Callable[[int], None]
Item = TypeVar("Item")
Result = TypeVar("Result")


def in_threads(
    work: Callable[[Item, Advance], Result], items: Sequence[Item], bar: tqdm[Any], threads: int | None = None
) -> Generator[Result, None, None]:
    """Yield the results of work(item, advance) in the order of `items`. By default there is a thread for each core.

    Each call of `advance(count)` moves the progress bar. After an error or a signal, the threads stop at their next
    call of `advance`.
    """
    lock, stopped = Lock(), Event()

    def advance(count: int) -> None:
        stopping.check()
        if stopped.is_set():
            raise CancelledError
        with lock:
            bar.update(count)

    with ThreadPoolExecutor(max(1, min(threads or available_cores(), len(items)))) as pool:
        try:
            yield from pool.map(lambda item: work(item, advance), items)
        except BaseException:
            stopped.set()
            raise
