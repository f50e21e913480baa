# SPDX-License-Identifier: MIT
"""The sampler's thread: when it sleeps, what wakes it, how it ends."""

import errno
import itertools
import logging
import math
import os
import select
import signal
import socket
import threading
import time
from array import array
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import pytest
from support.fakes import FakeClock, FakeMeter, FakePageCounter, Woken
from support.waiting import DEADLINE_S, eventually

from memnotify.engine.device import Device
from memnotify.engine.sampler import Sampler, Tuning
from memnotify.engine.schedule import SamplingSchedule
from memnotify.engine.table import ObserverTable
from memnotify.kernel.meminfo import MemInfoError

USED = 1
THRESHOLD = {USED: 500}
LONG_S = 0.1


class Watched(Sampler):
    """A sampler with a table of its own, whose sleeps are written down.

    A sleep of more than LONG_S ends by a wake-up only, so that no test passes because time did; unless
    ``long_sleeps_end``. Where it is ``flooded``, each sleep is ended by a wake-up as soon as it begins.
    """

    def __init__(
        self,
        table: ObserverTable | None = None,
        *,
        update_period_s: float = 0.001,
        pressure_fd: int | None = None,
        page_counters: tuple[FakePageCounter, FakePageCounter] | None = None,
        clock: Callable[[], float] = time.monotonic,
        long_sleeps_end: bool = False,
        flooded: bool = False,
    ) -> None:
        self.table = ObserverTable() if table is None else table
        self.fh = self.table.open()
        self.memory = FakeMeter()
        # No threshold is ever near: these tests are about the back-off.
        self.rate = SamplingSchedule(update_period_s, 3600.0, fill_rate_pages_s=1e-30)
        self.notified: Callable[[array[int], int], object] = Woken()
        self.long_s = threading.TIMEOUT_MAX if long_sleeps_end else LONG_S
        self.flooded = flooded
        self.failures: list[str] = []
        self.sleeps: list[float | None] = []
        super().__init__(
            self.table,
            self.memory,
            self.rate,
            self.tell,
            pressure_fd=pressure_fd,
            page_counters=page_counters,
            clock=clock,
        )

    def tell(self, handles: "array[int]", count: int) -> None:
        """Be the sampler's notify, which a test may change."""
        self.notified(handles, count)

    def begin(self) -> None:
        """Start the thread."""
        self.start(lambda: self.failures.append(threading.current_thread().name))

    def write(self, thresholds: dict[int, int], fh: int | None = None) -> None:
        """Do what a client's write does."""
        self.table.subscribe(self.fh if fh is None else fh, thresholds, self.current())
        self.thresholds_changed()

    @property
    def parked(self) -> bool:
        """Whether the thread sleeps, or is just about to, until thresholds change."""
        return self.sleeps[-1:] == [None]

    @property
    def sleeps_long(self) -> bool:
        """Whether the thread sleeps, or is just about to, until a distant sample."""
        return bool(self.sleeps) and (self.sleeps[-1] or 0) > LONG_S

    @property
    def thread(self) -> threading.Thread:
        """The thread."""
        assert self._thread is not None
        return self._thread

    def status(self, name: str) -> str:
        """Return what the kernel says of the thread."""
        with open(f"/proc/self/task/{self.thread.native_id}/status", encoding="ascii") as file:
            return next(line.split()[1] for line in file if line.startswith(f"{name}:"))

    @property
    def slack_s(self) -> float:
        """The thread's timer slack."""
        with open(f"/proc/{self.thread.native_id}/timerslack_ns", encoding="ascii") as file:
            return int(file.read()) / 1e9

    def wake(self) -> None:
        """End a sleep for no reason."""
        os.eventfd_write(self._wake_fd, 1)

    def samples(self, more: int = 1) -> None:
        """Wait until some more samples have been begun."""
        wanted = self.memory.plain_reads + more
        eventually(lambda: self.memory.plain_reads >= wanted, f"{more} more samples")

    def _sleep(self, poller: select.poll, timeout_s: float | None) -> set[int | None]:
        self.sleeps.append(timeout_s)
        if self.flooded:
            os.eventfd_write(self._wake_fd, 1)
        return super()._sleep(poller, None if (timeout_s or 0) > self.long_s else timeout_s)


