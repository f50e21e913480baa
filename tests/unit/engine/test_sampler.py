# SPDX-License-Identifier: MIT
"""The sampler, step by step, with a fake memory and clock and without its thread."""

import os
import threading
from array import array
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from support.bench import Bench, Notify, sampling
from support.fakes import FakePageCounter, FakeReader
from support.levels import levels
from support.waiting import DEADLINE_S, eventually

from memnotify.abi.figures import PAGE_SIZE
from memnotify.engine.observer import NO_HANDLE, HandleBatch
from memnotify.engine.sampler import WakeSources
from memnotify.engine.table import Sample

PERIOD_S = 0.25
PARAMETERS = sampling(PERIOD_S, 16 * PERIOD_S, fill_rate_pages_s=1e-9)
USED = 1
# What a thread that waits for a lock is in: SYS_futex, on x86-64 and elsewhere.
FUTEX = {"x86_64": "202", "aarch64": "98"}.get(os.uname().machine, "98")


class SamplerBench(Bench[FakeReader]):
    """A sampler without its thread, on a table with one observer that waits."""

    def __init__(self, *, pcp_is_free: bool = True, notify: Notify | None = None, **parameters: Any) -> None:
        super().__init__(
            FakeReader(pcp_is_free=pcp_is_free), PARAMETERS._replace(**parameters), notify=notify
        )
        self.fh = self.table.open()

    def subscribe(self, used: int) -> None:
        """Set a threshold on ``used``, and wait with the handle 5."""
        self.table.subscribe(self.fh, levels({USED: used}), self.current())
        self.table.poll(self.fh, 5)

    def current(self) -> Sample:
        """Return the sample that a client's read uses."""
        return self.sampler.cached() or self.sampler.refresh()

    @property
    def reads(self) -> tuple[int, int]:
        """How often the reader was read, plain and exact."""
        return self.reader.plain_reads, self.reader.exact_reads

    def set_parameters(self, **changed: Any) -> None:
        """Set other parameters; the sampler takes them over in its next turn."""
        self.sampler.set_parameters(PARAMETERS._replace(**changed))
        self.sampler.turn()

    def event(self, used: int) -> bool:
        """Change ``used``, take a sample, and return whether an event is pending; acknowledge it."""
        self.reader.use(used)
        self.clock.tick(1)
        self.sampler.sample()
        event = self.table.poll(self.fh, NO_HANDLE)
        self.table.acknowledge(self.fh)
        return event


@pytest.fixture
def bench() -> Iterator[SamplerBench]:
    """Yield a bench, and close it at the end."""
    bench = SamplerBench()
    yield bench
    bench.sampler.stop()


# The figures of a client's read


def test_current_is_read_once_a_period(bench: SamplerBench) -> None:
    """Figures are used for one update_period; then they are read again."""
    first = bench.current()
    assert first == Sample(1000.0, bench.reader.figures, exact=True)
    bench.reader.use(200)
    bench.clock.tick(PERIOD_S)
    assert bench.current() is first
    bench.clock.tick(0.001)
    assert bench.current() == Sample(bench.clock(), bench.reader.figures, exact=True)
    assert bench.reads == (0, 2)


def test_current_takes_the_sampler_s_exact_figures(bench: SamplerBench) -> None:
    """A client gets the sampler's exact figures, never its plain ones."""
    bench.reader.pcp_pages = 30
    bench.subscribe(100)  # the next sample needs P: the threshold is armed down
    bench.clock.tick(1)
    bench.sampler.sample()
    assert bench.current() is bench.table.latest
    assert bench.reads == (1, 2)

    bench.subscribe(10_000)
    bench.clock.tick(1)
    bench.sampler.sample()
    assert not bench.table.latest.exact
    assert bench.table.latest.figures.used == 130
    assert bench.current().figures.used == 100


def test_current_after_an_event_is_no_older_than_it(bench: SamplerBench) -> None:
    """A client that reads after an event never gets figures from before the event."""
    bench.subscribe(500)
    cached = bench.current()
    bench.clock.tick(PERIOD_S / 2)
    bench.reader.use(600)
    bench.sampler.sample()
    assert bench.notified == [5]
    assert bench.clock() - cached.taken_s < PERIOD_S
    assert bench.current().figures.used == 600


