# SPDX-License-Identifier: MIT
"""Page counters on this kernel, with real allocations."""

import errno
import logging
import math
import mmap
import os
import re
import select
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, ClassVar

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.require import unavailable

from memnotify.kernel import page_counters
from memnotify.kernel.meminfo import MemInfoReader
from memnotify.kernel.page_counters import (
    ALLOCATED,
    DRAINED,
    EVERY_ALLOCATION,
    FREED,
    PageCounter,
    open_page_counters,
)
from memnotify.kernel.syscalls import Tracepoint, TracepointCounter, tracepoint

CHUNK_PAGES = 256
CHUNK = CHUNK_PAGES * mmap.PAGESIZE
PRIVATE = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
MAP_POPULATE = 0x8000


def is_ready(counter: PageCounter) -> bool:
    """Return True if the counter polls ready."""
    return bool(select.select([counter], [], [], 0)[0])


@pytest.fixture
def counter() -> Iterator[PageCounter]:
    """Return a counter for what is allocated, armed for nothing."""
    try:
        counter = PageCounter(ALLOCATED)
    except OSError as error:
        unavailable(
            f"allocations cannot be counted here ({error}): run as root, on a kernel with kmem tracepoints"
        )
    yield counter
    counter.close()


def fault(_: int) -> mmap.mmap:
    """Take a chunk page by page."""
    memory = mmap.mmap(-1, CHUNK, flags=PRIVATE)
    memory.madvise(mmap.MADV_NOHUGEPAGE)
    for start in range(0, CHUNK, mmap.PAGESIZE):
        memory[start] = 1
    return memory


def populate(_: int) -> mmap.mmap:
    """Take a chunk at once, without a page fault."""
    return mmap.mmap(-1, CHUNK, flags=PRIVATE | MAP_POPULATE)


def write(file: int) -> int:
    """Let the kernel take a chunk for a file in memory."""
    return os.write(file, bytes(CHUNK))


def freed_pages() -> int:
    """Return how many pages this machine has freed since its start."""
    with open("/proc/vmstat", encoding="ascii") as vmstat:
        return next(int(line.split()[1]) for line in vmstat if line.startswith("pgfree "))


@pytest.mark.parametrize("take", [fault, populate, write])
def test_ready_when_as_many_have_been_taken(counter: PageCounter, take: Callable[[int], object]) -> None:
    """It is ready in time however pages are taken; pages of the per-CPU lists come on top."""
    file = os.memfd_create("taken")
    held: list[object] = []
    with MemInfoReader() as reader:
        _, pcp_pages = reader.read_exact()
        assert counter.arm(counter.least_pages)
        while not is_ready(counter):
            held.append(take(file))
            # What others free meanwhile lies on the per-CPU lists first.
            assert len(held) * CHUNK_PAGES < counter.least_pages + pcp_pages + 64 * CHUNK_PAGES
        counter.drain()
        assert not is_ready(counter)
    os.close(file)


