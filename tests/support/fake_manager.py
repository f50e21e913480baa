# SPDX-License-Identifier: MIT
"""A service manager as systemd is one: it listens on NOTIFY_SOCKET."""

import itertools
import os
import socket
from contextlib import suppress
from types import TracebackType
from typing import Self

from support.waiting import eventually

_numbers = itertools.count()


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
        """Close the socket."""
        self._socket.close()

    def __enter__(self) -> Self:
        """Return the manager itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the socket."""
        self.close()

    def _receive(self) -> None:
        with suppress(BlockingIOError):
            while True:
                self._messages.append(self._socket.recv(4096).decode())
