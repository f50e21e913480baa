# SPDX-License-Identifier: MIT
"""The device that is opened if no path is given."""

from pathlib import Path

import pytest

from memnotify.cli import make_parser
from memnotify.client import DEFAULT_PATH, DeviceMissingError, Memnotify, default_path

MISSING = "/nonexistent/memnotify"


@pytest.mark.parametrize(("given", "opened"), [(MISSING, MISSING), ("", DEFAULT_PATH), (None, DEFAULT_PATH)])
def test_the_environment_names_the_device(
    monkeypatch: pytest.MonkeyPatch, given: str | None, opened: str
) -> None:
    monkeypatch.delenv("MEMNOTIFY_PATH", raising=False)
    if given is not None:
        monkeypatch.setenv("MEMNOTIFY_PATH", given)
    assert default_path() == opened
    assert make_parser("read").parse_args(["read"]).path == opened


def test_the_daemon_of_this_user(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """It counts if it serves, and if the system has no device."""
    monkeypatch.delenv("MEMNOTIFY_PATH", raising=False)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path / "run"))
    system, own = tmp_path / "dev", tmp_path / "run/memnotify"
    monkeypatch.setattr("memnotify.client._device.DEFAULT_PATH", str(system))
    assert default_path() == str(system)
    own.parent.mkdir()
    own.touch()
    assert default_path() == str(own)
    system.touch()
    assert default_path() == str(system)


def test_the_library_opens_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MEMNOTIFY_PATH", MISSING)
    with pytest.raises(DeviceMissingError) as refused:
        Memnotify()
    assert refused.value.filename == MISSING
