# SPDX-License-Identifier: MIT
"""Injected figures on the engine alone."""

import json
import select
from typing import Any

import pytest
from support.bench import Bench
from support.fakes import FakeReader

from memnotify.daemon.injection import END, INJECT, Injection
from memnotify.kernel.meminfo import MemInfoError

OWNER = "a connection"


class _Rehearsal:
    """An injection on a memory of 10,000 pages, and an observer of a threshold of 8,000."""

    def __init__(self, used: int) -> None:
        self.bench = Bench(FakeReader(used))
        self.injection = Injection(self.bench.sampler, self.bench.clock)
        self.fh = self.bench.device.open()
        self.bench.device.write(self.fh, b"used 8000")

    def ask(self, method: str, owner: str = OWNER, **parameters: object) -> Any:
        reply = self.injection.reply({"method": method, "parameters": parameters}, owner, uid=0, pid=7)
        assert reply is not None
        return json.loads(reply)

    def inject(self, figures: str, seconds: float = 5) -> None:
        assert self.ask(INJECT, figures=figures, seconds=seconds) == {"parameters": {}}

    def is_told(self) -> bool:
        """Return True if an event is pending; acknowledge it."""
        pending = bool(self.bench.device.poll(self.fh, select.POLLIN, 1) & select.POLLIN)
        if pending:
            self.bench.device.read(self.fh)
        return pending

    def used(self) -> int:
        return int(self.bench.device.read(self.fh).split()[3])


def test_clients_are_told_before_the_reply() -> None:
    rehearsal = _Rehearsal(used=5000)
    rehearsal.inject("used 95%")
    assert rehearsal.is_told()
    assert rehearsal.used() == 9500
    assert rehearsal.injection.state == {"figures": "used 95%", "pid": 7, "ends_in": 5}
    rehearsal.ask(END)
    assert rehearsal.is_told()
    assert rehearsal.used() == 5000
    assert rehearsal.injection.state is None


def test_the_reader_ends_it_whatever_the_main_thread_does() -> None:
    """The main thread may be busy when the time is over."""
    rehearsal = _Rehearsal(used=5000)
    rehearsal.inject("used 95%")
    assert rehearsal.is_told()
    rehearsal.bench.clock.tick(4.9)
    rehearsal.bench.sampler.sample()
    assert not rehearsal.is_told()
    rehearsal.bench.clock.tick(0.1)
    rehearsal.bench.sampler.sample()
    assert rehearsal.is_told()
    assert rehearsal.injection.due_in_s == 0
    rehearsal.injection.do_due()
    assert rehearsal.bench.sampler.reader is rehearsal.bench.reader


def test_damping_is_that_of_every_sample() -> None:
    """The real figure is below the threshold, by less than the damping, when the injection ends."""
    rehearsal = _Rehearsal(used=7990)
    rehearsal.inject("used 8010")
    assert rehearsal.is_told()
    rehearsal.ask(END)
    assert not rehearsal.is_told()
    assert rehearsal.used() == 7990
    # That read has told the client the other side, so the way back up is an event.
    rehearsal.inject("used 95%")
    assert rehearsal.is_told()


def test_a_jump_is_no_rate() -> None:
    """Otherwise the sampler would sample as if memory filled that fast, for half a minute."""
    rehearsal = _Rehearsal(used=5000)
    rehearsal.bench.sampler.turn()
    rehearsal.inject("used 95%")
    rehearsal.bench.sampler.turn()
    rehearsal.ask(END)
    rehearsal.bench.sampler.turn()
    rehearsal.bench.clock.tick(1)
    rehearsal.bench.sampler.sample()
    assert rehearsal.bench.sampler.interval.rate_pages_s == 0


def test_without_real_figures_there_is_none() -> None:
    rehearsal = _Rehearsal(used=5000)
    rehearsal.bench.reader.fails = True
    with pytest.raises(MemInfoError):
        rehearsal.bench.sampler.sample()
    rehearsal.bench.clock.tick(100)
    reply = rehearsal.ask(INJECT, figures="used 95%", seconds=5)
    assert reply["error"] == "org.memnotify.Daemon.InjectionRefused"
    assert rehearsal.injection.state is None
    assert rehearsal.bench.sampler.reader is rehearsal.bench.reader


def test_only_its_owner_ends_it() -> None:
    rehearsal = _Rehearsal(used=5000)
    rehearsal.inject("used 95%")
    rehearsal.ask(END, owner="another")
    rehearsal.injection.owner_is_gone("another")
    assert rehearsal.injection.state is not None
    rehearsal.injection.owner_is_gone(OWNER)
    assert rehearsal.injection.state is None
