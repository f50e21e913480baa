# SPDX-License-Identifier: MIT
"""What systemd is told of the daemon's state (sd_notify) and how often it wants to hear of it (watchdog)."""

import errno
import logging
import os
from collections import deque
from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import socket as sockets

log = logging.getLogger(__name__)

_UNSENT_MAX = 16
_NO_ROOM = (errno.EAGAIN, errno.ENOBUFS, errno.ENOMEM)


class SystemdNotifier:
    """Whoever started this process and wants to be told its state by NOTIFY_SOCKET: systemd, or nobody.

    It is not waited for: what its socket has no room for is sent later.
    """

    def __init__(self, environment: Mapping[str, str] = os.environ) -> None:
        self._socket: sockets.socket | None = None
        self._unsent: deque[bytes] = deque(maxlen=_UNSENT_MAX)
        self._refused = False
        self.watchdog_s = 0.0
        """Within how much time it wants to hear WATCHDOG=1 again; 0 is never."""
        address = _address(environment.get("NOTIFY_SOCKET", ""))
        if not address:
            return
        # Here, as most daemons that are started by hand have nobody to tell: 0.4 MB.
        import socket  # noqa: PLC0415

        notify = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        notify.settimeout(0)
        try:
            # Now: another user, who this process may become, may not have access to it.
            notify.connect(address)
        except OSError as error:
            log.warning("NOTIFY_SOCKET cannot be written to: %s", error.strerror)
            notify.close()
            return
        self._socket = notify
        self.watchdog_s = _watchdog_s(environment)

    @property
    def listens(self) -> bool:
        """Whether there is one."""
        return self._socket is not None

    @property
    def unsent(self) -> bool:
        """Whether something is still to be sent."""
        return bool(self._unsent)

    def tell(self, *assignments: str) -> None:
        """Send variables, in one message, such as ``READY=1`` (sd_notify(3) has their list)."""
        if self._socket is not None:
            self._unsent.append("\n".join(assignments).encode())
            self.flush()

    def flush(self) -> None:
        """Send what there was no room for."""
        while self._unsent and self._socket is not None:
            try:
                self._socket.send(self._unsent[0])
            except OSError as error:
                if error.errno in _NO_ROOM:
                    return
                if not self._refused:
                    log.warning("NOTIFY_SOCKET cannot be written to: %s", error.strerror)
                self._refused = True
            self._unsent.popleft()

    def close(self) -> None:
        """Tell it nothing any more."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None


def _address(place: str) -> str:
    """Return NOTIFY_SOCKET as socket.sendto wants it, '' if there is none."""
    if not place.startswith(("/", "@")):
        if place:
            log.warning("NOTIFY_SOCKET is %s: only AF_UNIX sockets are supported", place)
        return ""
    return place.replace("@", "\0", 1) if place[0] == "@" else place


def _watchdog_s(environment: Mapping[str, str]) -> float:
    """Return WATCHDOG_USEC in seconds, 0 if it is not for this process."""
    usec = environment.get("WATCHDOG_USEC", "")
    if not usec.isdecimal() or environment.get("WATCHDOG_PID", str(os.getpid())) != str(os.getpid()):
        return 0.0
    return int(usec) / 1e6
