# SPDX-License-Identifier: MIT
"""One open file of the device: lines in, thresholds out."""

import contextlib
import errno
import os

from memnotify.client._errors import NotADeviceError, device_error
from memnotify.client._figures import Figures


class DeviceFile:
    """An open device, one observer. Every OSError of it is one of ``errors`` where that knows the errno."""

    def __init__(self, path: str) -> None:
        """Open it. Never waits: not for the writer of a pipe either, should it be one."""
        self.path = path
        try:
            self._fd = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NONBLOCK)
        except OSError as error:
            raise device_error(error.errno or errno.EIO, path) from None

    def fileno(self) -> int:
        """Return the descriptor."""
        return self._fd

    def read(self) -> Figures:
        """Return the current figures; a pending event is acknowledged by it."""
        try:
            line = os.read(self._fd, 4096)
        except OSError as error:
            raise device_error(error.errno or errno.EIO, self.path) from None
        try:
            return Figures.parse(line)
        except ValueError as error:
            raise NotADeviceError(errno.ENOTTY, str(error), self.path) from None

    def write(self, thresholds: bytes) -> None:
        """Replace the thresholds."""
        try:
            # One byte at least: the kernel keeps an empty write to itself.
            os.write(self._fd, thresholds or b"\n")
        except OSError as error:
            raise device_error(error.errno or errno.EIO, self.path) from None

    def close(self) -> None:
        """Close it."""
        # A FUSE file's close reports that the daemon has ended; it is closed all the same.
        with contextlib.suppress(OSError):
            os.close(self._fd)