def test_without_pcp_every_sample_is_exact() -> None:
    """Without pcp_is_free a client gets the figures of any sample."""
    bench = SamplerBench(pcp_is_free=False)
    bench.subscribe(500)
    bench.clock.tick(1)
    bench.sampler.sample()
    assert bench.table.latest.exact
    assert bench.current() is bench.table.latest
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
def test_p_is_read_if_it_can_matter(
    bench: SamplerBench, start: int, used: int, pcp_pages: int, exact_reads: int, *, event: bool
) -> None:
    """One sample with a threshold of 500: how often zoneinfo is read, and whether it fires."""
    bench.reader.use(start)
    bench.subscribe(500)
    before = bench.reader.exact_reads
    bench.clock.tick(1)
    bench.reader.use(used)
    bench.reader.pcp_pages = pcp_pages
    bench.sampler.sample()
    assert bench.reader.exact_reads - before == exact_reads
    assert bench.notified == ([5] if event else [])
    assert bench.table.poll(bench.fh, NO_HANDLE) is event


def test_what_the_lists_can_hold_is_read_again(bench: SamplerBench) -> None:
    """An exact reading follows a change of total, and a long time, even if no threshold is near."""
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
        bench.sampler.sample()
        assert bench.reader.exact_reads - before == exact_reads


def test_notify_runs_without_the_lock() -> None:
    """A client that is notified may use the table at once."""
    answers: list[bool] = []

    def notify(_: "array[int]", _count: int) -> None:
        answers.append(table.poll(fh, 6))
        table.close(table.open())

    bench = SamplerBench(notify=notify)
    table, fh = bench.table, bench.fh
    bench.subscribe(500)
    bench.reader.use(500)
    thread = threading.Thread(target=bench.sampler.sample, daemon=True)
    thread.start()
    thread.join(DEADLINE_S)
    assert answers == [True]
    bench.sampler.stop()


def test_no_handle_to_notify() -> None:
    """The event of an observer that does not wait causes no call of notify."""
    calls: list[int] = []
    bench = SamplerBench(notify=lambda _, count: calls.append(count))
    bench.table.subscribe(bench.fh, levels({USED: 500}), bench.current())
    bench.reader.use(500)
    bench.sampler.sample()
    assert bench.table.poll(bench.fh, NO_HANDLE)
    assert calls == []
    bench.sampler.stop()


class Gate:
    """A reading that stops in its thread until the test releases it."""

    def __init__(self) -> None:
        self.reached, self.opened = threading.Event(), threading.Event()

    def __call__(self) -> None:
        """Stop."""
        self.reached.set()
        assert self.opened.wait(DEADLINE_S)


def blocks(thread: threading.Thread) -> bool:
    """Return True if the kernel shows that a thread waits for a lock."""
    with open(f"/proc/self/task/{thread.native_id}/syscall", encoding="ascii") as file:
        return file.read().split()[0] == FUTEX


def test_samples_count_in_the_order_in_which_they_are_taken(bench: SamplerBench) -> None:
    """If two clients read during a sample, each reading waits for the one before."""
    bench.subscribe(500)
    bench.clock.tick(1)
    counted: list[int] = []
    advance = bench.table.advance

    def noted(sample: Sample, granularity_pages: int) -> tuple[HandleBatch, ...]:
        counted.append(sample.figures.used)
        return advance(sample, granularity_pages)

    bench.table.advance = noted  # type: ignore[method-assign]  # a note of what counts when
    gate = Gate()
    bench.reader.use(600)
    # A plain reading and an exact one; the sampler has 600 pages in hand.
    bench.reader.after = [lambda: None, gate]
    sampling_thread = threading.Thread(target=bench.sampler.sample)
    sampling_thread.start()
    assert gate.reached.wait(DEADLINE_S)
    bench.clock.tick(1)
    bench.reader.use(100)
    clients = [threading.Thread(target=bench.sampler.refresh) for _ in range(2)]
    for client in clients:
        client.start()
    eventually(
        lambda: len(counted) == 2 or all(blocks(client) for client in clients),
        "the clients wait, or are done",
    )
    gate.opened.set()
    for thread in (sampling_thread, *clients):
        thread.join(DEADLINE_S)
    # With 100 pages first, 600 would be taken for the present, and the client's next line for an event.
    assert counted == [600, 100, 100]
    assert bench.table.latest.figures.used == 100


