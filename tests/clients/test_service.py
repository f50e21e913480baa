# SPDX-License-Identifier: MIT
"""The daemon as a systemd service: what it sends to the manager."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from support.daemon import Daemon
from support.fake_manager import FakeManager
from support.waiting import DEADLINE_S, eventually

# The daemon itself, of which one thread hangs while there is a file.
_SERVE = """
import os, sys, threading, time
from memnotify.cli import main
from memnotify.engine.device import Device
from memnotify.kernel.meminfo import MemInfoReader
from memnotify.transports.unix_server import SocketServer
thread, hang = sys.argv[1:3]

def hanging(call):
    def called(self, *arguments):
        while threading.current_thread().name == thread and os.path.exists(hang):
            time.sleep(0.01)
        return call(self, *arguments)
    return called

Device.write = hanging(Device.write)
MemInfoReader.read_plain = hanging(MemInfoReader.read_plain)
SocketServer.turn = hanging(SocketServer.turn)
sys.exit(main(sys.argv[3:]))
"""
WATCHDOG_S = 0.8


@pytest.fixture
def systemd() -> Iterator[FakeManager]:
    with FakeManager() as manager:
        yield manager


def test_ready_status_and_the_end(systemd: FakeManager) -> None:
    with Daemon(environment=systemd.environment) as daemon:
        # The log says it first.
        assert systemd.hear("") == f"READY=1\nSTATUS={_status(daemon, 0)}"
        assert daemon.end() == 0
        assert systemd.heard() == ["STOPPING=1"]


def test_a_reload_is_told_from_its_beginning_to_its_end(systemd: FakeManager) -> None:
    with Daemon(environment=systemd.environment) as daemon:
        systemd.heard()
        before_us = time.monotonic_ns() // 1000
        daemon.process.send_signal(signal.SIGHUP)
        reloading, began = systemd.hear("RELOADING=1").split("\n")
        name, usec = began.split("=")
        assert (reloading, name) == ("RELOADING=1", "MONOTONIC_USEC")
        # The manager ignores an answer that is older than its signal.
        assert before_us <= int(usec) <= time.monotonic_ns() // 1000
        eventually(lambda: "configuration reloaded" in daemon.log, "it has reloaded")
        assert systemd.hear("") == f"READY=1\nSTATUS={_status(daemon, 0)}; configuration reloaded"


def test_the_watchdog_s_notification_counts_the_clients(tmp_path: Path) -> None:
    place = str(tmp_path / "socket")
    with (
        FakeManager(watchdog_s=WATCHDOG_S) as systemd,
        Daemon("--socket", place, environment=systemd.environment) as daemon,
    ):

        def counted(clients: int) -> bool:
            return systemd.hear("WATCHDOG=1") == f"WATCHDOG=1\nSTATUS={_status(daemon, clients)}"

        with open(daemon.path, "rb", buffering=0), socket.socket(socket.AF_UNIX) as client:
            client.connect(place)
            eventually(lambda: counted(2), "both clients are counted")
        eventually(lambda: counted(0), "both are gone")


def test_without_a_watchdog_a_service_does_not_wake(systemd: FakeManager) -> None:
    with Daemon(environment=systemd.environment) as daemon:
        systemd.hear("READY=1")
        os.close(os.open(daemon.path, os.O_RDWR))
        eventually(lambda: not _sampler_wakes(daemon, 0.5), "it sleeps")
        assert not _sampler_wakes(daemon, 2.0)
        assert systemd.heard() == []


def test_a_device_that_is_lost_is_stopping(systemd: FakeManager) -> None:
    daemon = Daemon(environment=systemd.environment, transport="fuse")
    subprocess.run(["umount", daemon.path], check=True)
    assert daemon.process.wait(DEADLINE_S) == 1
    assert systemd.hear("STOPPING=1")


@contextmanager
def _hanging(thread: str, tmp_path: Path, *arguments: str) -> Iterator[tuple[FakeManager, Daemon, int, Path]]:
    """Return a manager, a daemon, a client's descriptor, and the file without which the thread goes on."""
    hang = tmp_path / "hang"
    program = (sys.executable, "-c", _SERVE, thread, str(hang))
    arguments = ("--update-period", "20", "--no-pcp-is-free", *arguments)
    with (
        FakeManager(watchdog_s=WATCHDOG_S) as systemd,
        Daemon(*arguments, program=program, environment=systemd.environment) as daemon,
    ):
        for _ in range(3):
            systemd.hear("WATCHDOG=1")
        fd = os.open(daemon.path, os.O_RDWR)
        os.write(fd, b"used 99%")  # makes the daemon sample
        hang.touch()
        eventually(lambda: f"thread {thread}" in daemon.log, "it is noticed")
        systemd.heard()
        yield systemd, daemon, fd, hang
        hang.unlink(missing_ok=True)
        systemd.hear("WATCHDOG=1")
        os.close(fd)


def test_a_sampler_that_hangs_is_told_by_silence(tmp_path: Path) -> None:
    with _hanging("sampler", tmp_path) as (systemd, daemon, fd, _):
        assert "so the watchdog is not notified: thread sampler" in daemon.log
        assert _main_wakes(daemon, 2 * WATCHDOG_S) >= 4
        assert "WATCHDOG=1" not in systemd.heard()
        # Requests are still answered.
        assert os.read(fd, 256).startswith(b"total ")


def test_a_socket_thread_that_hangs_costs_the_sockets_alone(tmp_path: Path) -> None:
    """The device goes on, so a restart would take more than it gives."""
    with _hanging("sockets", tmp_path, "--socket", str(tmp_path / "socket")) as (systemd, daemon, fd, hang):
        assert "and the others go on: thread sockets" in daemon.log
        systemd.hear("WATCHDOG=1")
        assert os.read(fd, 256).startswith(b"total ")
        hang.unlink()
        eventually(lambda: "all threads are alive again" in daemon.log, "the thread goes on")


def test_a_request_that_hangs_is_told_by_silence(tmp_path: Path) -> None:
    hang = tmp_path / "hang"
    program = (sys.executable, "-c", _SERVE, "session", str(hang))
    with (
        FakeManager(watchdog_s=WATCHDOG_S) as systemd,
        Daemon(program=program, environment=systemd.environment) as daemon,
    ):
        systemd.hear("WATCHDOG=1")
        hang.touch()
        client = subprocess.Popen(["sh", "-c", f"echo used 99% > {daemon.path}"])
        waiting = Path(f"/proc/{client.pid}/wchan")
        eventually(lambda: waiting.read_text() == "request_wait_answer", "it is not answered")
        systemd.heard()
        # Long enough for three watchdog notifications.
        assert client.poll() is None
        with pytest.raises(subprocess.TimeoutExpired):
            client.wait(1.5 * WATCHDOG_S)
        assert "WATCHDOG=1" not in systemd.heard()
        hang.unlink()
        systemd.hear("WATCHDOG=1")
        assert client.wait(DEADLINE_S) == 0


def _status(daemon: Daemon, clients: int) -> str:
    kind = "CUSE character device" if "CUSE" in daemon.log else "FUSE file"
    return f"{daemon.path}, a {kind}, clients: {clients}"


def _sampler_wakes(daemon: Daemon, window_s: float) -> int:
    """Return how often the sampler woke. The main thread is left out: any access to /dev wakes it."""
    woken = daemon.wakes_within(window_s)
    woken.pop(str(daemon.pid), None)
    return sum(woken.values())


def _main_wakes(daemon: Daemon, window_s: float) -> int:
    return daemon.wakes_within(window_s).get(str(daemon.pid), 0)