Maker = Callable[..., Watched]


@pytest.fixture
def make() -> Iterator[Maker]:
    """Return what makes and starts a sampler; end those that run, none of which may have failed."""
    made: list[Watched] = []

    def maker(*, begin: bool = True, **options: Any) -> Watched:
        made.append(Watched(**options))
        if begin:
            made[-1].begin()
        return made[-1]

    yield maker
    for sampler in made:
        if sampler._thread is not None:
            sampler.stop()
        assert sampler.failures == []


# Sleep


def test_nothing_runs_without_thresholds(make: Maker) -> None:
    """While a sampler beside it takes a hundred samples, one without thresholds does not wake."""
    idle, busy = make(), make()
    eventually(lambda: idle.parked and idle.status("State") == "S", "the sampler is asleep")
    before = int(idle.status("voluntary_ctxt_switches"))
    for _ in range(100):
        busy.write(THRESHOLD)
        busy.samples()
    # One or two if it had not quite fallen asleep
    assert int(idle.status("voluntary_ctxt_switches")) - before <= 2
    assert idle.sleeps == [None]
    assert idle.memory.plain_reads + idle.memory.exact_reads == 0


def test_from_the_first_threshold_to_the_last(make: Maker) -> None:
    """The first threshold ends the sleep, the last one's end begins it, others in between change nothing."""
    # A threshold that ends just when a sleep begins costs one more sample, at the end of that sleep.
    sampler = make(long_sleeps_end=True)
    other = sampler.table.open()
    for _ in range(3):
        eventually(lambda: sampler.parked, "the sampler sleeps")
        sampler.write(THRESHOLD)
        sampler.samples(2)
        sampler.write({0: 7}, other)
        sampler.write({})
        sampler.samples(2)
        assert not sampler.parked
        sampler.write({}, other)
    eventually(lambda: sampler.parked, "the sampler sleeps again")


def test_the_last_threshold_ends_a_long_sleep(make: Maker) -> None:
    """A distant sample is not waited for when nobody wants it any more."""
    sampler = make(update_period_s=3600.0)
    sampler.write(THRESHOLD)
    eventually(lambda: sampler.sleeps_long, "the sampler waits for its next sample")
    sampler.write({})
    eventually(lambda: sampler.parked, "the sampler sleeps")
    assert sampler.memory.plain_reads == 0


def test_a_new_threshold_ends_a_long_interval(make: Maker) -> None:
    """While figures stand still the interval grows; a write brings the shortest back at once."""
    sampler = make()
    for _ in range(3):
        sampler.write(THRESHOLD)
        sampler.samples(6)
        eventually(lambda: sampler.sleeps_long, "the interval grows")
    # Each sleep ended by a sample, but for the one or two of each write that it ended: nothing spins.
    assert len(sampler.sleeps) <= sampler.memory.plain_reads + 2 * 3 + 1


class Interleaved(ObserverTable):
    """A table that calls back at the moment when the sampler has seen that nobody watches."""

    at_the_moment: Callable[[], None] | None = None

    @property
    def watching(self) -> bool:
        """Whether anybody has a threshold, and now somebody may who had none."""
        watching = super().watching
        if not watching and self.at_the_moment and threading.current_thread().name == "sampler":
            call, self.at_the_moment = self.at_the_moment, None
            call()
        return watching


def test_a_threshold_set_while_falling_asleep(make: Maker) -> None:
    """The thread has seen that nobody watches and does not sleep yet; a write comes; it is sampled."""
    table = Interleaved()
    sampler = make(table=table, long_sleeps_end=True)
    before: list[int] = []

    def write_now() -> None:
        before.append(sampler.memory.plain_reads)
        sampler.write(THRESHOLD)

    for times in range(1, 11):
        sampler.write(THRESHOLD)
        sampler.samples()
        table.at_the_moment = write_now
        sampler.write({})
        eventually(lambda: len(before) == times, "the sampler sees that nobody watches")  # noqa: B023 - at once
        eventually(lambda: sampler.memory.plain_reads > before[-1], "the new threshold is sampled")


