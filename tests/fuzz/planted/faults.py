"""One target per fault; each shows it from input 2 on, the first mutated one."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from pipeline.errors import DataError
from tests.fuzz.engine import target

SEEDS = [b"first seed", b"second seed"]


def refuse(data: bytes, directory: Path) -> None:
    raise DataError("it is not wanted")


def raise_type_error(data: bytes, directory: Path) -> None:
    raise TypeError("a plain defect")


def crash(data: bytes, directory: Path) -> None:
    os.kill(os.getpid(), signal.SIGSEGV)


def hang(data: bytes, directory: Path) -> None:
    time.sleep(60)


def grow(data: bytes, directory: Path) -> None:
    np.ones(60 << 20, dtype=np.uint8)


def write_beside(data: bytes, directory: Path) -> None:
    (directory / ".." / "beside").write_bytes(data)


def follow_a_link(data: bytes, directory: Path) -> None:
    (directory / "link").symlink_to(directory.parent / "beside")
    (directory / "link").write_bytes(data)


def start_a_program(data: bytes, directory: Path) -> None:
    subprocess.run(["true"], check=True)


def chatter(data: bytes, directory: Path) -> None:
    os.write(2, b"libpng warning: nobody asked")


def work_inside(data: bytes, directory: Path) -> None:
    (directory / "inner").mkdir()
    (directory / "inner" / "a").write_bytes(data)
    (directory / "inner" / "a").rename(directory / "b")
    print("the product's own words")


def after_the_seeds(run: Callable[[bytes, Path], None]) -> Callable[[bytes, Path], None]:
    """The same for mutated inputs only."""
    return lambda data, directory: None if data in SEEDS else run(data, directory)


for planted in (
    *(refuse, raise_type_error, crash, hang, grow, write_beside, follow_a_link, start_a_program, chatter),
    work_inside,
):
    target(planted.__name__, lambda: SEEDS)(after_the_seeds(planted))


def no_seeds() -> list[bytes]:
    raise OSError("no room for seeds")


target("without_seeds", no_seeds)(work_inside)
