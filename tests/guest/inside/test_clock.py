# SPDX-License-Identifier: MIT
"""Jumps of the machine's clock, CLOCK_REALTIME, which a guest has of its own."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from support.daemon import QUICK, Daemon
from support.fake_memory import FakeMemory
from support.kept import clients_of
from support.memory import used_pages

HOUR_S = 3600.0


@contextmanager
def jump(by_s: float) -> Iterator[None]:
    """Set the clock forward or back; set it right at the end of the block."""

    def right_s() -> float:
        return to_real_s + time.clock_gettime(time.CLOCK_MONOTONIC)

    to_real_s = time.clock_gettime(time.CLOCK_REALTIME) - time.clock_gettime(time.CLOCK_MONOTONIC)
    time.clock_settime(time.CLOCK_REALTIME, right_s() + by_s)
    try:
        yield
    finally:
        time.clock_settime(time.CLOCK_REALTIME, right_s())


def test_a_jump_loses_and_invents_no_event(tmp_path: Path) -> None:
    """Samples go on: a crossing before a jump, and one between two jumps, is told once."""
    memory = FakeMemory(tmp_path)
    with (
        Daemon(*QUICK, *memory.ARGUMENTS, name="memnotify-clock", program=memory.program) as daemon,
        clients_of(daemon, 20) as clients,
    ):
        probe = clients.fds[0]
        for by_s in (HOUR_S, -HOUR_S):
            with jump(by_s):
                before = used_pages(probe)  # of a sample after the jump
                assert clients.epoll.poll(0) == []
                memory.use(70)
                assert clients.told()
                assert used_pages(probe) > before
                memory.use(50)
            assert clients.told()
