# SPDX-License-Identifier: MIT
"""The real engine in the test's own process, on a memory of the test's, without a kernel in between."""

import contextlib
import errno
import os
import select
import socket
from array import array
from collections.abc import Callable

from support.bench import Bench, sampling
from support.fakes import FakeReader

from memnotify.abi.figures import PAGE_SIZE
from memnotify.abi.figures import Figures as DaemonFigures
from memnotify.client import device_error
from memnotify.client._figures import Figures
from memnotify.engine.table import ObserverTable
from memnotify.kernel.meminfo import MemInfoError

GRANULARITY_PAGES = 5
"""The damping of thresholds of 40 pages and more."""
_PARAMETERS = sampling(update_space_kib=2 * GRANULARITY_PAGES * PAGE_SIZE // 1024)


class FakeDaemon:
    """Serves ``open`` in place of memnotify.client._device_file.DeviceFile, while ``serving``.

    Each ``use`` is sampled at once. The functions in ``after_read`` and ``after_write`` run once each, one
    after each read or write, before it returns to the client. A test calls ``close`` at its end.
    """

    def __init__(self, used: int = 100, *, total: int = 10_000, active: int = 50, **extra: int) -> None:
        self.serving = True
        self.refusal = errno.ENOENT
        self.opened = 0
        self.files: list[FakeDeviceFile] = []
        self.after_read: list[Callable[[], object]] = []
        self.after_write: list[Callable[[], object]] = []
        self._reader = FakeReader(used, total=total, active=active, extra=tuple(extra))
        self._reader.figures = self._reader.figures._replace(**extra)
        self._start()

    def _start(self) -> None:
        table = ObserverTable(len(self.figures))
        self.bench = Bench(self._reader, _PARAMETERS, table=table, notify=self._notify)

    @property
    def figures(self) -> DaemonFigures:
        """The memory. What is set here is found by the next sample, other names by the next daemon."""
        return self._reader.figures

    @figures.setter
    def figures(self, figures: DaemonFigures) -> None:
        self._reader.figures = figures
        if figures._fields != self._reader.names:
            self._reader.names = figures._fields
            self.close()
            self._start()
        self.bench.clock.tick(1)

    def open(self, path: str) -> "FakeDeviceFile":
        """Open the device."""
        self.opened += 1
        if not self.serving:
            raise device_error(self.refusal, path)
        self.files.append(FakeDeviceFile(self, path))
        return self.files[-1]

    def use(self, used: int, **changed: int) -> None:
        """Change the figures and take a sample, which wakes the clients whose thresholds are crossed."""
        self.figures = self.figures._replace(used=used, **changed)
        with contextlib.suppress(MemInfoError):
            self.bench.sampler.sample()

    def serve(self) -> None:
        """Serve after an end."""
        self.serving = True

    def fail(self) -> None:
        """Let no reading succeed, for long enough that a client's read fails with EIO."""
        self._reader.fails = True
        # The time counts from the first failure.
        with contextlib.suppress(MemInfoError):
            self.bench.sampler.sample()
        self.bench.clock.tick(_PARAMETERS.max_update_period_s + 1)

    def mend(self) -> None:
        """Let readings succeed again, and take a sample."""
        self._reader.fails = False
        self.use(self.figures.used)

    def end(self) -> None:
        """End the daemon, as by SIGKILL. The next one has no observers."""
        self.serving = False
        for file in self.files:
            file.end()
        self.files = []
        self.close()
        self._start()

    def close(self) -> None:
        """Close what the engine has opened."""
        self.bench.sampler.stop()

    @property
    def written(self) -> list[bytes]:
        """The last write to each open file."""
        return [file.text for file in self.files]

    def _notify(self, handles: "array[int]", count: int) -> None:
        for file in self.files:
            if file.handle in handles[:count]:
                file.wake()


class FakeDeviceFile:
    """An open file of a FakeDaemon. Readable if an event is pending or the daemon has ended."""

    def __init__(self, daemon: FakeDaemon, path: str) -> None:
        self.path = path
        self.text = b""
        self._ended = False
        self._daemon = daemon
        self._device = daemon.bench.device
        self.handle = self._fh = self._device.open()
        self._near, self._far = socket.socketpair()
        self._near.settimeout(0)
        self._poll()

    def fileno(self) -> int:
        """Return the descriptor."""
        return self._near.fileno()

    def read(self) -> Figures:
        """Return the figures, and acknowledge."""
        self._check_alive()
        line = self._device.read(self._fh)
        self._poll()
        if self._daemon.after_read:
            self._daemon.after_read.pop(0)()
        return Figures.parse(line)

    def write(self, thresholds: bytes) -> None:
        """Replace the thresholds, and acknowledge."""
        self._check_alive()
        self._device.write(self._fh, thresholds)
        self.text = thresholds
        self._poll()
        if self._daemon.after_write:
            self._daemon.after_write.pop(0)()

    def close(self) -> None:
        """Close both ends."""
        self._device.release(self._fh)
        self._far.close()
        self._near.close()
        if self in self._daemon.files:
            self._daemon.files.remove(self)

    def wake(self) -> None:
        """Become readable."""
        self._far.send(b"!")

    def end(self) -> None:
        """Lose the daemon, for all copies of the descriptor."""
        self._ended = True
        self._far.shutdown(socket.SHUT_RDWR)
        self._far.close()

    def _check_alive(self) -> None:
        if self._ended:
            raise device_error(errno.ENOTCONN, self.path)

    def _poll(self) -> None:
        """Be no longer readable, and poll the device as the kernel does for a client that waits."""
        with contextlib.suppress(BlockingIOError):
            os.read(self._near.fileno(), 65536)
        if self._device.poll(self._fh, select.POLLIN, self.handle) & select.POLLIN:
            self.wake()
