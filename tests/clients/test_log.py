# SPDX-License-Identifier: MIT
"""What clients can make the daemon log: nothing at the default level, and little at any level."""

import errno
import os
import re
import select
import signal
import time
from pathlib import Path

import pytest
from support.daemon import TRANSPORT, Daemon, ready, start
from support.fake_memory import FakeMemory
from support.waiting import DEADLINE_S, eventually

FLOOD = 500


def _refused(fd: int) -> None:
    with pytest.raises(OSError, check=lambda error: error.errno == errno.EINVAL):
        os.write(fd, b"nonsense")


def test_no_request_is_logged(tmp_path: Path) -> None:
    """No request is logged, whatever its result."""
    memory = FakeMemory(tmp_path)
    with Daemon(program=memory.program) as daemon:
        log = daemon.log
        for _ in range(FLOOD):
            fd = os.open(daemon.path, os.O_RDWR)
            os.read(fd, 256)
            _refused(fd)
            os.write(fd, b"used 80%")
            assert ready(fd, timeout_s=0) == 0
            os.close(fd)
        fd = os.open(daemon.path, os.O_RDWR)
        os.write(fd, b"used 80%")
        memory.use(90)
        assert ready(fd) == select.POLLIN
        os.close(fd)
        assert daemon.end() == 0
        assert daemon.log == f"{log}memnotify: INFO: SIGTERM: ending\n"


def test_refusals_are_explained_once_a_second() -> None:
    """At debug level a refusal is logged at most once a second, with the number of those left out."""
    with Daemon("--log-level", "debug") as daemon:
        fd = os.open(daemon.path, os.O_RDWR)
        begun_s = time.monotonic()
        for _ in range(FLOOD):
            _refused(fd)
        flooded_s = time.monotonic() - begun_s

        def counted() -> int:
            _refused(fd)
            return sum(map(int, re.findall(r"\((\d+) more of these dropped\)", daemon.log)))

        eventually(lambda: counted() >= FLOOD - flooded_s - 2, "the others are counted")
        assert 2 <= daemon.log.count("EINVAL: 'nonsense' is not understood") <= time.monotonic() - begun_s + 2
        os.close(fd)


def test_failed_readings_are_logged_once_a_second(tmp_path: Path) -> None:
    """A failing reading is EIO once the last good figures are too old, and logged at most once a second."""
    memory = FakeMemory(tmp_path)
    periods = ("--update-period", "1", "--max-update-period", "1")
    name = ("--transport", TRANSPORT, "--name", "memnotify-defect")
    process = start(*name, *periods, program=memory.program)
    assert process.stderr is not None
    while "ready: " not in process.stderr.readline():
        assert process.poll() is None
    os.truncate(tmp_path / "meminfo", 0)
    fd = os.open("/dev/memnotify-defect", os.O_RDWR)
    begun_s = time.monotonic()

    def fails() -> bool:
        try:
            os.read(fd, 256)
        except OSError as error:
            assert error.errno == errno.EIO
            return True
        return False

    eventually(fails, "the last good figures are too old")
    assert all(fails() for _ in range(FLOOD))
    flooded_s = time.monotonic() - begun_s
    os.close(fd)
    process.send_signal(signal.SIGTERM)
    _, log = process.communicate(timeout=DEADLINE_S)
    assert "trying again: /proc/meminfo must have" in log
    assert 1 <= log.count("the memory figures cannot be read") <= flooded_s + 2
    assert "Traceback" not in log
