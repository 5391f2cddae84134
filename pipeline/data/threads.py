"""Work shared by the threads of a process: decoders and hashes leave Python's lock."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import CancelledError, ThreadPoolExecutor
from threading import Event, Lock
from typing import Any, TypeVar

from tqdm import tqdm

Advance = Callable[[int], None]
Item = TypeVar("Item")
Result = TypeVar("Result")


def available_cores() -> int:
    """How many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def in_threads(
    work: Callable[[Item, Advance], Result], items: Sequence[Item], bar: tqdm[Any]
) -> Iterator[Result]:
    """The results of work(item, advance), in the order of `items`, by a thread for each core.

    The bar moves by what each work tells `advance`. After an error, or Ctrl-C, the others end at their next
    call of it.
    """
    lock, stopped = Lock(), Event()

    def advance(count: int) -> None:
        if stopped.is_set():
            raise CancelledError
        with lock:
            bar.update(count)

    with ThreadPoolExecutor(min(available_cores(), len(items))) as pool:
        try:
            yield from pool.map(lambda item: work(item, advance), items)
        except BaseException:
            stopped.set()
            raise
