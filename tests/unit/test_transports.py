# SPDX-License-Identifier: MIT
"""Names and choices of transports, as far as no kernel is needed."""

import errno
from pathlib import Path

import pytest

from memnotify.transports import TransportError
from memnotify.transports.choice import choose
from memnotify.transports.cuse import CuseTransport
from memnotify.transports.listener import Listener


@pytest.mark.parametrize("name", ["", "sub/dir", "../up", "a!b", "a b", "x" * 65, "-x", ".hidden", "a\n"])
def test_a_name_that_is_none_is_refused(name: str) -> None:
    with pytest.raises(TransportError, match="is no name for a device"):
        CuseTransport(name)


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
