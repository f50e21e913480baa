# SPDX-License-Identifier: MIT
"""The kernel's end of a FUSE connection, over a socket: sends requests, reads replies and notifications.

One frame is one datagram, as it is one read or write of /dev/cuse. The layouts are those of
linux/fuse.h, protocol 7.31.
"""

import itertools
import os
import select
import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple, Self

from support.waiting import DEADLINE_S

from memnotify.transports.session import Operations, Session

GETATTR, SETATTR, OPEN, READ, WRITE, RELEASE = 3, 4, 14, 15, 16, 18
FORGET, INIT, INTERRUPT, DESTROY, IOCTL, POLL = 2, 26, 36, 38, 39, 40
NOTIFY_REPLY, BATCH_FORGET, CUSE_INIT = 41, 42, 4096
UNANSWERED = {FORGET, INTERRUPT, NOTIFY_REPLY, BATCH_FORGET}
"""Opcodes that have no reply of their own."""

WRITER_PID = 1
"""The process whose requests these are."""
HEADER = struct.Struct("<IIQQIIII")
REPLY = struct.Struct("<IiQ")
CUSE_INIT_IN = struct.Struct("<IIII")
CUSE_INIT_OUT = struct.Struct("<IIIIIIII40x")
OPEN_IN, OPEN_OUT = struct.Struct("<II"), struct.Struct("<QII")
READ_IN = struct.Struct("<QQIIQII")
WRITE_IN, WRITE_OUT = struct.Struct("<QQIIQII"), struct.Struct("<II")
POLL_IN, POLL_OUT = struct.Struct("<QQII"), struct.Struct("<II")
RELEASE_IN = struct.Struct("<QIIQ")

SCHEDULE_NOTIFY = 1
NOTIFY_POLL = 1
_BUFFER = 1 << 20
_LARGEST = 1 << 17


class Reply(NamedTuple):
    """A frame from the daemon: ``error`` is 0 or a negative errno; ``unique`` 0 is a notification."""

    unique: int
    error: int
    body: bytes

    def checked(self) -> bytes:
        """Return the body. Raises OSError as the system call would."""
        if self.error:
            raise OSError(-self.error, os.strerror(-self.error))
        return self.body


class FakeKernel:
    """One connection. ``fd`` is the daemon's end, to be attached; ``close`` ends the connection."""

    def __init__(self) -> None:
        self._socket, daemon = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        for end in (self._socket, daemon):
            end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _BUFFER)
        self._socket.settimeout(DEADLINE_S)
        self.fd = daemon.detach()
        self.uniques = itertools.count(2, 2)
        self._notified: list[int] = []

    def send(self, opcode: int, body: bytes = b"", uid: int = 0) -> int:
        """Send a request and return its unique number."""
        unique = next(self.uniques)
        header = HEADER.pack(HEADER.size + len(body), opcode, unique, 1, uid, 0, WRITER_PID, 0)
        self._socket.send(header + body)
        return unique

    def send_raw(self, frame: bytes) -> None:
        """Send a datagram as it is."""
        self._socket.send(frame)

    def receive(self) -> Reply:
        """Return the next frame of any kind; fail if none comes."""
        frame = self._socket.recv(_LARGEST)
        length, error, unique = REPLY.unpack_from(frame)
        assert length == len(frame), "the header gives the frame's length"
        return Reply(unique, error, frame[REPLY.size :])

    def reply_to(self, unique: int) -> Reply:
        """Return the next reply, which must be to that request; notifications before it are kept."""
        while True:
            reply = self.receive()
            if reply.unique:
                assert reply.unique == unique, "replies come in the requests' order, one to each"
                return reply
            self._keep(reply)

    def ask(self, opcode: int, body: bytes = b"") -> Reply:
        """Send a request and return its reply."""
        return self.reply_to(self.send(opcode, body))

    def silent(self) -> bool:
        """Return True if every frame that the daemon has sent was received."""
        return not select.select([self._socket], [], [], 0)[0]

    def notified(self) -> list[int]:
        """Return the kh of each notification that has come since the last call."""
        while not self.silent():
            self._keep(self.receive())
        notified, self._notified = self._notified, []
        return notified

    def hello(self) -> int:
        """Send the first request of a CUSE connection, as Linux 6.1 does."""
        return self.send(CUSE_INIT, CUSE_INIT_IN.pack(7, 38, 0, 1))

    def open(self, flags: int = os.O_RDWR) -> int:
        """Open the device and return the fh."""
        fh: int = OPEN_OUT.unpack(self.ask(OPEN, OPEN_IN.pack(flags, 0)).checked())[0]
        return fh

    def read(self, fh: int, size: int = 4096) -> bytes:
        """Read from an open file."""
        return self.ask(READ, READ_IN.pack(fh, 0, size, 0, 0, 0, 0)).checked()

    def write(self, fh: int, data: bytes) -> int:
        """Write to an open file and return how many bytes were taken."""
        count: int = WRITE_OUT.unpack(self.ask(WRITE, write_body(fh, data)).checked())[0]
        return count

    def poll(self, fh: int, events: int, kh: int | None = None) -> int:
        """Poll an open file and return the revents; with a ``kh``, a client waits for a notification."""
        flags = 0 if kh is None else SCHEDULE_NOTIFY
        body = self.ask(POLL, POLL_IN.pack(fh, kh or 0, flags, events)).checked()
        revents: int = POLL_OUT.unpack(body)[0]
        return revents

    def release(self, fh: int) -> None:
        """Close an open file."""
        assert self.ask(RELEASE, RELEASE_IN.pack(fh, 0, 0, 0)).checked() == b""

    def close(self) -> None:
        """End the connection, after receiving what is left: unread data would reset the other end."""
        if self._socket.fileno() >= 0:
            while not self.silent() and self._socket.recv(_LARGEST):
                pass
            self._socket.close()

    def __enter__(self) -> Self:
        """Return the kernel itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """End the connection."""
        self.close()

    def _keep(self, notification: Reply) -> None:
        unique, code, body = notification
        assert (unique, code, len(body)) == (0, NOTIFY_POLL, 8), "a notification has 24 bytes"
        self._notified.append(int.from_bytes(body, "little"))


def write_body(fh: int, data: bytes) -> bytes:
    """Return the body of a write."""
    return WRITE_IN.pack(fh, 0, len(data), 0, 0, os.O_RDWR, 0) + data


class Served(NamedTuple):
    """A session that serves in a thread of its own, and the kernel it serves."""

    kernel: FakeKernel
    session: Session


@contextmanager
def connected(operations: Operations, name: str = "fake") -> Iterator[Served]:
    """Give a session that has shaken hands and does not serve yet."""
    with FakeKernel() as kernel:
        session = Session.cuse(name, operations)
        session.attach(f"/dev/fd/{kernel.fd}")
        try:
            first = kernel.hello()
            session.handshake()
            assert kernel.reply_to(first).error == 0
            yield Served(kernel, session)
        finally:
            session.close()


@contextmanager
def serving(operations: Operations) -> Iterator[Served]:
    """Give a session that serves; at the end it must end by itself, because the kernel has gone."""
    results: list[bool] = []
    with connected(operations) as served:
        thread = threading.Thread(target=lambda: results.append(served.session.serve()), name="session")
        thread.start()
        try:
            yield served
        finally:
            served.kernel.close()
            thread.join(DEADLINE_S)
        assert results == [False]
