# SPDX-License-Identifier: MIT
"""The device: figures, thresholds and events, through the ends and new beginnings of its daemon."""

import errno
import os
import select
import time
import warnings
from dataclasses import dataclass

from memnotify.client._device_file import DeviceFile
from memnotify.client._errors import DeviceLostError, NotADeviceError, ThresholdError, device_error
from memnotify.client._figures import Figures
from memnotify.client._source import POLL_MAX_S, Source
from memnotify.client._thresholds import Change, Snapshot, parse, spell
from memnotify.client._timer import Timer

DEFAULT_PATH = "/dev/memnotify"

_RETRY_FIRST_S = 0.02
_RETRY_LAST_S = 1.0
"""Between attempts to reopen: doubled from the first to the last, so that a daemon is found in a second."""


@dataclass(frozen=True)
class Event:
    """Something happened; ``before`` are the figures of the event before, or of the subscription."""

    before: Figures


@dataclass(frozen=True)
class Crossed(Event):
    """The device said that a threshold was crossed.

    ``changes`` are the thresholds that are on another side than at the event before. There is none
    where figures went up and down again before anyone looked, or where the event before told of it
    already, as its figures were newer than the crossing that woke it.
    """

    after: Figures
    changes: tuple[Change, ...]


@dataclass(frozen=True)
class Lost(Event):
    """The daemon has ended, and with it the subscription: ``error`` says how that showed."""

    error: OSError


@dataclass(frozen=True)
class Restored(Event):
    """A new daemon serves and the thresholds are set again; ``changes`` tell what happened meanwhile."""

    after: Figures
    changes: tuple[Change, ...]


