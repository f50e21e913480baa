# SPDX-License-Identifier: MIT
"""Serving is interrupted at any moment: idle, busy, and just before a blocking read."""

import os
import random
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from support.bench import Bench
from support.fake_kernel import OPEN, FakeKernel, connected
from support.fakes import FakeReader
from support.served import Served
from support.waiting import DEADLINE_S


@contextmanager
def load(kernel: FakeKernel, *, wanted: bool) -> Iterator[None]:
    """Let a client read as fast as possible if ``wanted``."""
    stop = threading.Event()

    def client() -> None:
        fh = kernel.open()
        while not stop.is_set():
            kernel.read(fh)

    thread = threading.Thread(target=client if wanted else stop.wait)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


@pytest.mark.parametrize("busy", [False, True])
def test_at_any_moment(*, busy: bool) -> None:
    """Each of many interruptions, at random moments, ends the call of serve."""
    delays = random.Random(1)  # noqa: S311 - no secret
    with Served() as served:
        served.kernel.reply_to(served.kernel.hello())
        with load(served.kernel, wanted=busy):
            for _ in range(600 if busy else 3000):
                for _ in range(delays.randrange(2000)):
                    pass
                os.kill(served.process.pid, signal.SIGTERM)
                assert served.says() == "interrupted"


def test_before_serving() -> None:
    """An interruption between two calls of serve ends the next one, once."""
    with connected(Bench(FakeReader()).device) as (kernel, session):
        for _ in range(3):
            session.interrupt()
            assert session.serve()
            opened = kernel.send(OPEN, bytes(8))
            thread = threading.Thread(target=session.serve)
            thread.start()
            assert kernel.reply_to(opened).error == 0
            session.interrupt()
            thread.join(DEADLINE_S)
            assert not thread.is_alive()
