# SPDX-License-Identifier: MIT
"""When the daemon samples: allocations wake it during a long interval, and stuck clients do not delay it."""

import os
import select
import signal
import subprocess
import sys
from collections.abc import Callable

import pytest
from support.daemon import NOBODY, Daemon, ready
from support.memory import Hog, step_pages, used_pages
from support.waiting import eventually

from memnotify.kernel.meminfo import MemInfoReader

_STUCK = """
import os, select, sys
fd = os.open(sys.argv[1], os.O_RDWR)
os.write(fd, sys.argv[2].encode())
epoll = select.epoll()
epoll.register(fd, select.EPOLLIN)
print("waiting", flush=True)
while True:
    epoll.poll()
"""


@pytest.mark.parametrize("user", [(), ("--user", NOBODY.pw_name)], ids=["as root", "root given up"])
def test_allocations_end_a_long_sleep(hog: Hog, user: tuple[str, ...]) -> None:
    """The timer has backed off to seconds; MAP_POPULATE takes pages without a fault.

    First those on the per-CPU lists, on which the test before may have left a lot. No process moves memory by
    the 32 GiB that would bring the shortest interval back.
    """
    with MemInfoReader() as reader:
        _, pcp_pages = reader.read_exact()
    with Daemon(*user, "--log-level", "debug", "--update-space", "67108864") as daemon:
        fd = os.open(daemon.path, os.O_RDWR | os.O_CLOEXEC)
        os.write(fd, b"used %d" % (used_pages(fd) + pcp_pages + 2 * step_pages()))
        # The distance alone would make it a fraction of a second.
        eventually(lambda: "next sample in 8000 ms" in daemon.log, "the interval grows")
        hog.hold(pcp_pages + 4 * step_pages())
        assert ready(fd, timeout_s=4), daemon.log
        os.close(fd)


def test_a_stuck_client_delays_no_other(daemon: Daemon, hog: Hog, opened: Callable[..., int]) -> None:
    """One client is stopped, one spins without reading: the third is woken for each crossing."""
    fd = opened()
    threshold = b"used %d" % (used_pages(fd) + 2 * step_pages())
    stuck = [
        subprocess.Popen([sys.executable, "-c", _STUCK, daemon.path, threshold], stdout=subprocess.PIPE)
        for _ in range(2)
    ]
    try:
        for process in stuck:
            assert process.stdout is not None
            assert process.stdout.readline() == b"waiting\n"
        stuck[0].send_signal(signal.SIGSTOP)
        os.write(fd, threshold)
        for pages in (4 * step_pages(), 0, 4 * step_pages(), 0):
            hog.hold(pages)
            assert ready(fd) & select.POLLIN
            os.read(fd, 256)
    finally:
        for process in stuck:
            process.kill()
            process.wait()
            assert process.stdout is not None
            process.stdout.close()
