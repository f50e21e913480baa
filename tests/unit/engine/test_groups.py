# SPDX-License-Identifier: MIT
"""Thresholds on fake cgroups: events, lines, and when a cgroup is read."""

import errno
import logging
import math
import os
import random
import select
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    initialize,
    invariant,
    precondition,
    rule,
)
from support.bench import Bench, sampling
from support.fake_cgroups import FakeCgroup
from support.fakes import FakePageCounter, FakeReader
from support.model import Group, ModelObserver, understood
from support.strategies import granularities

from memnotify.abi.figures import NAMES, PAGE_SIZE
from memnotify.daemon.takeover import watched_groups
from memnotify.engine.observer import GroupSource
from memnotify.engine.sampler import WakeSources
from memnotify.engine.table import ObserverTable
from memnotify.kernel import cgroups
from memnotify.kernel.cgroups import CgroupUnavailableError
from memnotify.kernel.syscalls import FileWatches

CGROUP = len(NAMES)
TOTAL = 10_000
STEP_S = 0.005
# A step of the walk is as exactly as the truth is known, at both ends, and a turn follows each.
BOUND_S = 0.25 + 4 * STEP_S
WALKS = int(os.environ.get("MEMNOTIFY_WALKS", "10"))


class GroupBench(Bench[FakeReader]):
    """A device whose writer is in ``group``; None is the root."""

    def __init__(
        self,
        group: FakeCgroup | None,
        *,
        counters: bool = False,
        least_pages: int = 10,
        table: ObserverTable | None = None,
    ) -> None:
        self.counters = FakePageCounter(least_pages), FakePageCounter(least_pages)
        # The far distances of these tests take seconds, as on a machine.
        parameters = sampling(fill_rate_pages_s=10_000)
        sources = WakeSources(page_counters=self.counters) if counters else None
        super().__init__(FakeReader(total=TOTAL), parameters, sources=sources, table=table)
        self.reader.pcp_limit_pages = 0
        self.group = group
        self.device.find_group = self._find

    def _find(self, _pid: int) -> GroupSource | None:
        return self.group

    def subscribe(self, text: bytes) -> int:
        """Return the fh of an observer with these thresholds, which polls."""
        fh = self.device.open()
        self.device.write(fh, text)
        self.device.poll(fh, select.POLLIN, fh)
        return fh

    def event(self, fh: int) -> bool:
        """Return True if an event is pending."""
        return bool(self.device.poll(fh, select.POLLIN, fh) & select.POLLIN)

    def sample(self, seconds: float = 1.0) -> None:
        """Take a sample some time later."""
        self.clock.tick(seconds)
        self.sampler.sample()


@pytest.fixture
def group() -> FakeCgroup:
    return FakeCgroup(100, limit=1000)


@pytest.fixture
def bench(group: FakeCgroup) -> Iterator[GroupBench]:
    """Return a bench without page counters."""
    bench = GroupBench(group)
    yield bench
    bench.sampler.stop()


@pytest.fixture
def counting(group: FakeCgroup) -> Iterator[GroupBench]:
    """Return a bench with page counters."""
    bench = GroupBench(group, counters=True)
    yield bench
    bench.sampler.stop()


@pytest.mark.parametrize("gone", [False, True])
def test_restored(
    bench: GroupBench, group: FakeCgroup, monkeypatch: pytest.MonkeyPatch, *, gone: bool
) -> None:
    """Another process finds the cgroup by its number, or takes it as removed; what is crossed fires."""
    below = bench.subscribe(b"cgroup 80% used 90%")
    bench.clock.tick(1)
    group.value = 900
    above = bench.subscribe(b"cgroup 80%")
    saved = bench.table._saved
    monkeypatch.setattr(
        cgroups, "find_by_number", lambda keys: [cgroups.RemovedCgroup(*keys) if gone else group]
    )
    anew = GroupBench(group, table=ObserverTable(len(NAMES), saved))
    with watched_groups({group.key}, anew.table, anew.sampler) as groups:
        anew.sampler.refresh(lambda sample: anew.table.restore(sample, groups))
    # The first one has an event since the group was read for the other, before the restart.
    assert anew.event(below)
    assert anew.event(above) == gone
    assert b" cgroup " in anew.device.read(below)
    group.value, group.gone = 100, gone
    anew.sample()
    assert anew.event(above)
    anew.device.release(below)
    anew.device.release(above)
    assert anew.table.groups == {}
    anew.sampler.stop()


