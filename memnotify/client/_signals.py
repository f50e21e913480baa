# SPDX-License-Identifier: MIT
"""Named signals, which are on while memory use is at or above the level in a control file."""

import contextlib
import os
import select
import time
import warnings
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass

from memnotify.client._control import Definition, load, settings
from memnotify.client._device import Crossed, Memnotify, Restored, ThresholdWarning
from memnotify.client._epoll import end_of, new_epoll, wait_ready
from memnotify.client._figures import Figures
from memnotify.client._source import Source


@dataclass(frozen=True)
class Signal:
    """A change of a signal: it is on now, or off. ``figures`` are those that changed it."""

    name: str
    on: bool
    figures: Figures


class _Watch:
    """A signal that is enabled: its device, an observer of its own, and its state."""

    def __init__(self, definition: Definition, changes: deque[Signal]) -> None:
        """Open the device and subscribe to it. ``changes`` receives each change of the signal."""
        self.name = definition.name
        self.device = Memnotify(definition.sensor)
        self.on = False
        self._definition = definition
        self._changes = changes
        self.text = ""
        """What the device watches."""
        try:
            self.update(self.device.read())
            for (name, given), pages in self.device.thresholds.items():
                # Not refused: a control file may be for machines of several sizes.
                if name != "total" and pages > pages.total:
                    reason = f"signal {self.name}: {name} never reaches {given}"
                    warnings.warn(reason, ThresholdWarning, stacklevel=3)
        except BaseException:
            self.device.close()
            raise

    def update(self, figures: Figures) -> None:
        """Take new figures: note a change, and write the thresholds again if they are others now.

        Raises OSError if the device was never subscribed to, and cannot be.
        """
        while True:
            on = self._definition.is_on(figures)
            if on != self.on:
                self.on = on
                self._changes.append(Signal(self.name, on, figures))
            text = self._definition.thresholds(figures.total, on=on)
            if text == self.text:
                return
            try:
                figures = self.device.subscribe_unchecked(text)
            except OSError:
                if not self.text:
                    raise
                # The daemon has ended. The device subscribes again, as before, and that is an event.
                return
            self.text = text


class Signals(Source[Signal]):
    """The signals of control files, such as ``Signals("low:critical")``; each event is a change of one.

    All are off until ``enable``; each that is on then is an event. When the daemon ends nothing changes;
    the changes until the next daemon serves are events then. The environment variable MEMNOTIFY may
    name another directory than /etc/memnotify, or disable all signals: ``config=DIR:disabled``.

    Raises FileNotFoundError for a control file that is missing, ControlFileError for one that is not
    understood.
    """

    _epoll: "select.epoll"
    _wake_fd: int

    def __init__(self, names: str, environ: Mapping[str, str] = os.environ) -> None:
        """Read the control files."""
        directory, self._disabled = settings(environ)
        self.definitions = tuple(load(names, directory))
        """The definitions in the files, also if the environment disables signals."""
        super().__init__()
        self._watches: list[_Watch] = []
        self._changes: deque[Signal] = deque()
        self._pid = 0
        self._open_own_files()

    @property
    def states(self) -> dict[str, bool]:
        """The state of each enabled signal by name: True if it is on."""
        return {watch.name: watch.on for watch in self._watches}

    @property
    def exceeded(self) -> dict[tuple[str, str], bool]:
        """True for each enabled signal that is on, by its name and the threshold that the device watches."""
        return {(watch.name, watch.text): watch.on for watch in self._watches}

    def enable(self) -> None:
        """Open the devices. If the environment disables signals, or they are enabled, do nothing.

        Warns (ThresholdWarning) of a signal that is never on, because its level is above total. Raises
        OSError as Memnotify does, and then no signal is enabled.
        """
        self._check_open()
        self._open_own_files()
        if self._watches or self._disabled:
            return
        try:
            for definition in self.definitions:
                self._watches.append(_Watch(definition, self._changes))
                self._epoll.register(self._watches[-1].device, select.EPOLLIN)
        except BaseException:
            self.disable()
            raise
        self._update_readiness()

    def disable(self) -> None:
        """Close the devices, and drop the changes that ``wait`` has not returned."""
        self._open_own_files()
        for watch in self._watches:
            # Explicitly: if a forked child holds the open file, it would stay in the epoll.
            with contextlib.suppress(OSError):  # not registered, if enabling failed
                self._epoll.unregister(watch.device)
            watch.device.close()
        self._watches = []
        self._changes.clear()
        self._update_readiness()

    def fileno(self) -> int:
        """Return a descriptor to poll for POLLIN in an event loop; when it is ready, call ``wait(0)``."""
        self._check_open()
        self._open_own_files()
        return self._epoll.fileno()

    def wait(self, timeout: float | None = None) -> Signal | None:
        """Return the next change, or None if there is none within ``timeout`` seconds."""
        self._check_open()
        self._open_own_files()
        end_s = end_of(timeout)
        while True:
            left_s = None if end_s is None else end_s - time.monotonic()
            ready = wait_ready(self._epoll, 0 if self._changes else left_s)
            found = {fd for fd, _ in ready}
            for watch in self._watches:
                if watch.device.fileno() in found:
                    self._take(watch)
            if self._changes:
                change = self._changes.popleft()
                self._update_readiness()
                return change
            if end_s is not None and time.monotonic() >= end_s:
                return None

    def close(self) -> None:
        """Disable the signals, and end an ``async for`` over them. May be called again."""
        if not self._closed:
            super().close()
            self.disable()
            self._epoll.close()
            os.close(self._wake_fd)

    def __del__(self) -> None:
        """Close signals that were not closed, with a ResourceWarning, as for a file."""
        if not getattr(self, "_closed", True) and self._pid:
            warnings.warn("unclosed signals", ResourceWarning, source=self, stacklevel=2)
            for watch in self._watches:
                watch.device.close()
            self._epoll.close()
            os.close(self._wake_fd)

    def _take(self, watch: _Watch) -> None:
        event = watch.device.wait(0)
        if isinstance(event, Crossed | Restored):
            watch.update(event.after)

    def _update_readiness(self) -> None:
        """Make the descriptor readable if there are changes that ``wait`` has not returned."""
        if self._changes:
            os.eventfd_write(self._wake_fd, 1)
        else:
            with contextlib.suppress(BlockingIOError):
                os.eventfd_read(self._wake_fd)

    def _open_own_files(self) -> None:
        """In a new process, a forked child included: replace the files shared with the parent."""
        if self._pid == os.getpid():
            return
        epoll, wake_fd = new_epoll(), os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        if self._pid:
            self._epoll.close()
            os.close(self._wake_fd)
        self._epoll, self._wake_fd = epoll, wake_fd
        self._epoll.register(self._wake_fd, select.EPOLLIN)
        for watch in self._watches:
            self._epoll.register(watch.device, select.EPOLLIN)
        self._update_readiness()
        # Last: if one of them has failed, the next call starts again.
        self._pid = os.getpid()
