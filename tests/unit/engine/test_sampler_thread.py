# SPDX-License-Identifier: MIT
"""The sampler's thread: when it sleeps, what wakes it, how it ends."""

import itertools
import logging
import math
import os
import select
import signal
import socket
import threading
from array import array
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import pytest
from support.bench import Bench, Notify, sampling
from support.fakes import FakeClock, FakePageCounter, FakeReader, RealClock
from support.levels import levels
from support.waiting import DEADLINE_S, eventually

from memnotify.engine.sampler import Timing, WakeSources, poll
from memnotify.engine.schedule import SamplingParameters
from memnotify.engine.table import ObserverTable
from memnotify.kernel.meminfo import MemInfoError
from memnotify.kernel.psi import PressureTrigger

USED = 1
THRESHOLD = {USED: 500}
LONG_S = 0.1


class ThreadBench(Bench[FakeReader]):
    """A sampler with its thread, one observer, and a note of each sleep.

    A sleep of more than LONG_S ends by a wake-up only, so that no test passes because time did; unless
    ``long_sleeps_end``. The first ``skips`` sleeps end at once, the clock being moved to their end. If
    ``flooded``, each sleep is ended by a wake-up as soon as it begins.
    """

    def __init__(
        self,
        parameters: SamplingParameters | None = None,
        *,
        table: ObserverTable | None = None,
        sources: WakeSources | None = None,
        clock: FakeClock | None = None,
        long_sleeps_end: bool = False,
        skips: int = 0,
    ) -> None:
        clock = clock or RealClock()
        super().__init__(
            FakeReader(),
            sampled_each() if parameters is None else parameters,
            table=table,
            notify=self._notify,
            sources=sources,
            timing=Timing(clock, self._wait),
        )
        self.clock = clock
        self.fh = self.table.open()
        self.notify: Notify = self.notified
        self.flooded = False
        self.failures: list[str] = []
        self.sleeps: list[float | None] = []
        self.stopped = False
        self._long_s = threading.TIMEOUT_MAX if long_sleeps_end else LONG_S
        self._skips = skips

    def begin(self) -> None:
        """Start the thread."""
        self.sampler.worker.start(lambda: self.failures.append(threading.current_thread().name))

    def stop(self) -> None:
        """Stop the sampler."""
        self.stopped = True
        self.sampler.stop()

    def write(self, thresholds: dict[int, int], fh: int | None = None) -> None:
        """Do what a client's write does."""
        sample = self.sampler.cached() or self.sampler.refresh()
        self.table.subscribe(self.fh if fh is None else fh, levels(thresholds), sample)

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
        assert self.sampler.worker._thread is not None
        return self.sampler.worker._thread

    def status(self, name: str) -> str:
        """Return what the kernel says of the thread."""
        with open(f"/proc/self/task/{self.thread.native_id}/status", encoding="ascii") as file:
            return next(line.split()[1] for line in file if line.startswith(f"{name}:"))

    @property
    def slack_s(self) -> float:
        """The thread's timer slack."""
        with open(f"/proc/{self.thread.native_id}/timerslack_ns", encoding="ascii") as file:
            return int(file.read()) / 1e9

    def samples(self, more: int = 1) -> None:
        """Wait until some more samples have been begun."""
        wanted = self.reader.plain_reads + more
        eventually(lambda: self.reader.plain_reads >= wanted, f"{more} more samples")

    def _notify(self, handles: "array[int]", count: int) -> None:
        self.notify(handles, count)

    def _wait(self, poller: select.poll, timeout_s: float | None) -> list[tuple[int, int]]:
        self.sleeps.append(timeout_s)
        if timeout_s and self._skips:
            self._skips -= 1
            self.clock.tick(timeout_s)
            return poller.poll(0)
        if self.flooded:
            self.sampler.worker.wake()
        return poll(poller, None if (timeout_s or 0) > self._long_s else timeout_s)


def sampled_each(update_period_s: float = 0.001) -> SamplingParameters:
    """Return parameters with which no threshold is ever near: these tests are about the back-off."""
    return sampling(update_period_s, 36_000.0, fill_rate_pages_s=1e-30)


Maker = Callable[..., ThreadBench]


