# SPDX-License-Identifier: MIT
"""Signals end the serving whenever they come: idle, at work, and on the way into a blocking read."""

import os
import random
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from support.fake_kernel import FakeKernel
from support.served import Served


@contextmanager
def load(kernel: FakeKernel, *, wanted: bool) -> Iterator[None]:
    """Let a client read as fast as it can, if that is wanted."""
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
def test_a_signal_at_any_moment(*, busy: bool) -> None:
    """Each of many signals, at random moments, ends the serving, once."""
    delays = random.Random(1)  # noqa: S311 - no secret
    with Served() as served:
        served.kernel.reply_to(served.kernel.hello())
        with load(served.kernel, wanted=busy):
            for _ in range(600 if busy else 3000):
                for _ in range(delays.randrange(2000)):
                    pass
                os.kill(served.process.pid, signal.SIGTERM)
                assert served.says() == str(int(signal.SIGTERM))


def test_a_signal_during_the_handshake() -> None:
    """The handshake ends too, and can be gone on with."""
    with Served() as served:
        for _ in range(10):
            os.kill(served.process.pid, signal.SIGTERM)
            assert served.says() == str(int(signal.SIGTERM))
        assert served.kernel.reply_to(served.kernel.hello()).error == 0
        assert served.kernel.open() == 1


def test_two_signals() -> None:
    """Signals that come together are each told of, once, and nothing of them is left."""
    with Served() as served:
        served.kernel.reply_to(served.kernel.hello())
        for _ in range(10):
            os.kill(served.process.pid, signal.SIGSTOP)
            for number in (signal.SIGTERM, signal.SIGINT, signal.SIGTERM):
                os.kill(served.process.pid, number)
            os.kill(served.process.pid, signal.SIGCONT)
            assert served.says() == f"{int(signal.SIGINT)} {int(signal.SIGTERM)}"
            assert served.kernel.read(served.kernel.open()).startswith(b"total")
