# SPDX-License-Identifier: MIT
"""Paths of devices and sockets."""

import os
from pathlib import Path

import pytest

from memnotify.kernel.mounts import canonical_path
from memnotify.transports import TransportError
from memnotify.transports.paths import directory_locked, refuse_untrusted_directory


def test_a_relative_path_in_a_directory_that_was_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The message says what to do."""
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    assert canonical_path("/device") == "/device"
    with pytest.raises(FileNotFoundError, match="give an absolute path: 'device'"):
        canonical_path("device")


def test_a_canonical_path_keeps_a_link_at_its_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = tmp_path.resolve() / "real"
    real.mkdir()
    (tmp_path / "link").symlink_to(real)
    (real / "device").symlink_to("/dev/null")
    monkeypatch.chdir(tmp_path)
    assert canonical_path("link/device") == str(real / "device")
    assert canonical_path("link/missing") == str(real / "missing")


def test_a_path_in_a_missing_directory_is_refused(tmp_path: Path) -> None:
    path = str(tmp_path / "missing" / "device")
    with (
        pytest.raises(TransportError, match="its directory: No such file or directory"),
        directory_locked(path),
    ):
        pytest.fail("locked what does not exist")
    if os.geteuid() == 0:
        with pytest.raises(TransportError, match="its directory: No such file or directory"):
            refuse_untrusted_directory(path)
