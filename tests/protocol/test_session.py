# SPDX-License-Identifier: MIT
"""The session and its shim against a fake kernel: one reply to each request, each handle freed once."""

import ctypes
import errno
import itertools
import logging
import os
import select
import stat
import struct
import threading
from array import array
from collections.abc import Callable
from typing import Any

import pytest
from support import fake_kernel
from support.fake_kernel import INTERRUPT, READ, READ_IN, WRITE, FakeKernel, connected, serving, write_body
from support.waiting import DEADLINE_S, eventually

from memnotify.transports.session import Session

IDLE = select.POLLOUT | select.POLLWRNORM


Answer = Callable[..., Any]


class Scripted:
    """Operations with scripted results that record their calls."""

    def __init__(self) -> None:
        self.calls: list[tuple[object, ...]] = []
        self.answers: dict[str, Answer] = {}
        self.handles: list[int] = []
        self._fhs = itertools.count(1)

    def open(self, _opener: int, /) -> Any:
        """Open."""
        return self._called("open", otherwise=lambda: next(self._fhs))

    def read(self, fh: int, /) -> Any:
        """Read."""
        return self._called("read", fh, otherwise=lambda *_: b"line\n")

    def write(self, fh: int, data: bytes, pid: int, /) -> Any:
        """Write."""
        return self._called("write", fh, data, pid, otherwise=lambda _, data, __: len(data))

    def poll(self, fh: int, events: int, handle: int, /) -> Any:
        """Poll; a handle goes into ``handles``, kept or not."""
        if handle:
            self.handles.append(handle)
        return self._called("poll", fh, events, bool(handle), otherwise=lambda *_: IDLE)

    def give_back(self, fh: int, /) -> Any:
        """Give back."""
        return self._called("give_back", fh, otherwise=lambda _: 0)

    def release(self, fh: int, /) -> Any:
        """Release."""
        return self._called("release", fh, otherwise=lambda _: 0)

    def _called(self, name: str, *args: object, otherwise: Answer) -> Any:
        self.calls.append((name, *args))
        return self.answers.get(name, otherwise)(*args)


def fail(error: BaseException) -> Answer:
    """Return an operation that fails."""

    def raising(*_: object) -> None:
        raise error

    return raising


# The handshake


def test_init_reply() -> None:
    """The reply to INIT has the protocol's version, no flags, limits, and the device's name."""
    with FakeKernel() as kernel:
        session = Session.cuse("fake-name", Scripted())
        session.attach(f"/dev/fd/{kernel.fd}")
        hello = kernel.hello()
        session.handshake()
        body = kernel.reply_to(hello).checked()
        major, minor, _, flags, max_read, max_write, dev_major, dev_minor = (
            fake_kernel.CUSE_INIT_OUT.unpack_from(body)
        )
        assert (major, flags, dev_major, dev_minor) == (7, 0, 0, 0)
        assert minor >= 31
        assert max_read >= 4096
        assert max_write >= 4096
        assert body[fake_kernel.CUSE_INIT_OUT.size :] == b"DEVNAME=fake-name\0"
        assert not os.get_inheritable(kernel.fd)
        session.close()


def test_before_init() -> None:
    """A request before INIT is refused, and the handshake continues."""
    with FakeKernel() as kernel:
        operations = Scripted()
        session = Session.cuse("fake", operations)
        session.attach(f"/dev/fd/{kernel.fd}")
        early = [kernel.send(fake_kernel.OPEN, bytes(8)), kernel.send(fake_kernel.INIT, bytes(64))]
        hello = kernel.hello()
        session.handshake()
        assert [kernel.reply_to(unique).error for unique in early] == [-errno.EIO] * 2
        assert kernel.reply_to(hello).error == 0
        assert operations.calls == []
        session.close()