def test_ready_when_as_many_have_been_freed() -> None:
    """Allocations do not count for a counter of freed pages."""
    page_counters = open_page_counters()
    if page_counters is None:
        unavailable("pages cannot be counted here: run as root, on a kernel with kmem tracepoints")
    allocated, freed = page_counters
    allocated.close()
    file = os.memfd_create("taken")
    assert freed.arm(1 << 18)
    chunks = (1 << 18) // CHUNK_PAGES
    before = freed_pages()
    for _ in range(chunks // 8):
        write(file)
    # Others free pages meanwhile. The fewest that make it ready are of order 4: each counts as the largest.
    largest = freed._largest_pages
    fewest = (1 << 18) // 4 // (os.cpu_count() or 1) // largest * 16
    assert not is_ready(freed) or freed_pages() - before >= fewest
    for _ in range(7 * chunks // 8 + 64):
        write(file)
    os.ftruncate(file, 0)
    assert is_ready(freed)
    freed.close()
    os.close(file)


class FakeCounter:
    """A counter that only notes what it is armed for."""

    made: ClassVar[list["FakeCounter"]] = []
    open_at_once: ClassVar[list[int]] = []
    """How many were open whenever one was closed."""

    def __init__(self, _number: int, condition: str, cpu: int, polled: "FakeCounter | None" = None) -> None:
        self.condition = condition
        self.cpu = cpu
        self.polled = polled
        self.closed = False
        self.armed: list[int] = []
        self._fd = os.eventfd(0)
        self.made.append(self)

    def fileno(self) -> int:
        return self._fd

    def arm(self, events: int) -> None:
        self.armed.append(events)

    def close(self) -> None:
        self.open_at_once.append(sum(not counter.closed for counter in self.made))
        self.closed = True
        os.close(self._fd)


@pytest.fixture
def counters(monkeypatch: pytest.MonkeyPatch) -> list[FakeCounter]:
    """Let page counters use fake counters, and return these."""
    monkeypatch.setattr(FakeCounter, "made", [])
    monkeypatch.setattr(FakeCounter, "open_at_once", [])
    monkeypatch.setattr(page_counters, "TracepointCounter", FakeCounter)
    # On a slow machine, all of them may take longer to open than one call of ``arm`` may last.
    monkeypatch.setattr(page_counters, "_OPENING_S", math.inf)
    monkeypatch.setattr(
        page_counters, "tracepoint", lambda name: Tracepoint(1, has_order=not name.endswith("extfrag"))
    )
    return FakeCounter.made


@given(
    distances=st.lists(st.integers(0, 1 << 24) | st.integers(0, 1 << 40), min_size=1, max_size=6),
    names=st.sampled_from([ALLOCATED, FREED, DRAINED]),
)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_the_counters_hide_less_than_it_is_armed_for(
    counters: list[FakeCounter], distances: list[int], names: tuple[str, ...]
) -> None:
    """The hidden pages of all counters and the lag of meminfo are less than the armed number.

    Whatever it was armed for before.
    """
    counters.clear()
    counter = PageCounter(names)
    weights = {
        "order==0": 1,
        "order>0&&order<4": 8,
        "order>3": counter._largest_pages,
        "": counter._largest_pages,
    }
    for pages in distances:
        armed = counter.arm(pages)
        assert bool(armed) == (pages >= counter.least_pages)
        assert armed <= pages
        if armed:
            hidden = sum((counter.armed[-1] - 1) * weights[counter.condition] for counter in counters)
            assert hidden + counter._lag_pages < armed
    counter.close()


def test_the_lag_is_no_less_than_the_kernel_says() -> None:
    """Its thresholds for MemFree are in /proc/zoneinfo; those of a node are the highest of its zones."""
    with open(page_counters.ZONES_FILE, "rb") as file:
        zones = file.read()
    thresholds = list(map(int, re.findall(rb"vm stats threshold: ([0-9]+)", zones)))
    cpus = os.sysconf("SC_NPROCESSORS_ONLN")
    nodes = len(set(re.findall(rb"^Node ([0-9]+)", zones, re.MULTILINE)))
    lag_pages = page_counters._read_lag_pages(cpus)
    assert (
        sum(thresholds) + 3 * cpus * max(thresholds)
        <= lag_pages
        <= 125 * (len(thresholds) + 3 * nodes * cpus)
    )


def test_many_cpus(counters: list[FakeCounter], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A counter on 64 CPUs is armed for as few pages as their lists and counters allow."""
    (tmp_path / "online").write_text("0-63\n")
    monkeypatch.setattr(page_counters, "ONLINE_FILE", str(tmp_path / "online"))
    _zones(tmp_path, monkeypatch, DMA=3840, DMA32=772_917, Normal=64 << 20, Movable=0)
    counter = PageCounter(ALLOCATED)
    # 64 pages in each counter of order 0, which has half of them. For each CPU, MemFree may lack 125, 84 and
    # 14 pages, and the numbers of the node three times 125.
    assert counter.least_pages == 64 * 64 * 2 + 64 * (125 + 84 + 14 + 3 * 125)
    assert counter.arm(counter.least_pages)
    assert {each.armed[-1] for each in counters if each.polled is None} == {64}
    counter.close()


def test_memory_that_was_added_lags_too(
    counters: list[FakeCounter], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The counters themselves stay."""
    _zones(tmp_path, monkeypatch, Normal=1 << 18)
    counter = PageCounter(FREED)
    assert counter.arm(1 << 30)
    made, before = len(counters), counter.least_pages
    _zones(tmp_path, monkeypatch, Normal=1 << 22)
    assert counter.arm(1 << 30)
    assert counter.least_pages == before
    counter.memory_changed()
    assert counter.arm(1 << 30)
    assert counter.least_pages > before
    assert len(counters) == made
    counter.close()


def _zones(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, **managed_pages: int) -> None:
    """Let page counters read these zones of one node."""
    lines = [
        f"Node 0, zone {zone:>8}\n  pages free     1\n        managed  {pages}\n        cma      0\n"
        for zone, pages in managed_pages.items()
    ]
    (tmp_path / "zoneinfo").write_text("".join(lines))
    monkeypatch.setattr(page_counters, "ZONES_FILE", str(tmp_path / "zoneinfo"))


def test_left_alone_while_it_is_early_enough(counters: list[FakeCounter]) -> None:
    """CPUs are interrupted only for a smaller number, or for one four times as large if it has fired."""
    counter = PageCounter(FREED)
    least = counter.least_pages - counter._lag_pages
    times = []
    for factor, fired in ((4, 0), (5, 0), (15, 1), (4, 0), (40, 0), (4, 0), (40, 1), (40, 0), (8, 0), (8, 0)):
        if fired:
            counter.drain()
        assert counter.arm(counter._lag_pages + factor * least) <= counter._lag_pages + factor * least
        times.append(sum(map(bool, counters[0].armed)))
        assert counter.begun == times[-1]
    assert times == [1, 1, 1, 1, 1, 1, 2, 2, 3, 3]
    counter.close()


def test_one_that_was_left_alone_may_fire_too_early(counter: PageCounter) -> None:
    """It is armed for far too few pages, so that it fires early says nothing about memory."""
    assert counter.arm(counter.least_pages)
    assert counter.arm(1 << 40)
    for _ in range(3):
        assert not counter.rest()
    counter.drain()
    assert counter.arm(1 << 40)
    assert not counter.rest()
    assert counter.rest()


def test_a_suspend_kills_the_counters(counters: list[FakeCounter], monkeypatch: pytest.MonkeyPatch) -> None:
    """The CPUs are the same as before, but were offline meanwhile, so all counters are opened again."""
    counter = PageCounter(FREED)
    assert counter.arm(1 << 30)
    before = len(counters)
    assert counter.arm(1 << 30)
    assert len(counters) == before
    boot_s = time.clock_gettime
    monkeypatch.setattr(time, "clock_gettime", lambda clock: boot_s(clock) + 3600)
    assert counter.arm(1 << 30)
    assert len(counters) == 2 * before
    assert counters[-1].armed
    assert counter.arm(1 << 30)
    assert sum(each.closed for each in counters) == before
    # Never all of a tracepoint's: to close its last counter takes as long as 36 ms.
    assert min(FakeCounter.open_at_once) > before
    counter.close()


def test_slow_closes_delay_no_sample(counters: list[FakeCounter], monkeypatch: pytest.MonkeyPatch) -> None:
    """If each close takes long, each sample closes one counter."""
    counter = PageCounter(FREED)
    assert counter.arm(1 << 30)
    before = list(counters)
    close = FakeCounter.close

    def close_slowly(each: FakeCounter) -> None:
        time.sleep(page_counters._CLOSING_S)
        close(each)

    monkeypatch.setattr(FakeCounter, "close", close_slowly)
    boot_s = time.clock_gettime
    monkeypatch.setattr(time, "clock_gettime", lambda clock: boot_s(clock) + 3600)
    for closed in range(len(before) + 1):
        assert counter.arm(1 << 30)
        assert sum(each.closed for each in before) == closed
    counter.close()
    assert all(each.closed for each in counters)


def test_slow_opens_delay_no_sample(
    counters: list[FakeCounter], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If those of a CPU take long to open, each sample opens them for one CPU; then all are armed."""
    (tmp_path / "online").write_text("0-3\n")
    monkeypatch.setattr(page_counters, "ONLINE_FILE", str(tmp_path / "online"))
    monkeypatch.setattr(page_counters, "_OPENING_S", 0.0)
    counter = PageCounter(FREED)
    assert counter.arm(1 << 30)
    assert not counter.opening
    before, a_cpu = list(counters), len(counters) // 4
    boot_s = time.clock_gettime
    monkeypatch.setattr(time, "clock_gettime", lambda clock: boot_s(clock) + 3600)
    for cpus in 1, 2, 3:
        assert not counter.arm(1 << 30)
        assert counter.opening
        assert len(counters) == (4 + cpus) * a_cpu
        assert not any(each.armed for each in counters[4 * a_cpu :])
        # To close the last counter of a tracepoint takes as long as 36 ms.
        assert not any(each.closed for each in before)
    # Not followed while nothing is counted.
    assert not counter.arm(math.inf)
    assert not counter.opening
    assert counter.arm(1 << 30)
    assert not counter.opening
    assert all(each.armed for each in counters[4 * a_cpu :])
    counter.close()
    assert all(each.closed for each in counters)


def test_a_cpu_that_goes_before_its_counters_are_opened(
    counters: list[FakeCounter], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "online").write_text("0\n")
    monkeypatch.setattr(page_counters, "ONLINE_FILE", str(tmp_path / "online"))
    monkeypatch.setattr(page_counters, "_OPENING_S", 0.0)
    counter = PageCounter(FREED)
    (tmp_path / "online").write_text("0-3\n")
    assert not counter.arm(1 << 30)
    (tmp_path / "online").write_text("0,3\n")
    assert counter.arm(1 << 30)
    assert {each.cpu for each in counters if each.armed} == {0, 3}
    counter.close()


def test_the_counters_of_a_cpu_that_stays_are_kept(
    counters: list[FakeCounter], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    online = tmp_path / "online"
    monkeypatch.setattr(page_counters, "ONLINE_FILE", str(online))
    online.write_text("0-3\n")
    counter = PageCounter(ALLOCATED)
    assert counter.arm(1 << 30)
    a_cpu = len(counters) // 4
    shares = [each.armed[-1] for each in counters]
    online.write_text("0,2-3,7\n")
    assert counter.arm(1 << 30)
    assert len(counters) == 5 * a_cpu
    counter.arm(1 << 30)
    assert {each.cpu for each in counters if each.closed} == {1}
    assert {each.cpu for each in counters if not each.closed} == {0, 2, 3, 7}
    assert {each.cpu for each in counters[4 * a_cpu :]} == {7}
    online.write_text("0-255\n")
    assert counter.arm(1 << 30)
    now = [each for each in counters if not each.closed]
    assert len(now) == 256 * a_cpu
    assert all(each.armed[-1] <= share // 64 for each, share in zip(now, shares, strict=False))
    counter.close()


def test_a_cpu_has_one_counter_that_is_polled(counters: list[FakeCounter]) -> None:
    """Its ring is the only one: that of another takes 8 KiB of resident memory."""
    counter = PageCounter(ALLOCATED)
    for cpu in {each.cpu for each in counters}:
        first, *others = [each for each in counters if each.cpu == cpu]
        assert first.polled is None
        assert others
        assert {each.polled for each in others} == {first}
    counter.close()


def test_a_counter_is_polled_for_another_one() -> None:
    """Only the other one counts what happens, and both can go in either order."""
    number = tracepoint("kmem/mm_page_free").number
    for last in (0, 1):
        polled = TracepointCounter(number, "order==10", 0)
        pair = [polled, TracepointCounter(number, "order==0", 0, polled)]
        pair[1].arm(1)
        before = os.sched_getaffinity(0)
        os.sched_setaffinity(0, {0})
        try:
            fault(0).close()
        finally:
            os.sched_setaffinity(0, before)
        assert select.select([polled], [], [], 0)[0]
        pair[1 - last].close()
        pair[last].close()


def test_a_refusal_after_root_was_given_up_is_said_once(
    counters: list[FakeCounter], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """After that, changes of the CPUs cause no attempt and no message."""
    counter = PageCounter(FREED)
    assert counter.arm(1 << 30)
    assert not counter.refused
    tried = []

    def refuse(*arguments: object) -> FakeCounter:
        tried.append(arguments)
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr(page_counters, "TracepointCounter", refuse)
    # The third one found CPUs without counters.
    for suspended_s in (3600, 7200, 10800):
        monkeypatch.setattr(
            time, "clock_gettime", lambda _, suspended_s=suspended_s: time.monotonic() + suspended_s
        )
        assert not counter.arm(1 << 30)
    assert len(tried) == len(caplog.records) == 1
    assert "a suspend does that" in caplog.text
    assert counter.refused
    counter.close()


@pytest.mark.parametrize("number", [errno.EMFILE, errno.ENOMEM])
@pytest.mark.parametrize("at_the_start", [False, True])
def test_a_failure_that_passes(
    counters: list[FakeCounter],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    number: int,
    *,
    at_the_start: bool,
) -> None:
    """Pages are counted again 15 s later, though the CPUs are the same; until then nothing is tried."""
    caplog.set_level(logging.INFO)
    now_s, suspended_s, failing = 1000.0, 0.0, at_the_start
    tried: list[tuple[Any, ...]] = []
    monkeypatch.setattr(time, "monotonic", lambda: now_s)
    monkeypatch.setattr(time, "clock_gettime", lambda _: now_s + suspended_s)

    def make(*arguments: Any) -> FakeCounter:
        tried.append(arguments)
        # The first one can still be opened.
        if failing and len(tried) % 2 == 0:
            raise OSError(number, os.strerror(number))
        return FakeCounter(*arguments)

    monkeypatch.setattr(page_counters, "TracepointCounter", make)
    counter = PageCounter(ALLOCATED)
    if not at_the_start:
        assert counter.arm(1 << 30)
        failing, suspended_s = True, 3600.0
        tried.clear()
        assert not counter.arm(1 << 30)
    assert not counter.refused
    for _ in range(3):
        tried.clear()
        now_s += 14
        assert not counter.arm(1 << 30)
        assert all(each.closed for each in counters)
        assert not tried
        now_s += 1
        assert not counter.arm(1 << 30)
        assert len(tried) == 2
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert os.strerror(number) in caplog.text
    failing = False
    now_s += 15
    assert counter.arm(1 << 30)
    assert all(each.armed for each in counters if not each.closed)
    assert [record.levelname for record in caplog.records] == ["WARNING", "INFO"]
    counter.close()
    assert all(each.closed for each in counters)


def test_what_is_armed_again_counts_to_the_new_number(counter: PageCounter) -> None:
    """Also while it is armed: the kernel would first finish a period of the old length."""
    file = os.memfd_create("taken")
    assert counter.arm(1 << 30)
    write(file)
    assert counter.arm(counter.least_pages)
    for _ in range(2):
        taken = 0
        while not is_ready(counter):
            write(file)
            taken += CHUNK_PAGES
            assert taken < (1 << 19)
        counter.drain()
    os.close(file)


def test_dropped_cache_that_is_taken_is_counted(counter: PageCounter, tmp_path: Path) -> None:
    """Dropped page cache goes to the per-CPU lists and is allocated from there, without the buddy lists."""
    path = tmp_path / "cached"
    with path.open("wb") as file:
        for _ in range(2 * counter.least_pages // CHUNK_PAGES):
            file.write(bytes(CHUNK))
    counter.drain()
    assert counter.arm(counter.least_pages)
    counter.drain()
    path.unlink()
    assert is_ready(counter)


def test_allocations_from_the_per_cpu_lists() -> None:
    """What the lists give and take again and again counts as often as it is given."""
    try:
        every = PageCounter(ALLOCATED, EVERY_ALLOCATION)
    except OSError as error:
        unavailable(f"allocations cannot be counted here: {error}")
    armed_pages = every.arm(0, 0, every.least_pages)
    for _ in range(armed_pages // CHUNK_PAGES + 1):
        fault(0).close()
    assert is_ready(every)
    every.close()


def test_rests_longer_each_time(counter: PageCounter) -> None:
    """A counter that fires too early rests for 0, 1, 2, 4... samples, until it does not fire too early."""
    assert counter.arm(1 << 40)
    assert not counter.rest()
    for refused in (1, 2, 4, 8, 16, 32, 64, 64):
        assert counter.arm(1 << 40)
        assert counter.rest()
        assert [counter.arm(1 << 40) for _ in range(refused)] == [0] * refused
    assert counter.arm(1 << 40)
    assert counter.arm(1 << 40)
    assert not counter.rest()
    assert counter.arm(1 << 40)
    assert counter.rest()
    assert list(map(bool, [counter.arm(1 << 40), counter.arm(1 << 40)])) == [False, True]


def test_ready_again_and_again(counter: PageCounter) -> None:
    """It continues to count after it was ready, with or without arming again."""
    assert counter.arm(counter.least_pages)
    file = os.memfd_create("taken")
    for _ in range(3):
        while not is_ready(counter):
            write(file)
        counter.drain()
        assert counter.arm(counter.least_pages)
    os.close(file)


def test_not_ready_for_less(counter: PageCounter) -> None:
    """A small part of the armed number does not make it ready."""
    assert counter.arm(1 << 40)
    held = [populate(0) for _ in range(8)]
    assert not is_ready(counter)
    assert len(held) == 8


def test_not_armed(counter: PageCounter) -> None:
    """A counter that is not armed, disarmed, or armed for too few pages counts nothing."""
    file = os.memfd_create("taken")

    def stays_silent() -> bool:
        for _ in range(2 * counter.least_pages // CHUNK_PAGES):
            write(file)
        os.ftruncate(file, 0)
        os.lseek(file, 0, os.SEEK_SET)
        return not is_ready(counter)

    assert stays_silent()
    for pages in (math.inf, counter.least_pages - 1, 0, -5):
        assert counter.arm(counter.least_pages)
        counter.drain()
        assert not counter.arm(pages)
        counter.drain()
        assert stays_silent()
    assert counter.arm(counter.least_pages)
    counter.disarm()
    counter.drain()
    assert stays_silent()
    os.close(file)


def test_follows_the_cpus(
    counter: PageCounter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Counters follow the CPUs; a failure is logged once, and they are opened again later."""
    counter.close()
    online = tmp_path / "online"
    monkeypatch.setattr(page_counters, "ONLINE_FILE", str(online))
    online.write_text("0\n")
    counter.__init__(ALLOCATED)  # type: ignore[misc] # again, for the fixture to close
    one, share_pages = counter.least_pages, counter.least_pages - counter._lag_pages
    assert counter.arm(1 << 20)
    online.write_text("0-1\n")
    assert counter.arm(1 << 20)
    assert counter.least_pages - counter._lag_pages == 2 * share_pages
    online.write_text("0-1,4000\n")
    with caplog.at_level(logging.WARNING):
        assert not counter.arm(1 << 20)
        assert not counter.arm(1 << 20)
    assert len(caplog.records) == 1
    assert "No such device" in caplog.text or "Invalid" in caplog.text
    online.write_text("0\n")
    monkeypatch.setattr(counter, "_retry_s", 0.0)
    assert counter.arm(1 << 20)
    assert counter.least_pages == one


def test_descriptors(counter: PageCounter) -> None:
    """All its descriptors are close-on-exec, and closed at its end."""

    def fds() -> set[str]:
        # Without the one that lists them
        return {fd for fd in os.listdir("/proc/self/fd") if os.path.exists(f"/proc/self/fd/{fd}")}

    before = fds()
    another = PageCounter(ALLOCATED)
    opened = fds() - before
    assert len(opened) >= 2 + 3
    assert not any(os.get_inheritable(int(fd)) for fd in opened)
    another.close()
    assert fds() == before


def test_a_refusal(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """Where the kernel refuses there is no counter, one line in the log, and no descriptor left."""
    before = os.listdir("/proc/self/fd")

    def refuse(_: str) -> Tracepoint:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr(page_counters, "tracepoint", refuse)
    with caplog.at_level(logging.INFO):
        assert open_page_counters() is None
    assert [record.levelname for record in caplog.records] == ["INFO"]
    assert "Permission denied" in caplog.text
    assert os.listdir("/proc/self/fd") == before


def test_an_ordinary_user_has_none() -> None:
    """The kernel itself refuses: no counter, and no exception."""
    if os.geteuid() != 0:
        unavailable("only root can become another user: run the tests as root")
    child = os.fork()
    if child == 0:
        os.setgroups([])
        os.setgid(65534)
        os.setuid(65534)
        os._exit(0 if open_page_counters() is None else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_a_tracepoint_that_is_not_there(counter: PageCounter) -> None:
    """A tracepoint that an old kernel lacks, or a wrong name, is FileNotFoundError."""
    with pytest.raises(FileNotFoundError):
        tracepoint("kmem/no_such_tracepoint")


def test_tracefs_is_read_where_it_is_mounted(tmp_path: Path) -> None:
    """A mounted tracefs is used as it is."""
    (tmp_path / "events/kmem/some").mkdir(parents=True)
    (tmp_path / "events/kmem/some/id").write_text("42\n")
    (tmp_path / "events/kmem/some/format").write_text("\tfield:unsigned int order;\toffset:16;\n")
    assert tracepoint("kmem/some", str(tmp_path)) == (42, True)
    (tmp_path / "events/kmem/some/format").write_text("\tfield:int alloc_order;\toffset:16;\n")
    assert tracepoint("kmem/some", str(tmp_path)) == (42, False)


@pytest.mark.parametrize(
    ("number", "condition", "cpu"), [(1 << 40, "", 0), (None, "colour==3", 0), (None, "", 4000)]
)
def test_a_counter_that_cannot_be(counter: PageCounter, number: int | None, condition: str, cpu: int) -> None:
    """A wrong number, condition or CPU is an OSError and leaves nothing open."""
    before = os.listdir("/proc/self/fd")
    with pytest.raises(OSError, match=r"Invalid|No such"):
        TracepointCounter(number or tracepoint("kmem/mm_page_alloc_zone_locked").number, condition, cpu)
    assert os.listdir("/proc/self/fd") == before


@pytest.mark.parametrize(
    ("ranges", "numbers"), [("0", [0]), ("0-3\n", [0, 1, 2, 3]), ("0,2-3,8\n", [0, 2, 3, 8])]
)
def test_lists_of_cpus(ranges: str, numbers: list[int]) -> None:
    """The kernel's notation is understood."""
    assert page_counters._numbers(ranges) == numbers


@pytest.mark.parametrize("name", ["BUDDY_FILE", "ONLINE_FILE"])
def test_masked_file(name: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """If a container mounts /dev/null over a kernel file, one log line says that the timer alone counts."""
    caplog.set_level(logging.INFO)
    monkeypatch.setattr(page_counters, name, os.devnull)
    # No tracepoint is needed to find the masked file, nor root.
    monkeypatch.setattr(page_counters, "tracepoint", lambda _: Tracepoint(1, has_order=True))
    open_fds = len(os.listdir("/proc/self/fd"))
    assert open_page_counters() is None
    assert len(os.listdir("/proc/self/fd")) == open_fds
    (record,) = caplog.records
    assert "is masked" in record.getMessage()
    assert "the timer alone" in record.getMessage()
