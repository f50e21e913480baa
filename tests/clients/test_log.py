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


def test_failed_requests_are_logged_once_a_second(tmp_path: Path) -> None:
    """A defect is logged with its traceback, at most once a second."""
    memory = FakeMemory(tmp_path)
    process = start("--transport", TRANSPORT, "--name", "memnotify-defect", program=memory.program)
    assert process.stderr is not None
    while "ready: " not in process.stderr.readline():
        assert process.poll() is None
    os.truncate(tmp_path / "meminfo", 0)
    fd = os.open("/dev/memnotify-defect", os.O_RDWR)
    begun_s = time.monotonic()
    for _ in range(FLOOD):
        with pytest.raises(OSError, check=lambda error: error.errno == errno.EIO):
            os.read(fd, 256)
    flooded_s = time.monotonic() - begun_s
    os.close(fd)
    process.send_signal(signal.SIGTERM)
    _, log = process.communicate(timeout=DEADLINE_S)
    assert "MemInfoError: /proc/meminfo must have" in log
    assert 1 <= log.count("ERROR: a request failed") <= flooded_s + 1
