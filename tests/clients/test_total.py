# SPDX-License-Identifier: MIT
"""Clients of a memory whose total changes, or whose figures cannot be for a while."""

import errno
import os
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support.daemon import QUICK, Daemon, ready
from support.fake_memory import FakeMemory
from support.program import Program
from support.waiting import DEADLINE_S, eventually

from memnotify.client import Crossed, Memnotify, Signals

NAME = "memnotify-total"
COMMAND = (sys.executable, "-m", "memnotify")


@pytest.fixture
def socket(tmp_path: Path) -> str:
    """Return the path of the daemon's socket."""
    return str(tmp_path / "socket")


@pytest.fixture
def daemon(memory: FakeMemory, socket: str) -> Iterator[Daemon]:
    """Return a daemon whose memory the test moves: 10 GB of RAM and 20 GB of swap."""
    arguments = (*QUICK, *memory.ARGUMENTS, "--socket", socket)
    with Daemon(*arguments, name=NAME, program=memory.program) as daemon:
        yield daemon


@pytest.fixture
def swapped(daemon: Daemon, memory: FakeMemory) -> FakeMemory:
    """Return the daemon's memory, of which 30 % are used, or 90 % once the swap is gone."""
    memory.use(90)
    memory.add_swap()
    with Memnotify(daemon.path) as device:
        eventually(lambda: device.read().used.percent == 30, "the swap is counted")
    return memory


@pytest.fixture
def device(daemon: Daemon) -> Iterator[Memnotify]:
    """Return a client of the library."""
    with Memnotify(daemon.path) as device:
        yield device


@pytest.mark.representative
def test_a_percentage_follows_total_in_the_device(
    daemon: Daemon, swapped: FakeMemory, opened: Callable[..., int]
) -> None:
    """A client of the bare file is woken when swap goes, though use stays as it is."""
    fd = opened()
    os.write(fd, b"used 80%")
    swapped.remove_swap()
    assert ready(fd)
    assert b" used 2250000 " in os.read(fd, 4096)
    swapped.add_swap()
    assert ready(fd)


def test_a_write_of_no_bytes_changes_nothing(
    daemon: Daemon, memory: FakeMemory, opened: Callable[..., int]
) -> None:
    """The kernel passes none to the daemon, neither for a FUSE file nor for a device."""
    fd = opened()
    os.write(fd, b"used 80%")
    assert os.write(fd, b"") == 0
    memory.use(90)
    assert ready(fd)


def test_a_percentage_follows_total_in_the_library(swapped: FakeMemory, device: Memnotify) -> None:
    device.subscribe(used="80%")
    for change_total, up in ((swapped.remove_swap, True), (swapped.add_swap, False)):
        change_total()
        event = device.wait(DEADLINE_S)
        assert isinstance(event, Crossed)
        (change,) = event.changes
        assert (change.up, change.threshold) == (up, round(0.8 * event.after.total))


@pytest.mark.parametrize("level", ["used = 80%", "free = 20%", "free = 1G"])
def test_signals_follow_total(daemon: Daemon, swapped: FakeMemory, level: str, tmp_path: Path) -> None:
    control_file = tmp_path / "low.mn"
    control_file.write_text(f"[low]\nsensor = {daemon.path}\n{level}\n")
    with Signals(str(control_file), {}) as signals:
        signals.enable()
        assert signals.states == {"low": False}
        for change_total, on in ((swapped.remove_swap, True), (swapped.add_swap, False)):
            change_total()
            change = signals.wait(DEADLINE_S)
            assert change is not None
            assert change.on is on


def test_watch_follows_total(daemon: Daemon, swapped: FakeMemory) -> None:
    watch = (*COMMAND, "watch", "--path", daemon.path, "--plain", "--interval", "100", "--when", "used 80%")
    with Program(*watch) as program:
        program.settle()
        swapped.remove_swap()
        assert program.hear("reached").endswith(" used reached 80.0 % (7.6 GiB): now 90.0 % (8.6 GiB)")
        swapped.add_swap()
        assert program.hear("fell").endswith(" used fell below 80.0 % (22.9 GiB): now 30.0 % (8.6 GiB)")
        assert program.end(signal.SIGINT) == 130


def test_a_sample_that_cannot_be_starts_no_command(daemon: Daemon, memory: FakeMemory) -> None:
    """With more of the swap free than there is, ``used`` would be 0."""
    memory.use(90)
    say = ("sh", "-c", "echo ran at $MEMNOTIFY_USED")
    command = ("run", "--path", daemon.path, "--when-below", "used 60%", "--count", "1", "--", *say)
    with Program(*COMMAND, *command) as program:
        program.settle()
        memory.break_off()
        eventually(lambda: "/proc/meminfo is impossible" in daemon.log, "a sample is bad")
        memory.remove_swap()
        memory.use(50)
        assert program.line() == "ran at 1250000"
        assert program.end(0) == 0


def test_what_cannot_be_read_for_a_while(daemon: Daemon, memory: FakeMemory, device: Memnotify) -> None:
    """Reads fail with EIO after ``max_update_period``, and ``wait`` goes on to the crossing that follows."""

    def fails() -> bool:
        try:
            device.read()
        except OSError as error:
            assert error.errno == errno.EIO
            return True
        return False

    with Program(*COMMAND, "wait", "used 80%", "--path", daemon.path) as program:
        program.settle()
        memory.break_off()
        eventually(fails, "a read fails")
        assert not program.ended
        memory.use(90)
        memory.remove_swap()
        assert " used 2250000 " in program.line()
        assert program.end(0) == 0
    assert device.read().used.percent == 90


@pytest.mark.representative
@pytest.mark.parametrize("on_socket", [False, True])
def test_an_event_that_cannot_be_read_for_a_while(
    daemon: Daemon,
    memory: FakeMemory,
    socket: str,
    on_socket: bool,  # noqa: FBT001 - pytest gives it
) -> None:
    """EIO is no loss: the library reports the crossing once the figures can be read, and nothing else."""
    with Memnotify(socket if on_socket else daemon.path) as device, Memnotify(daemon.path) as witness:
        device.subscribe("used 80%")
        witness.subscribe("used 80%")
        memory.use(90)
        assert witness.wait(DEADLINE_S)
        memory.break_off()

        def fails() -> bool:
            try:
                witness.read()
            except OSError as error:
                return error.errno == errno.EIO
            return False

        eventually(fails, "a read fails")
        assert device.wait(0.1) is None
        memory.remove_swap()
        event = device.wait(DEADLINE_S)
        assert isinstance(event, Crossed)
        assert [change.up for change in event.changes] == [True]
        assert device.wait(0.1) is None