@pytest.fixture
def make() -> Iterator[Maker]:
    """Return a function that starts a sampler; end the samplers, which must not have failed."""
    made: list[ThreadBench] = []

    def maker(update_period_s: float = 0.001, *, begin: bool = True, **options: Any) -> ThreadBench:
        made.append(ThreadBench(sampled_each(update_period_s), **options))
        if begin:
            made[-1].begin()
        return made[-1]

    yield maker
    for bench in made:
        if not bench.stopped:
            bench.stop()
        assert bench.failures == []


# Sleep


def test_nothing_runs_without_thresholds(make: Maker) -> None:
    """While another sampler takes a hundred samples, one without thresholds does not wake."""
    idle, busy = make(), make()
    eventually(lambda: idle.parked and idle.status("State") == "S", "the sampler is asleep")
    before = int(idle.status("voluntary_ctxt_switches"))
    for _ in range(100):
        busy.write(THRESHOLD)
        busy.samples()
    # One or two if it had not quite fallen asleep
    assert int(idle.status("voluntary_ctxt_switches")) - before <= 2
    assert idle.sleeps == [None]
    assert idle.reader.plain_reads + idle.reader.exact_reads == 0


def test_from_the_first_threshold_to_the_last(make: Maker) -> None:
    """The first threshold ends the sleep, and the removal of the last one begins it."""
    # A threshold that ends just when a sleep begins costs one more sample, at the end of that sleep.
    bench = make(long_sleeps_end=True)
    other = bench.table.open()
    for _ in range(3):
        eventually(lambda: bench.parked, "the sampler sleeps")
        bench.write(THRESHOLD)
        bench.samples(2)
        bench.write({0: 7}, other)
        bench.write({})
        bench.samples(2)
        assert not bench.parked
        bench.write({}, other)
    eventually(lambda: bench.parked, "the sampler sleeps again")


def test_the_last_threshold_ends_a_long_sleep(make: Maker) -> None:
    """The thread does not wait for a distant sample that no observer needs any more."""
    bench = make(update_period_s=3600.0)
    bench.write(THRESHOLD)
    eventually(lambda: bench.sleeps_long, "the sampler waits for its next sample")
    bench.write({})
    eventually(lambda: bench.parked, "the sampler sleeps")
    assert bench.reader.plain_reads == 0


def test_a_new_threshold_ends_a_long_interval(make: Maker) -> None:
    """While figures do not change the interval grows; a write restores the shortest one at once."""
    bench = make()
    for _ in range(3):
        # Before the write: the sampler may be through with all samples when it returns.
        wanted = bench.reader.plain_reads + 6
        bench.write(THRESHOLD)
        eventually(lambda: bench.reader.plain_reads >= wanted, "6 more samples")  # noqa: B023 - called here
        eventually(lambda: bench.sleeps_long, "the interval grows")
    # Each sleep ended by a sample, except one or two that each write ended: nothing spins.
    assert len(bench.sleeps) <= bench.reader.plain_reads + 2 * 3 + 1


class Interleaved(ObserverTable):
    """A table that calls a function when the sampler has seen that there are no thresholds."""

    at_the_moment: Callable[[], None] | None = None

    @property
    def watching(self) -> bool:
        """Return True if any observer has a threshold; after a False the function may set one."""
        watching = super().watching
        if not watching and self.at_the_moment and threading.current_thread().name == "sampler":
            call, self.at_the_moment = self.at_the_moment, None
            call()
        return watching


def test_a_threshold_set_while_falling_asleep(make: Maker) -> None:
    """A write between the thread's look at the thresholds and its sleep is sampled."""
    table = Interleaved()
    bench = make(table=table, long_sleeps_end=True)
    before: list[int] = []

    def write_now() -> None:
        before.append(bench.reader.plain_reads)
        bench.write(THRESHOLD)

    for times in range(1, 11):
        bench.write(THRESHOLD)
        bench.samples()
        table.at_the_moment = write_now
        bench.write({})
        eventually(lambda: len(before) == times, "the sampler sees that there are no thresholds")  # noqa: B023 - at once
        eventually(lambda: bench.reader.plain_reads > before[-1], "the new threshold is sampled")