def test_the_kernel_goes_before_init() -> None:
    """A connection that ends during the handshake is an error."""
    kernel = FakeKernel()
    session = Session.cuse("fake", Scripted())
    session.attach(f"/dev/fd/{kernel.fd}")
    kernel.close()
    with pytest.raises(OSError, match=os.strerror(errno.ENODEV)) as refusal:
        session.handshake()
    assert refusal.value.errno == errno.ENODEV
    session.close()


def test_init_again() -> None:
    """A second INIT is refused, and the connection continues."""
    with serving(Scripted()) as (kernel, _):
        assert kernel.reply_to(kernel.hello()).error == -errno.EIO
        assert kernel.open() == 1


def test_attach_to_what_is_not_open() -> None:
    """A descriptor that does not exist is an error here, not later."""
    session = Session.cuse("fake", Scripted())
    with pytest.raises(OSError, match="could not attach"):
        session.attach("/dev/fd/12345")
    session.close()
    session.close()


# Requests and their replies


def test_each_request_once() -> None:
    """Each operation is called once with the request's arguments, and its result is the reply."""
    operations = Scripted()
    operations.answers = {"open": lambda: 2**40 + 3, "write": lambda *_: 3}
    with serving(operations) as (kernel, _):
        fh = kernel.open(os.O_RDWR | os.O_NONBLOCK)
        assert fh == 2**40 + 3
        assert kernel.read(fh, 100) == b"line\n"
        assert kernel.write(fh, b"any\0thing") == 3
        assert kernel.poll(fh, 0x19) == IDLE
        assert kernel.poll(fh, 0xFB, kh=5) == IDLE
        kernel.release(fh)
        eventually(lambda: len(operations.calls) == 6, "the file is released")
        assert kernel.silent()
    assert operations.calls == [
        ("open",),
        ("read", fh),
        ("write", fh, b"any\0thing", fake_kernel.WRITER_PID),
        ("poll", fh, 0x19, False),
        ("poll", fh, 0xFB, True),
        ("release", fh),
    ]


@pytest.mark.parametrize("size", [0, 1, 4, 5, 6, 4096, 2**32 - 1])
def test_read_is_cut_at_what_was_asked_for(size: int) -> None:
    """A shorter buffer gets the first bytes, a longer one the whole line."""
    with serving(Scripted()) as (kernel, _):
        assert kernel.read(kernel.open(), size) == b"line\n"[:size]
        assert kernel.read(1, 4096) == b"line\n"


def test_read_is_cut_at_4096() -> None:
    """A reply has at most SHIM_REPLY_MAX bytes, whatever the client asks for; the next read is separate."""
    operations = Scripted()
    lines = iter((b"x" * 10_000, b"x" * 10_000, b"", b"new\n"))
    operations.answers["read"] = lambda *_: next(lines)
    with serving(operations) as (kernel, _):
        fh = kernel.open()
        assert [kernel.read(fh, 20_000) for _ in range(4)] == [b"x" * 4096, b"x" * 4096, b"", b"new\n"]


def test_the_same_bytes_again() -> None:
    """The reply buffer is right again after another line was read."""
    operations = Scripted()
    one, other = b"total 1\n", b"used 22\n"
    lines = iter((one, one, other, one, bytes(bytearray(one)), other))
    operations.answers["read"] = lambda *_: next(lines)
    with serving(operations) as (kernel, _):
        fh = kernel.open()
        assert [kernel.read(fh) for _ in range(6)] == [one, one, other, one, one, other]


def test_a_large_write() -> None:
    """The largest write of the kernel arrives whole."""
    operations = Scripted()
    data = bytes(range(256)) * 400
    with serving(operations) as (kernel, _):
        assert kernel.write(kernel.open(), data) == len(data)
    assert operations.calls[-1] == ("write", 1, data, fake_kernel.WRITER_PID)


