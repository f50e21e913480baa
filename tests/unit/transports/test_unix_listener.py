# SPDX-License-Identifier: MIT
"""The listening socket that a service manager passes, as sd_listen_fds(3) says."""

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from memnotify.transports import TransportError, unix_listener
from memnotify.transports.unix_listener import open_listener, take_passed_socket


@pytest.fixture
def passed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[socket.socket]:
    """Return a bound socket, and pass a copy of it, inheritable as after exec, to this process."""
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind(str(tmp_path / "socket"))
        pass_descriptor(bound.fileno(), monkeypatch)
        yield bound


def pass_descriptor(fd: int, monkeypatch: pytest.MonkeyPatch) -> int:
    """Pass a copy of a descriptor to this process; return it."""
    copy = os.dup(fd)
    os.set_inheritable(copy, True)  # noqa: FBT003 - the name of the function
    monkeypatch.setattr(unix_listener, "_PASSED_FD", copy)
    monkeypatch.setenv("LISTEN_PID", str(os.getpid()))
    monkeypatch.setenv("LISTEN_FDS", "1")
    monkeypatch.setenv("LISTEN_FDNAMES", "memnotify.socket")
    return copy


@pytest.mark.parametrize("option", ["", "socket", "link/socket"])
def test_a_passed_socket_is_used_and_stays(passed: socket.socket, tmp_path: Path, option: str) -> None:
    """With or without --socket at the same place; the file belongs to the service manager."""
    passed.listen()
    (tmp_path / "link").symlink_to(".")
    listener = open_listener(option and str(tmp_path / option), 0o600)
    assert listener is not None
    assert listener.path == str(tmp_path / "socket")
    assert not listener.socket.get_inheritable()
    assert not [name for name in os.environ if name.startswith("LISTEN_")]
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(tmp_path / "socket"))
        listener.socket.accept()[0].close()
    assert listener.hand_over() is None
    listener.close()
    assert (tmp_path / "socket").is_socket()


def test_a_passed_abstract_socket(monkeypatch: pytest.MonkeyPatch) -> None:
    name = f"memnotify-test-{os.getpid()}"
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind(f"\0{name}")
        bound.listen()
        pass_descriptor(bound.fileno(), monkeypatch)
        listener = open_listener("", 0o666)
    assert listener is not None
    assert listener.path == f"@{name}"
    listener.close()


def test_a_passed_socket_at_another_path_is_refused(passed: socket.socket, tmp_path: Path) -> None:
    passed.listen()
    with pytest.raises(TransportError, match=r"passed the socket .*/socket, but --socket is .*/other"):
        open_listener(str(tmp_path / "other"), 0o666)
    assert not (tmp_path / "other").exists()


@pytest.mark.parametrize("pid", [str(os.getpid() + 1), "", None])
def test_what_was_passed_to_another_process_is_left_alone(
    passed: socket.socket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pid: str | None
) -> None:
    """As through a shell; a program that the daemon starts does not see the variables."""
    passed.listen()
    if pid is None:
        monkeypatch.delenv("LISTEN_PID")
    else:
        monkeypatch.setenv("LISTEN_PID", pid)
    assert take_passed_socket() is None
    assert not [name for name in os.environ if name.startswith("LISTEN_")]
    listener = open_listener(str(tmp_path / "other"), 0o666)
    assert listener is not None
    listener.close()
    assert not (tmp_path / "other").exists()
    os.close(unix_listener._PASSED_FD)


def test_a_socket_that_does_not_listen_is_refused(passed: socket.socket) -> None:
    with pytest.raises(TransportError, match="not a listening AF_UNIX stream socket"):
        take_passed_socket()


def test_a_passed_socket_that_stays_is_used_whatever_the_option(
    passed: socket.socket, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A program that replaces another one may be unable to make the new socket, and must not end."""
    passed.listen()
    listener = open_listener(str(tmp_path / "other"), 0o666, stays=True)
    assert listener is not None
    with listener.socket:
        assert listener.path == passed.getsockname()
    assert "a change of socket takes a restart" in caplog.text


@pytest.mark.parametrize(
    ("family", "kind"),
    [
        (socket.AF_UNIX, socket.SOCK_DGRAM),
        (socket.AF_UNIX, socket.SOCK_SEQPACKET),
        (socket.AF_INET, socket.SOCK_STREAM),
    ],
)
def test_a_socket_of_another_kind_is_refused(
    family: socket.AddressFamily, kind: socket.SocketKind, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.socket(family, kind) as other:
        other.bind(f"\0memnotify-test-{os.getpid()}" if family == socket.AF_UNIX else ("127.0.0.1", 0))
        if kind != socket.SOCK_DGRAM:
            other.listen()
        pass_descriptor(other.fileno(), monkeypatch)
        with pytest.raises(TransportError, match="not a listening AF_UNIX stream socket"):
            take_passed_socket()


def test_a_descriptor_that_is_no_socket_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with (tmp_path / "file").open("w") as file:
        copy = pass_descriptor(file.fileno(), monkeypatch)
        with pytest.raises(TransportError, match="is no socket"):
            take_passed_socket()
        os.close(copy)


@pytest.mark.parametrize("count", ["0", "2", "x"])
def test_another_number_of_descriptors_is_refused(
    passed: socket.socket, monkeypatch: pytest.MonkeyPatch, count: str
) -> None:
    monkeypatch.setenv("LISTEN_FDS", count)
    with pytest.raises(TransportError, match=f"LISTEN_FDS is {count}: exactly one socket"):
        take_passed_socket()
    os.close(unix_listener._PASSED_FD)
