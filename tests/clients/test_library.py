# SPDX-License-Identifier: MIT
"""The client library against a served device: events, forks, leaks, and daemons that are killed."""

import asyncio
import json
import logging
import os
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio
from support.daemon import QUICK, TRANSPORT, Daemon, ready
from support.fake_memory import FakeMemory
from support.library_clients import KINDS
from support.waiting import DEADLINE_S, eventually

from memnotify.client import Crossed, Event, Memnotify, Observer, Restored, Signals, ThresholdError

log = logging.getLogger(__name__)

# In an emulated guest a daemon takes seconds to start.
RESTARTS, CLIENTS_EACH = (20, 50) if TRANSPORT == "fuse" else (3, 10)
AGAIN_WITHIN_S = 2.0 if TRANSPORT == "fuse" else 20.0


@pytest.fixture
def memory(_memory: FakeMemory, path: str) -> FakeMemory:
    """Return the memory of the daemon, half of it used, once the daemon has sampled it."""
    _memory.use(50)
    with Memnotify(path) as device:
        eventually(lambda: device.read().used.percent == 50, "it is noticed")
    return _memory


@pytest.fixture(scope="module")
def daemon(_can_serve: None, _memory: FakeMemory) -> Iterator[Daemon]:
    """Return a daemon of that memory."""
    with Daemon(*QUICK, *_memory.ARGUMENTS, name="memnotify-lib", program=_memory.program) as daemon:
        yield daemon


def _up(event: object) -> bool:
    """Return the direction in which the only threshold, 80 % used, was crossed."""
    assert isinstance(event, Crossed | Restored)
    (change,) = event.changes
    assert change.name == "used"
    assert change.threshold == round(event.after.total * 0.8)
    assert event.after.used.percent == (90 if change.up else 50)
    return change.up


def test_events(path: str, memory: FakeMemory) -> None:
    with Memnotify(path) as device:
        assert device.subscribe(used="80%").used.percent == 50
        assert device.wait(0) is None
        memory.use(90)
        assert _up(device.wait(DEADLINE_S))
        memory.use(50)
        assert not _up(device.wait(DEADLINE_S))
        assert device.wait(0) is None


def test_a_read_takes_no_event_away(path: str, memory: FakeMemory) -> None:
    with Memnotify(path) as device:
        device.subscribe(used="80%")
        memory.use(90)
        eventually(lambda: device.read().used.percent == 90 and ready(device.fileno()), "it is crossed")
        assert device.read().used.percent == 90
        assert _up(device.wait(DEADLINE_S))


def test_what_the_device_refuses(path: str) -> None:
    with Memnotify(path) as device:
        with pytest.raises(ThresholdError):
            device.subscribe("usd 5")
        assert device.wait(0) is None


@pytest.mark.parametrize("kind", ["asyncio", "trio", "thread"])
def test_events_in_a_loop_and_a_thread(path: str, memory: FakeMemory, kind: str) -> None:
    seen: list[Event] = []
    with Memnotify(path) as device:
        device.subscribe(used="80%")
        later = threading.Timer(0.05, memory.use, [90])
        later.start()

        async def follow() -> None:
            async for event in device:
                call(event)
                if len(seen) == 2:
                    break

        def call(event: Event) -> None:
            seen.append(event)
            memory.use(50)
            if len(seen) == 2:
                both.set()

        both = threading.Event()
        if kind == "asyncio":
            asyncio.run(follow())
        elif kind == "trio":
            trio.run(follow)
        else:
            with Observer(device, call):
                assert both.wait(DEADLINE_S)
        later.join()
    assert [_up(event) for event in seen] == [True, False]


def test_a_child_takes_nothing_from_its_parent(path: str, memory: FakeMemory) -> None:
    with Memnotify(path) as device:
        device.subscribe(used="80%")
        read, write = os.pipe()
        child = os.fork()
        if child == 0:
            os._exit(0 if device.wait(0) is None and os.write(write, b".") and _up(device.wait(60)) else 1)
        assert os.read(read, 1) == b"."
        memory.use(90)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        assert _up(device.wait(DEADLINE_S))
        for end in (read, write):
            os.close(end)


# Half of it is the granularity: after an event at 80 % the next is one at 60 %.
_COARSE = ("--update-period", "20", "--max-update-period", "100", "--update-space", "4000000")


@pytest.fixture
def coarse(memory: FakeMemory) -> Iterator[Memnotify]:
    """Return a client of a device with large damping, after the event that use has reached 75 %."""
    served = Daemon(*_COARSE, *memory.ARGUMENTS, name="memnotify-coarse", program=memory.program)
    with served as daemon, Memnotify(daemon.path) as device:
        device.subscribe(used="75%", active="45%")
        memory.use(80)
        eventually(lambda: ready(device.fileno(), timeout_s=0), "it is told")
        yield device
        memory.activate(10)


