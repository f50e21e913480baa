# SPDX-License-Identifier: MIT
"""Page counters: descriptors that poll ready when memory may have moved far enough for a sample."""

import errno
import logging
import math
import os
import select
import time
from collections.abc import Iterable

from memnotify.kernel.syscalls import Tracepoint, TracepointCounter, tracepoint

log = logging.getLogger(__name__)

ONLINE_FILE = "/sys/devices/system/cpu/online"
BUDDY_FILE = "/proc/buddyinfo"
# The column of order 0 in BUDDY_FILE
_BUDDY_FIRST_ORDER = 4
# Pages by which `used` may grow. Every page that leaves the buddy allocator's lists passes one of the first
# two: for a page fault, MAP_POPULATE, tmpfs, huge pages, the kernel itself
# (mm/page_alloc.c:__rmqueue_smallest; a page stolen from another migrate type may pass the second one alone,
# __rmqueue_steal). Other pages come from the per-CPU lists. Dropped page cache goes to these lists, which
# alone moves no figure.
ALLOCATED = (
    "kmem/mm_page_alloc_zone_locked",
    "kmem/mm_page_alloc_extfrag",
    "filemap/mm_filemap_delete_from_page_cache",
)
# Every freed page (mm/page_alloc.c:free_pages_prepare).
FREED = ("kmem/mm_page_free",)
# If pages on the per-CPU lists count as used, `used` falls when the lists are drained (free_pcppages_bulk).
DRAINED = (*FREED, "kmem/mm_page_pcpu_drain")
# The smallest share of one counter, in pages of order 0. A smaller one would cost over 30 ns a page in
# interrupts.
_LEAST_SHARE_PAGES = 64
# How far /proc/meminfo may lag for each CPU: in MemFree for each zone, and in Cached, Shmem and SReclaimable
# for each node (mm/vmstat.c:calculate_normal_threshold).
_LAG_PAGES = 125
_NODE_COUNTERS = 3
# The longest time between the readings of two clocks; every suspend is longer.
_SUSPEND_S = 0.1
# The most samples that a counter rests for if it fires too early again and again: 16 s at 4 samples a second.
_LONGEST_REST = 64