class Memnotify(Source[Event]):
    """A memnotify device: read its figures, set thresholds, wait for events.

    When the daemon ends there is an event ``Lost``. With ``reopen`` the device is then opened and
    subscribed to again as soon as somebody serves it, which is an event ``Restored``; it tells what
    changed side meanwhile, so no change is lost. Without, whoever waits gets a DeviceLostError.

    A child process after fork shares the open file, and would take its parent's events. So it opens
    its own at its first use of this object, where ``fileno`` is another descriptor then.

    Raises OSError where the device does; memnotify.client.errors says what to do about them.
    """

    def __init__(self, path: str = DEFAULT_PATH, *, reopen: bool = True) -> None:
        """Open the device."""
        # Who only reads has no more than this, which becomes the observer of who subscribes. Who does
        # both gets a second one, as a read of the observer would acknowledge events nobody has seen.
        self._reader: DeviceFile | None = DeviceFile(path)
        super().__init__()
        self.path = path
        self._reopen = reopen
        self._pid = os.getpid()
        self._text = b""
        self._snapshot: Snapshot | None = None
        self._observer: DeviceFile | None = None
        # Holds the observer or, while that is lost, the timer.
        self._epoll: select.epoll | None = None
        self._timer: Timer | None = None
        self._retry_s = _RETRY_FIRST_S
        self._loss_reported = False

    def fileno(self) -> int:
        """Return a descriptor to poll for POLLIN in an event loop of your own; then call ``wait(0)``.

        It is an epoll's, which holds whatever is to be waited for: it outlives the daemon.
        """
        return self._watched().fileno()

    def read(self) -> Figures:
        """Return the current figures. Never waits, takes no event away."""
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
        """Replace the thresholds, ``"used 80% active 8000"`` or ``used="80%", active=8000``.

        Nothing at all watches nothing. Returns the figures that they start from: what is exceeded
        already is no event. Raises ThresholdError for what is not understood, and any other
        MemnotifyError; then the thresholds are what they were.
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
        """Return the next event; None if there is none within ``timeout_s`` seconds.

        Raises DeviceLostError if the daemon has ended and ``reopen`` is off, ThresholdError if a new
        daemon does not understand the thresholds.
        """
        watched = self._watched()
        end_s = None if timeout_s is None else time.monotonic() + timeout_s
        while True:
            left_s = None if end_s is None else min(max(0.0, end_s - time.monotonic()), POLL_MAX_S)
            ready = watched.poll(left_s)
            event = self._take_event(ready[0][1]) if ready else None
            if event is not None or (end_s is not None and time.monotonic() >= end_s):
                return event

    def close(self) -> None:
        """Close the device, and end an ``async for`` over it. Once is enough, more does no harm."""
        super().close()
        self._drop()

    def __del__(self) -> None:
        """Close what nobody has closed, and say so, as for a file."""
        if not getattr(self, "_closed", True):
            warnings.warn(f"unclosed device {self.path}", ResourceWarning, source=self, stacklevel=2)
            self._drop()

    def _read(self) -> Figures:
        """Read the figures. What fails is given up: it may be what is there between two daemons."""
        if self._reader is None:
            self._reader = DeviceFile(self.path)
        try:
            return self._reader.read()
        except OSError:
            self._reader.close()
            self._reader = None
            raise

    def _watched(self) -> select.epoll:
        """Return the epoll that has the observer in it, or the timer while there is none."""
        self._check_open()
        self._leave_parent()
        if self._epoll is None:
            self.subscribe()
        assert self._epoll is not None  # noqa: S101 - for mypy: whoever subscribes has one
        return self._epoll

    def _take_event(self, revents: int) -> Event | None:
        """Take what the epoll has found; None if it is nothing to tell of."""
        if self._observer is None:
            return self._retry()
        assert self._snapshot is not None  # noqa: S101 - for mypy: an observer is subscribed
        before = self._snapshot
        try:
            if not revents & select.EPOLLIN:
                raise device_error(errno.ENOTCONN, self.path)
            # Set anew: the device damps chatter, so after an event a threshold is watched for in the other
            # direction alone, and from some way off. Where the figure has gone back by now, or does not go
            # as far, it would not say what is to be told next.
            snapshot = _subscribe(self._observer, self._text, self._observer.read())
        except OSError as error:
            if not self._reopen:
                raise
            self._lose()
            self._loss_reported = True
            return Lost(before.figures, error)
        self._snapshot = snapshot
        return Crossed(before.figures, snapshot.figures, before.changes_to(snapshot))

    def _retry(self) -> Event | None:
        """Open the device and subscribe again, or set the timer for the next attempt."""
        assert self._snapshot is not None  # noqa: S101 - for mypy: what was lost was subscribed
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
        # A child's first look: its parent has lost nothing.
        return Crossed(before.figures, self._snapshot.figures, changes) if changes else None

    def _set_thresholds(self, text: bytes) -> Snapshot:
        """Write the thresholds to the observer, opened if there is none; return what they start from."""
        if self._observer is not None:
            # Not read before it is known that the write will do: that would take an event away.
            assert self._snapshot is not None  # noqa: S101 - for mypy: an observer is subscribed
            parse(text, self._snapshot.figures.names)
            self._observer.write(text)
            return _subscribe(self._observer, text, self._observer.read())
        file, self._reader = self._reader or DeviceFile(self.path), None
        epoll = self._epoll or select.epoll()
        try:
            # Before it is written to: what is no device may be a file with somebody's data.
            snapshot = _subscribe(file, text, file.read())
            _watch(epoll, file)
        except BaseException:
            file.close()
            if epoll is not self._epoll:
                epoll.close()
            raise
        self._observer, self._epoll = file, epoll
        self._stop_timer()
        return snapshot

    def _lose(self) -> None:
        """Give the observer up, and set the timer for the first attempt to get another."""
        if self._epoll is not None and self._observer is not None:
            # By hand, as a forked child may hold the open file, which would then stay in the epoll.
            self._epoll.unregister(self._observer)
            self._observer.close()
            self._observer = None
        self._retry_s = _RETRY_FIRST_S
        self._set_timer(0)

    def _leave_parent(self) -> None:
        """In a forked child, the first time: give up the parent's open files for files of its own."""
        if self._pid == os.getpid():
            return
        self._pid = os.getpid()
        subscribed = self._epoll is not None
        self._drop()
        if subscribed:
            self._epoll = select.epoll()
            self._lose()

    def _set_timer(self, seconds: float) -> None:
        assert self._epoll is not None  # noqa: S101 - for mypy: whoever subscribed has one
        if self._timer is None:
            self._timer = Timer()
            self._epoll.register(self._timer, select.EPOLLIN)
        # Half of it at random: thousands of clients lose one daemon at the same moment.
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
    """Write thresholds and return them with the figures that they start from.

    Those given were just read: they tell the sides.
    """
    levels = parse(text, figures.names)
    while True:
        before = Snapshot(figures, levels)
        file.write(text)
        # It acknowledges what was crossed since the write: these are the figures to start from. If there was
        # anything, the thresholds are not where the write has set them any more.
        after = Snapshot(file.read(), levels)
        figures = after.figures
        if not before.changes_to(after):
            return after


def _watch(epoll: select.epoll, file: DeviceFile) -> None:
    try:
        epoll.register(file, select.EPOLLIN)
    except PermissionError:
        reason = "this is no memnotify device: it cannot be polled"
        raise NotADeviceError(errno.ENOTTY, reason, file.path) from None
