# SPDX-License-Identifier: MIT
"""The device: figures, thresholds and events, across restarts of its daemon."""

import errno
import os
import select
import time
import warnings
from dataclasses import dataclass

from memnotify.client._device_file import DeviceFile
from memnotify.client._epoll import new_epoll, wait_ready
from memnotify.client._errors import DeviceLostError, NotADeviceError, ThresholdError, device_error
from memnotify.client._figures import Figures
from memnotify.client._source import Source
from memnotify.client._thresholds import Change, Snapshot, parse, spell
from memnotify.client._timer import Timer

DEFAULT_PATH = "/dev/memnotify"


def default_path() -> str:
    """Return the device that is opened if no path is given: $MEMNOTIFY_PATH, or else DEFAULT_PATH."""
    return os.environ.get("MEMNOTIFY_PATH") or DEFAULT_PATH


_RETRY_FIRST_S = 0.02
_RETRY_LAST_S = 1.0
"""The time between attempts to reopen: it doubles from the first to the last, so that a new daemon is found
within a second."""


@dataclass(frozen=True)
class Event:
    """An event. ``before`` are the figures of the previous event, or of the subscription."""

    before: Figures


@dataclass(frozen=True)
class Crossed(Event):
    """The device reported that a threshold was crossed.

    ``changes`` are the thresholds that are on another side than at the previous event. The tuple is
    empty if the figures went up and down again before they were read, or if the previous event already
    reported the change, because its figures were newer than the crossing that woke it.
    """

    after: Figures
    changes: tuple[Change, ...]


@dataclass(frozen=True)
class Lost(Event):
    """The daemon has ended, and the subscription with it. ``error`` is how that was noticed."""

    error: OSError


@dataclass(frozen=True)
class Restored(Event):
    """A new daemon serves, and the thresholds are set again. ``changes`` are those since the loss."""

    after: Figures
    changes: tuple[Change, ...]


