# SPDX-License-Identifier: MIT
"""The sampler, step by step, with a fake memory and clock and without its thread."""

import errno
import os
import select
import threading
from array import array
from collections.abc import Iterator
from typing import Any

import pytest
from support.fakes import FakeClock, FakeMeter, Woken
from support.waiting import DEADLINE_S

from memnotify.abi.figures import Figures
from memnotify.engine.device import Device
from memnotify.engine.observer import NO_HANDLE
from memnotify.engine.sampler import Sampler, Tuning
from memnotify.engine.schedule import SamplingSchedule
from memnotify.engine.table import ObserverTable, Sample

PERIOD_S = 0.25
USED = 1


class Bench:
    """A sampler without its thread, on a table with one observer who waits."""

    def __init__(self, *, pcp_is_free: bool = True) -> None:
        self.clock = FakeClock()
        self.reader = FakeMeter()
        self.table = ObserverTable(pcp_is_free=pcp_is_free)
        self.schedule = SamplingSchedule(PERIOD_S, 16 * PERIOD_S, fill_rate_pages_s=1e-9)
        self.notified = Woken()
        self.sampler = Sampler(self.table, self.reader, self.schedule, self.notified, clock=self.clock)
        self.fh = self.table.open()

    def subscribe(self, used: int) -> None:
        """Watch ``used``, and wait with the handle 5."""
        self.table.subscribe(self.fh, {USED: used}, self.sampler.current())
        self.table.poll(self.fh, 5)

    @property
    def reads(self) -> tuple[int, int]:
        """How often the reader was read, plain and exact."""
        return self.reader.plain_reads, self.reader.exact_reads


@pytest.fixture
def bench() -> Iterator[Bench]:
    """Return a bench, and clear it away."""
    bench = Bench()
    yield bench
    bench.sampler.stop()


# The figures of a client's read


def test_current_is_read_once_a_period(bench: Bench) -> None:
    """Figures serve for one update_period, to its last moment; then they are read anew."""
    first = bench.sampler.current()
    assert first == Sample(1000.0, bench.reader.figures, exact=True)
    bench.reader.use(200)
    bench.clock.tick(PERIOD_S)
    assert bench.sampler.current() is first
    bench.clock.tick(0.001)
    assert bench.sampler.current() == Sample(bench.clock(), bench.reader.figures, exact=True)
    assert bench.reads == (0, 2)


def test_current_takes_the_sampler_s_exact_figures(bench: Bench) -> None:
    """What the sampler has just read with P is good for a client; what it read without is not."""
    bench.reader.pcp_pages = 30
    bench.subscribe(100)  # the next sample needs P: the threshold is armed down
    bench.clock.tick(1)
    bench.sampler.look()
    assert bench.sampler.current() is bench.table.latest
    assert bench.reads == (1, 2)

    bench.subscribe(10_000)
    bench.clock.tick(1)
    bench.sampler.look()
    assert not bench.table.latest.exact
    assert bench.table.latest.figures.used == 130
    assert bench.sampler.current().figures.used == 100


def test_current_after_an_event_is_no_older_than_it(bench: Bench) -> None:
    """A client that reads because of an event never sees figures from before it."""
    bench.subscribe(500)
    cached = bench.sampler.current()
    bench.clock.tick(PERIOD_S / 2)
    bench.reader.use(600)
    bench.sampler.look()
    assert bench.notified == [5]
    assert bench.clock() - cached.taken_s < PERIOD_S
    assert bench.sampler.current().figures.used == 600


def test_without_pcp_every_sample_is_exact() -> None:
    """With pcp_is_free off a client is served from any sample."""
    bench = Bench(pcp_is_free=False)
    bench.subscribe(500)
    bench.clock.tick(1)
    bench.sampler.look()
    assert bench.table.latest.exact
    assert bench.sampler.current() is bench.table.latest
    assert bench.reads == (2, 0)
    bench.sampler.stop()


# A sample