def test_what_a_client_is_told_is_acknowledged_before_it_counts() -> None:
    """A client's own read that crosses makes its next event, which the read does not acknowledge."""
    happened: list[str] = []
    bench = SamplerBench(notify=lambda *_: happened.append("notified"))
    bench.subscribe(500)
    bench.clock.tick(1)
    bench.reader.use(600)

    def use(sample: Sample) -> None:
        assert bench.table.latest is not sample
        happened.append("told")
        bench.table.acknowledge_read(bench.fh, sample)

    assert bench.sampler.refresh(use).figures.used == 600
    assert happened == ["told", "notified"]
    assert bench.table.poll(bench.fh, NO_HANDLE)
    bench.sampler.stop()


HOSTILE, INNOCENT = 1 << 32 | 1001, 2 << 32 | 1002
FINISHES: dict[str, Callable[[SamplerBench], object]] = {
    "the sampler's next turn": lambda bench: bench.sampler.turn(),
    "the next sample": lambda bench: bench.sampler.sample(),
    "the next read": lambda bench: bench.sampler.refresh(),
    "the end of the threads": lambda bench: bench.sampler.settle(),
    "the end": lambda bench: bench.sampler.stop(),
}


@pytest.fixture
def crowd() -> Iterator[SamplerBench]:
    """Yield a bench with 200 waiting observers of one user, and after them one of another user."""
    bench = SamplerBench()
    for handle in (*range(1, 201), 1000):
        fh = bench.table.open(opener=INNOCENT if handle == 1000 else HOSTILE)
        bench.table.subscribe(fh, levels({USED: 500}), bench.current())
        bench.table.poll(fh, handle)
    bench.clock.tick(1)
    bench.reader.use(600)
    yield bench
    if not bench.sampler.worker._stopping:
        bench.sampler.stop()


@pytest.mark.parametrize("finish", FINISHES.values(), ids=FINISHES)
def test_a_read_at_which_many_fire(crowd: SamplerBench, finish: Callable[[SamplerBench], object]) -> None:
    """The thread that serves a read leaves a user's many observers to the sampler; each is notified once."""
    crowd.sampler.refresh()
    assert sorted(crowd.notified) == [*range(1, 65), 1000]
    assert {each.armed for each in crowd.table.threshold_counts() if each.figure == USED} == {0}
    crowd.clock.tick(1)
    finish(crowd)
    assert sorted(crowd.notified) == [*range(1, 201), 1000]
    assert [each.armed for each in crowd.table.threshold_counts() if each.figure == USED] == [0, 201]


@pytest.mark.parametrize("late", [False, True])
@pytest.mark.parametrize("early", [False, True])
def test_the_latency_of_a_read_at_which_many_fire(*, early: bool, late: bool) -> None:
    """It lasts until the last client was notified, and there is none if no client waits."""
    bench = SamplerBench()
    latencies = bench.sampler.latencies
    for number in range(1, 201):
        fh = bench.table.open(opener=HOSTILE)
        bench.table.subscribe(fh, levels({USED: 500}), bench.current())
        if (early and number == 1) or (late and number == 200):
            bench.table.poll(fh, number)
    bench.clock.tick(1)
    bench.reader.use(600)
    bench.sampler.refresh()
    assert sum(latencies.counts) == (early and not late)
    bench.clock.tick(1)
    bench.sampler.turn()
    assert sum(latencies.counts) == (early or late)
    assert latencies.total_s == (1 if late else 0)
    bench.sampler.stop()


@pytest.mark.parametrize("sample", ["refresh", "sample"])
def test_a_crossing_back_while_many_are_not_armed(crowd: SamplerBench, sample: str) -> None:
    """All fire again at the next figures, whichever thread reads them, though the sampler had no turn."""
    crowd.sampler.refresh()
    fhs = crowd.table.fhs()[1:]
    for fh in fhs:
        crowd.table.acknowledge(fh)
    crowd.reader.use(400)
    crowd.clock.tick(1)
    getattr(crowd.sampler, sample)()
    assert all(crowd.table.poll(fh, NO_HANDLE) for fh in fhs)


def test_a_reading_counts_whatever_its_use_does(bench: SamplerBench) -> None:
    """The observer may be closed in the meantime; its reading still counts for the others."""
    bench.subscribe(500)
    bench.clock.tick(1)
    bench.reader.use(600)
    with pytest.raises(KeyError):
        bench.sampler.refresh(lambda sample: bench.table.acknowledge_read(12345, sample))
    assert bench.notified == [5]


