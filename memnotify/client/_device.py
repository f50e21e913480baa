# SPDX-License-Identifier: MIT
"""The device: figures, thresholds and events, across restarts of its daemon."""

import contextlib
import errno
import os
import select
import time
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field

from memnotify.abi.figures import CGROUP
from memnotify.abi.paths import DEFAULT_PATH, user_path
from memnotify.abi.thresholds import VALUE_MAX
from memnotify.client._device_file import DeviceFile
from memnotify.client._epoll import end_of, new_epoll, wait_ready
from memnotify.client._errors import DeviceLostError, NotADeviceError, ThresholdError, device_error
from memnotify.client._figures import Figures, Pages
from memnotify.client._source import Source
from memnotify.client._thresholds import (
    Change,
    Levels,
    Snapshot,
    Value,
    Writing,
    check_reachable,
    doubts,
    parse,
    spell,
)
from memnotify.client._timer import Timer


def default_path() -> str:
    """Return the device that is opened if no path is given: $MEMNOTIFY_PATH, or else DEFAULT_PATH.

    Where that does not exist, and this user's daemon serves $XDG_RUNTIME_DIR/memnotify, it is that file.
    """
    given, own = os.environ.get("MEMNOTIFY_PATH"), user_path()
    if not given and own and os.path.exists(own) and not os.path.lexists(DEFAULT_PATH):
        return own
    return given or DEFAULT_PATH


# A file reads the cgroup's figures only if it has a threshold on it; this one is never reached.
_UNREACHABLE = b"cgroup %d" % VALUE_MAX
_RETRY_FIRST_S = 0.02
_RETRY_LAST_S = 1.0
"""The time between attempts to reopen: it doubles from the first to the last, so that a new daemon is found
within a second."""


@dataclass(frozen=True)
class Crossed:
    """The device reported that a threshold was crossed.

    ``before`` are the figures of the previous event, or of the subscription. ``changes`` are the thresholds
    that are on another side than then. The tuple is empty if the figures went up and down again before they
    were read. It is also empty if the previous event reported the change already, with figures that were
    newer than the crossing that woke it.
    """

    before: Figures
    after: Figures
    changes: tuple[Change, ...]


@dataclass(frozen=True)
class Lost:
    """The daemon has ended, and the subscription with it. ``error`` is how that was noticed."""

    before: Figures
    error: OSError
    changes: tuple[Change, ...] = field(default=(), init=False)
    """Always empty, so that a loop over the changes of any event needs no question."""


@dataclass(frozen=True)
class Restored:
    """A new daemon serves, and the thresholds are set again. ``changes`` are those since the loss."""

    before: Figures
    after: Figures
    changes: tuple[Change, ...]


Event = Crossed | Lost | Restored
"""An event. Each has ``before`` and ``changes``."""


class ThresholdWarning(UserWarning):
    """A threshold is in force, and is probably not what was meant."""