@pytest.mark.parametrize(
    ("start", "used", "pcp_pages", "exact_reads", "event"),
    [
        # Below the threshold even without P: P cannot matter
        (100, 399, 100, 0, False),
        # P decides: without it 500 is reached
        (100, 400, 100, 1, False),
        (100, 499, 1, 1, False),
        (100, 500, 0, 1, True),
        (100, 600, 100, 1, True),
        # Armed down: P may bring it below
        (700, 600, 100, 1, False),
        (700, 450, 100, 1, True),
        (700, 499, 0, 1, True),
    ],
)
def test_p_is_read_where_it_can_matter(
    bench: Bench, start: int, used: int, pcp_pages: int, exact_reads: int, *, event: bool
) -> None:
    """One look at a threshold of 500: how often zoneinfo is read, and who crosses."""
    bench.reader.use(start)
    bench.subscribe(500)
    before = bench.reader.exact_reads
    bench.clock.tick(1)
    bench.reader.use(used)
    bench.reader.pcp_pages = pcp_pages
    bench.sampler.look()
    assert bench.reader.exact_reads - before == exact_reads
    assert bench.notified == ([5] if event else [])
    assert bench.table.poll(bench.fh, NO_HANDLE)[0] is event


def test_what_the_lists_can_hold_is_read_again(bench: Bench) -> None:
    """When memory has come or gone, and now and then anyway, though no threshold is near."""
    bench.subscribe(9_000)
    bench.reader.pcp_limit_pages = 100
    for total, passed_s, exact_reads in (
        (10_000, 1, 0),
        (10_000, 500, 0),
        (20_000, 1, 1),
        (20_000, 500, 0),
        (20_000, 101, 1),
    ):
        bench.reader.figures = bench.reader.figures._replace(total=total)
        bench.clock.tick(passed_s)
        before = bench.reader.exact_reads
        bench.sampler.look()
        assert bench.reader.exact_reads - before == exact_reads


def test_notify_runs_without_the_lock(bench: Bench) -> None:
    """Whoever is notified may come back to the table at once."""
    answers: list[tuple[bool, bool]] = []

    def notify(_: "array[int]", _count: int) -> None:
        answers.append(bench.table.poll(bench.fh, 6))
        bench.table.close(bench.table.open())

    sampler = Sampler(bench.table, bench.reader, bench.schedule, notify, clock=bench.clock)
    bench.subscribe(500)
    bench.reader.use(500)
    thread = threading.Thread(target=sampler.look, daemon=True)
    thread.start()
    thread.join(DEADLINE_S)
    assert answers == [(True, True)]
    sampler.stop()


def test_nobody_to_notify(bench: Bench) -> None:
    """An event of an observer who does not wait is no call of notify."""
    calls: list[int] = []
    sampler = Sampler(
        bench.table, bench.reader, bench.schedule, lambda _, count: calls.append(count), clock=bench.clock
    )
    bench.table.subscribe(bench.fh, {USED: 500}, bench.sampler.current())
    bench.reader.use(500)
    sampler.look()
    assert bench.table.poll(bench.fh, NO_HANDLE) == (True, False)
    assert calls == []
    sampler.stop()


def test_a_newer_sample_in_between(bench: Bench) -> None:
    """A sample that a client's newer one has overtaken is thrown away, and another one taken."""
    bench.subscribe(500)
    bench.clock.tick(1)
    bench.reader.use(600)

    def client_reads() -> None:
        bench.clock.tick(1)
        bench.reader.use(100)
        assert bench.sampler.current().figures.used == 100

    # In its second reading the sampler has 600 pages in hand, from before the client's 100.
    bench.reader.after = [lambda: None, client_reads]
    bench.sampler.look()
    assert bench.notified == []
    assert bench.table.latest == Sample(bench.clock(), Figures(10_000, 100, 50), exact=False)
    assert not bench.table.poll(bench.fh, NO_HANDLE)[0]