class PageCounter:
    """Polls POLLIN once as many pages as it is armed for may have passed its tracepoints.

    There is a counter for each CPU and each kind of event, and each may hide its share of the pages. The poll
    that reports POLLIN clears it. Threads: the sampler's only. Raises OSError if the kernel has no such
    counters or refuses them to this process.
    """

    def __init__(self, names: Iterable[str]) -> None:
        """Open counters for tracepoints, none armed."""
        self._largest_pages, self._lagging = _read_zones()
        self._online = os.open(ONLINE_FILE, os.O_RDONLY | os.O_CLOEXEC)
        self._epoll = select.epoll()
        self._cpus = b""
        self._suspended_s = 0.0
        # By CPU: each counter, and for how many pages one event stands. The first one is polled for all.
        self._counters: dict[int, list[tuple[TracepointCounter, int]]] = {}
        self._lag_pages = 0
        self._armed_pages = 0
        self._rest = self._to_rest = 0
        try:
            self._events = [event for name in names for event in self._by_order(tracepoint(name))]
            self._follow_cpus()
        except BaseException:
            self.close()
            raise

    def fileno(self) -> int:
        """Return the descriptor to poll for POLLIN."""
        return self._epoll.fileno()

    @property
    def least_pages(self) -> int:
        """The fewest pages it can be armed for."""
        counters = len(self._counters) * len(self._events)
        return self._lag_pages + (1 << (_LEAST_SHARE_PAGES * counters - 1).bit_length())

    def arm(self, pages: float) -> int:
        """Fire no later than when ``pages`` more have passed; return for how many it is armed, or 0.

        It is not armed for fewer than ``least_pages``, for infinity, or while it rests. Arming interrupts
        each CPU. So a counter is armed for a power of two, and stays as it is while that is not above the new
        number and more than a quarter of it: it may then fire early, never late.
        """
        if self._armed_pages:
            self._rest = 0
        elif self._to_rest:
            self._to_rest -= 1
            return 0
        if pages == math.inf:
            self.disarm()
            return 0
        try:
            self._follow_cpus()
            return self._arm(pages)
        except OSError as error:
            log.warning(
                "CPUs have come or gone (a suspend does that), and pages cannot be counted any more: %s",
                error,
            )
            self._close_counters()
            if isinstance(error, PermissionError):
                # Root was given up since, permanently: do not try again, and do not log again.
                self._events = []
            return 0

    def rest(self) -> None:
        """Count nothing for some samples, because it fired too early; for twice as many each time."""
        self._rest = self._to_rest = min(2 * self._rest or 1, _LONGEST_REST)
        self.disarm()

    def disarm(self) -> None:
        """Count nothing."""
        if self._armed_pages:
            for counter, _ in self._all:
                counter.arm(0)
            self._armed_pages = 0

    def drain(self) -> None:
        """Clear the readiness."""
        self._epoll.poll(0)

    def close(self) -> None:
        """Close all descriptors."""
        self._close_counters()
        self._epoll.close()
        os.close(self._online)

    def _arm(self, pages: float) -> int:
        counters = self._all
        if not counters or pages < self.least_pages:
            self.disarm()
            return 0
        rounded = 1 << (int(pages) - self._lag_pages).bit_length() - 1
        if not self._armed_pages or not self._armed_pages <= rounded < 4 * self._armed_pages:
            # The figures include what was counted until now.
            self.disarm()
            self.drain()
            share_pages = rounded // len(counters)
            for counter, weight_pages in counters:
                # At least 1: one event of a larger order may stand for more than the share.
                counter.arm(max(1, share_pages // weight_pages))
            self._armed_pages = rounded
        return self._armed_pages + self._lag_pages

    def _by_order(self, point: Tracepoint) -> list[tuple[int, str, int]]:
        """Return what to count of a tracepoint: its number, a condition, how many pages one event stands for.

        99 % of the pages that a page fault, MAP_POPULATE or a tmpfs file takes are of order 0, so these are
        counted exactly. Slabs and buffers of up to order 3 come and go on an idle machine too, so each counts
        as eight pages. A larger event counts as the largest order.
        """
        if not point.has_order:
            return [(point.number, "", self._largest_pages)]
        return [
            (point.number, "order==0", 1),
            (point.number, "order>0&&order<4", 8),
            (point.number, "order>3", self._largest_pages),
        ]

    def _follow_cpus(self) -> None:
        """Count on the CPUs that are online. A CPU that goes offline, as in a suspend, ends its counters.

        Open the new counters before closing the dead ones: closing the last counter of a tracepoint takes
        36 ms, any other one 0.02 ms (Linux 6.18, two CPUs; kernel/trace/trace_event_perf.c:
        perf_trace_event_unreg waits for all CPUs).
        """
        online = os.pread(self._online, 4096, 0)
        if not online.strip():
            raise OSError(errno.ENODATA, "is masked: it lists no CPU", ONLINE_FILE)
        suspended_s = time.clock_gettime(time.CLOCK_BOOTTIME) - time.monotonic()
        resumed = abs(suspended_s - self._suspended_s) >= _SUSPEND_S
        if online == self._cpus and not resumed:
            return
        self._cpus, self._suspended_s = online, suspended_s
        # Each counter hides its share of the pages, and the number of counters changes.
        self.disarm()
        before = self._counters
        kept = {} if resumed else before
        self._counters = {}
        try:
            for cpu in _numbers(online.decode("ascii")):
                self._counters[cpu] = kept.get(cpu) or self._open_counters(cpu)
        finally:
            for cpu, counters in before.items():
                if self._counters.get(cpu) is not counters:
                    self._close(counters)
        self._lag_pages = _LAG_PAGES * len(self._counters) * self._lagging

    def _open_counters(self, cpu: int) -> list[tuple[TracepointCounter, int]]:
        counters: list[tuple[TracepointCounter, int]] = []
        try:
            for number, condition, weight_pages in self._events:
                polled = counters[0][0] if counters else None
                counters.append((TracepointCounter(number, condition, cpu, polled), weight_pages))
            for counter, _ in counters[:1]:
                self._epoll.register(counter, select.EPOLLIN)
        except BaseException:
            self._close(counters)
            raise
        return counters

    def _close_counters(self) -> None:
        for counters in self._counters.values():
            self._close(counters)
        self._counters = {}
        self._armed_pages = 0

    @staticmethod
    def _close(counters: list[tuple[TracepointCounter, int]]) -> None:
        # The counter that is polled is closed last.
        for counter, _ in reversed(counters):
            counter.close()

    @property
    def _all(self) -> list[tuple[TracepointCounter, int]]:
        return [pair for counters in self._counters.values() for pair in counters]


def open_page_counters(*, pcp_is_free: bool = True) -> tuple[PageCounter, PageCounter] | None:
    """Return a counter of allocated pages and one of freed pages; the per-CPU lists may count as free.

    Return None, with one line in the log, if the kernel lacks or refuses them.
    """
    try:
        allocated = PageCounter(ALLOCATED)
        try:
            return allocated, PageCounter(FREED if pcp_is_free else DRAINED)
        except OSError:
            allocated.close()
            raise
    except OSError as error:
        log.info("pages are not counted (%s): the timer alone watches the nearest threshold", error)
        return None


def _read_zones() -> tuple[int, int]:
    """Return the pages of the largest order and how many counters /proc/meminfo sums up for each CPU.

    Raises OSError, also if another file is mounted over the list (containers mask it with /dev/null).
    """
    with open(BUDDY_FILE, "rb") as buddy:
        zones = buddy.readlines()
    # "Node 0, zone Normal" and a column for each order.
    columns = len(zones[0].split()) if zones else 0
    if columns < _BUDDY_FIRST_ORDER + 1:
        raise OSError(errno.ENODATA, "is masked: it lists no zone", BUDDY_FILE)
    nodes = {zone.split(b",")[0] for zone in zones}
    return 1 << columns - _BUDDY_FIRST_ORDER - 1, len(zones) + _NODE_COUNTERS * len(nodes)


def _numbers(ranges: str) -> list[int]:
    """Return the numbers in the kernel's list of ranges, such as ``0-3,7``."""
    numbers: list[int] = []
    for part in ranges.split(","):
        first, _, last = part.partition("-")
        numbers.extend(range(int(first), int(last or first) + 1))
    return numbers
