"""The one boundary around decoders and parsers of others: whatever they raise becomes a DataError that names the file.

Given damaged or hostile data, Pillow, OpenCV, zipfile, numpy, Arrow and the like raise almost any exception, from
TokenError to MemoryError. None of them is a defect of this program, and each has the same remedy: another file.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pipeline.data.format.picture_files.parts import DamageError
from pipeline.errors import DataError, PipelineError


@contextmanager
def parsing(name: Path | str, verdict: str, remedy: str) -> Iterator[None]:
    """Inside this context, any exception but a PipelineError becomes a DataError: NAME VERDICT: reason. REMEDY"""
    try:
        yield
    except PipelineError:
        raise
    except Exception as error:
        if isinstance(error, OSError) and error.strerror:
            raise DataError(f"{name} cannot be read: {error.strerror}. Check its permissions.") from None
        raise DataError(f"{name} {verdict}: {reason(error)}. {remedy}") from error


@contextmanager
def decoding() -> Iterator[None]:
    """The same for an image whose name only the callers know: the exception becomes a DamageError."""
    try:
        yield
    except (PipelineError, DamageError):
        raise
    except Exception as error:
        raise DamageError(reason(error)) from error


def reason(error: Exception) -> str:
    """What an exception of a decoder or parser says, in one line."""
    if isinstance(error, MemoryError):
        return "it asks for more memory than there is"
    if isinstance(error, RecursionError):
        return "it is nested too deeply"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return " ".join(str(error).split()).rstrip(".") or type(error).__name__
