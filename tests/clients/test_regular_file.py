# SPDX-License-Identifier: MIT
"""Clients that treat the FUSE file as the regular file that it is to stat(2): memnotify(4), CAVEATS."""

import ctypes
import errno
import os
import shutil
import struct
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.daemon import PROGRAM, QUICK, TRANSPORT, Daemon
from support.fake_memory import FakeMemory
from support.program import Program
from support.waiting import eventually

LINE = b"total 2500000 used 1250000 active 250000\n"
_LIBC = ctypes.CDLL(None, use_errno=True)
# Of asm-generic, and of x86-64.
_IO_SETUP, _IO_DESTROY, _IO_GETEVENTS, _IO_SUBMIT = (
    (206, 207, 208, 209) if os.uname().machine == "x86_64" else (0, 1, 4, 2)
)


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """Return a daemon whose FUSE file is in a directory of its own."""
    directory = tmp_path_factory.mktemp("regular")
    memory = FakeMemory(directory)
    place = ("--path", str(directory / "served/device")) if TRANSPORT == "fuse" else ()
    (directory / "served").mkdir()
    arguments = (*QUICK, *memory.ARGUMENTS, *place)
    with Daemon(*arguments, name="memnotify-regular", program=memory.program) as daemon:
        if place:
            daemon.path = place[1]
        yield daemon


def _call(number: int, *arguments: object) -> int:
    result = int(_LIBC.syscall(ctypes.c_long(number), *arguments))
    if result < 0:
        raise OSError(ctypes.get_errno(), "syscall")
    return result


def aio_read(fd: int, offset: int) -> bytes:
    """Return what io_submit(2) reads. Raises OSError."""
    buffer = ctypes.create_string_buffer(256)
    context = ctypes.c_ulong()
    _call(_IO_SETUP, 1, ctypes.byref(context))
    try:
        # struct iocb: data, key, rw_flags, opcode (IOCB_CMD_PREAD), reqprio, fd, buf, nbytes, offset
        request = ctypes.create_string_buffer(
            struct.pack("QIIHhIQQqQII", 0, 0, 0, 0, 0, fd, ctypes.addressof(buffer), 256, offset, 0, 0, 0)
        )
        _call(_IO_SUBMIT, context, ctypes.c_long(1), ctypes.byref(ctypes.pointer(request)))
        event = ctypes.create_string_buffer(32)
        _call(_IO_GETEVENTS, context, ctypes.c_long(1), ctypes.c_long(1), event, None)
    finally:
        _call(_IO_DESTROY, context)
    result = struct.unpack("QQqq", event.raw)[2]
    if result < 0:
        raise OSError(-result, os.strerror(-result))
    return buffer.raw[:result]


@pytest.mark.representative
@pytest.mark.parametrize("offset", [0, 4096])
def test_aio(daemon: Daemon, offset: int) -> None:
    """The kernel answers 0 bytes beyond st_size itself (seen with Linux 6.18), or asks the daemon."""
    fd = os.open(daemon.path, os.O_RDWR)
    try:
        assert aio_read(fd, offset) in ((b"", LINE) if TRANSPORT == "fuse" else (LINE,))
        assert os.read(fd, 256) == LINE
    finally:
        os.close(fd)


@pytest.mark.representative
def test_positions_have_no_effect(daemon: Daemon) -> None:
    """Neither lseek(2), pread(2) nor pwrite(2) fails with ESPIPE, and the offset changes nothing."""
    fd = os.open(daemon.path, os.O_RDWR)
    try:
        for offset in (0, 100, 2**40):
            assert os.lseek(fd, offset, os.SEEK_SET) == (offset if TRANSPORT == "fuse" else 0)
            assert os.read(fd, 256) == LINE
            assert os.pread(fd, 256, offset) == LINE
            assert os.pwrite(fd, b"used 80%", offset) == 8
            with pytest.raises(OSError, match=os.strerror(errno.EINVAL)):
                os.pwrite(fd, b"usd 80%", offset)
    finally:
        os.close(fd)


def test_what_copies_to_the_end_does_not_end(daemon: Daemon, tmp_path: Path) -> None:
    """The documented limit, of which ``serve --help`` warns."""
    with Program("cp", "-r", os.path.dirname(daemon.path), str(tmp_path / "copy")) as program:

        def read_bytes() -> int:
            return int(Path(f"/proc/{program.process.pid}/io").read_text().split()[1])

        eventually(lambda: program.ended or read_bytes() > 10_000 * len(LINE), "it has read many lines")
        assert not program.ended
    shutil.rmtree(tmp_path)


def test_the_help_warns_of_a_path_outside_dev() -> None:
    shown = subprocess.run([*PROGRAM, "serve", "--help"], capture_output=True, text=True, check=True).stdout
    text = " ".join(shown.split())
    assert "outside /dev, programs that read whole directory trees, such as 'cp -r', do not end" in text
