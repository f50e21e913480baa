# SPDX-License-Identifier: MIT
"""Choices of transports, as far as no kernel is needed."""

import errno
from pathlib import Path

import pytest

from memnotify.transports import TransportError
from memnotify.transports.choice import choose
from memnotify.transports.listener import Listener


def test_cuse_has_no_path_but_its_own() -> None:
    with pytest.raises(TransportError, match="leave --path out"):
        choose("cuse", "memnotify", "/run/device")


def test_a_socket_that_cannot_be_used_is_not_left_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.EPERM, "not permitted")

    monkeypatch.setattr("os.chmod", refuse)
    with pytest.raises(TransportError, match=r"cannot make the socket .*: not permitted"):
        Listener(str(tmp_path / "socket"))
    assert not (tmp_path / "socket").exists()
