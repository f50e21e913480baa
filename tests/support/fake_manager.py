# SPDX-License-Identifier: MIT
"""A service manager as systemd is one: it listens on NOTIFY_SOCKET."""

import itertools
import os
import select
import socket
import sys
import threading
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

from support.waiting import eventually

_numbers = itertools.count()
UNIT = "memnotify-test.service"
CLIENT = "memnotify-client"
# Runs the program that follows with the descriptors of argument 1, as systemd passes them. No number is
# fixed, since a guest has the limit 1024: a dup2 to 2000 failed there with EBADF.
_PASSING = """
import fcntl, os, sys
fds = [int(fd) for fd in sys.argv[1].split(",") if fd]
end = 3 + len(fds)
high = [fcntl.fcntl(fd, fcntl.F_DUPFD, end) for fd in fds]
for at, fd in enumerate(high, start=3):
    os.dup2(fd, at)
os.closerange(end, os.sysconf("SC_OPEN_MAX"))
if fds:
    os.environ["LISTEN_PID"] = str(os.getpid())
os.execvp(sys.argv[2], sys.argv[2:])
"""


class FakeManager:
    """Listens on an abstract socket, or at ``path``; ``environment`` is its service's."""

    def __init__(self, path: str = "", *, watchdog_s: float = 0.0) -> None:
        place = path or f"\0memnotify-test-{os.getpid()}-{next(_numbers)}"
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(place)
        self._socket.settimeout(0)
        self.environment = {"NOTIFY_SOCKET": place.replace("\0", "@")}
        if watchdog_s:
            self.environment["WATCHDOG_USEC"] = str(round(watchdog_s * 1e6))
        self._messages: list[str] = []
        self._server: threading.Thread | None = None
        self._lock = threading.Lock()
        self._end = os.eventfd(0)
        self.stored: dict[str, int] = {}
        """The descriptors of its store by name."""
        self.clients: list[int] = []
        """Those of the name that many have, a client's."""

    def offer_store(self, directory: Path) -> None:
        """Offer a store of descriptors from now on. ``systemctl list-jobs`` prints ``directory``/jobs."""
        (directory / "jobs").touch()
        (directory / "systemctl").write_text(f"#!/bin/sh\ncat {directory}/jobs\n")
        (directory / "systemctl").chmod(0o755)
        # A daemon waits until the store has done what it asked for.
        self._server = threading.Thread(target=self._serve, daemon=True)
        self._server.start()
        self.environment |= {"MEMNOTIFY_UNIT": UNIT, "PATH": f"{directory}:{os.environ['PATH']}"}

    def passing(self, program: Sequence[str]) -> tuple[tuple[str, ...], dict[str, str]]:
        """Return what starts ``program`` with all that is stored, and its environment."""
        self._receive()
        names = [*self.stored, *(CLIENT for _ in self.clients)]
        fds = ",".join(map(str, (*self.stored.values(), *self.clients)))
        passed = {"LISTEN_FDS": str(len(names)), "LISTEN_FDNAMES": ":".join(names)}
        environment = self.environment | (passed if names else {})
        # Without site, as the modules are not needed: an eighth of the time until the program begins.
        return (sys.executable, "-IS", "-c", _PASSING, fds, *program), environment

    def drop(self) -> None:
        """Close all that is stored, as at the end of a stop."""
        self._receive()
        while self.stored:
            os.close(self.stored.popitem()[1])
        while self.clients:
            os.close(self.clients.pop())

    def hear(self, beginning: str) -> str:
        """Return the next message with this beginning; drop those before it."""

        def heard() -> bool:
            self._receive()
            while self._messages and not self._messages[0].startswith(beginning):
                self._messages.pop(0)
            return bool(self._messages)

        eventually(heard, f"it says {beginning}")
        return self._messages.pop(0)

    def heard(self) -> list[str]:
        """Return the messages since the last call."""
        self._receive()
        messages, self._messages = self._messages, []
        return messages

    def fill(self) -> None:
        """Fill the buffer of its socket."""
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as other, suppress(BlockingIOError):
            other.settimeout(0)
            while True:
                other.sendto(b"of another service's", self._socket.getsockname())

    def close(self) -> None:
        """Listen no more."""
        if self._server is not None:
            os.eventfd_write(self._end, 1)
            self._server.join()
        os.close(self._end)
        self.drop()
        self._socket.close()

    def __enter__(self) -> Self:
        """Return the manager itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the socket."""
        self.close()

    def _serve(self) -> None:
        poller = select.poll()
        poller.register(self._socket, select.POLLIN)
        poller.register(self._end, select.POLLIN)
        while all(fd != self._end for fd, _ in poller.poll()):
            self._receive()

    def _receive(self) -> None:
        with self._lock, suppress(BlockingIOError):
            while True:
                text, fds, _, _ = socket.recv_fds(self._socket, 4096, 253)
                self._messages.append(text.decode())
                self._store(dict(line.partition("=")[::2] for line in text.decode().splitlines()), fds)

    def _store(self, said: dict[str, str], fds: list[int]) -> None:
        name = said.get("FDNAME", "")
        if "FDSTOREREMOVE" in said and name in self.stored:
            os.close(self.stored.pop(name))
        if "FDSTOREREMOVE" in said and name == CLIENT:
            while self.clients:
                os.close(self.clients.pop())
        for fd in fds:
            if "FDSTORE" in said and name == CLIENT:
                self.clients.append(fd)
            elif "FDSTORE" in said and name not in self.stored:
                self.stored[name] = fd
            else:
                os.close(fd)
