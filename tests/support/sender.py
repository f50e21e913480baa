# SPDX-License-Identifier: MIT
"""Sends frames that no kernel sends, and checks the replies."""

import errno
import struct

from support import fake_kernel
from support.fake_kernel import HEADER, UNANSWERED, WRITE, WRITE_IN, FakeKernel
from support.strategies import Frame

LINE = b"total 10000 used 100 active 50\n"
"""What a read returns meanwhile."""


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