@pytest.mark.parametrize(
    "opcode", [0, 1, 9, 20, 25, fake_kernel.GETATTR, fake_kernel.IOCTL, 43, 47, 60, 4095, 4097, 2**32 - 1]
)
def test_what_a_device_does_not_do(opcode: int) -> None:
    """Other requests are ENOSYS: ioctl (ENOTTY to the client), flush, and unknown ones."""
    with serving(Scripted()) as (kernel, _):
        assert kernel.ask(opcode, bytes(200)) == (2 + 2, -errno.ENOSYS, b"")


@pytest.mark.parametrize("operation", ["open", "read", "write", "poll"])
@pytest.mark.parametrize("refusal", [errno.EINVAL, errno.EBADF, errno.ENOMEM])
def test_a_refusal(caplog: pytest.LogCaptureFixture, operation: str, refusal: int) -> None:
    """An OSError's errno is the reply, and nothing is logged."""
    operations = Scripted()
    operations.answers[operation] = fail(OSError(refusal, "no"))
    with serving(operations) as (kernel, _), pytest.raises(OSError, match=os.strerror(refusal)):
        use(kernel)
    assert caplog.records == []


@pytest.mark.parametrize("operation", ["open", "read", "write", "poll"])
@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("a defect"),
        OSError("without an errno"),
        OSError(errno.ENOSYS, "would switch poll off"),
        OSError("no number", "an errno that is text"),
        KeyboardInterrupt(),
    ],
)
def test_a_defect(caplog: pytest.LogCaptureFixture, operation: str, error: BaseException) -> None:
    """Any other exception is EIO and one traceback in the log, and the next request is served."""
    operations = Scripted()
    operations.answers[operation] = fail(error)
    with serving(operations) as (kernel, _):
        with pytest.raises(OSError, match=os.strerror(errno.EIO)):
            use(kernel)
        del operations.answers[operation]
        use(kernel)
    (record,) = caplog.records
    assert record.levelno == logging.ERROR
    assert record.exc_info is not None
    assert record.exc_info[1] is error


@pytest.mark.parametrize(
    ("operation", "answer"),
    [
        ("open", "one"),
        ("open", None),
        ("open", 2**64),
        ("read", 5),
        ("read", None),
        ("write", 0.5),
        ("poll", b""),
    ],
)
def test_a_wrong_answer(caplog: pytest.LogCaptureFixture, operation: str, answer: object) -> None:
    """A result of a wrong type, or out of range, is a defect as well."""
    operations = Scripted()
    operations.answers[operation] = lambda *_: answer
    with serving(operations) as (kernel, _), pytest.raises(OSError, match=os.strerror(errno.EIO)):
        use(kernel)
    assert [record.levelno for record in caplog.records] == [logging.ERROR]


@pytest.mark.parametrize("operation", ["read", "poll"])
def test_what_a_reply_that_fails_acknowledged_is_given_back(operation: str) -> None:
    """The kernel has gone, so the reply is not delivered; the handle that was kept is notified and freed."""
    operations = Scripted()
    with serving(operations) as (kernel, _):
        fh = kernel.open()
        kernel.poll(fh, 0x19, kh=7)
        (kept,) = operations.handles
        operations.answers["give_back"] = lambda _: kept

        def go(*_: object) -> object:
            kernel.close()
            return b"line\n" if operation == "read" else IDLE

        operations.answers[operation] = go
        body = (
            fake_kernel.READ_IN.pack(fh, 0, 4096, 0, 0, 0, 0)
            if operation == "read"
            else fake_kernel.POLL_IN.pack(fh, 0, 0, 1)
        )
        kernel.send(getattr(fake_kernel, operation.upper()), body)
        eventually(lambda: ("give_back", fh) in operations.calls, "it is given back")
    assert operations.calls.count(("give_back", fh)) == 1


def test_a_reply_that_is_delivered_gives_nothing_back() -> None:
    operations = Scripted()
    with serving(operations) as (kernel, _):
        use(kernel)
    assert "give_back" not in {name for name, *_ in operations.calls}


def use(kernel: FakeKernel) -> None:
    """Make each request that has an answer."""
    fh = kernel.open()
    kernel.read(fh)
    kernel.write(fh, b"x")
    kernel.poll(fh, 0x19, kh=1)