def test_readings_that_take_longer_than_memory_needs_to_a_level() -> None:
    """What passes meanwhile is counted, so they are not taken again and again."""
    bench = GroupBench(None, counters=True)

    class SlowCgroup(FakeCgroup):
        def read_current(self) -> int:
            bench.clock.tick(0.01)
            return super().read_current()

    groups = [SlowCgroup(100, limit=1000) for _ in range(50)]
    for bench.group in groups:
        bench.subscribe(b"cgroup 80%")
    for _ in range(3):
        bench.sample()
    assert bench.counters[0].armed_pages < math.inf
    bench.counters[0].count(math.ceil(bench.counters[0].armed_pages))
    bench.sampler.sample(counter_fired=True)
    reads = sum(group.current_reads for group in groups)
    for _ in range(5):
        bench.sample()
    assert sum(group.current_reads for group in groups) == reads
    groups[0].value = 900
    bench.counters[0].count(800)
    bench.sampler.sample(counter_fired=True)
    assert bench.notified
    bench.sampler.stop()


def test_both_directions(bench: GroupBench, group: FakeCgroup) -> None:
    fh = bench.subscribe(b"cgroup 80%")
    assert bench.device.read(fh) == b"total 10000 used 100 active 50 cgroup 100 cgroup_limit 1000\n"
    group.value = 800
    bench.sample()
    assert bench.notified == [fh]
    assert b" cgroup 800 " in bench.device.read(fh)
    assert not bench.event(fh)
    group.value = 700
    bench.sample()
    assert bench.event(fh)


def test_the_line_of_others(bench: GroupBench) -> None:
    """Only an observer with a threshold on a group reads the group's figures."""
    fh, other = bench.subscribe(b"cgroup 80%"), bench.subscribe(b"used 80%")
    assert b"cgroup" not in bench.device.read(other)
    bench.device.write(fh, b"used 80% cgroup 0")
    assert b"cgroup" not in bench.device.read(fh)
    assert not bench.table.groups


def test_beside_other_thresholds(bench: GroupBench, group: FakeCgroup) -> None:
    """One write sets all; each percentage is of its own limit."""
    fh = bench.subscribe(b"used 50% cgroup 50%")
    bench.reader.use(5000)
    bench.sample()
    assert bench.event(fh)
    bench.device.read(fh)
    group.value = 500
    bench.sample()
    assert bench.event(fh)


def test_the_root() -> None:
    """Its figure is ``used``, and its limit total."""
    bench = GroupBench(None)
    fh = bench.subscribe(b"cgroup 50% used 70%")
    assert bench.device.read(fh).endswith(b" cgroup 100 cgroup_limit 10000\n")
    bench.reader.use(5000)
    bench.sample()
    assert bench.event(fh)
    assert bench.device.read(fh).endswith(b" cgroup 5000 cgroup_limit 10000\n")
    bench.sampler.stop()


def test_what_cannot_be_had(bench: GroupBench, caplog: pytest.LogCaptureFixture) -> None:
    """The observer keeps its thresholds, and the log says why."""
    caplog.set_level(logging.INFO)
    fh = bench.subscribe(b"used 50%")

    def refuse(pid: int) -> None:
        raise CgroupUnavailableError(f"there is no cgroup v2 for {pid}")

    bench.device.find_group = refuse
    with pytest.raises(OSError, match="no cgroup v2 for 42") as refused:
        bench.device.write(fh, b"cgroup 50%", 42)
    assert refused.value.errno == errno.EOPNOTSUPP
    assert "no cgroup v2 for 42" in caplog.text
    bench.reader.use(5000)
    bench.sample()
    assert bench.event(fh)


@pytest.mark.parametrize(
    "text", [b"cgroup", b"cgroup x", b"cgroup 5 cgroup 6", b"Cgroup 5", b"cgroup_limit 5"]
)
def test_bad_input(bench: GroupBench, text: bytes, caplog: pytest.LogCaptureFixture) -> None:
    """It is refused; the log says why at the level DEBUG, as for every write that is not understood."""
    caplog.set_level(logging.DEBUG)
    with pytest.raises(OSError, match="understood") as refused:
        bench.device.write(bench.device.open(), text)
    assert refused.value.errno == errno.EINVAL
    assert [record.getMessage() for record in caplog.records if "EINVAL: " in record.getMessage()]


def test_above_100_percent(bench: GroupBench, group: FakeCgroup) -> None:
    """As for ``used`` it is accepted: memory.high, the limit, may be exceeded."""
    fh = bench.subscribe(b"cgroup 110%")
    group.value = 1100
    bench.sample()
    assert bench.event(fh)


