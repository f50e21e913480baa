# SPDX-License-Identifier: MIT
"""The PSI trigger: which windows are tried, in which order, and what is logged if the kernel refuses."""

import errno
import logging
import os
import re
from pathlib import Path

import pytest

from memnotify.kernel.psi import open_trigger

SHORT, LONG = b"some 5000 500000\0", b"some 20000 2000000\0"


class Kernel:
    """Replacement for the write of a trigger: accept each one without a refusal."""

    def __init__(self, path: Path, refusals: dict[bytes, int]) -> None:
        path.write_text("some avg10=0.00 avg60=0.00 avg300=0.00 total=0\n")
        self.path = path
        self.refusals = refusals
        self.written: list[bytes] = []
        self._write = os.write

    def write(self, fd: int, data: bytes) -> int:
        """Replace os.write, for this file alone."""
        if not os.path.samestat(os.fstat(fd), os.stat(self.path)):
            return self._write(fd, data)
        self.written.append(data)
        if data in self.refusals:
            raise OSError(self.refusals[data], os.strerror(self.refusals[data]))
        return len(data)

    @property
    def open_fds(self) -> int:
        """The number of descriptors of the file that this process has."""
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
    """Try the short window, then the long one if the kernel may accept it; close each refused descriptor."""
    caplog.set_level(logging.INFO)
    kernel = Kernel(tmp_path / "memory", refusals)
    monkeypatch.setattr("memnotify.kernel.psi.os.write", kernel.write)
    trigger = open_trigger(str(kernel.path))
    assert kernel.written == tried
    assert kernel.open_fds == opened
    assert len(caplog.records) == bool(logged)
    assert re.search(logged, caplog.text)
    if trigger is not None:
        assert not os.get_inheritable(trigger.fd)
        assert not os.get_blocking(trigger.fd)
        os.close(trigger.fd)
        assert trigger.window_s == (0.5 if tried == [SHORT] else 2.0)
    assert (trigger is not None) is opened


@pytest.mark.parametrize("path", ["none", "", "directory"])
def test_no_psi(tmp_path: Path, caplog: pytest.LogCaptureFixture, path: str) -> None:
    """Without the file, return None and log one line."""
    caplog.set_level(logging.INFO)
    (tmp_path / "directory").mkdir()
    assert open_trigger(str(tmp_path / path)) is None
    (record,) = caplog.records
    assert record.levelno == logging.INFO
    assert str(tmp_path / path) in record.getMessage()


def test_masked_psi(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """/dev/null accepts every write and never stalls: it is no trigger, and one line says so."""
    caplog.set_level(logging.INFO)
    (tmp_path / "memory").symlink_to(os.devnull)
    open_fds = len(os.listdir("/proc/self/fd"))
    assert open_trigger(str(tmp_path / "memory")) is None
    assert len(os.listdir("/proc/self/fd")) == open_fds
    (record,) = caplog.records
    assert "is masked" in record.getMessage()
    assert "the timer alone" in record.getMessage()
