# SPDX-License-Identifier: MIT
"""The server of the status socket, with replies of its own."""

import math
import select
import socket
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from support.waiting import DEADLINE_S

from memnotify.daemon import status_socket
from memnotify.daemon.status_socket import StatusServer


class _Asked:
    """A server and a client that is connected to it; ``done`` is what the server has done, in order."""

    def __init__(self, path: Path) -> None:
        self.done: list[str] = []
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(path))
        self._listener.listen()
        self.server = StatusServer(self._listener, self._make_source)
        self.client = socket.socket(socket.AF_UNIX)
        self.client.settimeout(DEADLINE_S)
        self.client.connect(str(path))

    def _make_source(self) -> Any:
        self.done.append("made")
        injection = SimpleNamespace(reply=lambda *_, **__: None, owner_is_gone=lambda _: None)
        source = SimpleNamespace(
            injection=injection, reply=self._reply, due_in_s=math.inf, do_due=lambda: None
        )
        return cast("Any", source)

    def _reply(self, _request: object, _uid: int) -> Iterator[bytes]:
        for part in (b"{", b"}"):
            self.done.append(part.decode())
            yield part

    def turn(self) -> None:
        assert select.select([self.server], [], [], DEADLINE_S)[0]
        self.server.turn()

    def close(self) -> None:
        self.client.close()
        self.server.close()
        self._listener.close()


@pytest.fixture
def asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[_Asked]:
    asked = _Asked(tmp_path / "status")
    monkeypatch.setattr(status_socket, "time", SimpleNamespace(sleep=lambda _: asked.done.append("rest")))
    yield asked
    asked.close()


def test_it_rests_between_two_parts(asked: _Asked) -> None:
    asked.client.sendall(b'{"method": "x"}\0')
    reply = b""
    # One turn accepts the client.
    for _ in range(4):
        asked.turn()
    while not reply.endswith(b"\0"):
        reply += asked.client.recv(100)
    assert reply == b"{}\0"
    assert asked.done == ["made", "{", "rest", "}", "rest"]


def test_replies_are_loaded_with_the_first_request(asked: _Asked) -> None:
    asked.turn()
    asked.client.sendall(b'{"method": ')
    asked.turn()
    assert asked.done == []
    assert asked.server.due_in_s == math.inf
    asked.client.sendall(b'"x"}\0')
    asked.turn()
    assert asked.done[0] == "made"