def test_a_group_that_cannot_be_read(bench: GroupBench, group: FakeCgroup) -> None:
    """A failed reading crosses nothing; if the group was never read, the write fails."""
    fh = bench.subscribe(b"cgroup 80%")
    group.fails = True
    group.value = 900
    bench.sample()
    assert not bench.event(fh)
    assert b" cgroup 100 " in bench.device.read(fh)
    group.fails = False
    bench.sample()
    assert bench.event(fh)
    bench.group = FakeCgroup()
    bench.group.fails = True
    with pytest.raises(OSError, match="cannot be read") as refused:
        bench.device.write(fh, b"cgroup 80%")
    assert refused.value.errno == errno.EIO
    assert len(bench.table.groups) == 1


def test_a_group_that_cannot_be_read_after_many_fired(bench: GroupBench, group: FakeCgroup) -> None:
    """The reading that follows what many fired at fails: it is tried again each update_period."""
    fhs = [bench.subscribe(b"cgroup 80%") for _ in range(200)]
    bench.sample()
    group.value = 900
    bench.clock.tick(1)
    bench.device.read(fhs[0])
    group.fails = True
    for _ in range(3):
        bench.sample()
        assert bench.interval_s == bench.sampler._parameters.update_period_s
    for fh in fhs:
        bench.table.acknowledge(fh)
    group.fails, group.value = False, 100
    bench.sample()
    assert all(bench.event(fh) for fh in fhs)


def test_a_group_that_is_removed(bench: GroupBench, group: FakeCgroup) -> None:
    """Its value is 0 from then on; a later group with its name is another one."""
    group.value = 900
    fh = bench.subscribe(b"cgroup 80%")
    group.gone = True
    bench.sample()
    assert bench.event(fh)
    assert b" cgroup 0 cgroup_limit 1000\n" in bench.device.read(fh)
    bench.group = FakeCgroup(500, limit=2000)
    other = bench.subscribe(b"cgroup 30%")
    bench.group.value = 700
    bench.sample()
    assert bench.event(other)
    assert not bench.event(fh)


def test_a_limit_that_changes(bench: GroupBench, group: FakeCgroup) -> None:
    """A percentage follows the limit, or total if that is lower; a number of pages does not."""
    fh, pages = bench.subscribe(b"cgroup 50%"), bench.subscribe(b"cgroup 200")
    group.limit = 150
    bench.sample(16)
    assert bench.event(fh)
    assert not bench.event(pages)
    assert bench.device.read(fh).endswith(b" cgroup 100 cgroup_limit 150\n")
    group.limit = 20_000
    bench.sample(16)
    assert bench.event(fh)
    assert bench.device.read(fh).endswith(b" cgroup 100 cgroup_limit 10000\n")


def test_a_written_limit_is_followed_within_an_update_period(
    counting: GroupBench, group: FakeCgroup, tmp_path: Path
) -> None:
    """It needs no reading that is due; many writes cause one sample in each period."""
    limit = tmp_path / "memory.max"
    limit.touch()
    group.files.append(str(limit))
    fh = counting.subscribe(b"cgroup 50%")
    turn = counting.sampler.turn
    turn()
    counting.clock.tick(0.3)
    turn()
    assert counting.table.groups[group.key].due_s(0.1) > counting.clock() + 100
    group.limit = 150
    counting.clock.tick(0.01)
    samples = counting.sampler.samples
    for _ in range(3):
        limit.write_text("150")
        turn()
    assert not counting.event(fh)
    assert counting.sampler.samples == samples
    counting.clock.tick(0.25)
    turn()
    assert counting.event(fh)
    assert counting.sampler.samples == samples + 1
    assert counting.device.read(fh).endswith(b" cgroup 100 cgroup_limit 150\n")
    group.limit = 1000
    limit.write_text("1000")
    counting.clock.tick(0.25)
    turn()
    assert counting.event(fh)


def test_the_limits_of_groups_without_a_threshold_are_not_watched(bench: GroupBench, tmp_path: Path) -> None:
    fhs = []
    for number in range(20):
        limit = tmp_path / str(number)
        limit.touch()
        bench.group = FakeCgroup(100, limit=1000)
        bench.group.files.append(str(limit))
        fhs.append(bench.subscribe(b"cgroup 50%"))

    def watches() -> int:
        fd = bench.sampler._groups.fileno()  # type: ignore[union-attr] # there is one
        return Path(f"/proc/self/fdinfo/{fd}").read_text().count("inotify wd:")

    assert watches() == 20
    for fh in fhs[1:]:
        bench.device.release(fh)
    bench.sample()
    assert watches() == 1


