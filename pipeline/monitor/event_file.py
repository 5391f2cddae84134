"""An event file of TensorBoard, written in the thread that logs: a failed write is an error there, and nowhere else.

TensorBoard's own writer has a thread. On a full disk that thread ends with a traceback, and what was waiting in its
queue is lost without a word. It also follows a link in the place of its file.
"""

from __future__ import annotations

import os
import socket
import time
from io import BytesIO
from itertools import count
from pathlib import Path

from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer.record_writer import RecordWriter

from pipeline.durable import create_file

VERSION = "brain.Event:2"
"""What the first event of a file must say."""
_NUMBERS = count()


class EventFile:
    """A new event file. Each call is on the file system when it returns, so nothing has to be flushed."""

    def __init__(self, directory: Path, purge_step: int | None = None) -> None:
        """Create the file. With `purge_step`, TensorBoard hides that step and later ones of older files.

        Raises OSError, also if a link is in its place.
        """
        name = f"{int(time.time()):010d}.{socket.gethostname()}.{os.getpid()}.{next(_NUMBERS)}"
        self._file = create_file(directory / f"events.out.tfevents.{name}")
        try:
            self._write(Event(wall_time=time.time(), file_version=VERSION))
            if purge_step is not None:
                started = SessionLog(status=SessionLog.START)
                self._write(Event(wall_time=time.time(), step=purge_step, session_log=started))
        except BaseException:
            self.close()
            raise

    def add(self, step: int, *summaries: Summary) -> None:
        """Record these values at a step. Raises OSError; a part of the record may be in the file then, at its end."""
        self._write(*(Event(wall_time=time.time(), step=step, summary=summary) for summary in summaries))

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _write(self, *events: Event) -> None:
        records = BytesIO()
        writer = RecordWriter(records)
        for event in events:
            writer.write(event.SerializeToString())
        # Not through the buffer of the file, which would try to write again when it is closed.
        content = records.getbuffer()
        while content:
            content = content[os.write(self._file.fileno(), content) :]
