# SPDX-License-Identifier: MIT
"""The device on an AF_UNIX stream socket: an observer for each connection, one thread for all.

A stream has neither writes nor a callback for reads, so:

- a write ends with a newline or a NUL. Without one, which the device does not require, it ends when nothing
  has followed for SILENCE_S, or when the client shuts its side down. An empty write is ignored;
- an event is a line of the current figures, sent at once. It is acknowledged when the client has read all of
  it, which the kernel shows by freeing what was sent. Crossings until then make one more line, sent after
  that: a client never has two lines to read, and never old figures alone;
- a write of ``read`` alone asks for the figures. The answer is a line that begins with ``read``, so that the
  client can tell it from an event. As a read of the device does, the answer acknowledges the event;
- a refused write is answered by a line that begins with ``error``. The observer keeps its thresholds and the
  client its connection: at the end of a stream, sd-event would call its callback without a pause.
"""

import errno
import fcntl
import itertools
import logging
import math
import os
import re
import resource
import select
import socket
import struct
import termios
import time
from array import array
from collections.abc import Callable, Mapping
from contextlib import suppress
from threading import Lock

from memnotify.abi.thresholds import WRITE_MAX
from memnotify.engine.device import Device
from memnotify.engine.observer import Group
from memnotify.engine.sampler import Sampler
from memnotify.engine.table import ObserverTable, Sample
from memnotify.logs import LIMITED
from memnotify.transports.kept_connections import KeptConnection
from memnotify.worker import Worker

log = logging.getLogger(__name__)

SILENCE_S = 0.1
"""A write without an end is complete when nothing has followed for this long."""

_SO_PASSRIGHTS = 83  # asm-generic/socket.h
# A reload, page counters and the log need descriptors as well.
_FDS_IN_RESERVE = 64
_END = re.compile(rb"[\n\0]")
_PEER = struct.Struct("iII")
_SO_PEERPIDFD = 77  # Linux 6.5; Python has no name for it
_READ = b"read"
_FAILED = b"read error"
_UNREADABLE = b"the daemon cannot read the figures, see its log"
# The pause before another try if memory or descriptors are short.
_AGAIN_S = 1.0
# How many writes of a client are done at once; the others follow after a pause. A client that never stops
# leaves most of the time to others, and to the threads that wait for the interpreter's lock.
_WRITES_MAX = 16
_PAUSE_S = 0.001
# Edge-triggered, since EPOLLOUT is ready nearly always. An edge comes whenever a client has read a line
# (net/unix/af_unix.c:unix_write_space).
_EVENTS = select.EPOLLIN | select.EPOLLOUT | select.EPOLLET


class _Connection:
    """One client: its observer, its write that has no end yet, and the lines to send to it."""

    __slots__ = ("event", "fh", "next_woken", "overlong", "reads", "refusal", "socket", "text", "woken")

    def __init__(self, connected: socket.socket, fh: int) -> None:
        self.socket = connected
        self.fh = fh
        self.text = b""
        # The current write is too long and has been refused; the rest of it is dropped.
        self.overlong = False
        self.refusal = b""
        # How many requests for the figures are not answered yet.
        self.reads = 0
        # An event was acknowledged in the table, and its line is not sent yet.
        self.event = False
        # Whether it is in the server's list of connections to wake, and the next one there.
        self.woken = False
        self.next_woken: _Connection | None = None


