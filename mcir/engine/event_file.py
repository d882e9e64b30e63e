"""A file of TensorBoard events. Importing this module is slow.

``SummaryWriter`` writes in a thread, which ends at the first error and prints a traceback. Here each event is written
at once, completely or not at all.
"""

import io
import os
import socket
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from tensorboard.summary.writer.record_writer import RecordWriter
from torch.utils.tensorboard.summary import image, scalar

from mcir.atomic import append
from mcir.report.comparison import Picture
from mcir.text import printable

_VERSION = "brain.Event:2"


class EventFile:
    """A new file of TensorBoard events.

    Args:
        folder: folder of the file, which may contain files of earlier runs.
        purge_step: iteration from which TensorBoard hides the values of the earlier files.

    Raises:
        OSError: the file cannot be written.
    """

    def __init__(self, folder: Path, purge_step: int | None = None) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._file = folder / f"events.out.tfevents.{time.time_ns()}.{socket.gethostname()}.{os.getpid()}"
        self._append(file_version=_VERSION)
        if purge_step is not None:
            self._append(step=purge_step, session_log=SessionLog(status=SessionLog.START))

    def add_scalars(self, values: Mapping[str, float], step: int) -> None:
        """Write scalars by tag."""
        for tag, value in values.items():
            self._append(step=step, summary=scalar(printable(tag), value))  # type: ignore[no-untyped-call]

    def add_image(self, tag: str, picture: Picture, step: int) -> None:
        """Write an image (H, W, C)."""
        self._append(step=step, summary=image(printable(tag), picture, dataformats="HWC"))  # type: ignore[no-untyped-call]

    def _append(self, **content: Any) -> None:
        record = io.BytesIO()
        RecordWriter(record).write(Event(wall_time=time.time(), **content).SerializeToString())
        append(self._file, record.getvalue())