def test_a_threshold_set_while_a_long_interval_begins(make: Maker) -> None:
    """The thread is about to compute a long sleep when a write comes: the sleep is not long."""
    moments: list[Callable[[], None]] = []

    def clock() -> float:
        if moments and threading.current_thread().name == "sampler" and sampler.rate.interval_s > LONG_S:
            moments.pop()()
        return time.monotonic()

    sampler = make(begin=False, clock=clock)
    moments.append(lambda: sampler.write(THRESHOLD))
    sampler.write(THRESHOLD)
    sampler.begin()
    eventually(lambda: not moments and sampler.sleeps_long, "the interval grows")
    grown = sampler.memory.plain_reads
    # Eight readings double one millisecond to more than LONG_S, and after the write the same again.
    eventually(lambda: sampler.memory.plain_reads >= 14, f"more samples than {grown}, after the write")


def test_wake_ups_do_not_starve_sampling(make: Maker) -> None:
    """However often it is woken, a sample is taken when it is due."""
    sampler = make(update_period_s=0.02, flooded=True)
    sampler.write(THRESHOLD)
    sampler.samples(3)
    # It was indeed woken again and again before each of them.
    assert len(sampler.sleeps) > 30


@pytest.mark.parametrize("thresholds", [{}, THRESHOLD])
def test_who_asks_whether_it_is_alive_changes_nothing_else(make: Maker, thresholds: dict[int, int]) -> None:
    """It answers each time, asleep or waiting for a distant sample, and takes none for it."""
    sampler = make(update_period_s=3600.0)
    sampler.write(thresholds)
    for _ in range(5):
        eventually(sampler.check_alive, "it answers")
    assert sampler.memory.plain_reads == 0


def test_one_that_hangs_does_not_answer(make: Maker) -> None:
    """A sample that does not end is no answer, however often it is asked, until it does."""
    begun, end = threading.Event(), threading.Event()

    def hang() -> None:
        begun.set()
        end.wait(DEADLINE_S)

    sampler = make(begin=False)
    sampler.write(THRESHOLD)
    sampler.memory.before = [hang]
    sampler.begin()
    assert begun.wait(DEADLINE_S)
    sampler.check_alive()
    assert not any(sampler.check_alive() for _ in range(100))
    end.set()
    eventually(sampler.check_alive, "it answers")


def test_crossings_are_noticed(make: Maker) -> None:
    """All together: the thread notices each crossing and hands out the handle of who waits."""
    sampler = make(update_period_s=0.005)
    woken = sampler.notified = Woken()
    sampler.write(THRESHOLD)
    for handle, used in enumerate((600, 100, 600), start=1):
        sampler.table.poll(sampler.fh, handle)
        sampler.table.acknowledge(sampler.fh)
        sampler.write(THRESHOLD)
        sampler.memory.use(used)
        eventually(lambda: len(woken) == handle, f"the waiter is woken at {used}")  # noqa: B023 - at once
    assert woken == [1, 2, 3]


# Pressure