def test_a_client_is_told_a_percentage_of_the_total_it_reads(bench: SamplerBench) -> None:
    """A threshold that moved to the other side of the figure with total does not bind the reader."""
    bench.device.write(bench.fh, b"used 80%")
    bench.event(8000)
    bench.clock.tick(1)
    # 80 % of it are 7,840: what is told is above, as the last event was.
    bench.reader.figures = bench.reader.figures._replace(total=9_800, used=7_960)
    bench.device.read(bench.fh)
    assert not bench.table.poll(bench.fh, NO_HANDLE)
    assert bench.event(7_760)


def test_what_total_damps_binds_the_read_that_tells_it(bench: SamplerBench) -> None:
    """A level that is damped only since total changed binds the client that reads that total."""
    bench.device.write(bench.fh, b"used 80%")
    # Beyond the threshold by more than the damping of 78, so the level down is the threshold itself.
    bench.event(8_100)
    bench.clock.tick(1)
    # 8,080 now, and the level down is 8,100 + 1 - 78 at most.
    bench.reader.figures = bench.reader.figures._replace(total=10_100, used=8_060)
    assert b"used 8060" in bench.device.read(bench.fh)
    assert not bench.table.poll(bench.fh, NO_HANDLE)
    assert bench.event(9_000)


def test_no_event_from_before_the_write(bench: SamplerBench) -> None:
    """After a write by new figures the sampler compares no older ones."""
    bench.reader.use(400)
    bench.table.subscribe(bench.table.open(), levels({USED: 400}), bench.current())
    bench.clock.tick(1)
    gate = Gate()
    # The sampler has read 400 pages, plain and exact.
    bench.reader.after = [lambda: None, gate]
    sampling_thread = threading.Thread(target=bench.sampler.sample)
    sampling_thread.start()
    assert gate.reached.wait(DEADLINE_S)
    bench.clock.tick(1)
    bench.reader.use(600)
    writing = threading.Thread(target=bench.device.write, args=(bench.fh, b"used 500"))
    writing.start()
    eventually(lambda: not writing.is_alive() or blocks(writing), "the write waits, or is done")
    gate.opened.set()
    for thread in (sampling_thread, writing):
        thread.join(DEADLINE_S)
    assert not bench.event(600)


def test_each_sample_counts_for_the_interval(bench: SamplerBench) -> None:
    """Each sample counts for the interval to the next; the granularity is a 128th of total, 78 pages."""
    bench.subscribe(500)
    seen = []
    for used in (100, 100, 100, 177, 178, 178):
        bench.reader.use(used)
        bench.clock.tick(1)
        bench.sampler.sample()
        seen.append(bench.interval_s / PERIOD_S)
    assert seen == [1, 2, 4, 8, 1, 2]


def quiet(*counters: FakePageCounter) -> Bench[FakeReader]:
    """Return a bench with a level 400 pages above ``used``, after two samples of a memory that is still."""
    allocated, freed = counters
    bench = Bench(FakeReader(), sampling(), sources=WakeSources(page_counters=(allocated, freed)))
    bench.reader.pcp_limit_pages = 0
    bench.table.subscribe(bench.table.open(), levels({USED: 500}), bench.sampler.refresh())
    for _ in range(2):
        bench.clock.tick(10)
        bench.sampler.sample()
    return bench


@pytest.mark.parametrize(
    ("least_pages", "used", "waits"), [(0, 100, True), (0, 101, False), (500, 100, False)]
)
def test_the_second_sample_waits_for_page_counters(least_pages: int, used: int, *, waits: bool) -> None:
    """Not if a counter was armed again, which loses what passes meanwhile, nor if one cannot be armed."""
    counters = FakePageCounter(least_pages), FakePageCounter(least_pages)
    bench = quiet(*counters)
    bench.reader.use(used)
    bench.clock.tick(10)
    bench.sampler.sample(counter_fired=True)
    interval = bench.sampler.interval
    assert (interval.timer_s == interval.soonest_s) is not waits
    assert (interval.counter_s == interval.soonest_s) is waits
    bench.sampler.stop()