def test_no_event_from_before_the_write() -> None:
    """A write decided on newer figures than the sampler has in hand must not be compared with those.

    The client's reading begins first and ends last: it sees that memory has risen above the threshold
    and that it stays there, so nothing is left to report.
    """
    bench = Bench(pcp_is_free=False)
    bench.reader.use(400)
    bench.table.poll(bench.fh, 5)
    bench.clock.tick(1)
    sampled, written = threading.Event(), threading.Event()
    thread = threading.Thread(target=bench.sampler.look)

    def sampler_reads_400() -> None:
        bench.clock.tick(0.001)
        thread.start()
        assert sampled.wait(DEADLINE_S)
        bench.clock.tick(0.001)
        bench.reader.use(600)

    def sampler_is_late() -> None:
        sampled.set()
        assert written.wait(DEADLINE_S)

    bench.reader.before = [sampler_reads_400]
    bench.reader.after = [sampler_is_late]
    sample = bench.sampler.current()
    assert sample.figures.used == 600
    bench.table.subscribe(bench.fh, {USED: 500}, sample)
    written.set()
    thread.join(DEADLINE_S)
    assert bench.notified == []
    assert not bench.table.poll(bench.fh, NO_HANDLE)[0]
    bench.sampler.stop()


def test_the_pace_sees_each_sample(bench: Bench) -> None:
    """Each look counts for the interval to the next; the granularity is a 128th of total, 78 pages."""
    bench.subscribe(500)
    seen = []
    for used in (100, 100, 100, 177, 178, 178):
        bench.reader.use(used)
        bench.clock.tick(1)
        bench.sampler.look()
        seen.append(bench.schedule.interval_s / PERIOD_S)
    assert seen == [1, 2, 4, 8, 1, 2]


@pytest.mark.parametrize(("threshold", "intervals"), [(500, [1, 2, 4, 8, 16]), (200, [1, 2, 4, 4, 4])])
def test_the_pace_knows_the_distance(bench: Bench, threshold: int, intervals: list[int]) -> None:
    """What is 400 pages away is reached in 4 s at 100 pages/s, what is 100 pages away in 1 s."""
    bench.schedule.fill_rate_pages_s = 100
    bench.subscribe(threshold)
    seen = []
    for _ in intervals:
        bench.clock.tick(bench.schedule.interval_s)
        bench.sampler.look()
        seen.append(bench.schedule.interval_s / PERIOD_S)
    assert seen == intervals