def urgent() -> tuple[socket.socket, socket.socket]:
    """Return two ends of a connection: out-of-band data sent to the second make it ready for POLLPRI."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        near = socket.create_connection(server.getsockname())
        far, _ = server.accept()
    return near, far


def test_pressure_is_looked_at_at_once(make: Maker) -> None:
    """Memory pressure ends the longest sleep, and the interval begins anew."""
    near, far = urgent()
    with near, far:
        sampler = make(update_period_s=3600.0, pressure_fd=os.dup(far.fileno()), begin=False)
        woken = sampler.notified = Woken()
        sampler.table.poll(sampler.fh, 9)
        sampler.table.subscribe(sampler.fh, {USED: 150}, sampler.current())
        sampler.rate.max_update_period_s = 36_000.0
        # So long ago that no rate can be seen since then, on a machine that has just started too.
        for hours in (0, 1, 3):
            sampler.rate.see(hours * 3600 - 1e9, sampler.memory.figures, 78)
        assert sampler.rate.interval_s == 4 * 3600
        sampler.begin()
        eventually(lambda: sampler.sleeps_long, "the sampler sleeps")
        # Less than the granularity: it is not the movement that brings the shortest interval back.
        sampler.memory.use(150)

        def receive() -> None:
            far.recv(1, socket.MSG_OOB)

        sampler.memory.before = [receive]
        near.send(b"!", socket.MSG_OOB)
        eventually(lambda: woken == [9], "the waiter is woken")
        eventually(lambda: len(sampler.sleeps) == 2, "the sampler sleeps again")
        assert sampler.rate.interval_s == 3600
        assert 3500 < (sampler.sleeps[-1] or 0) <= 3600


def test_a_broken_pressure_fd_is_dropped(make: Maker, caplog: pytest.LogCaptureFixture) -> None:
    """A trigger that reports an error would do so for ever: one warning, and the timer goes on alone."""
    read_end, write_end = os.pipe()
    os.close(read_end)  # the other end now polls POLLERR, whatever is asked for
    with caplog.at_level(logging.WARNING):
        sampler = make(pressure_fd=write_end)
        sampler.write(THRESHOLD)
        eventually(lambda: sampler.sleeps_long, "the sampler samples by the timer, and sleeps")
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "pressure" in caplog.text


# Page counters


class Kicked(NamedTuple):
    """A sampler that sleeps for an hour, its page_counters, and whom it has woken."""

    sampler: Watched
    allocated: FakePageCounter
    freed: FakePageCounter
    woken: Woken


@pytest.fixture
def counter_fired(make: Maker) -> Kicked:
    """Return a sampler with thresholds 400 pages above ``used`` and 51 below."""
    page_counters = FakePageCounter(), FakePageCounter()
    sampler = make(update_period_s=3600.0, page_counters=page_counters, begin=False, long_sleeps_end=True)
    woken = sampler.notified = Woken()
    sampler.memory.pcp_limit_pages = 0
    sampler.table.poll(sampler.fh, 9)
    sampler.write(THRESHOLD)
    below = sampler.table.open()
    sampler.table.poll(below, 8)
    sampler.write({USED: 50}, below)
    sampler.look()
    sampler.begin()
    eventually(lambda: sampler.sleeps_long, "the sampler sleeps")
    return Kicked(sampler, *page_counters, woken)


@pytest.mark.parametrize(
    ("which", "pages", "used", "handle"), [("allocated", 400, 500, 9), ("freed", 51, 49, 8)]
)
def test_a_kick_is_looked_at_at_once(
    counter_fired: Kicked, which: str, pages: int, used: int, handle: int
) -> None:
    """Enough pages have passed for the threshold to be reached: the longest sleep ends."""
    counter: FakePageCounter = getattr(counter_fired, which)
    assert counter.armed_pages == pages
    counter_fired.sampler.rate.counter_interval_s = 0.0
    counter_fired.sampler.memory.use(used)
    counter.count(pages - 1)
    assert counter_fired.woken == []
    counter.count(1)
    eventually(lambda: counter_fired.woken == [handle], "the waiter is woken")
    eventually(lambda: not select.select([counter], [], [], 0)[0], "the counter is drained")
    assert counter.rests == 0


def test_a_kick_too_early_waits(counter_fired: Kicked) -> None:
    """Before the threshold can be in reach a counter does not cause a sample; it wakes once."""
    sampler, counter, *_ = counter_fired
    # Less than the slack of the sleep that it ends, which is no reason to look either
    sampler.rate.counter_interval_s = 3.5
    reads, sleeps = sampler.memory.plain_reads, len(sampler.sleeps)
    counter.count(400)
    eventually(lambda: len(sampler.sleeps) > sleeps, "the sampler sleeps until then")
    assert 0 < (sampler.sleeps[-1] or 0) <= 3.5
    assert counter.rests == 1
    sampler.wake()
    eventually(lambda: len(sampler.sleeps) == sleeps + 2, "it sleeps again")
    assert sampler.memory.plain_reads == reads


def test_nothing_is_counted_while_nobody_watches(counter_fired: Kicked) -> None:
    """Who parks takes back what the page_counters were armed for."""
    assert (counter_fired.allocated.armed_pages, counter_fired.freed.armed_pages) == (400, 51)
    counter_fired.sampler.write({})
    counter_fired.sampler.write({}, counter_fired.sampler.fh + 1)
    eventually(lambda: counter_fired.sampler.parked, "the sampler parks")
    assert (counter_fired.allocated.armed_pages, counter_fired.freed.armed_pages) == (math.inf, math.inf)


# What it is tuned to


def _tuned(update_period_s: float = 3600.0, *, pcp_is_free: bool = True, **more: Any) -> Tuning:
    fields = {
        "min_update_period_s": 1,
        "fill_rate_pages_s": 1e-30,
        "update_space_kib": 0,
        "open_page_counters": None,
    }
    return Tuning(update_period_s, 36_000.0, pcp_is_free=pcp_is_free, **(fields | more))


def test_it_is_tuned_while_it_sleeps_for_long(make: Maker) -> None:
    """It looks at once: what it had slept for is not what it would have slept for."""
    sampler = make(update_period_s=3600.0)
    woken = sampler.notified = Woken()
    sampler.table.poll(sampler.fh, 9)
    sampler.write(THRESHOLD)
    eventually(lambda: sampler.sleeps_long, "the sampler sleeps")
    sampler.memory.use(600)
    sampler.tune(_tuned(0.001))
    eventually(lambda: woken == [9], "the waiter is woken")
    sampler.samples(3)


def test_it_is_tuned_while_it_is_parked(make: Maker) -> None:
    """It takes it over, and goes on sleeping."""
    sampler = make()
    eventually(lambda: sampler.parked, "the sampler sleeps")
    sampler.tune(_tuned(pcp_is_free=False))
    eventually(lambda: not sampler.table.pcp_is_free and len(sampler.sleeps) == 2, "it is taken over")
    assert sampler.parked
    assert sampler.rate.update_period_s == 3600.0


def test_what_cannot_be_taken_over_is_tried_again(make: Maker, monkeypatch: pytest.MonkeyPatch) -> None:
    """Parked, it is in no sample's way; and it does not spin where somebody watches."""
    monkeypatch.setattr("memnotify.engine.sampler._AGAIN_S", 0.001)

    def fail() -> None:
        raise OSError(errno.ENOMEM, os.strerror(errno.ENOMEM))

    sampler = make(update_period_s=0.02)
    eventually(lambda: sampler.parked, "the sampler sleeps")
    sampler.memory.before = [fail] * 3
    sampler.tune(_tuned(0.02, pcp_is_free=False))
    eventually(lambda: not sampler.table.pcp_is_free, "it is taken over")
    sampler.write(THRESHOLD)
    sampler.samples(2)
    sleeps, reads = len(sampler.sleeps), sampler.memory.plain_reads
    sampler.memory.before = [fail] * 20
    sampler.tune(_tuned(0.02))
    eventually(lambda: sampler.table.pcp_is_free, "it is taken over")
    # A turn for each sample, one for the tuning and one that may have been under way.
    assert len(sampler.sleeps) - sleeps <= sampler.memory.plain_reads - reads + 3


