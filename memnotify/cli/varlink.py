# SPDX-License-Identifier: MIT
"""A call of a method of the status socket, by the Varlink protocol."""

import json
import socket
from typing import Any

STATUS_SOCKET = "/run/memnotify/status"
"""Where the status socket is by default."""
_TIMEOUT_S = 10.0


class CallError(Exception):
    """The call failed; the text says why."""


def call(path: str, method: str) -> dict[str, Any]:
    """Return the parameters of the reply to ``method``. Raises CallError."""
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
            connection.settimeout(_TIMEOUT_S)
            connection.connect(path)
            connection.sendall(json.dumps({"method": method}).encode() + b"\0")
            reply = bytearray()
            while not reply.endswith(b"\0"):
                data = connection.recv(1 << 18)
                if not data:
                    raise CallError(f"{path}: the daemon has ended, or serves too many clients")
                reply += data
    except FileNotFoundError:
        raise CallError(f"{path} does not exist: start 'memnotify serve --status-socket PATH'") from None
    except OSError as error:
        raise CallError(f"{path}: {error.strerror or error}") from None
    try:
        answer = json.loads(reply[:-1])
        if "error" in answer:
            raise CallError(f"{path}: {answer['error']} {answer.get('parameters', '')}".rstrip())
        parameters: dict[str, Any] = answer["parameters"]
    except (ValueError, KeyError, TypeError):
        raise CallError(f"{path}: this is no status socket of memnotify") from None
    return parameters