@pytest.mark.parametrize(
    ("update_space_kib", "falls_to"), [(0, 423), (20 * os.sysconf("SC_PAGESIZE") // 1024, 491)]
)
def test_the_granularity_damps(bench: Bench, update_space_kib: int, falls_to: int) -> None:
    """After an event the next needs the figure to have moved by g: 78 pages, or half of update_space."""
    sampler = Sampler(
        bench.table,
        bench.reader,
        bench.schedule,
        bench.notified,
        update_space_kib=update_space_kib,
        clock=bench.clock,
    )
    bench.subscribe(500)
    for used, event in ((500, True), (falls_to, False), (falls_to - 1, True)):
        bench.reader.use(used)
        bench.clock.tick(1)
        sampler.look()
        assert bench.table.poll(bench.fh, NO_HANDLE)[0] is event
        bench.table.acknowledge(bench.fh)
    sampler.stop()


# What it is tuned to while it runs


def _tuned(**changed: Any) -> Tuning:
    return Tuning(PERIOD_S, 16 * PERIOD_S, 0.02, 1e-9, 0, pcp_is_free=True, open_page_counters=None)._replace(
        **changed
    )


def _tune(bench: Bench, **changed: Any) -> None:
    bench.sampler.tune(_tuned(**changed))
    assert bench.sampler._take_over(select.poll())


def _event(bench: Bench, used: int) -> bool:
    """Whether it is one that ``used`` changes to this; it is acknowledged."""
    bench.reader.use(used)
    bench.clock.tick(1)
    bench.sampler.look()
    event, _ = bench.table.poll(bench.fh, NO_HANDLE)
    bench.table.acknowledge(bench.fh)
    return event


def test_tuned_to_another_pace(bench: Bench) -> None:
    """The interval begins anew at the new period, and what a client reads is no older than that."""
    bench.subscribe(500)
    for _ in range(4):
        _event(bench, 100)
    assert bench.schedule.interval_s == 8 * PERIOD_S
    _tune(bench, update_period_s=0.1, max_update_period_s=0.4, fill_rate_pages_s=7.0, min_update_period_s=1)
    assert (bench.schedule.fill_rate_pages_s, bench.schedule.min_update_period_s) == (7.0, 0.1)
    seen = [bench.schedule.interval_s]
    for _ in range(4):
        _event(bench, 100)
        seen.append(bench.schedule.interval_s)
    assert seen == [0.1, 0.1, 0.2, 0.4, 0.4]
    sample = bench.sampler.current()
    bench.clock.tick(0.2)
    assert bench.sampler.current() is not sample


def test_tuned_several_times_at_once(bench: Bench) -> None:
    """The last one holds; of the page_counters those that were wanted last, and no others are opened."""
    opened: list[str] = []
    for period_s, name in ((0.1, "first"), (0.2, "second"), (0.3, "")):
        open_page_counters = None if not name else lambda name=name: opened.append(name)
        bench.sampler.tune(_tuned(update_period_s=period_s, open_page_counters=open_page_counters))
    assert bench.sampler._take_over(select.poll())
    assert bench.schedule.update_period_s == 0.3
    assert opened == ["second"]


def test_tuned_to_another_granularity(bench: Bench) -> None:
    """It counts from the next event on; what is damped already stays so."""
    bench.subscribe(500)
    assert _event(bench, 500)
    _tune(bench, update_space_kib=20 * os.sysconf("SC_PAGESIZE") // 1024)  # 10 pages instead of 78
    assert [_event(bench, used) for used in (423, 422, 499, 500, 491, 490)] == [False, True] * 3


@pytest.mark.parametrize("pcp_is_free", [True, False])
@pytest.mark.parametrize("below", [True, False])
def test_no_event_by_another_meaning_of_used(*, pcp_is_free: bool, below: bool) -> None:
    """A threshold between both: nobody crosses by the change, and what then crosses it is an event."""
    bench = Bench(pcp_is_free=not pcp_is_free)
    bench.reader.use(400)
    bench.reader.pcp_pages = 200
    # Above by the plain figures, below by the exact ones; or on the same side by both.
    bench.subscribe(500 if below else 300)
    _tune(bench, pcp_is_free=pcp_is_free)
    assert not _event(bench, 400)
    assert bench.notified == []
    if below:
        assert _event(bench, 500 if pcp_is_free else 299)
    else:
        assert _event(bench, 299 if pcp_is_free else 99)
    bench.sampler.stop()


@pytest.mark.parametrize("pcp_is_free", [True, False])
def test_a_crossing_just_before_another_meaning_of_used_is_told(*, pcp_is_free: bool) -> None:
    """By the meaning that held when it happened, even where the new one would undo it."""
    bench = Bench(pcp_is_free=not pcp_is_free)
    bench.reader.pcp_pages = 200
    bench.reader.use(700 if not pcp_is_free else 100)
    bench.subscribe(500)
    bench.clock.tick(1)
    bench.reader.use(400)  # with the lists 600
    _tune(bench, pcp_is_free=pcp_is_free)
    assert bench.notified == [5]
    assert bench.table.poll(bench.fh, NO_HANDLE)[0]
    bench.table.acknowledge(bench.fh)
    assert not _event(bench, 400)
    bench.sampler.stop()


def test_damping_follows_another_meaning_of_used(bench: Bench) -> None:
    """After an event at 510 the next needs 78 pages, in the new sense as in the old."""
    bench.reader.pcp_pages = 40
    bench.subscribe(500)
    assert _event(bench, 510)
    _tune(bench, pcp_is_free=False)  # 550 now
    assert not _event(bench, 433)  # 473
    assert _event(bench, 432)  # 472


def test_a_write_while_used_comes_to_mean_something_else(bench: Bench) -> None:
    """Figures in the old sense would put the threshold on the wrong side: they are taken again."""
    bench.reader.use(400)
    bench.reader.pcp_pages = 200
    bench.clock.tick(1)
    device = Device(bench.table, bench.sampler)

    def change() -> None:
        # The writer has read its figures, 400, and not yet subscribed.
        bench.clock.tick(0.001)
        _tune(bench, pcp_is_free=False)

    bench.reader.after = [change]
    assert device.write(bench.fh, b"used 500") == 8
    assert not _event(bench, 400)
    assert _event(bench, 299)


def test_a_client_s_newer_figures_while_used_comes_to_mean_something_else(bench: Bench) -> None:
    """The reading that both meanings are taken from is taken again: going back in time invents a crossing."""
    bench.reader.use(400)
    device = Device(bench.table, bench.sampler)

    def client_writes() -> None:
        bench.clock.tick(1)
        bench.reader.use(600)
        device.write(bench.fh, b"used 500")
        bench.clock.tick(1)

    bench.reader.after = [client_writes]
    bench.clock.tick(1)
    _tune(bench, pcp_is_free=False)
    assert not _event(bench, 600)
    assert _event(bench, 499)


def test_a_client_s_newer_figures_between_both_meanings(bench: Bench) -> None:
    """The same, when who has crossed in the old sense is told already: no side is taken from the older."""
    writer = bench.table.open()

    def client_writes(_: "array[int]", _count: int) -> None:
        bench.clock.tick(1)
        bench.reader.use(600)
        Device(bench.table, sampler).write(writer, b"used 500")
        bench.clock.tick(1)

    sampler = Sampler(bench.table, bench.reader, bench.schedule, client_writes, clock=bench.clock)
    bench.subscribe(300)
    bench.clock.tick(1)
    bench.reader.use(400)
    sampler.tune(_tuned(pcp_is_free=False))
    assert sampler._take_over(select.poll())
    sampler.look()
    assert bench.table.poll(bench.fh, NO_HANDLE)[0]
    assert not bench.table.poll(writer, NO_HANDLE)[0]
    sampler.stop()


def test_figures_that_come_too_late_to_mean_anything(bench: Bench) -> None:
    """Who begins to read before the change is over, and ends after it, does not bring the old sense back."""
    bench.reader.pcp_pages = 200
    label = bench.table.pcp_is_free
    _tune(bench, pcp_is_free=False)
    bench.clock.tick(0.01)
    sample = bench.sampler._exact(pcp_is_free=label)
    bench.table.record(sample, bench.clock())
    assert bench.table.latest.figures.used == 300
    assert not bench.table.subscribe(bench.fh, {USED: 200}, sample)
    assert bench.sampler.current().figures.used == 300


def test_a_meaning_that_memory_has_no_room_for_just_now(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    """The kernel has no memory for its text: all stays, and is tried again."""

    def fail() -> None:
        raise OSError(errno.ENOMEM, os.strerror(errno.ENOMEM))

    bench.reader.before = [fail]
    bench.sampler.tune(_tuned(pcp_is_free=False, update_period_s=7.0))
    assert not bench.sampler._take_over(select.poll())
    assert "taken over later" in caplog.text
    assert (bench.table.pcp_is_free, bench.schedule.update_period_s) == (True, PERIOD_S)
    assert bench.sampler._take_over(select.poll())
    assert (bench.table.pcp_is_free, bench.schedule.update_period_s) == (False, 7.0)


def test_another_meaning_of_used_is_no_movement(bench: Bench) -> None:
    """The jump by the per-CPU lists is no rate at which memory moves, and no reason to look more often."""
    bench.reader.pcp_pages = 5000
    bench.subscribe(200)  # what lies there decides, so the samples are exact, before and after
    for _ in range(3):
        _event(bench, 100)
    _tune(bench, pcp_is_free=False, fill_rate_pages_s=1e-9)
    seen = []
    for _ in range(3):
        _event(bench, 100)
        seen.append(bench.schedule.interval_s / PERIOD_S)
    assert seen == [1, 2, 4]
    assert bench.schedule.rate_pages_s < 1
