# SPDX-License-Identifier: MIT
"""A device in the test's own process, moved by the test: the other end of a client's open files."""

import contextlib
import errno
import os
import socket
from collections.abc import Callable

from memnotify.abi.figures import Figures as DaemonFigures
from memnotify.abi.figures import figures_with
from memnotify.abi.thresholds import Level, parse
from memnotify.client import device_error
from memnotify.client._figures import Figures

GRANULARITY_PAGES = 5
"""The damping, as in the device."""


class FakeDaemon:
    """Serves ``open`` in place of memnotify.client._device_file.DeviceFile, while ``serving``.

    Every change of the figures is noticed at once. The functions in ``after_read`` and ``after_write``
    run once each, one after each read or write, before it returns to the client.
    """

    def __init__(self, used: int = 100, *, total: int = 10_000, active: int = 50, **extra: int) -> None:
        kind = figures_with(tuple(extra))
        self.figures: DaemonFigures = kind(total, used, active, *extra.values())
        self.serving = True
        self.refusal = errno.ENOENT
        self.opened = 0
        self.files: list[FakeDeviceFile] = []
        self.after_read: list[Callable[[], object]] = []
        self.after_write: list[Callable[[], object]] = []

    def open(self, path: str) -> "FakeDeviceFile":
        """Open the device."""
        self.opened += 1
        if not self.serving:
            raise device_error(self.refusal, path)
        self.files.append(FakeDeviceFile(self, path))
        return self.files[-1]

    def use(self, used: int, **changed: int) -> None:
        """Change the figures, and wake the clients whose thresholds are crossed."""
        self.figures = self.figures._replace(used=used, **changed)
        for file in self.files:
            file.notice()

    def end(self) -> None:
        """End the daemon, as by SIGKILL."""
        self.serving = False
        for file in self.files:
            file.end()
        self.files = []

    @property
    def written(self) -> list[bytes]:
        """The last write to each open file."""
        return [file.text for file in self.files]


class FakeDeviceFile:
    """An open file of a FakeDaemon. Readable if an event is pending or the daemon has ended."""

    def __init__(self, daemon: FakeDaemon, path: str) -> None:
        self.path = path
        self.text = b""
        # By figure: the level, whether it is armed upwards, at how many pages, and its pages at this total.
        self._armed: dict[int, tuple[Level, bool, int, int]] = {}
        self._daemon = daemon
        self._near, self._far = socket.socketpair()
        self._near.settimeout(0)

    def fileno(self) -> int:
        """Return the descriptor."""
        return self._near.fileno()

    def read(self) -> Figures:
        """Return the figures, and acknowledge."""
        self._acknowledge()
        figures = Figures.parse(self._daemon.figures.line)
        if self._daemon.after_read:
            self._daemon.after_read.pop(0)()
        return figures

    def write(self, thresholds: bytes) -> None:
        """Replace the thresholds, and acknowledge."""
        self._acknowledge()
        self.text = thresholds
        figures = self._daemon.figures
        # Replaced as a whole: another thread may be changing the figures.
        self._armed = {
            index: (level, figures[index] < (pages := level.pages(figures.total)), pages, pages)
            for index, level in parse(thresholds, figures._fields).items()
        }
        if self._daemon.after_write:
            self._daemon.after_write.pop(0)()

    def close(self) -> None:
        """Close both ends."""
        self._far.close()
        self._near.close()
        if self in self._daemon.files:
            self._daemon.files.remove(self)

    def notice(self) -> None:
        """Become readable if the figures have crossed a threshold, and arm it for the other direction."""
        thresholds = self._armed
        for index, (level, up, armed, pages_before) in thresholds.items():
            pages, value = level.pages(self._daemon.figures.total), self._daemon.figures[index]
            if pages != pages_before:
                armed = pages  # noqa: PLW2901 - a percentage has moved with total
            if up == (value >= armed):
                self._far.send(b"!")
                up = not up  # noqa: PLW2901 - it is armed for the way back, damped
                armed = (  # noqa: PLW2901
                    max(pages, value + GRANULARITY_PAGES) if up else min(pages, value + 1 - GRANULARITY_PAGES)
                )
            thresholds[index] = (level, up, armed, pages)

    def end(self) -> None:
        """Lose the daemon, for all copies of the descriptor."""
        self._far.shutdown(socket.SHUT_RDWR)
        self._far.close()

    def _acknowledge(self) -> None:
        if self._far.fileno() < 0:
            raise device_error(errno.ENOTCONN, self.path)
        with contextlib.suppress(BlockingIOError):
            os.read(self._near.fileno(), 65536)