def test_a_late_reader_gets_the_next_crossing(coarse: Memnotify, memory: FakeMemory) -> None:
    memory.use(70)
    eventually(lambda: coarse.read().used.percent == 70, "it is noticed")
    back = coarse.wait(0)
    assert isinstance(back, Crossed)
    assert back.changes == ()
    memory.use(90)
    assert _changes(coarse) == [("used", True)]


def test_the_next_crossing_is_noticed_at_the_threshold_itself(coarse: Memnotify, memory: FakeMemory) -> None:
    assert coarse.wait(0) is not None
    memory.use(70)
    assert _changes(coarse) == [("used", False)]
    memory.activate(50)
    assert _changes(coarse) == [("active", True)]
    memory.use(90)
    assert _changes(coarse) == [("used", True)]


def _changes(device: Memnotify) -> list[tuple[str, bool]]:
    event = device.wait(DEADLINE_S)
    assert isinstance(event, Crossed)
    return [(change.name, change.up) for change in event.changes]


def test_signals(path: str, memory: FakeMemory, tmp_path: Path) -> None:
    control = tmp_path / "test.mn"
    control.write_text(f"[DEFAULT]\nsensor={path}\n[low]\nused=40%\n[critical]\nfree=20%\n")
    with Signals(str(control), {}) as signals:
        signals.enable()

        def change() -> tuple[str, bool]:
            told = signals.wait(DEADLINE_S)
            assert told is not None
            return told.name, told.on

        assert change() == ("low", True)
        memory.use(90)
        assert change() == ("critical", True)
        memory.use(30)
        assert {change(), change()} == {("critical", False), ("low", False)}
        assert signals.wait(0) is None


class Clients:
    """A process of support.library_clients. ``take`` returns the events of its clients."""

    def __init__(self, kind: str, path: str, thresholds: str) -> None:
        paths = [str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH", "")]
        arguments = [kind, path, thresholds, str(CLIENTS_EACH)]
        self._process = subprocess.Popen(
            [sys.executable, "-m", "support.library_clients", *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=os.environ | {"PYTHONPATH": os.pathsep.join(paths)},
        )
        self._rest = b""
        assert self._line() == b"subscribed"

    def _line(self) -> bytes:
        assert self._process.stdout is not None
        while b"\n" not in self._rest:
            assert select.select([self._process.stdout], [], [], DEADLINE_S)[0], "silent"
            more = os.read(self._process.stdout.fileno(), 65536)
            assert more, "ended"
            self._rest += more
        line, self._rest = self._rest.split(b"\n", 1)
        return line

    def take(self, name: str) -> list[tuple[list[bool], float]]:
        """Return each client's next event, which must have that name: its changes and time."""
        told: dict[int, tuple[list[bool], float]] = {}
        while len(told) < CLIENTS_EACH:
            number, event, changes, at_s = json.loads(self._line())
            assert event == name
            assert number not in told, "an event that nothing caused"
            told[number] = (changes, at_s)
        return list(told.values())

    def end(self) -> None:
        """End the process. It must succeed, without further events."""
        rest, _ = self._process.communicate(timeout=DEADLINE_S)
        assert (self._rest + rest, self._process.returncode) == (b"", 0)


def test_daemons_killed_under_many_clients(tmp_path: Path) -> None:
    """All clients subscribe again soon, and get each change of side, also those while no daemon served."""
    memory = FakeMemory(tmp_path)
    above = False

    def serve() -> Daemon:
        return Daemon(*QUICK, *memory.ARGUMENTS, name="memnotify-mortal", program=memory.program)

    def move() -> list[bool]:
        nonlocal above
        above = not above
        memory.use(90 if above else 50)
        return [above]

    daemon = serve()
    processes = [Clients(kind, daemon.path, "used 80%") for kind in KINDS]
    again_s: list[float] = []
    try:
        for restart in range(RESTARTS):
            daemon.end(signal.SIGKILL)
            # In turn: nothing moves, memory moves while no daemon serves, while one does, both.
            expected = move() if restart % 2 else []
            daemon = serve()
            ready_s = time.monotonic()
            for process in processes:
                assert all(changes == [] for changes, _ in process.take("Lost"))
                for changes, at_s in process.take("Restored"):
                    assert changes == expected
                    again_s.append(at_s - ready_s)
            if restart % 4 >= 2:
                expected = move()
                for process in processes:
                    assert all(changes == expected for changes, _ in process.take("Crossed"))
        for process in processes:
            process.end()
    finally:
        daemon.end()
    assert len(again_s) == RESTARTS * CLIENTS_EACH * len(KINDS)
    again_s.sort()
    log.info("subscribed again after %.3f s (median), %.3f s (most)", again_s[len(again_s) // 2], again_s[-1])
    assert again_s[-1] < AGAIN_WITHIN_S
