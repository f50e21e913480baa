# SPDX-License-Identifier: MIT
"""A call of a method of the status socket, by the Varlink protocol."""

import argparse
import json
import socket
from typing import Any, Self

STATUS_SOCKET = "/run/memnotify/status"
"""Where the status socket is by default."""
_TIMEOUT_S = 10.0


def add_socket_option(parser: argparse.ArgumentParser) -> None:
    """Add ``--socket``, which names the status socket."""
    parser.add_argument(
        "--socket",
        metavar="PATH",
        default=STATUS_SOCKET,
        help="the daemon's status socket (default: %(default)s)",
    )


class CallError(Exception):
    """The call failed; the text says why."""


class Connection:
    """A connection to the status socket at ``path``, closed by leaving the block. Raises CallError."""

    def __init__(self, path: str, timeout_s: float = _TIMEOUT_S) -> None:
        self._path = path
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._socket.settimeout(timeout_s)
        try:
            self._socket.connect(path)
        except OSError as error:
            self._socket.close()
            raise self._failed(error) from None

    def call(self, method: str, **parameters: object) -> dict[str, Any]:
        """Return the parameters of the reply to ``method``. Raises CallError."""
        request = {"method": method} | ({"parameters": parameters} if parameters else {})
        reply = bytearray()
        try:
            self._socket.sendall(json.dumps(request).encode() + b"\0")
            while not reply.endswith(b"\0"):
                data = self._socket.recv(1 << 18)
                if not data:
                    raise CallError(f"{self._path}: the daemon has ended, or serves too many clients")
                reply += data
        except OSError as error:
            raise self._failed(error) from None
        try:
            answer = json.loads(reply[:-1])
            if "error" in answer:
                raise CallError(f"{self._path}: {_explained(answer)}")
            found: dict[str, Any] = answer["parameters"]
        except (ValueError, KeyError, TypeError):
            raise CallError(f"{self._path}: this is no status socket of memnotify") from None
        return found

    def fileno(self) -> int:
        """Return the descriptor, which is readable when the daemon has ended the connection."""
        return self._socket.fileno()

    def __enter__(self) -> Self:
        """Return the connection; leaving the block closes it."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close it."""
        self._socket.close()

    def _failed(self, error: OSError) -> CallError:
        if isinstance(error, FileNotFoundError):
            return CallError(f"{self._path} does not exist: start 'memnotify serve --status-socket PATH'")
        return CallError(f"{self._path}: {error.strerror or error}")


def _explained(answer: dict[str, Any]) -> str:
    error: str = answer["error"]
    if error.endswith(".PermissionDenied"):
        return "only root may do that"
    return " ".join((error.rpartition(".")[2], *map(str, (answer.get("parameters") or {}).values())))


def call(path: str, method: str) -> dict[str, Any]:
    """Return the parameters of the reply to ``method``. Raises CallError."""
    with Connection(path) as connection:
        return connection.call(method)
