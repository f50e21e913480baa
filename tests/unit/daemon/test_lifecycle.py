# SPDX-License-Identifier: MIT
"""Notifications to a service manager: which, when, and their cost without a manager."""

import logging
import math
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Self

import pytest
from support.fake_manager import FakeManager
from support.fakes import FakeClock

from memnotify.daemon.lifecycle import SETTLE_MAX_S, ServiceStatus
from memnotify.daemon.systemd import SystemdNotifier
from memnotify.worker import Worker


@pytest.fixture
def systemd() -> Iterator[FakeManager]:
    with FakeManager(watchdog_s=20) as manager:
        yield manager


class FakeThread(Worker):
    """A thread that is alive as the test says."""

    def __init__(self) -> None:
        """Start no thread."""
        self.name = "fake"
        self.vital = True
        self.alive = True
        self.asked = 0

    def check_alive(self) -> bool:
        """Return the scripted answer."""
        self.asked += 1
        return self.alive


class ServiceBench:
    """A service of a fake manager on a clock that stands still, its timer and its threads."""

    def __init__(self, environment: dict[str, str], *, settled: bool = True) -> None:
        self.clock = FakeClock()
        self.thread = FakeThread()
        self.clients = 0
        self.settled = settled
        self.notifier = SystemdNotifier(environment)
        self.service = ServiceStatus(
            self.notifier,
            "/dev/fake, a device",
            lambda: self.clients,
            settled=lambda: self.settled,
            threads=[self.thread],
            clock=self.clock,
        )

    def wait(self) -> None:
        """Move the clock to the next due time, and call do_due."""
        assert self.service.due_in_s < math.inf
        self.clock.tick(self.service.due_in_s)
        self.service.do_due()

    def __enter__(self) -> Self:
        """Return the bench itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Let the service end."""
        self.service.end()


@pytest.fixture
def bench(systemd: FakeManager) -> Iterator[ServiceBench]:
    """Return a service that is ready, and has sent READY."""
    with ServiceBench(systemd.environment) as bench:
        bench.service.do_due()
        systemd.heard()
        yield bench


def test_without_a_manager_nothing_is_done() -> None:
    fds = os.listdir("/proc/self/fd")
    bench = ServiceBench({"WATCHDOG_USEC": "1000000"})
    bench.service.do_due()
    assert not bench.notifier.watchdog_s
    assert bench.service.due_in_s == math.inf
    bench.service.end()
    assert bench.thread.asked == 0
    assert len(os.listdir("/proc/self/fd")) == len(fds)


def test_a_socket_in_the_file_system(tmp_path: Path) -> None:
    with FakeManager(str(tmp_path / "notify")) as systemd:
        manager = SystemdNotifier(systemd.environment)
        manager.send_ready("well")
        assert systemd.heard() == ["READY=1\nSTATUS=well"]
        manager.close()


@pytest.mark.parametrize("place", ["vsock:2:1234", "relative"])
def test_another_kind_of_address_is_said_to_be_unknown(place: str, caplog: pytest.LogCaptureFixture) -> None:
    assert not SystemdNotifier({"NOTIFY_SOCKET": place, "WATCHDOG_USEC": "1000000"}).watchdog_s
    assert "only AF_UNIX sockets" in caplog.text


def test_a_manager_that_is_gone_is_complained_of_once(caplog: pytest.LogCaptureFixture) -> None:
    with FakeManager() as systemd:
        manager = SystemdNotifier(systemd.environment)
    manager.send_ready("well")
    manager.send_stopping()
    assert not manager.unsent
    assert caplog.text.count("NOTIFY_SOCKET cannot be written to: Connection refused") == 1
    manager.close()


def test_a_manager_that_does_not_read_is_not_waited_for(systemd: FakeManager) -> None:
    with ServiceBench(systemd.environment) as bench:
        systemd.fill()
        begun_s = time.monotonic()
        bench.service.do_due()
        assert time.monotonic() - begun_s < 1
        assert bench.service.due_in_s == 1
        systemd.heard()
        bench.wait()
        assert systemd.heard() == ["READY=1\nSTATUS=/dev/fake, a device, clients: 0"]
        assert bench.service.due_in_s == pytest.approx(9)


