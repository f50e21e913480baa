# SPDX-License-Identifier: MIT
"""One open file of the device, or a connection to the daemon's socket: read lines, write thresholds."""

import contextlib
import errno
import os
import stat
from typing import Protocol

from memnotify.client._errors import NotADeviceError, device_error
from memnotify.client._figures import Figures


class _Opened(Protocol):
    """An open file or connection: passes bytes, raises OSError unchanged."""

    def fileno(self) -> int: ...
    def read(self) -> bytes: ...
    def write(self, thresholds: bytes, /) -> object: ...
    def close(self) -> object: ...


class DeviceFile:
    """An open device, one observer. Its OSErrors are those of ``device_error``."""

    text = b""
    """The thresholds that were written last."""

    def __init__(self, path: str) -> None:
        """Open the device, or connect if the path is a socket.

        Opening never blocks, even if the path is a pipe without a writer.
        """
        self.path = path
        try:
            self._opened = _open(path)
        except OSError as error:
            raise device_error(error.errno or errno.EIO, path) from None

    def fileno(self) -> int:
        """Return the descriptor."""
        return self._opened.fileno()

    def read(self) -> Figures:
        """Return the current figures. This acknowledges a pending event."""
        try:
            line = self._opened.read()
        except OSError as error:
            raise device_error(error.errno or errno.EIO, self.path) from None
        try:
            return Figures.parse(line)
        except ValueError as error:
            raise NotADeviceError(errno.ENOTTY, str(error), self.path) from None

    def write(self, thresholds: bytes) -> None:
        """Replace the thresholds."""
        try:
            self._opened.write(thresholds)
        except OSError as error:
            raise device_error(error.errno or errno.EIO, self.path) from None
        self.text = thresholds

    def close(self) -> None:
        """Close the device."""
        # close() of a FUSE file fails if the daemon has ended, but the descriptor is closed.
        with contextlib.suppress(OSError):
            self._opened.close()


class _File:
    """The device itself."""

    def __init__(self, fd: int) -> None:
        self._fd = fd

    def fileno(self) -> int:
        return self._fd

    def read(self) -> bytes:
        return os.read(self._fd, 4096)

    def write(self, thresholds: bytes) -> None:
        # At least one byte: the kernel does not pass an empty write on.
        os.write(self._fd, thresholds or b"\n")

    def close(self) -> None:
        os.close(self._fd)


def _open(path: str) -> _Opened:
    try:
        return _File(os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NONBLOCK))
    except OSError as error:
        # open(2) fails so for a socket, and for a character device without a driver.
        if error.errno != errno.ENXIO or not stat.S_ISSOCK(os.stat(path).st_mode):
            raise
    from memnotify.client._connection import Connection  # noqa: PLC0415 - it imports socket, which takes 3 ms

    return Connection(path)