class SocketServer:
    """Serves a device on a listening socket. The device is its own; the table may be another's too.

    Life: ``worker.start``, ``stop``, ``close``. Threads: everything runs in the worker's, except ``wake``,
    which the sampler calls until ``close``. The server waits for no client: it sends when the client has
    read all that was sent before, so the line fits, and it does a few of a client's writes at a time.
    """

    def __init__(
        self,
        table: ObserverTable,
        sampler: Sampler,
        listener: socket.socket,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        # A client can make this thread hang (see _SO_PASSRIGHTS); the device must be served on.
        self.worker = Worker("sockets", self.turn, vital=False)
        self._table = table
        self._batch = table.add_batch(self.wake)
        self.device = Device(table, sampler, batch=self._batch)
        """What the clients of the socket use; belongs to the worker's thread once that runs."""
        self._listener = listener
        self._clock = clock
        # A list through the connections themselves, since the sampler must not allocate to wake them.
        self._first_woken: _Connection | None = None
        self._last_woken: _Connection | None = None
        self._woken_lock = Lock()
        self._connections: dict[int, _Connection] = {}
        self._by_fh: dict[int, _Connection] = {}
        # When a write without an end is complete, and when the rest of the writes is received. All
        # entries of one have the same delay, so the first is due first.
        self._unended: dict[_Connection, float] = {}
        self._busy: dict[_Connection, float] = {}
        self._unsent: set[_Connection] = set()
        self._again_s = math.inf
        self._full = False
        listener.settimeout(0)
        with suppress(OSError):
            # A client could pass a descriptor whose close takes hours (SO_LINGER). Linux 6.16 and later.
            listener.setsockopt(socket.SOL_SOCKET, _SO_PASSRIGHTS, 0)
        self._fd_limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0] - _FDS_IN_RESERVE
        self._epoll = select.epoll()
        self._epoll.register(self.worker.wake_fd, select.EPOLLIN)
        self._epoll.register(listener, select.EPOLLIN)

    def wake(self, handles: "array[int]", count: int) -> None:
        """Note that events are pending for the first ``count`` handles, which are fhs. Any thread."""
        with self._woken_lock:
            for place in range(count):
                connection = self._by_fh.get(handles[place])
                if connection is None or connection.woken:
                    continue
                connection.woken = True
                if self._last_woken is None:
                    self._first_woken = connection
                else:
                    self._last_woken.next_woken = connection
                self._last_woken = connection
        self.worker.wake()

    def stop(self) -> None:
        """End the thread, then every connection and its observer. ``wake`` has no effect from then on."""
        self.worker.stop()
        for connection in list(self._connections.values()):
            self._drop(connection)

    def left(self) -> dict[int, KeptConnection]:
        """Return what the next daemon needs to serve each connection, by its descriptor.

        The thread and the sampler have stopped. ``stop`` closes the descriptors.
        """
        return {
            fd: KeptConnection(
                os.fstat(fd).st_ino,
                self._table.record(connection.fh),
                connection.text,
                connection.overlong,
                connection.refusal,
                connection.reads,
                connection.event,
            )
            for fd, connection in self._connections.items()
        }

    def adopt(self, fd: int, kept: KeptConnection, sample: Sample, groups: Mapping[int, Group]) -> None:
        """Serve a connection of the daemon before, as ObserverTable.restore_other says.

        The thread is not started yet. Raises OSError if ``fd`` is no socket.
        """
        connected = socket.socket(fileno=fd)
        connected.settimeout(0)
        connection = _Connection(connected, 0)
        connection.text, connection.overlong = kept.text, kept.overlong
        connection.refusal, connection.reads, connection.event = kept.refusal, kept.reads, kept.event
        connection.fh = self._table.restore_other(kept.record, self._batch, sample, groups)
        self._connections[fd] = self._by_fh[connection.fh] = connection
        self._epoll.register(connected, _EVENTS)
        if _END.search(kept.text):
            self._busy[connection] = self._clock()
        elif kept.text or kept.overlong:
            self._unended[connection] = self._clock() + SILENCE_S

    def close(self) -> None:
        """Close the descriptors, once the sampler does not call ``wake`` any more."""
        self._epoll.close()
        self.worker.close()

    def turn(self) -> None:
        """Wait for a client, the sampler or a due time, and act on it."""
        due_s = min(
            self._again_s, *(next(iter(due.values()), math.inf) for due in (self._unended, self._busy))
        )
        timeout_s = None if due_s == math.inf else max(0, due_s - self._clock())
        accept = False
        for fd, events in self._epoll.poll(timeout_s):
            if fd == self.worker.wake_fd:
                os.eventfd_read(fd)
            elif fd == self._listener.fileno():
                accept = True
            else:
                self._serve(self._connections[fd], events)
        while (connection := self._take_woken()) is not None:
            if connection.fh in self._by_fh:
                self._send_line(connection)
        self._do_what_is_due()
        # Last, because the new client may get the number of a descriptor that was closed in this turn.
        if accept:
            self._accept()

    def _take_woken(self) -> _Connection | None:
        """Return the connection that was woken first, or None; it may have been dropped since."""
        with self._woken_lock:
            connection = self._first_woken
            if connection is not None:
                self._first_woken, connection.next_woken = connection.next_woken, None
                if self._first_woken is None:
                    self._last_woken = None
                connection.woken = False
            return connection

    def _do_what_is_due(self) -> None:
        """Complete the writes and send the lines that are due."""
        now_s = self._clock()
        for connection in _due(self._busy, now_s):
            del self._busy[connection]
            self._receive(connection)
            self._send_line(connection)
        for connection in _due(self._unended, now_s):
            self._end_write(connection)
        if now_s >= self._again_s:
            self._again_s = math.inf
            self._epoll.modify(self._listener, select.EPOLLIN)
            for connection in [*self._unsent]:
                self._unsent.remove(connection)
                self._send_line(connection)

    def _accept(self) -> None:
        """Accept one client; the next one follows in the next turn."""
        try:
            connected, _ = self._listener.accept()
        except (BlockingIOError, ConnectionError):
            return
        except OSError as error:
            self._accept_later(error)
            return
        connected.settimeout(0)
        peer = _PEER.unpack(connected.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _PEER.size))
        if connected.fileno() >= self._fd_limit:
            connected.close()
            self._accept_later(OSError(errno.EMFILE, os.strerror(errno.EMFILE)))
            return
        try:
            connection = _Connection(connected, self.device.open(peer[0] << 32 | peer[1]))
        except OSError:
            connected.close()
            return
        self._connections[connected.fileno()] = self._by_fh[connection.fh] = connection
        try:
            # Readiness from before is reported as well, so none of its writes is missed.
            self._epoll.register(connected, _EVENTS)
        except OSError as error:
            self._drop(connection)
            self._accept_later(error)
            return
        self._full = False
        if log.isEnabledFor(logging.DEBUG):
            log.debug(
                "socket: observer %d is process %d of user %d, group %d", connection.fh, *peer, extra=LIMITED
            )

    def _accept_later(self, error: OSError) -> None:
        if not self._full:
            self._full = True
            log.warning("no further client of the socket can be served: %s", error.strerror, extra=LIMITED)
        self._epoll.modify(self._listener, 0)
        self._again_s = min(self._again_s, self._clock() + _AGAIN_S)

    def _serve(self, connection: _Connection, events: int) -> None:
        """Act on what a client has done: written, read or closed."""
        if events & (select.EPOLLHUP | select.EPOLLERR):
            self._drop(connection)
            return
        if events & select.EPOLLIN and connection not in self._busy:
            self._receive(connection)
        self._send_line(connection)

    def _receive(self, connection: _Connection) -> None:
        """Receive what a client has written, up to a limit; the rest follows after a pause."""
        more = True
        if not _END.search(connection.text):
            data = self._fetch(connection)
            if data is None:
                return
            connection.text += data
            more = len(data) == WRITE_MAX
        *ended, connection.text = _END.split(connection.text, _WRITES_MAX)
        for text in ended:
            self._write(connection, text)
        if _END.search(connection.text):
            more = True
        elif len(connection.text) > WRITE_MAX:
            self._write(connection, connection.text)
            connection.overlong, connection.text = True, b""
        now_s = self._clock()
        if more:
            self._busy[connection] = now_s + _PAUSE_S
        elif connection.text or connection.overlong:
            self._unended.setdefault(connection, now_s + SILENCE_S)

    def _fetch(self, connection: _Connection) -> bytes | None:
        """Return a client's new bytes, or None if it has shut its side down or is gone."""
        try:
            data = connection.socket.recv(WRITE_MAX)
        except BlockingIOError:
            return b""
        except OSError:
            return None  # the client is gone, which epoll reports as well
        if not data:
            self._end_write(connection)
            return None
        # Restart the silence.
        self._unended.pop(connection, None)
        return data

    def _end_write(self, connection: _Connection) -> None:
        """Complete the write that a client has left without an end."""
        self._unended.pop(connection, None)
        text, connection.text = connection.text, b""
        self._write(connection, text)
        self._send_line(connection)

    def _write(self, connection: _Connection, text: bytes) -> None:
        """Do one write to the device; note a refusal, to be sent once the client has read all before it."""
        overlong, connection.overlong = connection.overlong, False
        if overlong or (len(text) <= WRITE_MAX and not text.strip()):
            return
        if text == _READ:
            connection.reads += 1
            return
        try:
            self.device.write(connection.fh, text, _peer_pid(connection.socket))
            connection.event = False
        except OSError as error:
            # The text of an EIO may have several lines.
            reason = _UNREADABLE if error.errno == errno.EIO else str(error.strerror).encode()
            connection.refusal = b"error %b\n" % reason
        except MemoryError:
            raise
        except Exception:
            log.exception("a write to the socket failed", extra=LIMITED)
            connection.refusal = b"error %b\n" % _UNREADABLE

    def _send_line(self, connection: _Connection) -> None:
        """Send a client its next line, if there is one and it has read the line before."""
        try:
            if _unread(connection.socket):
                return
            # Always, and before the event is acknowledged: the poll stores the handle for the next event.
            if self.device.poll(connection.fh, select.POLLIN, connection.fh) & select.POLLIN:
                connection.event = True
            line = self._next_line(connection)
            if not line:
                return
            connection.socket.send(line)
        except (BrokenPipeError, ConnectionError):
            return  # the client is gone, which epoll reports as well
        except MemoryError:
            raise
        except Exception as error:
            # The event stays noted. The kernel has no memory for the line, or the figures cannot be read.
            if not isinstance(error, OSError) or error.errno not in (errno.ENOBUFS, errno.ENOMEM):
                log.exception("a line cannot be sent to a client of the socket", extra=LIMITED)
            self._unsent.add(connection)
            self._again_s = min(self._again_s, self._clock() + _AGAIN_S)
            return
        if connection.refusal:
            connection.refusal = b""
            return
        connection.reads = max(0, connection.reads - 1)
        if not line.startswith(_FAILED):
            connection.event = False

    def _next_line(self, connection: _Connection) -> bytes:
        """Return what is to be sent next: a refusal, the answer to a request, or an event; else nothing."""
        if connection.refusal or not (connection.reads or connection.event):
            return connection.refusal
        if not connection.reads:
            return self.device.read(connection.fh)
        try:
            return b"%b %b" % (_READ, self.device.read(connection.fh))
        except OSError:
            return b"%b %b\n" % (_FAILED, _UNREADABLE)

    def _drop(self, connection: _Connection) -> None:
        """Remove a client and its observer."""
        del self._connections[connection.socket.fileno()], self._by_fh[connection.fh]
        self._unended.pop(connection, None)
        self._busy.pop(connection, None)
        self._unsent.discard(connection)
        self.device.release(connection.fh)
        connection.socket.close()


def _due(waiting: dict[_Connection, float], now_s: float) -> list[_Connection]:
    """Return the connections that are due, in order."""
    return list(itertools.takewhile(lambda connection: waiting[connection] <= now_s, waiting))


def _peer_pid(connected: socket.socket) -> int:
    """Return the pid of the process that connected, 0 if it is gone: another one may have its number."""
    pid: int = _PEER.unpack(connected.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _PEER.size))[0]
    try:
        pidfd = connected.getsockopt(socket.SOL_SOCKET, _SO_PEERPIDFD)
    except OSError as error:
        # Before Linux 6.5 there is no such option, so the number is used. ESRCH: the process was reaped.
        return 0 if error.errno in (errno.ESRCH, errno.EINVAL) else pid
    try:
        gone = select.poll()
        gone.register(pidfd, select.POLLIN)
        return 0 if gone.poll(0) else pid
    finally:
        os.close(pidfd)


def _unread(connected: socket.socket) -> bool:
    """Return True if the other side has not read all that was sent.

    The kernel counts one byte more until it has reported the edge (net/core/sock.c:sock_wfree); a line counts
    for hundreds.
    """
    count = array("i", [0])
    fcntl.ioctl(connected, termios.TIOCOUTQ, count)
    return count[0] > 1
