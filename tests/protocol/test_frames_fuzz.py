# SPDX-License-Identifier: MIT
"""Frames that no kernel sends: each request has one reply, and the next one is served."""

import errno
import struct
from collections.abc import Callable, Iterator

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from support import fake_kernel
from support.fake_kernel import HEADER, UNANSWERED, WRITE, WRITE_IN, FakeKernel, write_body
from support.served import Served
from support.strategies import Frame, frames

LINE = b"total 10000 used 100 active 50\n"


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


class Sender:
    """Sends frames and counts the replies."""

    def __init__(self, kernel: FakeKernel) -> None:
        self.kernel = kernel
        self.interrupts: set[int] = set()

    def send(self, frame: Frame) -> None:
        """Send a frame, check everything that comes back, then make a valid request."""
        unique = next(self.kernel.uniques)
        body = frame.body
        length = (HEADER.size + len(body) + frame.length_off) % 2**32
        datagram = (HEADER.pack(length, frame.opcode, unique, 1, 0, 0, 1, 0) + body)[: frame.keep]
        self.kernel.send_raw(datagram)
        if frame.opcode == fake_kernel.INTERRUPT:
            self.interrupts.add(unique)

        probe = self.kernel.send(fake_kernel.OPEN, bytes(8))
        errors = []
        while (reply := self.kernel.receive()).unique != probe:
            # libfuse answers an interrupt of an unknown request when the next request comes.
            if reply.unique in self.interrupts and reply.error == -errno.EAGAIN:
                self.interrupts.remove(reply.unique)
                continue
            assert reply.unique == unique
            assert -1000 < reply.error <= 0
            errors.append(reply.error)
        if len(datagram) < HEADER.size:
            assert errors == []
        elif length != len(datagram) or (frame.opcode == WRITE and not_its_size(body)):
            assert errors == [-errno.EINVAL]
        elif frame.opcode in UNANSWERED:
            assert errors in ([], [-errno.EINVAL])
        else:
            assert len(errors) == 1
        fh = int.from_bytes(reply.checked()[:8], "little")
        assert self.kernel.read(fh) == LINE
        self.kernel.release(fh)


def not_its_size(body: bytes) -> bool:
    """Return True if a write does not have the number of bytes that it states."""
    return len(body) < WRITE_IN.size or struct.unpack_from("<I", body, 16)[0] != len(body) - WRITE_IN.size


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
