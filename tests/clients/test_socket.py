# SPDX-License-Identifier: MIT
"""``serve --socket`` of a real daemon: a thousand clients, the socket's file, start and end."""

import os
import pwd
import re
import resource
import select
import signal
import socket
import stat
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

import pytest
from support.daemon import QUICK, TRANSPORT, Daemon, ready, start
from support.fake_memory import FakeMemory
from support.waiting import DEADLINE_S, eventually

CLIENTS = 1000
NAME = "memnotify-socket"


def daemon_at(path: Path, memory: FakeMemory, *options: str) -> Daemon:
    """Return a daemon with a socket."""
    arguments = (*QUICK, *FakeMemory.ARGUMENTS, "--socket", str(path), *options)
    return Daemon(*arguments, name=NAME, program=memory.program)


def connected(path: Path) -> socket.socket:
    """Return a connected client."""
    client = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    client.settimeout(DEADLINE_S)
    try:
        client.connect(str(path))
    except OSError:
        client.close()
        raise
    return client


@pytest.fixture
def many_descriptors() -> Iterator[None]:
    """Raise this process's limit of descriptors to one for each client."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(hard, 4 * CLIENTS)), hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_a_thousand_clients(tmp_path: Path, memory: FakeMemory, many_descriptors: None) -> None:
    """Each client gets one line for a crossing, as on the device, though every tenth never reads."""
    path = tmp_path / "socket"
    with daemon_at(path, memory) as daemon, open(daemon.path, "r+b", buffering=0) as device:
        before = daemon.open_fds()
        device.write(b"used 75%")
        clients = [connected(path) for _ in range(CLIENTS)]
        for client in clients:
            client.send(b"used 75%\nusd\n")  # the refusal is answered after the other
        for client in clients:
            assert client.recv(4096).startswith(b"error ")
        readers = [client for number, client in enumerate(clients) if number % 10]
        for used_percent in (90, 50, 80):
            memory.use(used_percent)
            assert ready(device.fileno()) & select.POLLIN
            assert f" used {250 * used_percent}00 ".encode() in device.read(4096)
            line = b"total 2500000 used %d active 250000\n" % (25000 * used_percent)
            assert all(client.recv(4096) == line for client in readers)
        for client in clients:
            client.setblocking(False)  # noqa: FBT003 - the name of the function
        stuck = [client.recv(4096) for client in clients[::10]]
        assert set(stuck) == {b"total 2500000 used 2250000 active 250000\n"}
        with pytest.raises(BlockingIOError):
            readers[0].recv(1)
        for client in clients:
            client.close()
        eventually(lambda: daemon.open_fds() == before, "their descriptors are closed")


def test_clients_that_wait_cost_nothing(tmp_path: Path, memory: FakeMemory) -> None:
    """The daemon polls no client, whether that has read its line or not."""
    path = tmp_path / "socket"
    with daemon_at(path, memory) as daemon:
        clients = [connected(path) for _ in range(10)]
        for client in clients:
            client.send(b"used 75%\nusd\n")
            assert client.recv(4096).startswith(b"error ")
        memory.use(90)
        for client in clients[:5]:
            assert client.recv(4096)
        for client in clients[:5]:
            client.send(b"used 0\nusd\n")
            assert client.recv(4096).startswith(b"error ")
        for client in clients[5:]:
            # Not before it has its line: otherwise the daemon would go on sampling for it.
            client.recv(1, socket.MSG_PEEK)
            client.send(b"used 0\n")
        eventually(lambda: not daemon.wakes_within(0.5), "the daemon sleeps")
        for client in clients:
            client.close()


def test_the_end_of_the_daemon(tmp_path: Path, memory: FakeMemory) -> None:
    """Clients get the end of the stream; the socket is removed."""
    path = tmp_path / "socket"
    with daemon_at(path, memory) as daemon:
        client = connected(path)
        client.send(b"used 75%\nusd\n")
        # The daemon has read all: unread bytes would turn the end into ECONNRESET.
        assert client.recv(4096).startswith(b"error ")
        assert daemon.end() == 0
        assert client.recv(4096) == b""
        assert not path.exists()
        client.close()


# Binds a socket and passes it to the program that it executes, as a service manager does.
PASSING = """
import os, socket, sys
path, *program = sys.argv[1:]
with socket.socket(socket.AF_UNIX) as listener:
    listener.bind(path)
    listener.listen()
    os.dup2(listener.fileno(), 3)
    os.set_inheritable(3, True)  # dup2 to itself does not
    os.execve(program[0], program, os.environ | {"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": "1"})