@pytest.mark.parametrize("early", [False, True])
def test_a_second_sample_where_a_counter_fired_early(*, early: bool) -> None:
    """Not long after the last sample, with little movement since, that alone says that memory may move."""
    counters = FakePageCounter(), FakePageCounter()
    bench = quiet(*counters)
    bench.clock.tick(0.1)
    counters[0].fired_early = early
    bench.sampler.sample(counter_fired=True)
    interval = bench.sampler.interval
    assert (interval.counter_s == interval.soonest_s) is early
    bench.sampler.stop()


@pytest.mark.parametrize(("threshold", "intervals"), [(500, [1, 2, 4, 8, 16]), (200, [1, 2, 4, 4, 4])])
def test_the_distance_bounds_the_interval(threshold: int, intervals: list[int]) -> None:
    """A level 400 pages away is reached in 4 s at 100 pages/s, one 100 pages away in 1 s."""
    bench = SamplerBench(fill_rate_pages_s=100)
    bench.subscribe(threshold)
    seen = []
    for _ in intervals:
        bench.clock.tick(bench.interval_s)
        bench.sampler.sample()
        seen.append(bench.interval_s / PERIOD_S)
    assert seen == intervals
    bench.sampler.stop()


@pytest.mark.parametrize(("update_space_kib", "falls_to"), [(0, 439), (20 * PAGE_SIZE // 1024, 491)])
def test_the_granularity_damps(update_space_kib: int, falls_to: int) -> None:
    """After an event the next needs a movement: by an eighth of 500, below 78, or by half of update_space."""
    bench = SamplerBench(update_space_kib=update_space_kib)
    bench.subscribe(500)
    assert [bench.event(used) for used in (500, falls_to, falls_to - 1)] == [True, False, True]
    bench.sampler.stop()


# Other parameters while it runs


def test_another_update_period(bench: SamplerBench) -> None:
    """A sample follows at once, the back-off begins again, and the period bounds the age of figures."""
    bench.subscribe(500)
    for _ in range(4):
        bench.event(100)
    assert bench.interval_s == 8 * PERIOD_S
    reads = bench.reader.plain_reads
    bench.set_parameters(update_period_s=0.1, max_update_period_s=0.4)
    assert bench.reader.plain_reads == reads + 1
    seen = [bench.interval_s]
    for _ in range(3):
        bench.event(100)
        seen.append(bench.interval_s)
    assert seen == [0.1, 0.2, 0.4, 0.4]
    sample = bench.current()
    bench.clock.tick(0.2)
    assert bench.current() is not sample


def test_another_fill_rate(bench: SamplerBench) -> None:
    """A level 400 pages away is in reach after 0.5 s at 800 pages/s, however long the interval was before."""
    bench.subscribe(500)
    for _ in range(5):
        bench.event(100)
    bench.set_parameters(fill_rate_pages_s=800)
    for _ in range(3):
        bench.event(100)
    assert bench.interval_s == 0.5


def test_the_last_parameters_count(bench: SamplerBench) -> None:
    """If parameters are set several times before the sampler's turn, the last ones count."""
    bench.subscribe(500)
    for update_period_s in (0.1, 0.2):
        bench.sampler.set_parameters(PARAMETERS._replace(update_period_s=update_period_s))
    bench.set_parameters(update_period_s=0.3)
    assert bench.interval_s == 0.3


def test_another_granularity(bench: SamplerBench) -> None:
    """It applies from the next event on; levels that are damped already stay."""
    bench.subscribe(500)
    assert bench.event(500)
    bench.set_parameters(update_space_kib=20 * PAGE_SIZE // 1024)  # 10 pages instead of 78
    assert [bench.event(used) for used in (439, 438, 499, 500, 491, 490)] == [False, True] * 3


def test_a_crossing_is_noticed_with_the_new_parameters(bench: SamplerBench) -> None:
    """The sample after a change of parameters notifies crossings since then, once."""
    bench.subscribe(500)
    bench.sampler.sample()
    bench.clock.tick(0.01)
    bench.reader.use(600)
    bench.set_parameters(update_space_kib=64)
    assert bench.notified == [5]
    bench.set_parameters(update_space_kib=0)
    assert bench.notified == [5]


def test_the_rate_outlives_the_parameters(bench: SamplerBench) -> None:
    """The seen rate survives a change of parameters: a near threshold is sampled often."""
    bench.subscribe(2000)
    bench.event(100)
    bench.event(1900)
    assert bench.interval_s < PERIOD_S
    bench.clock.tick(0.01)
    bench.set_parameters(max_update_period_s=8)
    assert bench.interval_s < PERIOD_S
