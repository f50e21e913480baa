# SPDX-License-Identifier: MIT
"""The daemon's socket in place of the device: each request waits for its answer."""

import errno
import os
import socket

ANSWER_S = 10.0
"""How long an answer may take: while the daemon restarts, a service manager may hold the socket."""

_ANSWER = b"read "
_REFUSED = b"error "
_FAILED = _ANSWER + _REFUSED


class Connection:
    """A connection to the daemon's socket, one observer. Raises OSError as the device does.

    ``docs/systemd.md`` has the protocol. The descriptor is readable if an event is pending, or at the end.
    """

    def __init__(self, path: str) -> None:
        """Connect. Raises ConnectionRefusedError if no daemon serves the socket."""
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._socket.settimeout(ANSWER_S)
        try:
            self._socket.connect(path)
        except BaseException as error:
            self._socket.close()
            if isinstance(error, OSError) and error.errno is None:
                number = errno.ETIMEDOUT if isinstance(error, TimeoutError) else errno.ENAMETOOLONG
                raise OSError(number, os.strerror(number)) from None
            raise

    def fileno(self) -> int:
        """Return the descriptor."""
        return self._socket.fileno()

    def read(self) -> bytes:
        """Return the line of figures. This acknowledges a pending event."""
        line, _ = self._ask(b"read\n")
        return line

    def write(self, thresholds: bytes) -> None:
        """Replace the thresholds."""
        # On the socket a newline ends a write, and nothing between two ends is no write.
        text = thresholds.rstrip(b"\0\n").replace(b"\n", b" ")
        _, refusal = self._ask((text if text.strip() else b"used 0") + b"\nread\n")
        if refusal:
            raise OSError(errno.EINVAL, refusal.decode(errors="replace"))

    def close(self) -> None:
        """Close the connection."""
        self._socket.close()

    def _ask(self, request: bytes) -> tuple[bytes, bytes]:
        """Send a request; return the line that answers its read, and why its write was refused.

        Lines of events that come before the answer are older than the answer, and acknowledged by it.
        """
        refusal = b""
        try:
            self._socket.sendall(request)
            while True:
                line = self._line()
                if line.startswith(_FAILED):
                    raise OSError(errno.EIO, os.strerror(errno.EIO))
                if line.startswith(_ANSWER):
                    return line.removeprefix(_ANSWER), refusal
                if line.startswith(_REFUSED):
                    refusal = line.removeprefix(_REFUSED).rstrip(b"\n")
                elif not line.startswith(b"total "):
                    return line, refusal  # another service's socket: this is no line of figures
        except TimeoutError:
            raise OSError(errno.ETIMEDOUT, os.strerror(errno.ETIMEDOUT)) from None
        except (BrokenPipeError, ConnectionResetError):
            raise OSError(errno.ENOTCONN, os.strerror(errno.ENOTCONN)) from None

    def _line(self) -> bytes:
        """Return the next line. The daemon sends one only when the line before was read."""
        line = b""
        while not line.endswith(b"\n"):
            data = self._socket.recv(4096)
            if not data:
                raise BrokenPipeError
            line += data
        return line
