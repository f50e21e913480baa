# SPDX-License-Identifier: MIT
"""A recording of the figures, which ``memnotify simulate`` plays back."""

import json
import time
from typing import Self

from memnotify.client import PAGE_SIZE, Figures
from memnotify.simulation.script import RECORDING


class RecordingError(Exception):
    """The file cannot be made; the text says why."""


class Recorder:
    """Writes a line for each sample to the file ``path``, which is made anew. Raises RecordingError."""

    def __init__(self, path: str) -> None:
        try:
            self._file = open(path, "w", encoding="utf-8", buffering=1)  # noqa: SIM115 - as long as it records
        except OSError as error:
            raise RecordingError(f"{path}: {error.strerror}") from error
        self._start_s: float | None = None
        self._file.write(json.dumps({RECORDING: 1, "page_size": PAGE_SIZE}) + "\n")

    def __call__(self, figures: Figures) -> None:
        """Record figures that were just read. Raises OSError."""
        now_s = time.monotonic()
        if self._start_s is None:
            self._start_s = now_s
        pages = [figures.total, figures.used, figures.active]
        if figures.cgroup is not None and figures.cgroup_limit is not None:
            pages += [figures.cgroup, figures.cgroup_limit]
        self._file.write(json.dumps([round(now_s - self._start_s, 3), *pages]) + "\n")

    def __enter__(self) -> Self:
        """Return the recorder; leaving the block closes the file."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close the file."""
        self._file.close()
