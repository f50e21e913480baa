# SPDX-License-Identifier: MIT
"""Choices of transports, as far as no kernel is needed."""

import errno
import os
import socket
from pathlib import Path

import pytest

from memnotify.transports import TransportError
from memnotify.transports.cuse import udev_is_done
from memnotify.transports.selection import select_transport
from memnotify.transports.unix_listener import Listener


def test_cuse_has_no_path_but_its_own() -> None:
    with pytest.raises(TransportError, match="leave --path out"):
        select_transport("cuse", "memnotify", "/run/device")


def test_an_ordinary_user_has_a_default_of_their_own(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    assert select_transport("fuse", "other", None).path == str(tmp_path / "other")
    assert select_transport("fuse", "other", "/run/device").path == "/run/device"
    monkeypatch.delenv("XDG_RUNTIME_DIR")
    with pytest.raises(
        TransportError, match=r"only root can serve /dev/other, .* XDG_RUNTIME_DIR .* ~/\.other"
    ):
        select_transport("fuse", "other", None)
    monkeypatch.setattr("os.geteuid", lambda: 0)
    assert select_transport("fuse", "other", None).path == "/dev/other"


def test_a_socket_that_cannot_be_used_is_not_left_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Refused(socket.socket):
        def listen(self, *_: object) -> None:
            raise OSError(errno.EPERM, "not permitted")

    monkeypatch.setattr("socket.socket", Refused)
    with pytest.raises(TransportError, match=r"cannot make the socket .*: not permitted"):
        Listener(str(tmp_path / "socket"))
    assert not (tmp_path / "socket").exists()


def test_udev_is_done_when_it_has_written_its_record_of_the_node(tmp_path: Path) -> None:
    node, record = tmp_path / "node", tmp_path / "c0:0"
    node.touch()
    assert not udev_is_done(str(node), str(tmp_path))
    record.write_text("I:1\n")
    os.utime(node, ns=(0, 2_000_000_000))
    os.utime(record, ns=(0, 1_999_999_999))
    assert not udev_is_done(str(node), str(tmp_path)), "it is of an earlier device"
    os.utime(record, ns=(0, 2_000_000_000))
    assert udev_is_done(str(node), str(tmp_path))
    record.write_text("I:1\nE:ID_PROCESSING=1\n")
    assert not udev_is_done(str(node), str(tmp_path)), "its commands still run"
    node.unlink()
    assert not udev_is_done(str(node), str(tmp_path))