def test_a_threshold_set_while_a_long_interval_begins(make: Maker) -> None:
    """If a write comes while the thread computes a long sleep, the sleep is short."""
    moments: list[Callable[[], None]] = []

    class WritingClock(RealClock):
        """A clock at whose reading, once the interval has grown, a write comes."""

        def __call__(self) -> float:
            """Return the time."""
            if moments and threading.current_thread().name == "sampler" and bench.interval_s > LONG_S:
                moments.pop()()
            return super().__call__()

    bench = make(begin=False, clock=WritingClock())
    moments.append(lambda: bench.write(THRESHOLD))
    bench.write(THRESHOLD)
    bench.begin()
    eventually(lambda: not moments and bench.sleeps_long, "the interval grows")
    grown = bench.reader.plain_reads
    # Eight readings double one millisecond to more than LONG_S, and after the write the same again.
    eventually(lambda: bench.reader.plain_reads >= 14, f"more samples than {grown}, after the write")


def test_wake_ups_do_not_starve_sampling(make: Maker) -> None:
    """A sample is taken when it is due, however often the thread is woken."""
    bench = make(update_period_s=0.02)
    bench.flooded = True
    bench.write(THRESHOLD)
    bench.samples(3)
    # It was indeed woken again and again before each of them.
    assert len(bench.sleeps) > 30


@pytest.mark.parametrize("thresholds", [{}, THRESHOLD])
def test_check_alive_causes_no_sample(make: Maker, thresholds: dict[int, int]) -> None:
    """The thread is alive at each check, parked or waiting, and takes no sample."""
    bench = make(update_period_s=3600.0)
    bench.write(thresholds)
    for _ in range(5):
        eventually(bench.sampler.worker.check_alive, "it answers")
    assert bench.reader.plain_reads == 0


def test_a_thread_that_hangs_does_not_answer(make: Maker) -> None:
    """During a sample that hangs the thread is not alive, however often it is checked."""
    begun, end = threading.Event(), threading.Event()

    def hang() -> None:
        begun.set()
        end.wait(DEADLINE_S)

    bench = make(begin=False)
    bench.write(THRESHOLD)
    bench.reader.before = [hang]
    bench.begin()
    assert begun.wait(DEADLINE_S)
    bench.sampler.worker.check_alive()
    assert not any(bench.sampler.worker.check_alive() for _ in range(100))
    end.set()
    eventually(bench.sampler.worker.check_alive, "it answers")


def test_crossings_are_noticed(make: Maker) -> None:
    """The thread notices each crossing and notifies the handle."""
    bench = make(update_period_s=0.005)
    woken = bench.notified
    bench.write(THRESHOLD)
    for handle, used in enumerate((600, 100, 600), start=1):
        bench.table.poll(bench.fh, handle)
        bench.table.acknowledge(bench.fh)
        bench.write(THRESHOLD)
        bench.reader.use(used)
        eventually(lambda: len(woken) == handle, f"the waiter is woken at {used}")  # noqa: B023 - at once
    assert woken == [1, 2, 3]


# Pressure


