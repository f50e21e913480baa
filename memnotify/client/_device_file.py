# SPDX-License-Identifier: MIT
"""One open file of the device: it reads lines and writes thresholds."""

import contextlib
import errno
import os

from memnotify.client._errors import NotADeviceError, device_error
from memnotify.client._figures import Figures


class DeviceFile:
    """An open device, one observer. Its OSErrors are those of ``device_error``."""

    def __init__(self, path: str) -> None:
        """Open the device. Never blocks, even if the path is a pipe without a writer."""
        self.path = path
        try:
            self._fd = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NONBLOCK)
        except OSError as error:
            raise device_error(error.errno or errno.EIO, path) from None

    def fileno(self) -> int:
        """Return the descriptor."""
        return self._fd

    def read(self) -> Figures:
        """Return the current figures. This acknowledges a pending event."""
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
            # At least one byte: the kernel does not pass an empty write on.
            os.write(self._fd, thresholds or b"\n")
        except OSError as error:
            raise device_error(error.errno or errno.EIO, self.path) from None

    def close(self) -> None:
        """Close the device."""
        # close() of a FUSE file fails if the daemon has ended, but the descriptor is closed.
        with contextlib.suppress(OSError):
            os.close(self._fd)
