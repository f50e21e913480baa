# SPDX-License-Identifier: MIT
"""A restart of memnotify.service under systemd while many clients, and the posted program, wait."""

import os
import resource
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from support.kept import Clients
from support.memory import Hog, step_pages, used_pages
from support.program import Program
from support.unit import CLIENT, NAME, NODE, log
from support.waiting import eventually

CLIENTS = int(os.environ.get("MEMNOTIFY_RESTART_CLIENTS", "1000"))
_GATE = Path("/run/memnotify-gate")
GATE = f"""
[Service]
ExecStartPre=+/bin/sh -c 'test ! -p {_GATE} || cat {_GATE}'
"""
"""The unit needs it: while the FIFO exists, a process starts when a writer has opened and closed that."""


def check_restarts(kind: str, record_property: Callable[[str, object], None]) -> None:
    """Check that no client notices them, and record for how long none was served.

    No event is made up; one that is crossed while no process serves is told once to each.
    """
    before, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    with Hog() as hog:
        probe = os.open(NODE, os.O_RDWR)
        threshold = f"used {used_pages(probe) + step_pages()}"
        clients = Clients(NODE, CLIENTS, threshold.encode())
        with Program(CLIENT, threshold, user="nobody") as program:
            program.settle()
            record_property(f"{kind}, {CLIENTS} clients: gap in service, ms", round(1000 * _gap_s(probe)))
            assert f"took over {CLIENTS + 2} clients" in log()
            assert clients.epoll.poll(0) == []
            assert not program.ended
            with _restarting():
                hog.hold(2 * step_pages())
            assert f"took over {CLIENTS + 2} clients" in log()
            assert clients.told()
            assert program.end(0) == 0
        with _restarting():
            hog.hold(0)
        assert clients.told()
        clients.close()
        os.close(probe)
    assert program.lines[-1].startswith("--> memory figures reached 'total "), program.lines
    resource.setrlimit(resource.RLIMIT_NOFILE, (before, most))


def _gap_s(probe: int) -> float:
    """Restart the service; return for how long a client waited for its figures at most."""
    longest_s = 0.0
    restart = subprocess.Popen(["systemctl", "restart", NAME])
    while restart.poll() is None:
        asked_s = time.monotonic()
        os.pread(probe, 256, 0)
        longest_s = max(longest_s, time.monotonic() - asked_s)
    assert restart.returncode == 0, log()
    return longest_s


@contextmanager
def _restarting() -> Iterator[None]:
    """Restart the service; the old process has ended in the block, and the new one starts after it."""
    os.mkfifo(_GATE)
    gate = -1

    def opened() -> bool:
        nonlocal gate
        try:
            gate = os.open(_GATE, os.O_WRONLY | os.O_NONBLOCK)
        except OSError:  # it has no reader yet
            return False
        return True

    restart = subprocess.Popen(["systemctl", "restart", NAME])
    try:
        eventually(opened, "the old process has ended")
        yield
    finally:
        _GATE.unlink()
        if gate >= 0:
            os.close(gate)
    assert restart.wait() == 0, log()
