# SPDX-License-Identifier: MIT
"""Clients under ``ulimit -f 0``: the limit applies to the FUSE file, a regular file."""

import errno
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.daemon import PROGRAM, TRANSPORT, Daemon
from support.fake_memory import FakeMemory
from support.program import Program

NAME = "memnotify-limit"
LIMITED = ("sh", "-c", 'ulimit -f 0; exec "$@"', "sh")


@pytest.fixture
def daemon(memory: FakeMemory, tmp_path: Path) -> Iterator[Daemon]:
    arguments = (*FakeMemory.ARGUMENTS, "--socket", str(tmp_path / "socket"))
    with Daemon(*arguments, name=NAME, program=memory.program) as daemon:
        yield daemon


def test_write_to_the_device(daemon: Daemon) -> None:
    """On the FUSE file the client gets SIGXFSZ, on the character device there is no limit."""
    write = (*LIMITED, "perl", "-e", 'open(F, "+<", $ARGV[0]) or die; syswrite(F, "used 80%") or die $!')
    done = subprocess.run([*write, daemon.path], capture_output=True, text=True, check=False)
    assert done.returncode == (-signal.SIGXFSZ if TRANSPORT == "fuse" else 0), done


def test_command_that_ignores_the_signal(daemon: Daemon) -> None:
    """As all programs in Python do: EFBIG, which names the limit."""
    command = (*LIMITED, *PROGRAM, "wait", "used 80%", "--timeout", "0", "--path", daemon.path)
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert "Traceback" not in done.stderr
    assert (os.strerror(errno.EFBIG) in done.stderr) == (TRANSPORT == "fuse"), done


def test_read_has_no_limit(daemon: Daemon) -> None:
    done = subprocess.run([*LIMITED, "head", "-n", "1", daemon.path], capture_output=True, check=True)
    assert done.stdout == b"total 2500000 used 1250000 active 250000\n"


def test_socket_has_no_limit(daemon: Daemon, memory: FakeMemory, tmp_path: Path) -> None:
    """The way out that memnotify(4) names."""
    client = (
        "use Socket; socket(S, AF_UNIX, SOCK_STREAM, 0) or die; connect(S, pack_sockaddr_un($ARGV[0]));"
        ' syswrite(S, "used 80%\\nusd\\n") or die $!; $| = 1; print while sysread(S, $_, 4096)'
    )
    with Program(*LIMITED, "perl", "-e", client, str(tmp_path / "socket")) as program:
        program.hear("error ")
        memory.use(90)
        assert program.line() == "total 2500000 used 2250000 active 250000"
