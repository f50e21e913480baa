# SPDX-License-Identifier: MIT
"""The status socket: the connections of clients that ask what the daemon does, served by the main thread.

Interface: docs/org.memnotify.Daemon.varlink. A request and its reply are JSON objects that end with a NUL.
"""

import contextlib
import json
import logging
import math
import os
import select
import socket
import struct
import time
from collections.abc import Callable, Iterator, Mapping
from itertools import chain
from typing import TYPE_CHECKING

from memnotify.daemon.running import Engine
from memnotify.kernel.mounts import canonical_path
from memnotify.logs import LIMITED
from memnotify.transports import Removal
from memnotify.transports.unix_listener import Listener

if TYPE_CHECKING:
    from memnotify.daemon.status import StatusSource

log = logging.getLogger(__name__)

_INTERFACE_FILE = "org.memnotify.Daemon.varlink"
_REQUEST_MAX = 4096
_CONNECTIONS_MAX = 64
_CONNECTIONS_OF_USER_MAX = 8
# After a part the main thread sleeps, so that the other threads get the interpreter and the processor.
_REST_S = 0.00025


class _Connection:
    """One client: what it has sent without an end, and its reply, of which `part` is sent now."""

    __slots__ = ("part", "parts", "pid", "socket", "text", "uid")

    def __init__(self, connected: socket.socket) -> None:
        connected.settimeout(0)
        size = struct.calcsize("iII")
        credentials = connected.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, size)
        self.socket = connected
        self.pid: int
        self.uid: int
        self.pid, self.uid, _ = struct.unpack("iII", credentials)
        self.text = b""
        self.part = memoryview(b"")
        self.parts: Iterator[bytes] | None = None


class StatusServer:
    """Serves the status to the clients of a listening socket. It waits for no client.

    Call ``turn`` when ``fileno`` polls POLLIN, and after ``due_in_s``. A client has one request answered
    at a time. ``make_source`` is called at the first request. Threads: the main thread.
    """

    def __init__(self, listener: socket.socket, make_source: "Callable[[], StatusSource]") -> None:
        self._listener = listener
        self._make_source = make_source
        self._source: StatusSource | None = None
        self._connections: dict[int, _Connection] = {}
        listener.settimeout(0)
        self._epoll = select.epoll()
        self._epoll.register(listener, select.EPOLLIN)

    def fileno(self) -> int:
        """Return the descriptor to poll for POLLIN."""
        return self._epoll.fileno()

    @property
    def due_in_s(self) -> float:
        """In how many seconds ``turn`` is due, whatever the clients do."""
        return math.inf if self._source is None else self._source.due_in_s

    def end_injection(self) -> None:
        """Let the figures be real, because the daemon ends."""
        if self._source is not None:
            self._source.injection.close()

    def turn(self) -> None:
        """Do what the clients want now, and what is due. No exception leaves it."""
        if self._source is not None:
            self._source.do_due()
        for fd, events in self._epoll.poll(0):
            connection = self._connections.get(fd)
            try:
                if fd == self._listener.fileno():
                    self._accept()
                elif connection is not None:
                    self._serve(connection, events)
            except (BlockingIOError, ConnectionError):
                if connection is not None:
                    self._drop(connection)
            except Exception:
                log.exception("a request for the status failed", extra=LIMITED)
                if connection is not None:
                    self._drop(connection)

    def close(self) -> None:
        """End every connection."""
        for connection in list(self._connections.values()):
            self._drop(connection)
        self._epoll.close()

    def _accept(self) -> None:
        connected, _ = self._listener.accept()
        connection = _Connection(connected)
        same = sum(each.uid == connection.uid for each in self._connections.values())
        if len(self._connections) >= _CONNECTIONS_MAX or same >= _CONNECTIONS_OF_USER_MAX:
            connected.close()
            return
        self._connections[connected.fileno()] = connection
        self._epoll.register(connected, select.EPOLLIN)

    def _serve(self, connection: _Connection, events: int) -> None:
        if events & select.EPOLLOUT:
            if connection.parts is not None:
                self._send(connection)
            else:
                self._answer(connection)
        elif events & select.EPOLLIN:
            data = connection.socket.recv(_REQUEST_MAX)
            connection.text += data
            if not data or len(connection.text) > 2 * _REQUEST_MAX:
                self._drop(connection)
                return
            self._answer(connection)
        else:
            self._drop(connection)

    def _answer(self, connection: _Connection) -> None:
        """Answer the first request that is complete; the next one follows in another turn."""
        text, end, rest = connection.text.partition(b"\0")
        if not end:
            return
        connection.text = rest
        try:
            # Decoded here: for the bytes of another encoding json imports its codec.
            request = json.loads(text.decode())
            request["method"]
        except (ValueError, TypeError, KeyError, RecursionError):
            self._drop(connection)
            return
        source = self._source = self._source or self._make_source()
        reply = source.injection.reply(request, connection, uid=connection.uid, pid=connection.pid)
        parts = source.reply(request, connection.uid) if reply is None else iter((reply,))
        connection.parts = chain(parts, (b"\0",))
        self._send(connection)

    def _send(self, connection: _Connection) -> None:
        """Send a part as far as the client has space for it; the rest follows in another turn."""
        assert connection.parts is not None  # noqa: S101 - for mypy
        if not connection.part:
            connection.part = memoryview(next(connection.parts))
        is_last = connection.part[-1] == 0
        with contextlib.suppress(BlockingIOError):
            connection.part = connection.part[connection.socket.send(connection.part) :]
        if is_last and not connection.part:
            connection.parts = None
        else:
            time.sleep(_REST_S)
        more = connection.parts is not None or b"\0" in connection.text
        self._epoll.modify(connection.socket, select.EPOLLOUT if more else select.EPOLLIN)

    def _drop(self, connection: _Connection) -> None:
        del self._connections[connection.socket.fileno()]
        connection.socket.close()
        if self._source is not None:
            self._source.injection.owner_is_gone(connection)


class StatusSocket:
    """The listening socket at ``path``, not served yet; ``origins`` returns where each setting comes from.

    ``kept`` is that of the program that this one replaced, or -1: this user may be unable to make another.
    Raises TransportError.
    """

    def __init__(self, path: str, origins: Callable[[], Mapping[str, str]], kept: int = -1) -> None:
        self._origins = origins
        # Read before root is given up: the daemon's files may be root's alone.
        with open(os.path.join(os.path.dirname(__file__), _INTERFACE_FILE), encoding="utf-8") as file:
            self._description = file.read()
        passed = socket.socket(fileno=kept) if kept >= 0 else None
        if passed is not None and passed.getsockname() != canonical_path(path):
            passed.close()
            passed = None
        self._listener = Listener(path, 0o666, passed)

    @property
    def removes(self) -> bool:
        """Whether ``close`` removes the socket from its path."""
        return self._listener.removes

    def fileno(self) -> int:
        """Return the descriptor of the socket."""
        return self._listener.socket.fileno()

    def serve(self, engine: Engine) -> StatusServer:
        """Return the server; the caller closes it."""
        since_s = time.time()

        def make_source() -> "StatusSource":
            # Here: a daemon that is never asked saves 200 KB.
            from memnotify.daemon.status import StatusSource  # noqa: PLC0415

            return StatusSource(engine, self._origins, self._description, since_s)

        return StatusServer(self._listener.socket, make_source)

    def hand_over(self) -> Removal | None:
        """Leave the socket to another process to remove."""
        return self._listener.hand_over()

    def close(self) -> None:
        """Remove the socket."""
        self._listener.close()
