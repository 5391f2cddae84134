"""What libraries in C print: libpng and libtiff write errors to the console, whatever their callers do with them."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TextIO

STDERR = 2


@contextmanager
def hidden_native_output() -> Iterator[None]:
    """Inside this context only what Python prints reaches the console.

    It holds for the whole process. Processes started inside would inherit it.
    """
    nowhere = os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC)
    try:
        with _stderr_led_to(nowhere):
            yield
    finally:
        os.close(nowhere)


@contextmanager
def caught_native_output() -> Iterator[Callable[[], str]]:
    """Inside this context, the function that it yields returns what libraries have printed so far."""
    memory = os.memfd_create("wgan-decoder")
    try:
        with _stderr_led_to(memory):
            yield lambda: os.pread(memory, 1000, 0).decode(errors="replace")
    finally:
        os.close(memory)


@contextmanager
def _stderr_led_to(target: int) -> Iterator[None]:
    python = sys.stderr
    console = os.dup(STDERR)
    own = (
        os.fdopen(os.dup(console), "w", 1, python.encoding, python.errors) if _is_on_console(python) else None
    )
    try:
        if own is not None:
            python.flush()
            sys.stderr = own
        os.dup2(target, STDERR)
        yield
    finally:
        os.dup2(console, STDERR)
        os.close(console)
        if own is not None:
            sys.stderr = python
            own.close()


def _is_on_console(stream: TextIO) -> bool:
    """Whether this is Python's usual stderr; in notebooks and tests it is another object."""
    try:
        return stream.fileno() == STDERR
    except (AttributeError, OSError, ValueError):
        return False
