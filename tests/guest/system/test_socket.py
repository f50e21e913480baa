# SPDX-License-Identifier: MIT
"""memnotify.socket: socket activation by the systemd that is process 1."""

import json
import os
import signal
import socket
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.daemon import ready
from support.memory import Hog, step_pages
from support.unit import NAME, NODE, log, main_pid, serves, show, state, systemctl
from support.waiting import DEADLINE_S, eventually

SOCKET = "memnotify.socket"
PATH = "/run/memnotify/socket"


@pytest.fixture(autouse=True)
def _stopped() -> Iterator[None]:
    """Begin and end with the service and its socket stopped."""
    systemctl("stop", SOCKET, NAME)
    yield
    systemctl("stop", SOCKET, NAME)
    assert "Traceback" not in log()
    assert not os.path.lexists(PATH)


def connected() -> socket.socket:
    """Return a client that an ordinary user could be as well."""
    assert stat.S_IMODE(os.stat(PATH).st_mode) == 0o666
    client = socket.socket(socket.AF_UNIX)
    client.settimeout(DEADLINE_S)
    client.connect(PATH)
    return client


def is_woken(client: socket.socket) -> bool:
    """Return True if the client gets the line of its event."""
    fd = os.open(NODE, os.O_RDONLY)
    words = os.read(fd, 256).split()
    os.close(fd)
    threshold = int(words[words.index(b"used") + 1]) + step_pages()
    # The refusal of the second line is answered after the first has taken effect.
    client.send(b"used %d\nusd\n" % threshold)
    assert client.recv(4096).startswith(b"error ")
    with Hog() as hog:
        hog.hold(2 * step_pages())
        return client.recv(4096).startswith(b"total ")


def test_it_is_not_enabled_by_itself() -> None:
    assert show("UnitFileState", SOCKET) == "disabled"


def test_a_client_that_connects_starts_the_service_and_gets_its_event() -> None:
    systemctl("start", SOCKET)
    assert (state(SOCKET), state()) == ("active", "inactive")
    with connected() as client:
        client.send(b"usd\n")
        assert client.recv(4096).startswith(b"error ")
        eventually(lambda: state() == "active", "the service runs")
        assert f"clients may connect to {PATH} too" in log()
        assert is_woken(client)
    assert serves()


def test_the_socket_outlasts_the_daemon() -> None:
    """A client that connects while the daemon is away waits for the next one."""
    systemctl("start", SOCKET, NAME)
    pid = main_pid()
    with connected() as first:
        first.send(b"usd\n")
        assert first.recv(4096).startswith(b"error ")
        os.kill(pid, signal.SIGKILL)
        assert first.recv(4096) == b""
        with connected() as second:
            second.send(b"usd\n")
            assert second.recv(4096).startswith(b"error ")
            assert main_pid() not in {0, pid}
    systemctl("stop", NAME)
    assert (state(SOCKET), Path(PATH).is_socket()) == ("active", True)


def test_once_enabled_a_restart_of_the_service_takes_the_socket() -> None:
    systemctl("start", NAME)
    systemctl("enable", SOCKET)
    try:
        assert state(SOCKET) == "inactive"
        systemctl("restart", NAME)
        assert state(SOCKET) == "active"
        with connected() as client:
            assert is_woken(client)
    finally:
        systemctl("disable", SOCKET)


def test_the_configuration_may_have_the_same_path() -> None:
    directory = Path("/etc/memnotify/memnotify.toml.d")
    directory.mkdir(parents=True, exist_ok=True)
    file = directory / "test.toml"
    file.write_text(f"socket = {json.dumps(PATH)}\n")
    try:
        for with_unit in (True, False):
            systemctl("start", *([SOCKET] if with_unit else []), NAME)
            with connected() as client:
                client.send(b"usd\n")
                assert ready(client.fileno())
            systemctl("stop", SOCKET, NAME)
    finally:
        file.unlink()