def test_without_inotify_a_limit_is_read_with_the_stalest(
    group: FakeCgroup, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(_: FileWatches) -> None:
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr(FileWatches, "__init__", refuse)
    caplog.set_level(logging.INFO)
    bench = GroupBench(group)
    fh = bench.subscribe(b"cgroup 50%")
    assert "inotify: Too many open files" in caplog.text
    group.limit = 150
    bench.sample(16)
    assert bench.event(fh)
    bench.sampler.stop()


def test_observers_of_a_group_share_it(bench: GroupBench, group: FakeCgroup) -> None:
    """The group's descriptors are closed with its last observer."""
    bench.group = group
    one, other = bench.subscribe(b"cgroup 50%"), bench.subscribe(b"cgroup 60%")
    (watched,) = bench.table.groups.values()
    bench.device.write(one, b"cgroup 55%")
    assert list(bench.table.groups.values()) == [watched]
    bench.device.release(one)
    assert watched.source is group
    bench.device.write(other, b"")
    assert not bench.table.groups
    assert not bench.table.group_of
    assert watched.source is None


def test_what_a_read_told_binds(bench: GroupBench, group: FakeCgroup) -> None:
    """As for ``used``: g is 1,000 / 128 = 7 pages."""
    fh = bench.subscribe(b"cgroup 500")
    group.value = 500
    bench.sample()
    bench.device.read(fh)
    group.value = 497
    bench.sample()
    assert b" cgroup 497 " in bench.device.read(fh)
    assert not bench.event(fh)
    group.value = 504
    bench.sample()
    assert bench.event(fh)


def test_a_read_that_crosses_notifies_others(bench: GroupBench, group: FakeCgroup) -> None:
    one, other = bench.subscribe(b"cgroup 50%"), bench.subscribe(b"cgroup 60%")
    group.value = 700
    bench.clock.tick(1)
    bench.device.read(one)
    assert sorted(bench.notified) == [one, other]


def test_memory_stat_is_read_only_where_it_decides(bench: GroupBench, group: FakeCgroup) -> None:
    """It is not read while memory.current stays below; it is while page cache fills the group."""
    bench.subscribe(b"cgroup 800")
    exact = group.exact_reads
    for group.value in (200, 300, 400):
        bench.sample()
    assert group.exact_reads == exact
    assert group.current_reads > 3
    group.droppable = 600
    bench.sample()
    assert group.exact_reads == exact + 1


def test_a_group_far_away_is_not_read(bench: GroupBench, group: FakeCgroup) -> None:
    """700 pages take 70 ms at the rate; samples for others come sooner."""
    bench.subscribe(b"cgroup 800")
    bench.sample()
    reads = group.current_reads
    bench.sample(0.06)
    assert group.current_reads == reads
    bench.sample(0.02)
    assert group.current_reads == reads + 1


def test_page_counters_cover_a_group(counting: GroupBench, group: FakeCgroup) -> None:
    """The group is read when they have counted its distance from its level, and not before."""
    counting.subscribe(b"cgroup 800")
    counting.sample()
    reads = group.current_reads
    allocated, freed = counting.counters
    assert allocated.armed_pages + freed.armed_pages <= 700
    assert counting.interval_s >= 0.25
    for _ in range(5):
        counting.sample(2)
    assert group.current_reads == reads
    allocated.count(math.ceil(allocated.armed_pages))
    counting.clock.tick(10)
    counting.sampler.turn()
    assert group.current_reads == reads + 1


def test_what_lies_on_the_per_cpu_lists_counts(counting: GroupBench, group: FakeCgroup) -> None:
    """A group may grow by the pages on the lists without a counted allocation."""
    counting.reader.pcp_pages = 600
    counting.subscribe(b"cgroup 800")
    counting.sample()
    allocated, freed = counting.counters
    assert allocated.armed_pages + freed.armed_pages <= 100
    counting.reader.pcp_pages = 700
    counting.sample(16)
    assert counting.interval_s == 0.25
    reads = group.current_reads
    counting.sample()
    assert group.current_reads == reads + 1


def test_counters_for_used_and_for_a_group(counting: GroupBench) -> None:
    """The nearer one arms the counters; if a threshold on ``used`` is too near, the group does."""
    counting.subscribe(b"cgroup 800")
    counting.subscribe(b"used 400")
    counting.sample()
    allocated, _ = counting.counters
    assert allocated.armed_pages <= 300
    counting.subscribe(b"used 105")
    counting.sample()
    assert 300 < allocated.armed_pages <= 350


def test_a_new_threshold_on_a_covered_group(counting: GroupBench, group: FakeCgroup) -> None:
    """The threshold may be nearer than the pages that the counters are armed for."""
    counting.subscribe(b"cgroup 800")
    counting.sample()
    fh = counting.subscribe(b"cgroup 130")
    group.value = 130
    counting.sample(0.1)
    assert counting.event(fh)


def test_1000_idle_groups() -> None:
    """A sample reads only a few of them, in turn."""
    bench = GroupBench(None, counters=True)
    groups = [FakeCgroup(100, limit=5000) for _ in range(1000)]
    for bench.group in groups:
        bench.subscribe(b"cgroup 90%")
    bench.sample()
    started_s = time.process_time()
    before = sum(group.current_reads for group in groups)
    for _ in range(20):
        bench.sample(15)
    assert sum(group.current_reads for group in groups) - before == 20 * 64
    assert max(group.current_reads for group in groups) - min(group.current_reads for group in groups) <= 1
    # 20 samples in 300 s of the bench's time: 0.5 ms a second would be 150 ms.
    assert time.process_time() - started_s < 0.15
    bench.sampler.stop()


@pytest.mark.parametrize("seed", range(WALKS))
def test_nothing_lost_invented_or_late(seed: int) -> None:
    """Groups that move as fast as the counters say and no faster, while the machine's figures stand still."""
    chance = random.Random(seed)  # noqa: S311 - the same walk each time
    groups = [FakeCgroup(chance.randrange(4000), limit=5000) for _ in range(5)]
    bench = GroupBench(None, counters=True, least_pages=chance.choice((10, 200)))
    observers = {}
    for bench.group in groups:
        pages = chance.randrange(1, 5000)
        observers[bench.subscribe(b"cgroup %d" % pages)] = bench.group, pages
    above = {fh: group.value >= pages for fh, (group, pages) in observers.items()}

    def turns() -> None:
        late = dict.fromkeys(observers, 0.0)
        speeds = [0] * len(groups)
        for step in range(6000):
            if not step % 300:
                speeds = [chance.choice((0, 0, 1, -1, 20)) * chance.randrange(3) for _ in groups]
            for group, speed in zip(groups, speeds, strict=True):
                moved = max(0, min(5000, group.value + speed)) - group.value
                group.value += moved
                bench.counters[moved < 0].count(abs(moved))
            bench.clock.tick(STEP_S)
            bench.sampler.turn()
            for fh, (group, pages) in observers.items():
                if bench.event(fh):
                    above[fh] = not above[fh]
                    bench.table.acknowledge(fh)
                    bench.device.poll(fh, select.POLLIN, fh)
                # Damping: 5,000 / 128 = 39 pages, or less.
                wrong = abs(group.value - pages) if above[fh] != (group.value >= pages) else 0
                late[fh] = late[fh] + STEP_S if wrong > 39 else 0.0
                assert late[fh] <= BOUND_S

    # In a thread of its own: a turn sets the timer slack of its thread, which the tests must not keep.
    with ThreadPoolExecutor(1) as executor:
        try:
            executor.submit(turns).result()
        finally:
            bench.sampler.stop()


_pages = st.sampled_from((0, 1, *range(9, 15), 21, 30, 88, 100, 104, 112))
_values = st.sampled_from(("1", "9", "12", "30", "88", "104", "12%", "88%", "100%", "110%"))
_writes = st.dictionaries(st.sampled_from(("used", "cgroup")), _values, min_size=1).map(
    lambda values: " ".join(f"{name} {value}" for name, value in values.items()).encode()
)
_limits = st.sampled_from((None, 0, 12, 97, 100, 120))


class GroupMachine(RuleBasedStateMachine):
    """Add and remove groups, and write in any of them; each event must be the model's."""

    files: Bundle[int] = Bundle("files")

    @initialize(granularity=granularities)
    def begin(self, granularity: int) -> None:
        """Start a device."""
        self.granularity = granularity
        self.bench: Bench[FakeReader] = Bench(
            FakeReader(total=100), sampling(update_space_kib=2 * granularity * PAGE_SIZE // 1024 or 1)
        )
        self.model: dict[int, tuple[ModelObserver, FakeCgroup | None]] = {}
        self.groups = [FakeCgroup(10, limit=100), FakeCgroup(10)]

    def teardown(self) -> None:
        """End it."""
        self.bench.sampler.stop()

    def figures(self, group: FakeCgroup | None) -> Group:
        """Return a group's known value and limit; the limit of a removed group stays."""
        figures = self.bench.reader.figures
        if group is None:
            return figures.used, figures.total
        limit = self.known[group.key] if group.gone else group.limit
        return (0 if group.gone else group.value), figures.total if limit is None else min(
            limit, figures.total
        )

    @property
    def known(self) -> dict[object, int]:
        """The limits that the table knows, by key."""
        return {key: group.limit_pages for key, group in self.bench.table.groups.items()}

    @precondition(lambda self: len(self.model) < 3)
    @rule(target=files)
    def open(self) -> int:
        """Open."""
        fh = self.bench.device.open()
        self.model[fh] = ModelObserver(cgroup=CGROUP), None
        return fh

    @rule(fh=consumes(files))
    def close(self, fh: int) -> None:
        """Close."""
        self.bench.device.release(fh)
        del self.model[fh]

    @rule(fh=files, text=_writes, place=st.sampled_from((0, 0, 1, None)))
    def write(self, fh: int, text: bytes, place: int | None) -> None:
        """Write thresholds from a process in a group or in the root."""
        group = None if place is None else self.groups[place]

        def find(_pid: int) -> GroupSource | None:
            return group

        self.bench.device.find_group = find
        self.sample()
        # Figures of before may decide on which side a threshold is.
        self.bench.clock.tick(0.3)
        self.bench.device.write(fh, text)
        wanted = understood(text, (*NAMES, "cgroup"))
        assert wanted is not None
        observer, _ = self.model[fh]
        observer.write(wanted, self.bench.reader.figures, self.figures(group))
        self.model[fh] = observer, group

    @rule(fh=files)
    def read(self, fh: int) -> None:
        """Read the oldest figures that are allowed: they are the model's, and bind."""
        self.sample()
        self.bench.clock.tick(0.3)
        observer, group = self.model[fh]
        told = self.bench.device.read(fh)
        figures = self.bench.reader.figures
        if CGROUP in observer.thresholds:
            value, limit = self.figures(group)
            assert told == figures.line[:-1] + b" cgroup %d cgroup_limit %d\n" % (value, limit)
            observer.read(figures, self.granularity, (value, limit))
        else:
            assert told == figures.line
            observer.read(figures, self.granularity)

    @rule(used=_pages, value=_pages, place=st.sampled_from((0, 1)), droppable=_pages)
    def move(self, used: int, value: int, place: int, droppable: int) -> None:
        """Change the memory and a group."""
        self.bench.clock.tick(0.01)
        self.bench.reader.use(used)
        self.groups[place].value, self.groups[place].droppable = value, droppable

    @rule(limit=_limits, place=st.sampled_from((0, 1)))
    def limit(self, limit: int | None, place: int) -> None:
        """Change a limit, and let the table learn of it."""
        self.groups[place].limit = limit
        self.bench.clock.tick(16)
        self.sample()

    @rule(place=st.sampled_from((0, 1)), limit=_limits, value=_pages)
    def remove(self, place: int, limit: int | None, value: int) -> None:
        """Remove a group, and make another one in its place."""
        self.bench.clock.tick(16)
        self.sample()
        self.groups[place].gone = True
        self.groups[place] = FakeCgroup(value, limit=limit)
        self.bench.clock.tick(16)
        self.sample()

    @rule()
    def sample(self) -> None:
        """Take a sample: each crossing is pending, and nothing else."""
        self.bench.clock.tick(0.01)
        self.bench.sampler.sample()
        for observer, group in self.model.values():
            observer.see(self.bench.reader.figures, self.granularity)
            if CGROUP in observer.thresholds:
                observer.see_group(self.figures(group), self.granularity)

    @invariant()
    def pending(self) -> None:
        """Compare the pending events with the model; no group without a threshold is kept."""
        for fh, (observer, _) in self.model.items():
            assert bool(self.bench.device.poll(fh, select.POLLIN, 0) & select.POLLIN) == observer.pending
        watched = {
            group.key
            for observer, group in self.model.values()
            if group is not None and CGROUP in observer.thresholds
        }
        assert set(self.bench.table.groups) == watched


TestGroups = GroupMachine.TestCase
TestGroups.settings = settings(
    max_examples=int(os.environ.get("MEMNOTIFY_EXAMPLES", "40")), stateful_step_count=40
)