# Handles


def test_only_a_waiting_client_has_a_handle() -> None:
    """A poll that does not wait has no handle; each one that waits has its own."""
    operations = Scripted()
    with serving(operations) as (kernel, _):
        fh = kernel.open()
        kernel.poll(fh, 0x19)
        assert operations.handles == []
        kernel.poll(fh, 0x19, kh=8)
        kernel.poll(fh, 0x19, kh=7)
        assert len(operations.handles) == 2
    assert operations.handles == [8, 7]


def test_notify() -> None:
    """Each handle of a batch is a frame of 24 bytes with the kh that it was made for, in order."""
    operations = Scripted()
    with serving(operations) as (kernel, session):
        fh = kernel.open()
        khs = [7, 1, 2**64 - 1, 7]
        for kh in khs:
            assert kernel.poll(fh, 0x19, kh=kh) == IDLE
        assert kernel.silent()
        session.notify(array("Q", operations.handles), len(operations.handles))
        assert kernel.notified() == khs
        session.notify(array("Q"), 0)
        assert kernel.silent()


def test_notify_in_the_middle_of_a_poll() -> None:
    """A crossing may take the handle before the reply to the poll: the wake-up then comes first."""
    operations = Scripted()

    def poll(*_: object) -> int:
        served.session.notify(array("Q", [operations.handles.pop()]), 1)
        return IDLE

    operations.answers["poll"] = poll
    with serving(operations) as served:
        kernel = served.kernel
        fh = kernel.open()
        for kh in range(1, 100):
            assert kernel.poll(fh, 0x19, kh=kh) == IDLE
        assert kernel.notified() == list(range(1, 100))


def test_notify_after_the_kernel_has_gone() -> None:
    """A notification after the end of the connection has no effect."""
    operations = Scripted()
    with connected(operations) as (kernel, session):
        thread = threading.Thread(target=session.serve)
        thread.start()
        kernel.poll(kernel.open(), 0x19, kh=1)
        kernel.close()
        thread.join(DEADLINE_S)
        session.notify(array("Q", operations.handles), len(operations.handles))


def allocated() -> int:
    """Return how many bytes are allocated by malloc."""

    class Mallinfo2(ctypes.Structure):
        _fields_ = [(f"f{n}", ctypes.c_size_t) for n in range(10)]

    libc = ctypes.CDLL(None)
    libc.mallinfo2.restype = Mallinfo2
    return int(libc.mallinfo2().f7)


@pytest.mark.parametrize(
    "poll", [lambda *_: IDLE, fail(OSError(errno.EBADF, "not open"))], ids=["answered", "refused"]
)
def test_libfuse_handles_are_freed(poll: Answer) -> None:
    """Those that libfuse allocates for each poll."""
    operations = Scripted()
    operations.answers["poll"] = poll

    def cycle(kernel: FakeKernel) -> None:
        fh = kernel.open()
        kernel.ask(fake_kernel.POLL, fake_kernel.POLL_IN.pack(fh, 5, fake_kernel.SCHEDULE_NOTIFY, 0x19))
        kernel.release(fh)
        operations.calls.clear()
        operations.handles.clear()

    times = 3000
    with serving(operations) as (kernel, _):
        for _ in range(100):
            cycle(kernel)
        before = allocated()
        for _ in range(times):
            cycle(kernel)
        assert allocated() - before < 8 * times  # a handle has 16 bytes at least


# Release and the end


def test_release_is_answered_first() -> None:
    """The client's close() returns before the operation runs; a failure of the operation is only logged."""
    operations = Scripted()
    go_on, entered = threading.Event(), threading.Event()

    def release(_: int) -> int:
        entered.set()
        assert go_on.wait(DEADLINE_S)
        return 0

    operations.answers["release"] = release
    with serving(operations) as (kernel, _):
        kernel.release(kernel.open())
        assert entered.wait(DEADLINE_S)
        go_on.set()
        assert kernel.open() == 2
        assert kernel.silent()


