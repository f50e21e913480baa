# SPDX-License-Identifier: MIT
"""The library for programs that use the device. It needs nothing but the standard library."""

import contextlib
import os
import select
from typing import NamedTuple, Self

DEFAULT_PATH = "/dev/memnotify"
PAGE_SIZE = os.sysconf("SC_PAGESIZE")
"""Bytes in a page, the unit of the figures."""


class Figures(NamedTuple):
    """The system's memory, in pages."""

    total: int
    """RAM and swap."""
    used: int
    """What programs hold and the kernel cannot just drop."""
    active: int
    """What was used recently; it follows use slowly."""


class Memnotify:
    """An open memnotify device: one observer, shared by whoever inherits the descriptor.

    Raises OSError where the device does: FileNotFoundError if nobody serves it, and ENOTCONN from
    any method once the daemon has ended (open it again then). Any thread, one at a time.
    """

    def __init__(self, path: str = DEFAULT_PATH) -> None:
        """Open the device."""
        self._fd = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NONBLOCK)

    def fileno(self) -> int:
        """Return the descriptor, to poll for POLLIN in an event loop of your own."""
        return self._fd

    def read(self) -> Figures:
        """Return the current figures; a pending event is acknowledged by it. Never waits.

        Raises ValueError if what answers is no memnotify device.
        """
        line = os.read(self._fd, 4096).decode("ascii", errors="replace")
        words = line.split()
        values = dict(zip(words[::2], words[1::2], strict=False))
        try:
            return Figures(*(int(values[name]) for name in Figures._fields))
        except (KeyError, ValueError):
            raise ValueError(f"this is no line of a memnotify device: {line[:100]!r}") from None

    def subscribe(self, thresholds: str) -> None:
        """Replace the thresholds: ``used 80% active 8000``; an empty text watches nothing.

        Raises OSError(EINVAL), and keeps the thresholds there were, if they are not understood.
        """
        # One byte at least: the kernel keeps an empty write to itself.
        os.write(self._fd, os.fsencode(thresholds) or b"\n")

    def wait(self, timeout_s: float | None = None) -> Figures | None:
        """Wait until a threshold is crossed and return the figures then; None after ``timeout_s`` seconds.

        Raises ConnectionError if the daemon has ended.
        """
        poller = select.poll()
        poller.register(self._fd, select.POLLIN)
        ready = poller.poll(None if timeout_s is None else timeout_s * 1000)
        if not ready:
            return None
        if ready[0][1] & (select.POLLERR | select.POLLHUP | select.POLLNVAL):
            raise ConnectionError("the daemon that served the device has ended")
        return self.read()

    def close(self) -> None:
        """Close the device. Once is enough, more does no harm."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            # A FUSE file's close reports that the daemon has ended; it is closed all the same.
            with contextlib.suppress(OSError):
                os.close(fd)

    def __enter__(self) -> Self:
        """Return the device itself; leaving the block closes it."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close the device."""
        self.close()