def test_kicks_are_exchanged(counter_fired: Kicked) -> None:
    """The old ones are closed, the new ones armed and listened to; in the end there are none."""
    sampler, old, _, woken = counter_fired
    new = FakePageCounter(), FakePageCounter()
    fds = len(os.listdir("/proc/self/fd"))
    sampler.tune(_tuned(open_page_counters=lambda: new))
    eventually(lambda: new[0].armed_pages == 400, "the new ones are armed")
    assert len(os.listdir("/proc/self/fd")) == fds - 2
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.eventfd_read(old.fileno())
    sampler.rate.counter_interval_s = 0.0
    sampler.memory.use(500)
    new[0].count(400)
    eventually(lambda: woken == [9], "the waiter is woken")
    sampler.tune(_tuned(open_page_counters=lambda: None))
    eventually(lambda: len(os.listdir("/proc/self/fd")) == fds - 4, "they are closed")
    # And not listened to any more, which would end each sleep at once.
    eventually(lambda: sampler.sleeps_long and sampler.status("State") == "S", "the sampler sleeps")
    sleeps = len(sampler.sleeps)
    sampler.wake()
    eventually(lambda: len(sampler.sleeps) > sleeps and sampler.status("State") == "S", "it sleeps again")
    assert len(sampler.sleeps) == sleeps + 1


