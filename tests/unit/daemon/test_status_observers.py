# SPDX-License-Identifier: MIT
"""The observers in a reply of the status socket, which are kept from one reply to the next."""

import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from memnotify.abi.figures import NAMES, USED, Figures
from memnotify.abi.thresholds import Level
from memnotify.daemon import status_observers
from memnotify.daemon.status_observers import ShownObservers
from memnotify.engine.table import ObserverState, ObserverTable, Sample

NAMES_SHOWN = (*NAMES, "cgroup")
USER = 1000


class _Table(ObserverTable):
    """Many observers with a threshold on ``used`` at their number; ``described`` are the fhs in each call."""

    def __init__(self, observers: int = 250) -> None:
        super().__init__()
        self.described: list[list[int]] = []
        self.now_s = 0.0
        self.count(0)
        for number in range(1, observers + 1):
            self.add(number)

    def add(self, pages: int, opener: int = 0) -> int:
        fh = self.open(opener=opener)
        self.subscribe(fh, {USED: Level(pages, 1, of_total=False)}, self.latest)
        return fh

    def count(self, used: int) -> None:
        self.now_s += 1
        sample = Sample(self.now_s, Figures(1000, used, 0), exact=True)
        self.advance(sample, 0)
        self.rearm(sample, 0)

    def describe(self, fhs: Sequence[int], uid: int = 0) -> list[ObserverState]:
        self.described.append(list(fhs))
        return super().describe(fhs, uid)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """Return the clock of the module; its ``now_s`` can be set."""
    clock = SimpleNamespace(now_s=100.0)
    clock.monotonic = lambda: clock.now_s
    monkeypatch.setattr(status_observers, "time", clock)
    return clock


@pytest.fixture
def command() -> Iterator[Path]:
    """Return the file with the name of this process; it is restored."""
    comm = Path("/proc/self/comm")
    before = comm.read_text()
    yield comm
    comm.write_text(before)


def _shown(observers: ShownObservers, uid: int = 0) -> Any:
    return json.loads(b"[" + b"".join(observers.parts(uid)) + b"]")


@pytest.mark.usefixtures("clock")
def test_only_what_has_changed_is_made_again() -> None:
    table = _Table()
    observers = ShownObservers(table, NAMES_SHOWN)
    fhs = table.fhs()
    parts = [fhs[:100], fhs[100:200], fhs[200:]]

    def made() -> list[list[int]]:
        table.described.clear()
        shown = _shown(observers)
        made = table.described[:]
        assert shown == _shown(ShownObservers(table, NAMES_SHOWN))
        assert [each["id"] for each in shown] == table.fhs()
        return made

    assert made() == parts
    assert made() == []
    table.count(50)
    assert made() == parts[:1]
    table.count(50)
    assert made() == []
    table.acknowledge(fhs[10])
    assert made() == parts[:1]
    table.subscribe(fhs[120], {}, table.latest)
    assert made() == parts[1:2]
    new = table.add(300)
    assert made() == [[*parts[2], new]]
    table.close(fhs[150])
    assert made() == [[*fhs[100:150], *fhs[151:201]], [*fhs[201:], new]]
    for fh in fhs[20:150]:
        table.close(fh)
    assert made() == [[*fhs[:20], *fhs[151:231]], [*fhs[231:], new]]


def test_the_age_of_an_event_in_a_kept_part(clock: SimpleNamespace) -> None:
    table = _Table(3)
    observers = ShownObservers(table, NAMES_SHOWN)
    table.count(1)
    for clock.now_s in (5.0, 6.25):
        ages = [each["last_event_age"] for each in _shown(observers)]
        assert ages == [clock.now_s - table.now_s, None, None]
    assert len(table.described) == 1


@pytest.mark.usefixtures("clock")
def test_a_part_that_was_kept_for_another_user() -> None:
    table = _Table(2)
    own = table.add(7, opener=USER)
    observers = ShownObservers(table, NAMES_SHOWN)
    for uid, seen in ((0, table.fhs()), (USER, [own]), (USER + 1, []), (0, table.fhs())):
        assert [each["id"] for each in _shown(observers, uid)] == seen


@pytest.mark.usefixtures("clock")
def test_two_users_at_a_time() -> None:
    table = _Table()
    observers = ShownObservers(table, NAMES_SHOWN)
    by_root, by_user = observers.parts(0), observers.parts(USER)
    for of_root, of_user in zip(by_root, by_user, strict=True):
        assert b'"id"' in of_root
        assert of_user == b" "


def test_the_name_of_a_process(clock: SimpleNamespace, command: Path) -> None:
    table = _Table(0)
    table.add(7, opener=os.getpid() << 32)
    table.count(8)
    clock.now_s = table.now_s
    observers = ShownObservers(table, NAMES_SHOWN)
    for name in ("100%d %", '"\\%s', "plain"):
        command.write_text(name)
        (observer,) = _shown(observers)
        assert (observer["command"], observer["last_event_age"]) == (name, 0)


def test_parts_are_forgotten_some_time_after_a_reply(clock: SimpleNamespace) -> None:
    table = _Table(1)
    observers = ShownObservers(table, NAMES_SHOWN)
    assert observers.due_in_s == float("inf")
    _shown(observers)
    for _ in range(3):
        clock.now_s += observers.due_in_s - 1
        observers.do_due()
        _shown(observers)
    assert len(table.described) == 1
    clock.now_s += observers.due_in_s
    observers.do_due()
    assert observers.due_in_s == float("inf")
    _shown(observers)
    assert len(table.described) == 2
