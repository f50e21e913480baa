# SPDX-License-Identifier: MIT
"""A daemon without memory: it goes on or ends at once, and it gives memory of clients that have gone back."""

import errno
import os
import resource
import subprocess
from contextlib import suppress
from pathlib import Path

import pytest
from support.daemon import QUICK, Daemon
from support.waiting import DEADLINE_S, eventually

from memnotify.kernel.syscalls import OUT_OF_MEMORY

pytestmark = pytest.mark.usefixtures("many_files")

OPENED = 15_000
# What a client may see of a daemon that ends: of these, never EIO.
GONE = {errno.ENOTCONN, errno.ECONNABORTED, errno.ENOMEM}
LINE = "no memory is left"
# Otherwise each thread has 64 MiB of address space in reserve.
ENVIRONMENT = {"MALLOC_ARENA_MAX": "1"}


def _limit(daemon: Daemon, more_kib: int) -> None:
    """Let the daemon's address space grow by that much and no more."""
    limit = (daemon.status("VmSize") + more_kib) * 1024
    resource.prlimit(daemon.pid, resource.RLIMIT_AS, (limit, limit))


def _take(daemon: Daemon, fds: list[int]) -> None:
    """Open files, each with three thresholds that no other has, until that fails."""
    for number in range(OPENED):
        fds.append(os.open(daemon.path, os.O_RDWR | os.O_CLOEXEC))
        high = 10_000_000 + 3 * number
        os.write(fds[-1], b"total %d used %d active %d" % (high, high + 1, high + 2))


@pytest.mark.parametrize("more_kib", [2048, 2600, 3500, 6000])
def test_without_memory_it_ends_at_once(more_kib: int) -> None:
    """Its clients get an error or go on, and never wait; one line says why."""
    fds: list[int] = []
    with Daemon(*QUICK, transport="fuse", name="memnotify-rss", environment=ENVIRONMENT) as daemon:
        _limit(daemon, more_kib)
        try:
            with pytest.raises(OSError) as caught:  # noqa: PT011 - the errno is checked below
                _take(daemon, fds)
            assert caught.value.errno in GONE
            if caught.value.errno != errno.ENOMEM:
                assert daemon.process.wait(DEADLINE_S) == OUT_OF_MEMORY
        finally:
            # Releases ask for no memory: they must not hang even if the daemon is still there.
            for fd in fds:
                with suppress(OSError):
                    os.close(fd)
        if daemon.process.poll() is None:
            eventually(lambda: _answers(daemon.path), "it answers")
        else:
            eventually(lambda: LINE in daemon.log, "it says why")
            assert daemon.log.count(LINE) == 1
        assert "Traceback" not in daemon.log
    subprocess.run(["umount", "-l", daemon.path], check=False, stderr=subprocess.DEVNULL)
    Path(daemon.path).unlink(missing_ok=True)


def test_memory_of_clients_that_have_gone_is_given_back() -> None:
    """Without a request that causes it. Python keeps each arena of 1 MiB in which an object is left."""
    with Daemon(*QUICK, transport="fuse", name="memnotify-rss") as daemon:
        before_kib = daemon.status("VmRSS")
        fds: list[int] = []
        _take(daemon, fds)
        taken_kib = daemon.status("VmRSS") - before_kib
        for fd in fds:
            os.close(fd)
        eventually(
            lambda: daemon.status("VmRSS") - before_kib <= 0.8 * taken_kib, f"a part of {taken_kib} KiB"
        )


def _answers(path: str) -> bool:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        return os.read(fd, 256).startswith(b"total ")
    except OSError:
        return False
    finally:
        os.close(fd)
