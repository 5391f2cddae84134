"""What the operating system refuses is one line with an exit code; what is a defect keeps its traceback."""

from __future__ import annotations

import errno
import os
import subprocess
import sys

import pytest
import torch

from pipeline import cli
from pipeline.errors import ConfigError, OutOfMemoryError, PipelineError, StorageError, system_errors
from pipeline.ranks.failures import memory_shortage

FULL = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "runs/a")
NO_HOST_MEMORY = RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes")


@pytest.mark.parametrize(
    ("error", "kind", "message"),
    [
        (FULL, StorageError, r"^runs/a: No space left on device\. Check that"),
        (PermissionError(errno.EACCES, "Permission denied", b"b"), StorageError, "Permission denied"),
        (
            OSError(errno.ENAMETOOLONG, "File name too long", "x" * 9000),
            ConfigError,
            "^x+ … x+: File name too long",
        ),
        (FileNotFoundError(errno.ENOENT, "No such file", "a\nb"), ConfigError, r"^a\\nb: No such file"),
        (OSError(errno.EXDEV, "Invalid link", "a", None, "b"), StorageError, "^a and b: Invalid link"),
        (OSError(errno.ENOMEM, "Cannot allocate memory"), OutOfMemoryError, "not enough memory"),
        (MemoryError(), OutOfMemoryError, r"not enough memory \(MemoryError\)"),
        (NO_HOST_MEMORY, OutOfMemoryError, "you tried to allocate 9 bytes"),
    ],
)
def test_what_the_system_refuses_is_an_error_of_ours(
    error: Exception, kind: type[PipelineError], message: str
) -> None:
    with pytest.raises(kind, match=message) as caught, system_errors():
        raise error
    assert len(str(caught.value)) < 500
    assert caught.value.__cause__ is error


@pytest.mark.parametrize(
    "error",
    [
        ValueError("x"),
        RuntimeError("x"),
        OSError("broken data stream"),
        BrokenPipeError(errno.EPIPE, "x"),
        KeyError(1),
    ],
)
def test_a_defect_stays_what_it_is(error: Exception) -> None:
    with pytest.raises(type(error)) as caught, system_errors():
        raise error
    assert caught.value is error


def test_a_command_turns_system_errors_into_exit_codes(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(arguments: object) -> int:
        raise FULL

    monkeypatch.setattr("pipeline.commands.configs.run", fail)
    assert cli.main(["configs"]) == 7
    assert capsys.readouterr().err.startswith("error (exit 7): runs/a: No space left on device.")


@pytest.mark.parametrize(
    "error", [torch.OutOfMemoryError("CUDA out of memory."), NO_HOST_MEMORY, MemoryError()]
)
def test_a_shortage_of_memory_comes_with_what_to_change(error: Exception) -> None:
    with (
        pytest.raises(OutOfMemoryError, match=r"ran out of memory \(.*\)\. Lower this"),
        memory_shortage("Lower this."),
    ):
        raise error
    with pytest.raises(RuntimeError, match="shape"), memory_shortage("Lower this."):
        raise RuntimeError("shape")


def test_a_defect_ends_the_process_whatever_threads_still_run() -> None:
    program = (
        "import runpy, sys, threading, time\n"
        "import pipeline.config\n"
        "def fail(*_):\n"
        "    threading.Thread(target=time.sleep, args=(600,)).start()\n"
        "    raise ZeroDivisionError('a defect')\n"
        "pipeline.config.load_config = fail\n"
        "sys.argv = ['pipeline.train', 'x.yaml']\n"
        "runpy.run_module('pipeline.train', run_name='__main__')\n"
    )
    ended = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", program],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ended.returncode == 1
    assert ended.stderr.count("Traceback (most recent call last)") == 1
    assert ended.stderr.splitlines()[-1] == "ZeroDivisionError: a defect"
