# SPDX-License-Identifier: MIT
"""The device without a kernel: the library's files in this process are served by the engine directly."""

import contextlib
import errno
import itertools
import os
import select
import socket
from array import array

from memnotify.client import NotADeviceError, _device, device_error
from memnotify.client._device_file import DeviceFile
from memnotify.client._figures import Figures as ClientFigures
from memnotify.simulation.amounts import SimulatedFigures
from memnotify.simulation.memory import Memory

_numbers = itertools.count(1)


class InProcess:
    """Serves one path of its own to memnotify.client in this process; other paths are files as before."""

    def __init__(self, figures: SimulatedFigures) -> None:
        self.kind = "in-process"
        self.path = f"/memnotify in process {os.getpid()}/{next(_numbers)}"
        self._files: dict[int, _File] = {}
        self._memory = Memory(figures, self._notify)
        self._before: type[DeviceFile] = vars(_device)["DeviceFile"]
        vars(_device)["DeviceFile"] = self._open_file

    def move(self, figures: SimulatedFigures) -> None:
        """Change the figures and notify the observers that cross."""
        self._memory.move(figures)

    def close(self) -> None:
        """End the device for its clients."""
        vars(_device)["DeviceFile"] = self._before
        for file in list(self._files.values()):
            file.lose()
        self._memory.close()

    def _open_file(self, path: str) -> DeviceFile:
        if path != self.path:
            return self._before(path)
        return _File(path, self._memory, self._files)

    def _notify(self, handles: "array[int]", count: int) -> None:
        for handle in handles[:count]:
            if handle in self._files:
                self._files[handle].signal()


class _File(DeviceFile):
    """An open file: one end of a socket pair polls ready while an event is pending."""

    def __init__(self, path: str, memory: Memory, files: "dict[int, _File]") -> None:
        self.path = path
        self._memory, self._files = memory, files
        self._near, self._far = socket.socketpair()
        self._near.settimeout(0)
        self._fh = memory.device.open()
        files[self._fh] = self
        self._store_handle()

    def fileno(self) -> int:
        """Return the descriptor."""
        return self._near.fileno()

    def signal(self) -> None:
        """Make the descriptor poll ready."""
        with contextlib.suppress(OSError):
            self._far.send(b"!")

    def lose(self) -> None:
        """Make the descriptor poll as after the end of the daemon."""
        self._far.shutdown(socket.SHUT_RDWR)
        self._far.close()

    def read(self) -> ClientFigures:
        """Return the figures, and acknowledge."""
        self._drain()
        line = self._memory.device.read(self._fh)
        self._store_handle()
        try:
            return ClientFigures.parse(line)
        except ValueError as error:
            raise NotADeviceError(errno.ENOTTY, str(error), self.path) from None

    def write(self, thresholds: bytes) -> None:
        """Replace the thresholds, and acknowledge."""
        self._drain()
        try:
            self._memory.device.write(self._fh, thresholds)
        except OSError as error:
            raise device_error(error.errno or errno.EIO, self.path) from None
        finally:
            self._store_handle()
        self.text = thresholds

    def close(self) -> None:
        """Close both ends."""
        if self._files.pop(self._fh, None):
            self._memory.device.release(self._fh)
        self._far.close()
        self._near.close()

    def _drain(self) -> None:
        if self._far.fileno() < 0:
            raise device_error(errno.ENOTCONN, self.path)
        with contextlib.suppress(BlockingIOError):
            self._near.recv(4096)

    def _store_handle(self) -> None:
        """Store the handle. If an event is pending already, signal at once."""
        if self._memory.device.poll(self._fh, select.POLLIN, self._fh) & select.POLLIN:
            self.signal()