def test_release_fails(caplog: pytest.LogCaptureFixture) -> None:
    """A defect in release is logged once, after the reply."""
    operations = Scripted()
    operations.answers["release"] = fail(RuntimeError("a defect"))
    with serving(operations) as (kernel, _):
        kernel.release(kernel.open())
        assert kernel.open() == 2
        assert kernel.silent()
    assert len(caplog.records) == 1


def test_the_kernel_ends_the_connection() -> None:
    """Serve returns False when the other end has gone, at once or after requests."""
    for requests in (0, 3):
        with serving(Scripted()) as (kernel, _):
            for _ in range(requests):
                kernel.open()


def test_close_frees_the_session() -> None:
    """The descriptor is closed, and a closed session may be closed again."""
    with connected(Scripted()) as (kernel, session):
        fd = kernel.fd
        session.close()
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(fd)


# The same over a mount's protocol


def test_a_file() -> None:
    """The root of a mount is one regular file, which can be read although its size is 0, and chmodded."""
    operations = Scripted()
    with FakeKernel() as kernel:
        session = Session.file(operations, mode=0o640, mount_options="fsname=fake")
        session.attach(f"/dev/fd/{kernel.fd}")
        hello = kernel.send(fake_kernel.INIT, struct.pack("<IIII", 7, 31, 0, 0))
        session.handshake()
        assert kernel.reply_to(hello).error == 0
        thread = threading.Thread(target=session.serve)
        thread.start()

        def attributes(reply: bytes) -> tuple[int, ...]:
            # struct fuse_attr begins after the validity, 16 bytes; mode at 60, then nlink, uid, gid
            return struct.unpack_from("<IIII", reply, 16 + 60)

        reply = kernel.ask(fake_kernel.GETATTR, bytes(16)).checked()
        assert attributes(reply) == (stat.S_IFREG | 0o640, 1, os.geteuid(), os.getegid())
        assert struct.unpack_from("<Q", reply, 16 + 8) == (0,)
        # struct fuse_setattr_in: valid at 0, mode at 68, uid and gid at 76
        wanted = bytearray(88)
        struct.pack_into("<I", wanted, 0, 1 | 2 | 4)
        struct.pack_into("<IIII", wanted, 68, 0o100600, 0, 12, 34)
        kernel.ask(fake_kernel.SETATTR, bytes(wanted)).checked()
        # size and times: taken, and of no effect
        kernel.ask(fake_kernel.SETATTR, struct.pack("<IIQQ64x", 8 | 32, 0, 0, 4711)).checked()
        reply = kernel.ask(fake_kernel.GETATTR, bytes(16)).checked()
        assert attributes(reply) == (stat.S_IFREG | 0o600, 1, 12, 34)

        fh, open_flags, _ = fake_kernel.OPEN_OUT.unpack(kernel.ask(fake_kernel.OPEN, bytes(8)).checked())
        assert open_flags & 1  # direct_io
        assert not open_flags & 4  # nonseekable: clients rewind
        assert kernel.read(fh) == b"line\n"
        assert kernel.write(fh, b"used 5") == 6
        assert kernel.poll(fh, 0x19, kh=3) == IDLE
        kernel.release(fh)
        kernel.close()
        thread.join(DEADLINE_S)
        session.close()


# Turns of the users


HOSTILE, OTHER = 1000, 1001


def _uniques(kernel: FakeKernel, count: int) -> list[int]:
    return [kernel.receive().unique for _ in range(count)]


