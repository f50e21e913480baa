# SPDX-License-Identifier: MIT
"""The start and the end of the daemon, as its clients see them."""

import errno
import fcntl
import os
import select
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import IO

import pytest
from support.daemon import PROGRAM, QUICK, TRANSPORT, Daemon, ready, start
from support.memory import Hog, step_pages, used_pages
from support.waiting import DEADLINE_S, eventually

EPOLL_WAIT = {"232", "281"}
"""epoll_wait and epoll_pwait, as /proc/PID/syscall says on x86-64."""
GONE = {errno.ENOTCONN, errno.ECONNABORTED}


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_an_idle_daemon(number: int) -> None:
    with Daemon() as daemon:
        assert daemon.end(number) == 0
        assert f"{signal.Signals(number).name}: ending" in daemon.log
        assert not os.path.lexists(daemon.path)


@pytest.mark.parametrize("ignored", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_that_was_ignored_at_the_start_stays_ignored(ignored: signal.Signals) -> None:
    """A shell's background job ignores SIGINT, and nohup(1) SIGHUP."""
    with Daemon(program=_ignoring(ignored)) as daemon:
        daemon.process.send_signal(ignored)
        assert daemon.end(signal.SIGINT if ignored == signal.SIGTERM else signal.SIGTERM) == 0
        assert ignored.name not in daemon.log


def test_a_lost_device_ends_a_daemon_that_ignores_all_signals() -> None:
    program = _ignoring(signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    with Daemon(program=program, transport="fuse") as daemon:
        subprocess.run(["umount", daemon.path], check=True)
        assert daemon.process.wait(DEADLINE_S) == 1


def _ignoring(*signals: signal.Signals) -> tuple[str, ...]:
    names = ",".join(number.name.removeprefix("SIG") for number in signals)
    return ("env", f"--ignore-signal={names}", *PROGRAM)


def test_a_signal_ends_a_daemon_under_load() -> None:
    with Daemon() as daemon:
        fds = [os.open(daemon.path, os.O_RDWR) for _ in range(4)]

        def load(fd: int) -> None:
            try:
                while os.read(fd, 256):
                    ready(fd, timeout_s=0)
            except OSError as error:
                assert error.errno in GONE

        threads = [threading.Thread(target=load, args=(fd,)) for fd in fds]
        for thread in threads:
            thread.start()
        assert daemon.end() == 0
        for thread in threads:
            thread.join(DEADLINE_S)
            assert not thread.is_alive()
        for fd in fds:
            _close(fd)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_clients_see_the_end_and_a_new_daemon_serves_at_once(number: int, hog: Hog) -> None:
    old = Daemon(*QUICK)
    waiting, idle = (os.open(old.path, os.O_RDWR) for _ in range(2))
    os.write(waiting, b"used 99%")
    seen: list[int] = []
    waiter = threading.Thread(target=lambda: seen.append(ready(waiting)))
    with select.epoll() as epoll:
        epoll.register(idle, select.EPOLLIN)
        waiter.start()
        assert old.end(number) == (0 if number == signal.SIGTERM else -number)
        waiter.join(DEADLINE_S)
        assert len(seen) == 1
        assert seen[0] & select.POLLERR
        assert epoll.poll(DEADLINE_S)[0][1] & select.EPOLLERR
    for fd in (waiting, idle):
        with pytest.raises(OSError, check=lambda error: error.errno in GONE):
            os.read(fd, 256)

    with Daemon(*QUICK) as new:
        fd = os.open(new.path, os.O_RDWR)
        os.write(fd, b"used %d" % (used_pages(fd) + step_pages()))
        hog.hold(2 * step_pages())
        assert ready(fd) == select.POLLIN
        assert ready(waiting) & select.POLLERR  # the old descriptors stay lost
        os.close(fd)
    for fd in (waiting, idle):
        _close(fd)


def test_wait_says_that_the_daemon_has_ended() -> None:
    with Daemon() as daemon:
        command = [sys.executable, "-m", "memnotify", "wait", "used 99%", "--path", daemon.path]
        process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        # One of the daemon's two threads sleeps without a time-out until a client has a threshold.
        eventually(
            lambda: Path(f"/proc/{process.pid}/syscall").read_text().split()[0] in EPOLL_WAIT, "it polls"
        )
        assert daemon.end() == 0
        _, said = process.communicate(timeout=DEADLINE_S)
        assert process.returncode == 1
        assert said.endswith("its daemon has ended: start 'memnotify serve' again\n")
        assert "Traceback" not in said


def test_a_log_that_is_not_read_delays_no_client() -> None:
    process = start("--transport", TRANSPORT, "--name", "memnotify-mute", "--log-level", "debug", *QUICK)
    assert process.stderr is not None
    fcntl.fcntl(process.stderr.fileno(), fcntl.F_SETPIPE_SZ, 4096)
    eventually(
        lambda: os.access("/dev/memnotify-mute", os.R_OK) and _answers("/dev/memnotify-mute"), "served"
    )
    fd = os.open("/dev/memnotify-mute", os.O_RDWR)
    os.write(fd, b"used 99%")  # a line in the log for each sample from now on
    eventually(lambda: not _room(process.stderr), "its pipe is full")
    assert os.read(fd, 256).startswith(b"total ")
    process.terminate()
    assert process.wait(DEADLINE_S) == 0
    process.stderr.close()
    _close(fd)


def test_a_second_daemon_of_the_same_name_is_refused_and_the_first_goes_on() -> None:
    with Daemon() as first:
        second = start("--transport", TRANSPORT, "--name", os.path.basename(first.path))
        _, log = second.communicate(timeout=DEADLINE_S)
        assert second.returncode == 1
        assert f"{first.path} is served by another process already" in log
        fd = os.open(first.path, os.O_RDWR)
        assert os.read(fd, 256).startswith(b"total ")
        os.close(fd)


def test_of_many_daemons_that_start_at_once_one_serves() -> None:
    name = "memnotify-race"
    rivals = [start("--transport", TRANSPORT, "--name", name) for _ in range(6)]
    eventually(lambda: sum(rival.poll() is None for rival in rivals) == 1, "all but one give up")
    fd = os.open(f"/dev/{name}", os.O_RDWR)
    assert os.read(fd, 256).startswith(b"total ")
    os.close(fd)
    for rival in rivals:
        rival.terminate()
        _, log = rival.communicate(timeout=DEADLINE_S)
        assert "Traceback" not in log
    assert sorted(rival.returncode for rival in rivals) == [0, 1, 1, 1, 1, 1]
    assert not os.path.lexists(f"/dev/{name}")


def test_without_thresholds_the_daemon_does_not_wake() -> None:
    with Daemon() as daemon:
        fds = [os.open(daemon.path, os.O_RDWR) for _ in range(50)]
        for fd in fds:
            os.write(fd, b"used 99%")
            os.write(fd, b"used 0")
        eventually(lambda: _sampler_wakes(daemon, 0.5) == 0, "it sleeps")
        assert _sampler_wakes(daemon, 3.0) == 0
        for fd in fds:
            os.close(fd)


def _sampler_wakes(daemon: Daemon, window_s: float) -> int:
    """Return how often the sampler woke. The main thread is left out: any access to /dev wakes it."""
    woken = daemon.wakes_within(window_s)
    woken.pop(str(daemon.pid), None)
    return sum(woken.values())


def _close(fd: int) -> None:
    """Close a descriptor whose daemon has ended: FLUSH of a FUSE file fails, but the descriptor is closed."""
    try:
        os.close(fd)
    except OSError as error:
        assert error.errno in GONE


def _answers(path: str) -> bool:
    try:
        with open(path, "rb", buffering=0) as device:
            return device.read(256).startswith(b"total ")
    except OSError:
        return False


def _room(pipe: IO[str] | None) -> bool:
    """Return True if the pipe of this reading end has space for a write."""
    assert pipe is not None
    with open(f"/proc/self/fd/{pipe.fileno()}", "wb", buffering=0) as writer:
        return bool(ready(writer.fileno(), select.POLLOUT, timeout_s=0))