class Memnotify(Source[Event]):
    """A memnotify device: read its figures, set thresholds, wait for events.

    When the daemon ends, the next event is ``Lost``. With ``reopen``, the device is then opened and
    subscribed to again as soon as a daemon serves it, which is an event ``Restored``. That event has
    the changes of side since the loss, so no change is lost. Without ``reopen``, ``wait`` raises
    DeviceLostError.

    A child process after fork shares the open file and would take its parent's events. So it opens its
    own at its first use of this object; ``fileno`` is another descriptor from then on.

    Raises OSError as the device does: ``device_error`` in this package lists the classes.
    """

    def __init__(self, path: str | None = None, *, reopen: bool = True) -> None:
        """Open the device at ``path``, by default ``default_path()``."""
        path = path or default_path()
        # A program that only reads needs this file alone, and the first subscription takes it over. A
        # program that does both needs two: a read of the observer would acknowledge an unseen event.
        self._reader: DeviceFile | None = DeviceFile(path)
        super().__init__()
        self.path = path
        self._reopen = reopen
        self._pid = os.getpid()
        self._text = b""
        self._snapshot: Snapshot | None = None
        self._observer: DeviceFile | None = None
        # The epoll holds the observer or, while there is none, the timer.
        self._epoll: select.epoll | None = None
        self._timer: Timer | None = None
        self._retry_s = _RETRY_FIRST_S
        self._loss_reported = False

    def fileno(self) -> int:
        """Return a descriptor to poll for POLLIN in an event loop; when it is ready, call ``wait(0)``.

        It belongs to an epoll, and stays the same when the daemon ends.
        """
        return self._watched().fileno()

    def read(self) -> Figures:
        """Return the current figures. Never blocks, and acknowledges no event."""
        self._check_open()
        self._leave_parent()
        was_open = self._reader is not None
        try:
            return self._read()
        except OSError:
            if not (was_open and self._reopen):
                raise
        return self._read()

    def subscribe(self, thresholds: str = "", /, **named: str | int) -> Figures:
        """Replace the thresholds, with ``"used 80% active 8000"`` or ``used="80%", active=8000``.

        Without arguments nothing is watched. Returns the figures from which changes are counted: a
        threshold that is exceeded already is not an event. Raises ThresholdError for thresholds that
        are not understood, or another MemnotifyError; then the previous thresholds stay in force.
        """
        self._check_open()
        self._leave_parent()
        text = spell(thresholds, named)
        try:
            snapshot = self._set_thresholds(text)
        except DeviceLostError:
            if not self._reopen:
                raise
            # The open file is of a daemon that has ended; a new one may serve.
            if self._observer is not None:
                self._lose()
                self._loss_reported = True  # by the error, if this fails as well
            snapshot = self._set_thresholds(text)
        self._text, self._snapshot = text, snapshot
        self._loss_reported = False
        return snapshot.figures

    def wait(self, timeout_s: float | None = None) -> Event | None:
        """Return the next event, or None if there is none within ``timeout_s`` seconds.

        Raises DeviceLostError if the daemon has ended and ``reopen`` is off, ThresholdError if a new
        daemon does not understand the thresholds.
        """
        watched = self._watched()
        end_s = None if timeout_s is None else time.monotonic() + timeout_s
        while True:
            ready = wait_ready(watched, None if end_s is None else end_s - time.monotonic())
            event = self._take_event(ready[0][1]) if ready else None
            if event is not None or (end_s is not None and time.monotonic() >= end_s):
                return event

    def close(self) -> None:
        """Close the device, and end an ``async for`` over it. May be called again."""
        super().close()
        self._drop()

    def __del__(self) -> None:
        """Close a device that was not closed, with a ResourceWarning, as for a file."""
        if not getattr(self, "_closed", True):
            warnings.warn(f"unclosed device {self.path}", ResourceWarning, source=self, stacklevel=2)
            self._drop()

    def _read(self) -> Figures:
        """Return the figures. If that fails, close the file: it may not be the next daemon's."""
        if self._reader is None:
            self._reader = DeviceFile(self.path)
        try:
            return self._reader.read()
        except OSError:
            self._reader.close()
            self._reader = None
            raise

    def _watched(self) -> "select.epoll":
        """Return the epoll that holds the observer or the timer."""
        self._check_open()
        self._leave_parent()
        if self._epoll is None:
            self.subscribe()
        assert self._epoll is not None  # noqa: S101 - for mypy: a subscription has an epoll
        return self._epoll

    def _take_event(self, revents: int) -> Event | None:
        """Return the event that made the epoll ready; None if there is nothing to report."""
        if self._observer is None:
            return self._retry()
        assert self._snapshot is not None  # noqa: S101 - for mypy: an observer is subscribed
        before = self._snapshot
        try:
            if not revents & select.EPOLLIN:
                raise device_error(errno.ENOTCONN, self.path)
            snapshot = Snapshot(self._observer.read(), before.levels)
        except OSError as error:
            if not self._reopen:
                raise
            self._lose()
            self._loss_reported = True
            return Lost(before.figures, error)
        self._snapshot = snapshot
        return Crossed(before.figures, snapshot.figures, before.changes_to(snapshot))

    def _retry(self) -> Event | None:
        """Open the device and subscribe again; if that fails, set the timer for the next attempt."""
        assert self._snapshot is not None  # noqa: S101 - for mypy: a lost device was subscribed
        before = self._snapshot
        try:
            self._snapshot = self._set_thresholds(self._text)
        except OSError as error:
            self._set_timer(self._retry_s)
            self._retry_s = min(2 * self._retry_s, _RETRY_LAST_S)
            if isinstance(error, ThresholdError) or not self._reopen:
                raise
            if self._loss_reported:
                return None
            self._loss_reported = True
            return Lost(before.figures, error)
        changes = before.changes_to(self._snapshot)
        if self._loss_reported:
            self._loss_reported = False
            return Restored(before.figures, self._snapshot.figures, changes)
        # The first use in a forked child, whose parent has lost nothing.
        return Crossed(before.figures, self._snapshot.figures, changes) if changes else None

    def _set_thresholds(self, text: bytes) -> Snapshot:
        """Write the thresholds to the observer, which is opened if there is none.

        Returns the snapshot from which changes are counted.
        """
        if self._observer is not None:
            assert self._snapshot is not None  # noqa: S101 - for mypy: an observer is subscribed
            return _subscribe(self._observer, text, self._snapshot.figures)
        file, self._reader = self._reader or DeviceFile(self.path), None
        epoll = self._epoll
        try:
            # Read before the write: if this is not a device, it may be a file with data of value.
            snapshot = _subscribe(file, text, file.read())
            epoll = epoll or new_epoll()
            _watch(epoll, file)
        except BaseException:
            file.close()
            if epoll is not None and epoll is not self._epoll:
                epoll.close()
            raise
        self._observer, self._epoll = file, epoll
        self._stop_timer()
        return snapshot

    def _lose(self) -> None:
        """Close the observer, and set the timer for the first attempt to get another."""
        if self._epoll is not None and self._observer is not None:
            # Explicitly: if a forked child holds the open file, it would stay in the epoll.
            self._epoll.unregister(self._observer)
            self._observer.close()
            self._observer = None
        self._retry_s = _RETRY_FIRST_S
        self._set_timer(0)

    def _leave_parent(self) -> None:
        """In a forked child, at the first call: replace the parent's open files."""
        if self._pid == os.getpid():
            return
        self._pid = os.getpid()
        subscribed = self._epoll is not None
        self._drop()
        if subscribed:
            self._epoll = new_epoll()
            self._lose()

    def _set_timer(self, seconds: float) -> None:
        assert self._epoll is not None  # noqa: S101 - for mypy: a subscription has an epoll
        if self._timer is None:
            self._timer = Timer()
            self._epoll.register(self._timer, select.EPOLLIN)
        # Between half and all of it, at random: thousands of clients lose one daemon at the same moment.
        self._timer.set(seconds * (0.5 + os.urandom(1)[0] / 510))

    def _stop_timer(self) -> None:
        if self._timer is not None and self._epoll is not None:
            self._epoll.unregister(self._timer)
            self._timer.close()
            self._timer = None

    def _drop(self) -> None:
        for opened in (self._epoll, self._reader, self._observer, self._timer):
            if opened is not None:
                opened.close()
        self._epoll = self._reader = self._observer = self._timer = None


def _subscribe(file: DeviceFile, text: bytes, figures: Figures) -> Snapshot:
    """Write thresholds and return the snapshot from which changes are counted.

    ``figures`` are earlier ones, whose names the thresholds may have. What the read tells binds: the device
    reports each change of side from there on.
    """
    levels = parse(text, figures.names)
    file.write(text)
    return Snapshot(file.read(), levels)


def _watch(epoll: "select.epoll", file: DeviceFile) -> None:
    try:
        epoll.register(file, select.EPOLLIN)
    except PermissionError:
        reason = "this is no memnotify device: it cannot be polled"
        raise NotADeviceError(errno.ENOTTY, reason, file.path) from None