def test_a_crossing_is_told_whatever_it_is_tuned_to(make: Maker) -> None:
    """Clients write, wait and are woken while it is tuned to something else all the time."""
    sampler = make(update_period_s=0.001)
    sampler.memory.pcp_pages = 100
    woken = sampler.notified = Woken()
    done = threading.Event()

    def reload() -> None:
        meanings = itertools.cycle((False, True))
        while not done.is_set():
            sampler.tune(_tuned(0.001, pcp_is_free=next(meanings)))
            eventually(lambda: not sampler._tunings or sampler.failures, "it is taken over")

    thread = threading.Thread(target=reload)
    thread.start()
    device = Device(sampler.table, sampler)
    try:
        for handle in range(1, 300):
            # With the per-CPU lists or without them: 500 is crossed by what moves, and by nothing else.
            sampler.memory.use(300 if handle % 2 else 600)
            device.write(sampler.fh, b"used 500")
            device.poll(sampler.fh, select.POLLIN, handle)
            seen = sampler.memory.plain_reads + sampler.memory.exact_reads
            eventually(
                lambda: sampler.memory.plain_reads + sampler.memory.exact_reads > seen + 2,  # noqa: B023 - at once
                "more samples",
            )
            assert len(woken) == handle - 1
            sampler.memory.use(600 if handle % 2 else 300)
            eventually(lambda: len(woken) == handle, "the waiter is woken")  # noqa: B023 - at once
    finally:
        done.set()
        thread.join(DEADLINE_S)
    assert woken == list(range(1, 300))


# How long a sleep may be


@pytest.mark.parametrize(("update_period_s", "slack_s"), [(0.9, 0.0), (8.0, 0.5), (3600.0, 4.0)])
def test_a_distant_sample_may_ride_on_another_wake_up(
    make: Maker, update_period_s: float, slack_s: float
) -> None:
    """From a second on a sixteenth of the sleep is slack; a shorter one has none, nor has a parked thread."""
    sampler = make(update_period_s=update_period_s, long_sleeps_end=True)
    sampler.write(THRESHOLD)
    eventually(lambda: sampler.sleeps_long, "the sampler sleeps")
    eventually(lambda: slack_s * 0.99 <= sampler.slack_s <= slack_s + 0.001, "the slack is set")
    sampler.write({})
    eventually(lambda: sampler.parked and sampler.slack_s <= 0.001, "there is none")


def test_slack_makes_a_sample_early_and_not_late(make: Maker, monkeypatch: pytest.MonkeyPatch) -> None:
    """A sample with slack is taken when that begins, in one sleep; with its end the interval is over."""
    clock = FakeClock()
    sampler = make(update_period_s=8.0, clock=clock, begin=False)
    sampler.write(THRESHOLD)
    timeouts: list[float | None] = []

    def sleep(poller: select.poll, timeout_s: float | None) -> set[int | None]:
        woken_by = Sampler._sleep(sampler, poller, 0 if timeout_s else None)
        timeouts.append(timeout_s)
        sampler._slack_s = 1.0
        clock.tick(7.0)
        sampler._stopping = len(timeouts) == 3
        return woken_by

    monkeypatch.setattr(sampler, "_sleep", sleep)
    sampler._loop()
    assert timeouts == [8.0, 8.0, 16.0]
    assert sampler.memory.plain_reads == 2