"""


@pytest.mark.parametrize("option", [True, False])
def test_a_socket_that_the_service_manager_passes(tmp_path: Path, memory: FakeMemory, option: bool) -> None:  # noqa: FBT001 - pytest gives it
    """The daemon serves it with or without --socket, and leaves its file at the end."""
    path = tmp_path / "socket"
    arguments = (*QUICK, *FakeMemory.ARGUMENTS, *(("--socket", str(path)) if option else ()))
    program = (sys.executable, "-c", PASSING, str(path), *memory.program)
    with Daemon(*arguments, name=NAME, program=program) as daemon, connected(path) as client:
        assert f"clients may connect to {path} too" in daemon.log
        client.send(b"used 75%\nusd\n")
        assert client.recv(4096).startswith(b"error ")
        memory.use(90)
        assert client.recv(4096) == b"total 2500000 used 2250000 active 250000\n"
    assert path.is_socket()


def test_the_socket_of_one_that_was_killed(tmp_path: Path, memory: FakeMemory) -> None:
    """The next daemon replaces the socket, as it does the device."""
    path = tmp_path / "socket"
    with daemon_at(path, memory) as daemon:
        assert daemon.end(signal.SIGKILL) == -signal.SIGKILL
    assert path.is_socket()
    with daemon_at(path, memory), connected(path) as client:
        client.send(b"used 75%\n")
        memory.use(90)
        # Whether it had subscribed before that or not: one of the two is a crossing for it.
        if not select.select([client], [], [], 1)[0]:
            memory.use(50)
        assert client.recv(4096)
    assert not path.exists()


@pytest.fixture
def directory() -> Iterator[Path]:
    """Return a directory that other users may enter, unlike pytest's own."""
    directory = Path("/run/memnotify-test-socket")
    directory.mkdir(mode=0o755)
    yield directory
    directory.rmdir()


@contextmanager
def as_nobody() -> Iterator[pwd.struct_passwd]:
    """Run the block as another user."""
    nobody = pwd.getpwnam("nobody")
    os.setegid(nobody.pw_gid)
    os.seteuid(nobody.pw_uid)
    try:
        yield nobody
    finally:
        os.seteuid(0)
        os.setegid(0)


@pytest.mark.parametrize("mode", [None, 0o660])
def test_the_mode_decides_which_users_connect(directory: Path, memory: FakeMemory, mode: int | None) -> None:
    """Every user may connect, or those that the mode allows."""
    path = directory / "socket"
    with daemon_at(path, memory, *(() if mode is None else ("--socket-mode", f"{mode:o}"))):
        assert stat.S_IMODE(path.stat().st_mode) == (mode or 0o666)
        with as_nobody(), pytest.raises(PermissionError) if mode else nullcontext():
            connected(path).close()


def test_the_log_has_the_credentials_of_a_client(directory: Path, memory: FakeMemory) -> None:
    """The log has the pid, user and group of a client."""
    path = directory / "socket"
    with daemon_at(path, memory, "--log-level", "debug") as daemon:
        with as_nobody() as nobody:
            connected(path).close()
        peer = f"process {os.getpid()} of user {nobody.pw_uid}, group {nobody.pw_gid}"
        eventually(lambda: re.search(rf"socket: observer [0-9]+ is {peer}\n", daemon.log), peer)


def refusal(path: Path | str, returncode: int = 1) -> str:
    """Return the message of a daemon that cannot serve at a path, and ends with this code."""
    process = start("--transport", TRANSPORT, "--name", NAME + "-2", "--socket", str(path))
    _, log = process.communicate(timeout=DEADLINE_S)
    assert process.returncode == returncode
    assert "Traceback" not in log
    assert not os.path.lexists(f"/dev/{NAME}-2")
    return log


def test_where_it_cannot_be(tmp_path: Path, memory: FakeMemory) -> None:
    """The log says what is wrong, and the existing file stays."""
    path = tmp_path / "socket"
    with daemon_at(path, memory):
        assert "is served by another process already" in refusal(path)
        assert path.is_socket()
        connected(path).close()
    file = tmp_path / "file"
    file.write_text("mine")
    assert "exists and is no socket" in refusal(file)
    assert file.read_text() == "mine"
    assert "No such file or directory" in refusal(tmp_path / "no directory/socket")
    # No daemon with this setting can start anywhere, so the configuration is refused.
    assert "too long" in refusal(tmp_path / ("s" * 108), returncode=2)


def test_a_socket_that_others_put_there(tmp_path: Path, memory: FakeMemory) -> None:
    """The daemon removes only its own socket."""
    path = tmp_path / "socket"
    with daemon_at(path, memory):
        path.rename(tmp_path / "away")
        path.write_text("another's")
    assert path.read_text() == "another's"
