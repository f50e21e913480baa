# SPDX-License-Identifier: MIT
"""A recording of the figures, which ``memnotify simulate`` plays back."""

import json
import time
from typing import Self

from memnotify.client import PAGE_SIZE, Figures
from memnotify.simulation.script import RECORDING


class RecordingError(Exception):
    """The file cannot be made or written; the text says why."""


class Recorder:
    """Writes a line for each sample to the file ``path``, which is made anew. Raises RecordingError."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._start_s: float | None = None
        try:
            # Without a buffer: what cannot be written is not tried again when the file is closed.
            self._file = open(path, "wb", buffering=0)  # noqa: SIM115 - as long as it records
        except OSError as error:
            raise RecordingError(f"{path}: {error.strerror}") from error
        try:
            self._write({RECORDING: 1, "page_size": PAGE_SIZE})
        except RecordingError:
            self._file.close()
            raise

    def __call__(self, figures: Figures) -> None:
        """Record figures that were just read. Raises RecordingError."""
        now_s = time.monotonic()
        if self._start_s is None:
            self._start_s = now_s
        pages = [figures.total, figures.used, figures.active]
        if figures.cgroup is not None and figures.cgroup_limit is not None:
            pages += [figures.cgroup, figures.cgroup_limit]
        self._write([round(now_s - self._start_s, 3), *pages])

    def _write(self, value: object) -> None:
        line = f"{json.dumps(value)}\n".encode()
        try:
            # A full disk may take a part of the line first.
            while line:
                line = line[self._file.write(line) :]
        except OSError as error:
            raise RecordingError(f"{self._path}: {error.strerror}") from error

    def __enter__(self) -> Self:
        """Return the recorder; leaving the block closes the file."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close the file."""
        self._file.close()
