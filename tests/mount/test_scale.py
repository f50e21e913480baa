# SPDX-License-Identifier: MIT
"""Ten thousand clients at once."""

import os
import select
import sys
import sysconfig
from contextlib import ExitStack
from pathlib import Path

import pytest
from support.daemon import QUICK, Daemon
from support.memory import Hog, step_pages, used_pages
from support.waiting import DEADLINE_S

pytestmark = pytest.mark.usefixtures("many_files")

CLIENTS = 10_000
# 128 B of each client are its saved state, which a restart takes over.
RSS_MAX_KIB = 24 * 1024
# As it is installed: what finds an editable installation has imported pathlib and urllib, 0.6 MiB.
PROGRAM = (sys.executable, "-S", "-m", "memnotify")
ENVIRONMENT = {"PYTHONPATH": f"{Path(__file__).parents[2]}:{sysconfig.get_path('purelib')}"}


def test_ten_thousand_clients() -> None:
    with (
        Daemon(*QUICK, transport="fuse", program=PROGRAM, environment=ENVIRONMENT) as daemon,
        Hog() as hog,
        select.epoll() as epoll,
        ExitStack() as opened,
    ):
        fds = [os.open(daemon.path, os.O_RDWR) for _ in range(CLIENTS)]
        for fd in fds:
            opened.callback(os.close, fd)
            epoll.register(fd, select.EPOLLIN)
        # No client has a threshold. Another program may list /dev meanwhile, but hardly three times.
        assert any(not daemon.wakes_within(10.0) for _ in range(3))
        threshold = b"used %d" % (used_pages(fds[0]) + step_pages())
        for fd in fds:
            os.write(fd, threshold)
        hog.hold(2 * step_pages())
        woken: set[int] = set()
        while len(woken) < CLIENTS:
            events = epoll.poll(DEADLINE_S)
            assert events
            for fd, _ in events:
                assert fd not in woken
                woken.add(fd)
                os.read(fd, 256)
        assert epoll.poll(0) == []
        assert daemon.status("VmRSS") <= RSS_MAX_KIB
