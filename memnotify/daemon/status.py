# SPDX-License-Identifier: MIT
"""The status socket: what the daemon does, by the Varlink protocol, served by the main thread.

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
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import chain, islice
from typing import Any

from memnotify import __version__
from memnotify.config.settings import SETTINGS
from memnotify.daemon.injection import Injection
from memnotify.daemon.running import Engine
from memnotify.engine.latencies import BOUNDS_S
from memnotify.engine.table import ObserverState
from memnotify.kernel.meminfo import MemInfoError
from memnotify.kernel.mounts import canonical_path
from memnotify.logs import LIMITED
from memnotify.transports import Removal
from memnotify.transports.unix_listener import Listener

log = logging.getLogger(__name__)

INTERFACE = "org.memnotify.Daemon"
_SERVICE = "org.varlink.service"
_REQUEST_MAX = 4096
_CONNECTIONS_MAX = 64
_CONNECTIONS_OF_USER_MAX = 8
# A crossing waits for the interpreter's lock (5 ms, unless the interpreter is told less: then a thread that
# waits for the lock gets it so soon), and for the table's lock, which is held for so many observers.
_SWITCH_S = 0.0001
_OBSERVERS_AT_ONCE = 20
# No call into C may be long: it keeps the interpreter's lock. A reply of 10,000 observers has 2 MB: whole
# it was joined, encoded and copied in five calls of 0.2 to 2.5 ms each. A part has about 40 KB.
_OBSERVERS_IN_PART = 200
_UNAVAILABLE = "not available: the log says why"
# Filled in here, as json takes three times as long. Names of figures need no escapes.
_OBSERVER = '{"id":%d,"pid":%d,"uid":%d,%s,"pending":%s,"events":%d,"last_event_age":%s,"thresholds":[%s]}'
_THRESHOLD = '{"name":"%s","pages":%d,"above":%s,"next_pages":%d}'
_ERRORS = {
    "MethodNotFound": "method",
    "InvalidParameter": "parameter",
    "InterfaceNotFound": "interface",
}


class _RefusedError(Exception):
    """A request is answered by an error: its name and the value of its one parameter."""


class StatusSource:
    """Makes the reply for a user. Threads: the main thread."""

    def __init__(self, engine: Engine, origins: Callable[[], Mapping[str, str]], description: str) -> None:
        self._engine = engine
        self._origins = origins
        self._description = description
        self._since_s = time.time()
        self.injection = Injection(engine.sampler)

    def reply(self, request: Any, uid: int) -> Iterator[bytes]:
        """Return the parts of the reply to a request, without the NUL. Each is made when it is asked for."""
        try:
            method = request["method"]
            parameters = request.get("parameters") or {}
            if method == f"{INTERFACE}.GetStatus":
                observers = parameters.get("observers", True)
                if not isinstance(observers, bool):
                    raise _RefusedError("InvalidParameter", "observers")
                return self._status(uid, observers=observers)
            answer: dict[str, object] = {"parameters": self._call(method, parameters)}
        except _RefusedError as refusal:
            kind, value = refusal.args
            answer = {"error": f"{_SERVICE}.{kind}", "parameters": {_ERRORS[kind]: value}}
        return iter((json.dumps(answer).encode(),))

    def _call(self, method: object, parameters: Mapping[str, object]) -> dict[str, object]:
        if method == f"{_SERVICE}.GetInfo":
            return {
                "vendor": "memnotify",
                "product": "memnotify",
                "version": __version__,
                "url": "",
                "interfaces": [_SERVICE, INTERFACE],
            }
        if method == f"{_SERVICE}.GetInterfaceDescription":
            wanted = parameters.get("interface")
            if wanted != INTERFACE:
                raise _RefusedError("InterfaceNotFound", str(wanted))
            return {"description": self._description}
        raise _RefusedError("MethodNotFound", str(method))

    def _status(self, uid: int, *, observers: bool) -> Iterator[bytes]:
        table = self._engine.table
        status = json.dumps(
            {
                "version": __version__,
                "path": self._engine.transport.path,
                "transport": self._engine.transport.kind,
                "pid": os.getpid(),
                "since": round(self._since_s, 3),
                "figures": self._figures(),
                "settings": self._settings(),
                "sampler": self._sampler(),
                "injection": self.injection.state,
                "thresholds": self._threshold_counts(),
                "observer_count": len(table),
                "events": table.events,
                "refused_writes": table.refused,
                "failed_readings": self._engine.sampler.failures,
            }
        )
        yield f'{{"parameters":{status[:-1]},"observers":['.encode()
        if observers:
            objects = self._observers(uid)
            separator = ""
            while part := ",".join(islice(objects, _OBSERVERS_IN_PART)):
                yield f"{separator}{part}".encode()
                separator = ","
        yield b"]}}"

    def _figures(self) -> list[dict[str, object]]:
        sampler = self._engine.sampler
        try:
            sample = sampler.cached() or sampler.refresh()
        except MemInfoError:
            return []
        return [
            {"name": name, "pages": pages} for name, pages in zip(sampler.names, sample.figures, strict=True)
        ]

    def _settings(self) -> list[dict[str, str]]:
        settings, origins = self._engine.reloader.settings, self._origins()
        return [
            {
                "name": setting.name,
                "value": _as_text(getattr(settings, setting.attribute)),
                "unit": setting.unit,
                "origin": origins.get(setting.name, ""),
            }
            for setting in SETTINGS.values()
        ]

    def _sampler(self) -> dict[str, object]:
        sampler, table = self._engine.sampler, self._engine.table
        interval = sampler.interval
        age_s = time.monotonic() - table.latest.taken_s
        return {
            "watching": table.watching,
            "interval": round(interval.timer_s, 6) if table.watching else None,
            "reason": interval.reason if table.watching else "no observer has a threshold",
            "page_counters": self._page_counters(),
            "pressure_trigger": _UNAVAILABLE if sampler.pressure_window_s is None else "in use",
            "pressure_window": sampler.pressure_window_s,
            "last_sample_age": round(age_s, 6) if math.isfinite(age_s) else None,
            "samples": sampler.samples,
            "wakeups": sampler.wakeups,
            "wake_latencies": self._wake_latencies(),
        }

    def _wake_latencies(self) -> dict[str, object]:
        latencies = self._engine.sampler.latencies
        counts = latencies.counts.tolist()
        classes = [
            {"up_to": bound_s, "count": count} for bound_s, count in zip(BOUNDS_S, counts, strict=False)
        ]
        return {"sum": latencies.total_s, "classes": [*classes, {"up_to": None, "count": counts[-1]}]}

    def _threshold_counts(self) -> list[dict[str, object]]:
        return [
            {
                "name": self._name(each.figure),
                "above": each.above,
                "count": each.armed,
                "crossings": each.crossings,
            }
            for each in self._engine.table.threshold_counts()
        ]

    def _name(self, figure: int) -> str:
        names = self._engine.sampler.names
        return names[figure] if figure < len(names) else "cgroup"

    def _page_counters(self) -> str:
        if self._engine.sampler.has_page_counters:
            return "in use"
        if not self._engine.reloader.settings.count_pages:
            return "off: count_pages is false"
        return _UNAVAILABLE

    def _observers(self, uid: int) -> Iterator[str]:
        """Yield an object for each observer that the user may see."""
        table = self._engine.table
        processes: dict[int, str] = {}
        fhs = table.fhs()
        names = [*self._engine.sampler.names, "cgroup"]
        for first in range(0, len(fhs), _OBSERVERS_AT_ONCE):
            now_s = time.monotonic()
            for state in table.describe(fhs[first : first + _OBSERVERS_AT_ONCE], uid):
                pid = state.opener >> 32
                if pid not in processes:
                    processes[pid] = json.dumps(_process(pid))[1:-1]
                yield _observer(state, processes[pid], now_s, names)


def _observer(state: ObserverState, process: str, now_s: float, names: Sequence[str]) -> str:
    """Return the object of an observer; ``process`` has the members of the process that opened it."""
    fh, opener, pending, events, event_s, thresholds = state
    shown = [
        _THRESHOLD % (names[figure], pages, "false" if rising else "true", level)
        for figure, pages, rising, level in thresholds
    ]
    return _OBSERVER % (
        fh,
        opener >> 32,
        opener & 0xFFFFFFFF,
        process,
        "true" if pending else "false",
        events,
        f"{now_s - event_s:.3f}" if event_s > -math.inf else "null",
        ",".join(shown),
    )


def _as_text(value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return ",".join(value) if isinstance(value, tuple) else str(value)


def _process(pid: int) -> dict[str, str]:
    """Return the command and the cgroup of a process, as far as they can be had."""
    found = {"command": "", "cgroup": ""}
    if pid:
        for key, file in (("command", "comm"), ("cgroup", "cgroup")):
            try:
                with open(f"/proc/{pid}/{file}", encoding="utf-8", errors="replace") as lines:
                    found[key] = lines.read(4096).rstrip("\n").rpartition("\n")[2].rpartition("::")[2]
            except OSError:
                pass
    return found


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
    at a time. Threads: the main thread.
    """

    def __init__(self, listener: socket.socket, source: StatusSource) -> None:
        self._listener = listener
        self._source = source
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
        return self._source.injection.due_in_s

    def end_injection(self) -> None:
        """Let the figures be real, because the daemon ends."""
        self._source.injection.close()

    def turn(self) -> None:
        """Do what the clients want now, and what is due. No exception leaves it."""
        self._source.injection.do_due()
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
            request = json.loads(text)
            request["method"]
        except (ValueError, TypeError, KeyError):
            self._drop(connection)
            return
        reply = self._source.injection.reply(request, connection, uid=connection.uid, pid=connection.pid)
        parts = self._source.reply(request, connection.uid) if reply is None else iter((reply,))
        connection.parts = chain(parts, (b"\0",))
        self._send(connection)

    def _send(self, connection: _Connection) -> None:
        """Send a part as far as the client has space for it; the rest follows in another turn."""
        assert connection.parts is not None  # noqa: S101 - for mypy
        if not connection.part:
            switch_s = sys.getswitchinterval()
            sys.setswitchinterval(_SWITCH_S)
            try:
                connection.part = memoryview(next(connection.parts))
            finally:
                sys.setswitchinterval(switch_s)
        is_last = connection.part[-1] == 0
        with contextlib.suppress(BlockingIOError):
            connection.part = connection.part[connection.socket.send(connection.part) :]
        if is_last and not connection.part:
            connection.parts = None
        more = connection.parts is not None or b"\0" in connection.text
        self._epoll.modify(connection.socket, select.EPOLLOUT if more else select.EPOLLIN)

    def _drop(self, connection: _Connection) -> None:
        del self._connections[connection.socket.fileno()]
        connection.socket.close()
        self._source.injection.owner_is_gone(connection)


class StatusSocket:
    """The listening socket at ``path``, not served yet; ``origins`` returns where each setting comes from.

    ``kept`` is that of the program that this one replaced, or -1: this user may be unable to make another.
    Raises TransportError.
    """

    def __init__(self, path: str, origins: Callable[[], Mapping[str, str]], kept: int = -1) -> None:
        self._origins = origins
        # Read before root is given up: the daemon's files may be root's alone.
        with open(os.path.join(os.path.dirname(__file__), f"{INTERFACE}.varlink"), encoding="utf-8") as file:
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
        return StatusServer(self._listener.socket, StatusSource(engine, self._origins, self._description))

    def hand_over(self) -> Removal | None:
        """Leave the socket to another process to remove."""
        return self._listener.hand_over()

    def close(self) -> None:
        """Remove the socket."""
        self._listener.close()