# Start and end


def test_signals_are_left_to_the_main_thread(make: Maker) -> None:
    """The thread takes no signals, and the one that starts it goes on taking them."""
    before = signal.pthread_sigmask(signal.SIG_SETMASK, {signal.SIGUSR2})
    try:
        sampler = make()
        assert signal.pthread_sigmask(signal.SIG_BLOCK, ()) == {signal.SIGUSR2}
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    blocked = int(sampler.status("SigBlk"), 16)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1):
        assert blocked >> (number - 1) & 1


def test_stop_waits_for_notify(make: Maker) -> None:
    """When stop returns, notify is not running and is not called any more."""
    sampler = make()
    happened: list[str] = []
    entered = threading.Event()

    def notify(_: "array[int]", _count: int) -> None:
        entered.set()
        eventually(lambda: sampler._stopping, "stop is called")
        happened.append("notified")

    sampler.notified = notify
    sampler.table.poll(sampler.fh, 9)
    sampler.write(THRESHOLD)
    sampler.memory.use(600)
    assert entered.wait(DEADLINE_S)
    thread = sampler.thread
    sampler.stop()
    happened.append("stopped")
    assert happened == ["notified", "stopped"]
    assert not thread.is_alive()


@pytest.mark.parametrize("thresholds", [{}, THRESHOLD])
def test_stop_ends_every_sleep_and_closes_everything(make: Maker, thresholds: dict[int, int]) -> None:
    """Whether it is parked or waits for a distant sample, it ends; all descriptors are closed."""
    before = sorted(os.listdir("/proc/self/fd"))
    sampler = make(
        update_period_s=3600.0,
        pressure_fd=os.eventfd(0),
        page_counters=(FakePageCounter(), FakePageCounter()),
    )
    sampler.write(thresholds)
    eventually(lambda: sampler.sleeps_long if thresholds else sampler.parked, "the sampler sleeps")
    sampler.stop()
    assert sorted(os.listdir("/proc/self/fd")) == before


def test_stop_before_start() -> None:
    """A sampler that was never started is cleared away all the same."""
    before = sorted(os.listdir("/proc/self/fd"))
    Watched().stop()
    assert sorted(os.listdir("/proc/self/fd")) == before


def test_a_file_that_cannot_be_read_for_once(make: Maker, caplog: pytest.LogCaptureFixture) -> None:
    """The kernel may have no memory for the text: it is said and tried again, and the thread lives on."""

    def fail() -> None:
        raise OSError(errno.ENOMEM, os.strerror(errno.ENOMEM))

    sampler = make(begin=False)
    woken = sampler.notified = Woken()
    sampler.table.poll(sampler.fh, 9)
    sampler.write(THRESHOLD)
    sampler.memory.before = [fail, fail]
    sampler.memory.use(600)
    sampler.begin()
    eventually(lambda: woken == [9], "the waiter is woken all the same")
    assert [record.levelname for record in caplog.records] == ["WARNING"] * 2
    assert sampler.failures == []


def test_a_failing_meter(caplog: pytest.LogCaptureFixture) -> None:
    """If the figures cannot be read the thread says so once, in the log and to its owner, and ends."""
    sampler = Watched()

    def fail() -> None:
        raise MemInfoError("no such figures")

    sampler.begin()
    sampler.write(THRESHOLD)
    sampler.memory.before = [fail] * 100
    thread = sampler.thread
    thread.join(DEADLINE_S)
    assert sampler.failures == ["sampler"]
    assert [record.getMessage() for record in caplog.records] == ["the thread sampler failed"]
    assert "MemInfoError: no such figures" in caplog.text
    sampler.stop()
    assert not thread.is_alive()
