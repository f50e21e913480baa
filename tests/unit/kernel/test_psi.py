# SPDX-License-Identifier: MIT
"""The PSI trigger: what is tried, in which order, and what is said when the kernel refuses."""

import errno
import logging
import os
import re
from pathlib import Path

import pytest

from memnotify.kernel.psi import open_trigger

SHORT, LONG = b"some 5000 500000\0", b"some 20000 2000000\0"


class Kernel:
    """Stands in for the write of a trigger: takes those that are not refused."""

    def __init__(self, path: Path, refusals: dict[bytes, int]) -> None:
        path.touch()
        self.path = path
        self.refusals = refusals
        self.written: list[bytes] = []
        self._write = os.write

    def write(self, fd: int, data: bytes) -> int:
        """Replace os.write; what goes to other files goes there."""
        if not os.path.samestat(os.fstat(fd), os.stat(self.path)):
            return self._write(fd, data)
        self.written.append(data)
        if data in self.refusals:
            raise OSError(self.refusals[data], os.strerror(self.refusals[data]))
        return len(data)

    @property
    def open_fds(self) -> int:
        """How many descriptors of the file this process has."""
        return sum(
            os.path.realpath(f"/proc/self/fd/{fd}") == str(self.path.resolve())
            for fd in os.listdir("/proc/self/fd")
        )


@pytest.mark.parametrize(
    ("refusals", "tried", "opened", "logged"),
    [
        ({}, [SHORT], True, ""),
        ({SHORT: errno.EINVAL}, [SHORT, LONG], True, "CAP_SYS_RESOURCE: .* 2 s instead of 0.5 s"),
        ({SHORT: errno.EPERM}, [SHORT, LONG], True, "CAP_SYS_RESOURCE"),
        ({SHORT: errno.EACCES}, [SHORT, LONG], True, "CAP_SYS_RESOURCE"),
        ({SHORT: errno.EINVAL, LONG: errno.EINVAL}, [SHORT, LONG], False, "no .* trigger .*Invalid argument"),
        ({SHORT: errno.EOPNOTSUPP}, [SHORT], False, "no .* trigger .*not supported.* the timer alone"),
    ],
)
def test_triggers(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    *,
    refusals: dict[bytes, int],
    tried: list[bytes],
    opened: bool,
    logged: str,
) -> None:
    """The short window, then the long one if it may help; a descriptor that failed is closed."""
    caplog.set_level(logging.INFO)
    kernel = Kernel(tmp_path / "memory", refusals)
    monkeypatch.setattr("memnotify.kernel.psi.os.write", kernel.write)
    fd = open_trigger(str(kernel.path))
    assert kernel.written == tried
    assert kernel.open_fds == opened
    assert len(caplog.records) == bool(logged)
    assert re.search(logged, caplog.text)
    if fd is not None:
        assert not os.get_inheritable(fd)
        assert not os.get_blocking(fd)
        os.close(fd)
    assert (fd is not None) is opened


@pytest.mark.parametrize("path", ["none", "", "directory"])
def test_no_psi(tmp_path: Path, caplog: pytest.LogCaptureFixture, path: str) -> None:
    """Without the file there is no trigger, and one line says so."""
    caplog.set_level(logging.INFO)
    (tmp_path / "directory").mkdir()
    assert open_trigger(str(tmp_path / path)) is None
    (record,) = caplog.records
    assert record.levelno == logging.INFO
    assert str(tmp_path / path) in record.getMessage()