@pytest.mark.parametrize(
    ("environment", "watchdog_s"),
    [
        ({"WATCHDOG_USEC": "2500000"}, 2.5),
        ({"WATCHDOG_USEC": "2500000", "WATCHDOG_PID": str(os.getpid())}, 2.5),
        ({"WATCHDOG_USEC": "2500000", "WATCHDOG_PID": str(os.getpid() + 1)}, 0),
        ({"WATCHDOG_USEC": "0"}, 0),
        ({"WATCHDOG_USEC": "soon"}, 0),
        ({}, 0),
    ],
)
def test_the_watchdog_s_time(environment: dict[str, str], watchdog_s: float) -> None:
    with FakeManager() as systemd:
        manager = SystemdNotifier(systemd.environment | environment)
        assert manager.watchdog_s == watchdog_s
        manager.close()


def test_without_a_watchdog_nothing_is_due() -> None:
    with FakeManager() as systemd, ServiceBench(systemd.environment) as bench:
        bench.service.do_due()
        assert bench.service.due_in_s == math.inf
        assert bench.thread.asked == 0


def test_it_is_ready_when_it_is_settled(systemd: FakeManager, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    with ServiceBench(systemd.environment, settled=False) as bench:
        bench.service.do_due()
        bench.wait()
        bench.clients = 1
        bench.wait()
        assert systemd.heard() == []
        assert "ready" not in caplog.text
        bench.settled = True
        bench.wait()
        assert systemd.heard() == ["READY=1\nSTATUS=/dev/fake, a device, clients: 1"]
        assert "ready: /dev/fake, a device" in caplog.text
        assert bench.service.due_in_s == 10


def test_udev_is_not_waited_for_for_ever(systemd: FakeManager, caplog: pytest.LogCaptureFixture) -> None:
    with ServiceBench(systemd.environment, settled=False) as bench:
        bench.service.do_due()
        bench.clock.tick(SETTLE_MAX_S - 1)
        bench.wait()
        assert systemd.heard() == []
        bench.clock.tick(1)
        bench.wait()
        assert systemd.heard()[0].startswith("READY=1\n")
        assert "udev has not answered for 30 s" in caplog.text


def test_the_watchdog_hears_of_it_twice_in_its_time(systemd: FakeManager, bench: ServiceBench) -> None:
    for _ in range(3):
        bench.wait()
        assert systemd.heard() == ["WATCHDOG=1\nSTATUS=/dev/fake, a device, clients: 0"]
        assert bench.service.due_in_s == 10


def test_a_thread_that_hangs_is_not_covered_up(
    systemd: FakeManager, bench: ServiceBench, caplog: pytest.LogCaptureFixture
) -> None:
    bench.thread.alive = False
    for _ in range(3):
        bench.wait()
        assert bench.service.due_in_s == 2.5
    assert systemd.heard() == []
    assert caplog.text.count("thread fake") == 1
    bench.thread.alive = True
    bench.wait()
    assert systemd.heard() == ["WATCHDOG=1\nSTATUS=/dev/fake, a device, clients: 0"]
    assert "alive again" in caplog.text


def test_a_thread_that_is_not_vital_hangs_alone(
    systemd: FakeManager, bench: ServiceBench, caplog: pytest.LogCaptureFixture
) -> None:
    bench.thread.alive = bench.thread.vital = False
    for _ in range(3):
        bench.wait()
        assert bench.service.due_in_s == 10
        assert systemd.heard() == ["WATCHDOG=1\nSTATUS=/dev/fake, a device, clients: 0"]
    assert caplog.text.count("not alive, and the others go on: thread fake") == 1


def test_a_reload(systemd: FakeManager, bench: ServiceBench) -> None:
    seen: list[str] = []

    def reload() -> str:
        seen.extend(systemd.heard())
        return "line 3:\nno such key"

    before_us = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
    bench.service.reload(reload)
    (begun,) = seen
    first, second = begun.split("\n")
    assert first == "RELOADING=1"
    name, value = second.split("=")
    assert name == "MONOTONIC_USEC"
    assert before_us <= int(value) <= time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
    status = "STATUS=/dev/fake, a device, clients: 0; line 3: no such key"
    assert systemd.heard() == [f"READY=1\n{status}"]
    bench.wait()
    assert systemd.heard() == [f"WATCHDOG=1\n{status}"]


def test_a_reload_before_it_is_ready_does_not_make_it_so(systemd: FakeManager) -> None:
    with ServiceBench(systemd.environment, settled=False) as bench:
        bench.service.do_due()
        bench.service.reload(lambda: "done")
        assert systemd.heard() == []


def test_the_end(systemd: FakeManager, bench: ServiceBench) -> None:
    bench.service.end()
    assert systemd.heard() == ["STOPPING=1"]