def test_users_are_served_in_turns() -> None:
    with connected(Scripted()) as (kernel, session):
        many = [kernel.send(WRITE, write_body(1, b"used 1"), HOSTILE) for _ in range(60)]
        one = kernel.send(READ, READ_IN.pack(1, 0, 4096, 0, 0, 0, 0), OTHER)
        few = [kernel.send(WRITE, write_body(2, b"used 1"), 0) for _ in range(3)]
        thread = threading.Thread(target=session.serve)
        thread.start()
        replies = _uniques(kernel, 64)
        kernel.close()
        thread.join()
    assert sorted(replies) == sorted([*many, one, *few])
    # After a look, which comes after 16 requests at most.
    assert replies.index(one) <= 16 + 3
    assert replies.index(few[-1]) <= 16 + 3 * 3
    assert [unique for unique in replies if unique in many] == many, "of one user, in their order"


def test_nothing_is_in_request_after_the_handshake_and_at_the_end() -> None:
    """The next process takes it that the kernel waits for an answer to what this one has read."""
    with FakeKernel() as kernel:
        session = Session.cuse("fake", Scripted())
        session.attach(f"/dev/fd/{kernel.fd}")
        kept = array("Q", bytes(32))
        session.keep(memoryview(kept))
        kernel.hello()
        session.handshake()
        assert kept[0] == 0
        sent = [kernel.send(WRITE, write_body(1, b"used 1"), HOSTILE) for _ in range(16)]
        kernel.send(INTERRUPT, sent[0].to_bytes(8, "little"), HOSTILE)
        kernel.close()
        assert not session.serve()
        assert kept[0] == 0
        session.close()


@pytest.mark.parametrize("at", [3, 16, 17, 18, 30, 40])
def test_what_was_received_is_answered_before_an_interruption(at: int) -> None:
    operations = Scripted()

    def answer(_fh: int, data: bytes, _pid: int) -> int:
        if len(operations.calls) == at:
            session.interrupt()
        return len(data)

    operations.answers["write"] = answer
    with connected(operations) as (kernel, session):
        kept = array("Q", bytes(32))
        session.keep(memoryview(kept))
        sent = [kernel.send(WRITE, write_body(1, b"used 1"), user) for user in range(1, 41)]
        assert session.serve()
        assert kept[0] == 0
        served = len(operations.calls)
        assert at <= served <= 40
        replies = _uniques(kernel, served)
        assert kernel.silent()
        if served < 40:
            thread = threading.Thread(target=session.serve)
            thread.start()
            replies += _uniques(kernel, 40 - served)
            session.interrupt()
            # Otherwise it may read from the next test's socket, which has the same number.
            thread.join()
        kernel.close()
    assert sorted(replies) == sent


def test_a_closed_session_exports_no_memory() -> None:
    words = memoryview(array("Q", bytes(32)))
    with connected(Scripted()) as (_, session):
        session.keep(words)
        with pytest.raises(BufferError):
            words.release()
    words.release()


def test_long_writes_that_wait_are_cut_and_still_too_long() -> None:
    operations = Scripted()
    with connected(operations) as (kernel, session):
        for _ in range(40):
            kernel.send(WRITE, write_body(1, bytes(5000)), HOSTILE)
        thread = threading.Thread(target=session.serve)
        thread.start()
        assert {kernel.receive().error for _ in range(40)} == {0}
        kernel.close()
        thread.join()
    assert set(operations.calls) == {
        ("write", 1, bytes(size), fake_kernel.WRITER_PID) for size in (5000, 4104)
    }


def test_an_interrupt_of_a_request_that_waits_has_no_answer() -> None:
    with connected(Scripted()) as (kernel, session):
        for _ in range(20):
            unique = kernel.send(READ, READ_IN.pack(1, 0, 4096, 0, 0, 0, 0), HOSTILE)
        interrupts = [kernel.send(INTERRUPT, unique.to_bytes(8, "little"), HOSTILE) for _ in range(5)]
        last = kernel.send(READ, READ_IN.pack(1, 0, 4096, 0, 0, 0, 0), HOSTILE)
        thread = threading.Thread(target=session.serve)
        thread.start()
        replies = _uniques(kernel, 21)
        kernel.close()
        thread.join()
    assert replies[-1] == last
    assert not {*interrupts} & {*replies}
