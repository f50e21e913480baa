# SPDX-License-Identifier: MIT
"""Frames that no kernel sends: each request has one reply, and the next one is served."""

import errno
from collections.abc import Callable, Iterator

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from support import fake_kernel
from support.fake_kernel import WRITE, WRITE_IN, write_body
from support.sender import LINE, Sender
from support.served import Served
from support.strategies import Frame, frames


@pytest.fixture(scope="module")
def living() -> Iterator[Callable[[], Served]]:
    """Return a function that returns the serving process: the same one while it lives."""
    started: list[Served] = []

    def get() -> Served:
        if not started or started[-1].process.poll() is not None:
            started.append(Served())
            started[-1].kernel.reply_to(started[-1].kernel.hello())
        return started[-1]

    yield get
    for served in started:
        served.close()


@given(st.lists(frames(), min_size=1, max_size=12))
@settings(max_examples=400, derandomize=True)
@example([Frame(WRITE, b"", keep=0)])
@example([Frame(WRITE, b"", keep=39), Frame(0, b"", keep=1)])
@example([Frame(WRITE, WRITE_IN.pack(1, 0, 2**32 - 1, 0, 0, 0, 0))])
@example([Frame(WRITE, WRITE_IN.pack(1, 0, 1 << 20, 0, 0, 0, 0) + b"used 5")])
@example([Frame(WRITE, write_body(1, b"used 5"), length_off=-6)])
@example([Frame(WRITE, write_body(1, b"used 5"), length_off=2**20)])
@example([Frame(WRITE, write_body(1, b"x" * 100_000))])
@example([Frame(fake_kernel.POLL, bytes(23)), Frame(fake_kernel.READ, b""), Frame(fake_kernel.OPEN, b"")])
@example([Frame(fake_kernel.CUSE_INIT, bytes(15)), Frame(fake_kernel.INIT, bytes(64))])
def test_any_frames(living: Callable[[], Served], sent: list[Frame]) -> None:
    """Each frame has its reply; no frame ends the process or leaves a traceback."""
    sender = Sender(living().kernel)
    for frame in sent:
        sender.send(frame)


def test_no_frames_at_all(living: Callable[[], Served]) -> None:
    """Empty datagrams are not the end of the connection."""
    kernel = living().kernel
    for _ in range(100):
        kernel.send_raw(b"")
    assert kernel.read(kernel.open()) == LINE


def test_after_destroy(living: Callable[[], Served]) -> None:
    """DESTROY ends the protocol: every request fails until the next INIT."""
    kernel = living().kernel
    assert kernel.ask(fake_kernel.DESTROY).error == 0
    error = kernel.ask(fake_kernel.OPEN, bytes(8)).error
    assert error in (0, -errno.EIO)
    if error:
        assert kernel.reply_to(kernel.hello()).error == 0
    assert kernel.read(kernel.open()) == LINE