def urgent() -> tuple[socket.socket, socket.socket]:
    """Return two ends of a connection: out-of-band data sent to the second make it ready for POLLPRI."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        near = socket.create_connection(server.getsockname())
        far, _ = server.accept()
    return near, far


def test_pressure_causes_a_sample_at_once(make: Maker) -> None:
    """Memory pressure ends the longest sleep, and the interval begins again."""
    near, far = urgent()
    with near, far:
        sources = WakeSources(PressureTrigger(os.dup(far.fileno()), 2.0))
        bench = make(update_period_s=3600.0, sources=sources, begin=False, skips=3)
        woken = bench.notified
        bench.table.poll(bench.fh, 9)
        bench.write({USED: 150})
        bench.begin()
        eventually(lambda: len(bench.sleeps) == 4, "the interval has doubled twice, and the sampler sleeps")
        assert bench.interval_s == 4 * 3600
        # Less than the granularity: it is not the movement that brings the shortest interval back.
        bench.reader.use(150)

        def receive() -> None:
            far.recv(1, socket.MSG_OOB)

        bench.reader.before = [receive]
        # So much later that no rate can be seen since then.
        bench.clock.tick(1e6)
        near.send(b"!", socket.MSG_OOB)
        eventually(lambda: woken == [9], "the waiter is woken")
        eventually(lambda: len(bench.sleeps) == 5, "the sampler sleeps again")
        assert bench.interval_s == 3600
        assert 3500 < (bench.sleeps[-1] or 0) <= 3600


def test_a_broken_pressure_fd_is_dropped(make: Maker, caplog: pytest.LogCaptureFixture) -> None:
    """A trigger that reports an error would do so for ever: one warning, then the timer alone counts."""
    read_end, write_end = os.pipe()
    os.close(read_end)  # the other end now polls POLLERR, whatever is asked for
    with caplog.at_level(logging.WARNING):
        bench = make(sources=WakeSources(PressureTrigger(write_end, 2.0)))
        bench.write(THRESHOLD)
        eventually(lambda: bench.sleeps_long, "the sampler samples by the timer, and sleeps")
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "pressure" in caplog.text
    assert bench.sampler.pressure_window_s is None


# Page counters


class Counted(NamedTuple):
    """A sampler that sleeps for an hour, and its page counters."""

    bench: ThreadBench
    allocated: FakePageCounter
    freed: FakePageCounter


@pytest.fixture
def counted(make: Maker) -> Counted:
    """Return a sampler with thresholds 400 pages above ``used`` and 51 below."""
    page_counters = FakePageCounter(), FakePageCounter()
    bench = make(
        update_period_s=3600.0,
        sources=WakeSources(page_counters=page_counters),
        begin=False,
        long_sleeps_end=True,
        skips=1,
    )
    bench.reader.pcp_limit_pages = 0
    bench.table.poll(bench.fh, 9)
    bench.write(THRESHOLD)
    below = bench.table.open()
    bench.table.poll(below, 8)
    bench.write({USED: 50}, below)
    bench.begin()
    eventually(lambda: len(bench.sleeps) == 2, "the sampler sleeps after a sample")
    return Counted(bench, *page_counters)


@pytest.mark.parametrize(
    ("which", "pages", "used", "handle"), [("allocated", 400, 500, 9), ("freed", 51, 49, 8)]
)
def test_a_page_counter_causes_a_sample_at_once(
    counted: Counted, which: str, pages: int, used: int, handle: int
) -> None:
    """Enough pages have passed for the threshold to be reached: the longest sleep ends."""
    bench = counted.bench
    counter: FakePageCounter = getattr(counted, which)
    assert counter.armed_pages == pages
    bench.sampler._interval = bench.sampler._interval._replace(counter_s=0.0, expected_s=0.0)
    bench.reader.use(used)
    counter.count(pages - 1)
    assert bench.notified == []
    counter.count(1)
    eventually(lambda: bench.notified == [handle], "the waiter is woken")
    eventually(lambda: not select.select([counter], [], [], 0)[0], "the counter is drained")
    assert counter.rests == 0


def test_samples_often_while_page_counters_are_opened(counted: Counted) -> None:
    """Nothing else announces a threshold meanwhile, and each sample opens a part of them."""
    bench, counter, _ = counted
    counter.to_open, sleeps = 3, len(bench.sleeps)
    bench.sampler.set_parameters(bench.sampler._parameters._replace())
    eventually(lambda: counter.armed_pages == 400, "the counter is armed again")
    eventually(lambda: len(bench.sleeps) >= sleeps + 5, "the sampler sleeps after that")
    shortest_s = bench.sampler._parameters.min_update_period_s
    planned = bench.sleeps[sleeps + 1 : sleeps + 5]
    assert all(0 <= (slept_s or math.inf) <= shortest_s for slept_s in planned[:3])
    assert (planned[3] or 0) > shortest_s


def test_a_page_counter_that_fires_too_early_waits(counted: Counted) -> None:
    """Before the threshold can be in reach a page counter does not cause a sample; it wakes once."""
    bench, counter, _ = counted
    # Less than the slack of the sleep that it ends, which is no reason for a sample either.
    bench.sampler._interval = bench.sampler._interval._replace(counter_s=3.5, expected_s=3.5)
    reads, sleeps = bench.reader.plain_reads, len(bench.sleeps)
    counter.count(400)
    eventually(lambda: len(bench.sleeps) > sleeps, "the sampler sleeps until then")
    assert 0 < (bench.sleeps[-1] or 0) <= 3.5
    assert counter.rests == 1
    bench.sampler.worker.wake()
    eventually(lambda: len(bench.sleeps) == sleeps + 2, "it sleeps again")
    assert bench.reader.plain_reads == reads


def test_a_page_counter_that_fires_too_early_for_the_first_time(counted: Counted) -> None:
    """Memory may move faster than it was seen to: a sample follows after ``min_update_period``."""
    bench, counter, _ = counted
    bench.sampler._interval = bench.sampler._interval._replace(counter_s=3000.0, expected_s=3000.0)
    counter.patient = True
    bench.reader.use(500)
    counter.count(400)
    eventually(lambda: bench.notified == [9], "the waiter is woken")


def test_a_page_counter_that_fires_early_again_rests(counted: Counted) -> None:
    """It does so although the sample that is to measure how fast memory moves is due."""
    bench, counter, _ = counted
    bench.sampler._interval = bench.sampler._interval._replace(counter_s=0.0, expected_s=3000.0)
    bench.reader.use(500)
    counter.count(400)
    eventually(lambda: bench.notified == [9], "the waiter is woken")
    assert counter.rests == 1


def test_nothing_is_counted_without_thresholds(counted: Counted) -> None:
    """A sampler that parks disarms its page counters."""
    bench = counted.bench
    assert (counted.allocated.armed_pages, counted.freed.armed_pages) == (400, 51)
    bench.write({})
    bench.write({}, bench.fh + 1)
    eventually(lambda: bench.parked, "the sampler parks")
    assert (counted.allocated.armed_pages, counted.freed.armed_pages) == (math.inf, math.inf)


# Other parameters


def test_other_parameters_end_a_long_sleep(make: Maker) -> None:
    """A sample follows at once, and the next ones at the new interval."""
    bench = make(update_period_s=3600.0)
    bench.table.poll(bench.fh, 9)
    bench.write(THRESHOLD)
    eventually(lambda: bench.sleeps_long, "the sampler sleeps")
    bench.reader.use(600)
    bench.sampler.set_parameters(sampled_each(0.001))
    eventually(lambda: bench.notified == [9], "the waiter is woken")
    bench.samples(3)


def test_other_parameters_while_it_is_parked(make: Maker) -> None:
    """The sampler takes them over and goes on sleeping; they apply to the next threshold."""
    bench = make()
    eventually(lambda: bench.parked, "the sampler sleeps")
    bench.sampler.set_parameters(sampled_each(3600.0))
    eventually(lambda: len(bench.sleeps) == 2, "they are taken over")
    assert bench.parked
    bench.write(THRESHOLD)
    eventually(lambda: bench.sleeps_long, "the sampler waits for its next sample")
    assert bench.reader.plain_reads == 0


def test_a_crossing_is_noticed_whatever_the_parameters_are(make: Maker) -> None:
    """Clients write, wait and are woken while the parameters change continuously."""
    bench = make()
    woken = bench.notified
    done = threading.Event()

    def reload() -> None:
        for update_period_s in itertools.cycle((0.001, 0.002)):
            parameters = sampled_each(update_period_s)
            bench.sampler.set_parameters(parameters)
            eventually(
                lambda: bench.sampler._schedule.parameters is parameters or bench.failures,  # noqa: B023 - at once
                "they are taken over",
            )
            if done.is_set():
                break

    thread = threading.Thread(target=reload)
    thread.start()
    try:
        for handle in range(1, 300):
            bench.reader.use(300 if handle % 2 else 600)
            bench.device.write(bench.fh, b"used 500")
            bench.device.poll(bench.fh, select.POLLIN, handle)
            bench.samples(2)
            assert len(woken) == handle - 1
            bench.reader.use(600 if handle % 2 else 300)
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
    """A sleep of a second or more has a sixteenth of slack; a shorter one and a parked thread have none."""
    bench = make(update_period_s=update_period_s, long_sleeps_end=True)
    bench.write(THRESHOLD)
    eventually(lambda: bench.sleeps_long, "the sampler sleeps")
    eventually(lambda: slack_s * 0.99 <= bench.slack_s <= slack_s + 0.001, "the slack is set")
    bench.write({})
    eventually(lambda: bench.parked and bench.slack_s <= 0.001, "there is none")


def test_slack_makes_a_sample_early_and_not_late(make: Maker) -> None:
    """A sample with slack takes one sleep, which ends within the slack."""
    bench = make(update_period_s=8.0, clock=FakeClock(), begin=False, skips=2)
    bench.write(THRESHOLD)
    bench.begin()
    eventually(lambda: len(bench.sleeps) == 3, "the sampler has slept twice")
    assert bench.sleeps == [7.5, 7.5, 15.0]
    assert bench.reader.plain_reads == 2


# Start and end


def test_signals_are_left_to_the_main_thread(make: Maker) -> None:
    """The thread takes no signals, and the one that starts it goes on taking them."""
    before = signal.pthread_sigmask(signal.SIG_SETMASK, {signal.SIGUSR2})
    try:
        bench = make()
        assert signal.pthread_sigmask(signal.SIG_BLOCK, ()) == {signal.SIGUSR2}
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    blocked = int(bench.status("SigBlk"), 16)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1):
        assert blocked >> (number - 1) & 1


def test_stop_waits_for_notify(make: Maker) -> None:
    """When stop returns, notify is not running and is not called any more."""
    bench = make()
    happened: list[str] = []
    entered = threading.Event()

    def notify(_: "array[int]", _count: int) -> None:
        entered.set()
        eventually(lambda: bench.sampler.worker._stopping, "stop is called")
        happened.append("notified")

    bench.notify = notify
    bench.table.poll(bench.fh, 9)
    bench.write(THRESHOLD)
    bench.reader.use(600)
    assert entered.wait(DEADLINE_S)
    thread = bench.thread
    bench.stop()
    happened.append("stopped")
    assert happened == ["notified", "stopped"]
    assert not thread.is_alive()


@pytest.mark.parametrize("thresholds", [{}, THRESHOLD])
def test_stop_ends_every_sleep_and_closes_everything(make: Maker, thresholds: dict[int, int]) -> None:
    """A parked or waiting thread ends; all descriptors are closed."""
    before = sorted(os.listdir("/proc/self/fd"))
    bench = make(
        update_period_s=3600.0,
        sources=WakeSources(PressureTrigger(os.eventfd(0), 2.0), (FakePageCounter(), FakePageCounter())),
    )
    bench.write(thresholds)
    eventually(lambda: bench.sleeps_long if thresholds else bench.parked, "the sampler sleeps")
    bench.stop()
    assert sorted(os.listdir("/proc/self/fd")) == before


def test_observers_are_closed_after_stop(make: Maker) -> None:
    """The last threshold goes after the sampler has ended: its descriptors are closed, and none is used."""
    bench = make(update_period_s=3600.0)
    bench.write(THRESHOLD)
    eventually(lambda: bench.sleeps_long, "the sampler waits for its next sample")
    bench.stop()
    bench.table.close(bench.fh)
    assert not bench.table.watching


def test_stop_before_start() -> None:
    """A sampler that was never started closes its descriptors."""
    before = sorted(os.listdir("/proc/self/fd"))
    ThreadBench().stop()
    assert sorted(os.listdir("/proc/self/fd")) == before


def test_a_file_that_cannot_be_read_for_once(make: Maker, caplog: pytest.LogCaptureFixture) -> None:
    """If the kernel has no memory for the text, the failure is logged, and the thread tries again."""

    def fail() -> None:
        raise MemInfoError("no memory for the text")

    bench = make(begin=False)
    woken = bench.notified
    bench.table.poll(bench.fh, 9)
    bench.write(THRESHOLD)
    bench.reader.before = [fail, fail]
    bench.reader.use(600)
    bench.begin()
    eventually(lambda: woken == [9], "the waiter is woken")
    assert [record.levelname for record in caplog.records] == ["WARNING"] * 2
    assert bench.failures == []


def test_a_thread_that_fails(caplog: pytest.LogCaptureFixture) -> None:
    """An error of the program is logged once, on_failure is called, and the thread ends."""
    bench = ThreadBench()

    def fail() -> None:
        raise RuntimeError("no such thing")

    try:
        bench.write(THRESHOLD)
        bench.reader.before = [fail]
        bench.begin()
        thread = bench.thread
        thread.join(DEADLINE_S)
        assert bench.failures == ["sampler"]
        assert [record.getMessage() for record in caplog.records] == ["the thread sampler failed"]
        assert "RuntimeError: no such thing" in caplog.text
        assert not thread.is_alive()
    finally:
        bench.stop()
