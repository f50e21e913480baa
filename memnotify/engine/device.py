# SPDX-License-Identifier: MIT
"""The device: what open, read, write, poll and release of /dev/memnotify do.

Bytes and ints in and out, OSError with an errno for a refusal. All of one device runs in one thread;
each thread that serves has its own, on the one table and sampler.
"""

import errno
import logging
import math
import select
from collections.abc import Callable, Mapping
from functools import partial

from memnotify.abi.figures import threshold_names
from memnotify.abi.thresholds import Level, parse
from memnotify.engine.observer import NO_HANDLE, Group, GroupSource, HandleBatch
from memnotify.engine.sampler import Sampler
from memnotify.engine.table import EVENT, NO_NEWS, ObserverTable, Sample
from memnotify.logs import LIMITED

log = logging.getLogger(__name__)

_WRITABLE = select.POLLOUT | select.POLLWRNORM
_READABLE = select.POLLIN | select.POLLRDNORM
_EVENT = _READABLE | select.POLLPRI
# select() for writing always asks for POLLPRI as well, and is known by POLLNVAL, which poll() cannot ask for
# (fs/select.c:wait_key_set, POLLEX_SET).
_SELECT_WRITE = select.POLLNVAL | select.POLLOUT


class Device:
    """The operations of one device on its table of observers.

    ``batch`` is that of the thread in which the device runs; without one it is the table's own.
    Raises OSError: EINVAL for a write that is not understood, EBADF for a fh that is not open.
    """

    def __init__(
        self,
        table: ObserverTable,
        sampler: Sampler,
        *,
        batch: HandleBatch | None = None,
        poll_acknowledges: bool = False,
    ) -> None:
        self._table = table
        self._batch = batch
        self._sampler = sampler
        self._names = threshold_names(sampler.names)
        self.poll_acknowledges = poll_acknowledges
        """Whether a poll that reports an event clears it; may be changed between two requests."""
        # What the last read or poll acknowledged.
        self._acknowledged = NO_NEWS
        self.find_group: Callable[[int], GroupSource | None] = find_group
        """Return what reads the cgroup of the process with this pid, None for the root. Raises OSError."""
        # The last sample and its line, the last write and its levels: many clients ask for the same. Each
        # pair is one attribute, since any number of threads may use the device of memnotify.testing.
        self._shown: tuple[Sample | None, bytes] = (None, b"")
        self._parsed: tuple[bytes, Mapping[int, Level]] = (b"", {})

    def open(self, opener: int = 0) -> int:
        """Return the fh of a new observer; ``opener`` is its process, as in Operations.

        Raises OSError at a limit.
        """
        try:
            return self._table.open(self._batch, opener)
        except OSError as error:
            log.warning("open is refused: %s (opener %#x)", error.strerror, opener, extra=LIMITED)
            raise

    def read(self, fh: int) -> bytes:
        """Acknowledge, and return the current figures' line.

        Raises OSError with EIO, and leaves the event pending, if the figures cannot be read.
        """
        # Figures first: a failure must not cost the client its event.
        sample = self._sampler.cached()
        try:
            if self._table.has_news(fh) or sample is None:
                if fh in self._table.group_of:
                    return self._read_with_group(fh)
                if sample is not None:
                    self._acknowledged = self._table.acknowledge_read(fh, sample)
                if sample is None or not self._acknowledged:
                    sample = self._sampler.refresh(partial(self._acknowledge, fh))
            else:
                self._acknowledged = NO_NEWS
        except KeyError:
            raise OSError(errno.EBADF, "not open") from None
        last, line = self._shown
        if sample is not last:
            line = sample.figures.line
            self._shown = sample, line
        return line

    def _acknowledge(self, fh: int, sample: Sample) -> int:
        self._acknowledged = self._table.acknowledge_read(fh, sample)
        return self._acknowledged

    def give_back(self, fh: int) -> int:
        """Make the event of the last read or poll pending again, because its reply did not reach the client.

        Return the handle to notify by, or NO_HANDLE.
        """
        acknowledged, self._acknowledged = self._acknowledged, NO_NEWS
        if acknowledged != EVENT:
            return NO_HANDLE
        try:
            return self._table.give_back(fh)
        except KeyError:
            return NO_HANDLE

    def _read_with_group(self, fh: int) -> bytes:
        """Do the same for an observer with a threshold on a cgroup, whose line has its figures too."""
        told = 0, 0

        def acknowledge(sample: Sample) -> int:
            nonlocal told
            self._acknowledged, told = self._table.acknowledge_group_read(fh, sample)
            return self._acknowledged

        try:
            group = self._table.group_of[fh]
            if group is not None:
                self._sampler.refresh_group(group)
            sample = self._sampler.cached()
            if sample is None or not acknowledge(sample):
                sample = self._sampler.refresh(acknowledge)
        except KeyError:
            raise OSError(errno.EBADF, "not open") from None
        return b"%s cgroup %d cgroup_limit %d\n" % (sample.figures.line[:-1], *told)

    def write(self, fh: int, text: bytes, pid: int = 0) -> int:
        """Acknowledge, replace the observer's thresholds and return the number of bytes, all of them.

        ``pid`` is the writer's, 0 if it is not known. Raises OSError with EOPNOTSUPP for a threshold on a
        cgroup that cannot be had.
        """
        try:
            last, levels = self._parsed
            if text != last:
                levels = parse(text, self._names)
                self._parsed = text, levels
            sample = self._sampler.cached() or self._sampler.refresh()
            if self._table.cgroup in levels:
                self._subscribe_with_group(fh, levels, sample, pid)
            else:
                self._table.subscribe(fh, levels, sample)
        except ValueError as error:
            self._table.refused += 1
            log.debug("EINVAL: %s", error, extra=LIMITED)
            raise OSError(errno.EINVAL, str(error)) from None
        except KeyError:
            raise OSError(errno.EBADF, "not open") from None
        return len(text)

    def _subscribe_with_group(self, fh: int, levels: Mapping[int, Level], sample: Sample, pid: int) -> None:
        try:
            source = self.find_group(pid)
        except OSError as error:
            log.info("EOPNOTSUPP: no threshold on a cgroup: %s", error.strerror, extra=LIMITED)
            raise OSError(errno.EOPNOTSUPP, str(error.strerror)) from None
        if source is None:
            self._table.subscribe(fh, levels, sample)
            return
        group = self._table.hold(Group(source, self._table.cgroup))
        try:
            self._sampler.refresh_group(group)
            if group.exact_s == -math.inf:
                raise OSError(errno.EIO, "the cgroup cannot be read")
            self._table.subscribe(fh, levels, sample, group)
        finally:
            self._table.release(group)

    def poll(self, fh: int, events: int, handle: int) -> int:
        """Return the revents; keep ``handle`` for a later wake-up.

        An event stays pending (level), unless only POLLPRI was asked for or ``poll_acknowledges`` is on.
        """
        try:
            pending = self._table.poll(fh, handle)
        except KeyError:
            raise OSError(errno.EBADF, "not open") from None
        revents = _WRITABLE
        self._acknowledged = NO_NEWS
        if pending:
            revents |= _EVENT
            if events & _READABLE:
                acknowledge = self.poll_acknowledges
            else:
                # A client that polls for POLLPRI without POLLIN (as for PSI files) never reads.
                acknowledge = bool(events & select.POLLPRI) and events & _SELECT_WRITE != _SELECT_WRITE
            if acknowledge:
                self._table.acknowledge(fh)
                self._acknowledged = EVENT
        return revents

    def release(self, fh: int) -> int:
        """End the observer."""
        try:  # noqa: SIM105 - suppress() would allocate, which nothing that ends a client may
            self._table.close(fh)
        except KeyError:
            pass
        return 0


def find_group(pid: int) -> GroupSource | None:
    """Return the reader of a process's cgroup, None for the root. Raises OSError."""
    from memnotify.kernel.cgroups import find_cgroup  # noqa: PLC0415 - see Sampler.refresh_group

    return find_cgroup(pid)