class Memnotify(Source[Event]):
    """A memnotify device: read its figures, set thresholds, wait for events.

    When the daemon ends, the next event is ``Lost``. With ``reopen``, the device is then opened and
    subscribed to again as soon as a daemon serves it, which is an event ``Restored``. That event has
    the changes of side since the loss, so no change is lost. Without ``reopen``, ``wait`` raises
    DeviceLostError.

    While the daemon cannot read the memory figures, ``read`` and ``subscribe`` raise OSError with EIO. That
    is no loss: ``wait`` reads an event again until the figures are there.

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
        # What is written to each open file, and what its last event said. There is one file, or several if a
        # name has several thresholds; none before the first subscription, and while no daemon serves.
        self._writings: list[Writing] = []
        self._snapshots: list[Snapshot] = []
        self._files: list[DeviceFile] = []
        self._figures = Figures(())
        # Those with an event whose figures the daemon could not read (EIO). The epoll does not wait for them.
        self._unread: list[DeviceFile] = []
        # The epoll holds the files, and the timer while there are none or one is unread.
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

    def subscribe(self, thresholds: str = "", /, **named: Value | Sequence[Value]) -> Figures:
        """Replace the thresholds, with ``"used 80% active 8000"`` or ``used=["80%", "90%"], active="8G"``.

        By name, an int is a number of bytes, or of pages if it is ``Pages``. Without arguments nothing is
        watched. Returns the figures from which changes are counted: a threshold that is exceeded already is
        not an event, see ``exceeded``. Warns (ThresholdWarning) of a bare number below 1 % of total. Raises
        ThresholdError for thresholds that are not understood or can never be reached, or another
        MemnotifyError; then the previous thresholds stay in force.
        """
        writings = spell(thresholds, named)
        figures = self._subscribe(writings, reachable=True)
        for writing, snapshot in zip(writings, self._snapshots, strict=True):
            for doubt in doubts(snapshot.levels, writing.given, figures):
                warnings.warn(doubt, ThresholdWarning, stacklevel=2)
        return figures

    def subscribe_unchecked(self, thresholds: str) -> Figures:
        """As ``subscribe``, also for thresholds that could be reached only if total grew; warn of nothing."""
        return self._subscribe(spell(thresholds, {}), reachable=False)

    @property
    def figures(self) -> Figures:
        """The figures of the last event, or of the subscription; ``read`` returns those of now."""
        return self._figures

    @property
    def thresholds(self) -> dict[tuple[str, Value], Pages]:
        """The thresholds in force, by name and value as they were given, at the total of the last event."""
        return {
            (name, writing.given[name]): snapshot.threshold(name)
            for writing, snapshot in zip(self._writings, self._snapshots, strict=True)
            for name in snapshot.levels
        }

    @property
    def exceeded(self) -> dict[tuple[str, Value], bool]:
        """True for each threshold that its figure had reached at the last event, or at the subscription."""
        return {
            (name, writing.given[name]): snapshot.above(name)
            for writing, snapshot in zip(self._writings, self._snapshots, strict=True)
            for name in snapshot.levels
        }

    def _subscribe(self, writings: list[Writing], *, reachable: bool) -> Figures:
        self._check_open()
        self._leave_parent()
        try:
            self._set_thresholds(writings, reachable=reachable)
        except DeviceLostError:
            if not self._reopen:
                raise
            # The open files are of a daemon that has ended; a new one may serve.
            if self._files:
                self._lose()
                self._loss_reported = True  # by the error, if this fails as well
            self._set_thresholds(writings, reachable=reachable)
        self._loss_reported = False
        return self._figures

    def wait(self, timeout: float | None = None) -> Event | None:
        """Return the next event, or None if there is none within ``timeout`` seconds.

        Raises DeviceLostError if the daemon has ended and ``reopen`` is off, ThresholdError if a new
        daemon does not understand the thresholds.
        """
        watched = self._watched()
        end_s = end_of(timeout)
        while True:
            ready = wait_ready(watched, None if end_s is None else end_s - time.monotonic())
            event = self._take_event(dict(ready)) if ready else None
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
            on_cgroup = any(CGROUP in snapshot.levels for snapshot in self._snapshots)
            text = _UNREACHABLE if on_cgroup else b""
            if self._reader.text != text:
                self._reader.write(text)
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

    def _take_event(self, ready: dict[int, int]) -> Event | None:
        """Return the event that made the epoll ready; None if there is nothing to report."""
        if not self._files:
            return self._retry()
        before = self._snapshots
        figures = self._figures
        after = list(before)
        again = self._timer is not None and self._timer.fileno() in ready
        have_read = False
        try:
            for number, file in enumerate(self._files):
                revents = ready.get(file.fileno(), 0)
                if revents and not revents & select.EPOLLIN:
                    raise device_error(errno.ENOTCONN, self.path)
                if (revents or (again and file in self._unread)) and self._read_event(file):
                    have_read = True
                    after[number] = Snapshot(self._figures, before[number].levels)
        except OSError as error:
            if not self._reopen:
                raise
            self._lose()
            self._loss_reported = True
            return Lost(figures, error)
        if not have_read:
            return None
        self._snapshots = after
        return Crossed(figures, self._figures, _changes(before, after))

    def _read_event(self, file: DeviceFile) -> bool:
        """Read the figures of an event; if that fails with EIO, set the timer for the next attempt.

        The device keeps the event, but a socket or a poll that acknowledges may not: so the attempt follows
        whether the file is ready then or not.
        """
        try:
            self._figures = file.read()
        except OSError as error:
            if error.errno != errno.EIO or self._epoll is None:
                raise
            if file not in self._unread:
                self._unread.append(file)
                # The file is ready all the time, and the program must not spin.
                self._epoll.modify(file, 0)
            self._retry_later()
            return False
        if file in self._unread:
            self._unread.remove(file)
            self._listen_to(file)
        return True

    def _listen_to(self, file: DeviceFile) -> None:
        """Wait for an unread file's events again."""
        if self._epoll is not None:
            self._epoll.modify(file, select.EPOLLIN)
        if not self._unread:
            self._stop_timer()
            self._retry_s = _RETRY_FIRST_S

    def _retry(self) -> Event | None:
        """Open the device and subscribe again; if that fails, set the timer for the next attempt."""
        before, figures = self._snapshots, self._figures
        try:
            self._set_thresholds(self._writings, reachable=False)
        except OSError as error:
            self._retry_later()
            if error.errno == errno.EIO:
                return None
            if isinstance(error, ThresholdError) or not self._reopen:
                raise
            if self._loss_reported:
                return None
            self._loss_reported = True
            return Lost(figures, error)
        changes = _changes(before, self._snapshots)
        if self._loss_reported:
            self._loss_reported = False
            return Restored(figures, self._figures, changes)
        # The first use in a forked child, whose parent has lost nothing.
        return Crossed(figures, self._figures, changes) if changes else None

    def _set_thresholds(self, writings: list[Writing], *, reachable: bool) -> None:
        """Write each text to an open file of its own, and take over the sides from which changes are counted.

        Files are opened as needed. If this fails, the previous thresholds stay, or are set again by ``wait``.
        """
        opened: list[DeviceFile] = []
        epoll = self._epoll
        try:
            figures = self._open_files(len(writings) - len(self._files), opened)
            levels = [parse(writing.text, figures.names) for writing in writings]
            for each in levels if reachable else ():
                check_reachable(each, figures)
            epoll = epoll or new_epoll()
            for file in opened:
                _watch(epoll, file)
            files = [*self._files, *opened][: len(writings)]
            snapshots = self._write_all(files, writings, levels)
        except BaseException:
            for file in opened:
                self._close_file(file)
            if epoll is not None and epoll is not self._epoll:
                epoll.close()
            raise
        for file in self._files[len(writings) :]:
            self._close_file(file)
        self._epoll, self._files, self._snapshots, self._writings = epoll, files, snapshots, writings
        self._figures = snapshots[-1].figures
        # The write has acknowledged their events.
        for file in [file for file in self._unread if file in files]:
            epoll.modify(file, select.EPOLLIN)
        self._unread = []
        self._retry_s = _RETRY_FIRST_S
        self._stop_timer()

    def _write_all(
        self, files: list[DeviceFile], writings: list[Writing], levels: list[Levels]
    ) -> list[Snapshot]:
        """Write each text to its file; return the sides from which changes are counted.

        If this fails and files have new thresholds already, the previous ones are set again by ``wait``.
        """
        on_cgroup = any(CGROUP in each for each in levels)
        snapshots: list[Snapshot] = []
        changed = False
        try:
            for file, writing, each in zip(files, writings, levels, strict=True):
                beside = b"" if CGROUP in each or not on_cgroup else b" " + _UNREACHABLE
                file.write(writing.text.rstrip(b"\0") + beside)
                changed = changed or file in self._files
                # What the read tells binds: the device reports each change of side from there on.
                snapshots.append(Snapshot(file.read(), each))
        except DeviceLostError:
            raise
        except BaseException:
            if changed:
                self._lose()
            raise
        return snapshots

    def _open_files(self, count: int, opened: list[DeviceFile]) -> Figures:
        """Append so many files to ``opened``; return figures with the names that thresholds may have."""
        figures = self._figures
        for _ in range(count):
            reader, self._reader = self._reader, None
            opened.append(reader or DeviceFile(self.path))
            # Read before the write: if this is not a device, it may be a file with data of value.
            figures = opened[-1].read()
        return figures

    def _close_file(self, file: DeviceFile) -> None:
        """Close a file, and take it out of the epoll: a forked child may hold it open."""
        if self._epoll is not None:
            with contextlib.suppress(OSError, ValueError):  # it is not there yet
                self._epoll.unregister(file)
        file.close()

    def _lose(self) -> None:
        """Close the files, and set the timer for the first attempt to get others."""
        for file in self._files:
            self._close_file(file)
        self._files = []
        self._unread = []
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

    def _retry_later(self) -> None:
        self._set_timer(self._retry_s)
        self._retry_s = min(2 * self._retry_s, _RETRY_LAST_S)

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
        for opened in (self._epoll, self._reader, *self._files, self._timer):
            if opened is not None:
                opened.close()
        self._epoll = self._reader = self._timer = None
        self._files = []
        self._unread = []


def _changes(before: list[Snapshot], after: list[Snapshot]) -> tuple[Change, ...]:
    """Return the thresholds that changed side, of all open files."""
    return tuple(
        change for earlier, later in zip(before, after, strict=True) for change in earlier.changes_to(later)
    )


def _watch(epoll: "select.epoll", file: DeviceFile) -> None:
    try:
        epoll.register(file, select.EPOLLIN)
    except PermissionError:
        reason = "this is no memnotify device: it cannot be polled"
        raise NotADeviceError(errno.ENOTTY, reason, file.path) from None
