# SPDX-License-Identifier: MIT
"""Page counters: descriptors that poll ready when memory may have moved far enough for a sample."""

import errno
import logging
import math
import os
import re
import select
import time
from collections.abc import Iterable
from typing import NamedTuple

from memnotify.abi.figures import PAGE_SIZE
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
# Every allocation, from the per-CPU lists too (mm/page_alloc.c:__alloc_frozen_pages_noprof), except in bulk:
# vmalloc and network buffers (alloc_pages_bulk_noprof).
EVERY_ALLOCATION = ("kmem/mm_page_alloc",)
# If pages on the per-CPU lists count as used, `used` falls when the lists are drained (free_pcppages_bulk).
DRAINED = (*FREED, "kmem/mm_page_pcpu_drain")
# The smallest share of a counter of order 0, in pages. A smaller one would cost over 30 ns a page in
# interrupts.
_LEAST_SHARE_PAGES = 64
ZONES_FILE = "/proc/zoneinfo"
_ZONE = re.compile(rb"(?m)^Node +([0-9]+),.*\n(?:(?!Node).*\n)*? +managed +([0-9]+)$")
# /proc/meminfo lacks what a CPU has not yet added to MemFree for each zone, and for each node to Cached,
# Shmem and SReclaimable. A CPU adds it once it is more than a threshold of at most 125 pages, which kswapd
# lowers for a time (mm/vmstat.c:calculate_normal_threshold, set_pgdat_percpu_threshold).
_LAG_MAX_PAGES = 125
_LAG_UNIT = 1 << 27
_NODE_COUNTERS = 3
# The longest time between the readings of two clocks; every suspend is longer.
_SUSPEND_S = 0.1
# How long one call closes counters of CPUs that went offline: the rest wait for later calls. Closing one
# takes 0.02 ms, but 7 to 36 ms if it is the last one of its tracepoint.
_CLOSING_S = 0.005
# How long one call opens counters of CPUs that came. Those of 64 CPUs take 12 ms and more after a suspend.
_OPENING_S = 0.005
# Errors at the start that pass, and how long after a failure counters are opened again: those of 64 CPUs take
# 12 ms.
_PASSING = (errno.EMFILE, errno.ENFILE, errno.ENOMEM)
_RETRY_S = 15.0
# An early firing is remembered at the sample that it causes, and at the one that measures how fast memory
# moves: otherwise each early firing of a counter that goes on would be the first, and it would never rest.
_REMEMBERED = 2
# The most samples that a counter rests for if it fires too early again and again: 16 s at 4 samples a second.
_LONGEST_REST = 64


class _Kind(NamedTuple):
    """What a counter counts."""

    number: int
    """The tracepoint's."""
    condition: str
    weight_pages: int
    """For how many pages one event stands."""
    share: float
    """The share of the pages that its counters on all CPUs may leave uncounted."""
    every: bool
    """Whether it counts every allocation, instead of what the others count."""


class PageCounter:
    """Polls POLLIN once as many pages as it is armed for may have passed its tracepoints.

    There is a counter for each CPU and each kind of event, and each may leave its share of the pages
    uncounted. The poll that reports POLLIN clears it. Threads: the sampler's only. Raises OSError if the
    kernel has no such counters or refuses them to this process.
    """

    def __init__(self, names: Iterable[str], every_names: Iterable[str] = ()) -> None:
        """Open counters for tracepoints, none armed; for those of ``every_names`` see ``arm``."""
        self._largest_pages = _read_largest_pages()
        self._online = os.open(ONLINE_FILE, os.O_RDONLY | os.O_CLOEXEC)
        self._epoll = select.epoll()
        self.refused = False
        """Whether only root can open counters now. Any thread."""
        self.begun = 0
        """How often it began to count anew: what passed just before was not counted."""
        self.opening = False
        """Whether ``arm`` left counters to be opened by its next call, and armed nothing."""
        self._cpus = b""
        self._memory_changed = False
        self._suspended_s = 0.0
        # By CPU: a counter of each kind. The first one is polled for all.
        self._counters: dict[int, list[TracepointCounter]] = {}
        # Counters of CPUs that went offline, to be closed; CPUs that came online, to be counted on.
        self._dead: list[TracepointCounter] = []
        self._to_open: list[int] = []
        self._lag_pages = self._least_pages = 0
        self._armed_pages = 0
        self._armed_every = False
        self._rest = self._to_rest = 0
        self.fired_early = False
        """Whether it has fired too early since the last sample, and not lately before."""
        # By how many more samples an early firing is remembered.
        self._remembered = 0
        # When to open counters again if that has failed; infinite once it is refused.
        self._retry_s = -math.inf
        # Whether it fired since it was armed or left armed; whether it is left armed for far too few pages.
        self._fired = self._low = False
        try:
            self._kinds = self._kinds_of(map(tracepoint, names))
            self._can_every = bool(every_names)
            if every_names:
                self._kinds += self._kinds_of(map(tracepoint, every_names), every=True)
            try:
                self._follow_cpus(math.inf)
            except OSError as error:
                if error.errno not in _PASSING:
                    raise
                self._fail(error)
        except BaseException:
            self.close()
            raise

    def fileno(self) -> int:
        """Return the descriptor to poll for POLLIN."""
        return self._epoll.fileno()

    @property
    def tracepoints(self) -> set[int]:
        """The numbers of the tracepoints that it counts."""
        return {kind.number for kind in self._kinds}

    @property
    def least_pages(self) -> int:
        """The fewest pages it can be armed for."""
        return self._least_pages if self._kinds else self._lag_pages + 1

    def arm(self, pages: float, moved_pages: float = 0.0, every_pages: float = 0.0) -> int:
        """Fire no later than when ``pages`` more have passed than at a reading; return for how many, or 0.

        Since the reading ``moved_pages`` may have passed already. A counter that stays as it is has counted
        these. It is not armed for fewer than ``least_pages``, for infinity, or while it rests. Arming
        interrupts each CPU. So a counter is armed for a power of two. It stays armed while that power is at
        most the new number, and, if it has fired, more than a quarter of it. So it fires early, never late.

        If ``pages`` are too few, fire no later than when ``every_pages`` have passed the tracepoints of
        ``every_names`` instead.

        If CPUs came, open their counters for a few milliseconds and return 0; ``opening`` is then true until
        a later call has opened the last one. If that fails, count nothing until a call some time later, which
        tries again.
        """
        self.opening = False
        if self._rests_now():
            return 0
        if pages == math.inf or time.monotonic() < self._retry_s:
            self.disarm()
            if self._retry_s > -math.inf:
                self._close_dead(_CLOSING_S)
            return 0
        try:
            self.opening = not self._follow_cpus(_OPENING_S)
            if self.opening:
                return 0
            if self._can_every and self._too_few(pages):
                return self._arm(every_pages, moved_pages, every=True)
            return self._arm(pages, moved_pages)
        except OSError as error:
            self._fail(error)
            return 0

    def memory_changed(self) -> None:
        """Before the next arming, measure the lag of /proc/meminfo again. Threads: any."""
        self._memory_changed = True

    @property
    def resting(self) -> bool:
        """Whether it counts nothing for some samples."""
        return self._to_rest > 0

    def rest(self) -> bool:
        """Count nothing for some samples, because it fired too early; for twice as many each time.

        Return False and go on if it did so for the first time: memory may move faster than it was seen to.
        The same if it was left armed for far too few pages: the next sample arms it again.
        """
        if self._low:
            return False
        if not self._rest:
            self._rest, self.fired_early, self._remembered = 1, True, _REMEMBERED
            return False
        self._to_rest, self._remembered = self._rest, 0
        self._rest = min(2 * self._rest, _LONGEST_REST)
        self.disarm()
        return True

    def _rests_now(self) -> bool:
        """Count a sample, and return whether the counter rests at it."""
        self.fired_early = False
        if self._armed_pages:
            if self._remembered:
                self._remembered -= 1
            else:
                self._rest = 0
            return False
        rests = self._to_rest > 0
        self._to_rest -= rests
        return rests

    def disarm(self) -> None:
        """Count nothing."""
        if self._armed_pages:
            for counters in self._counters.values():
                for kind, counter in zip(self._kinds, counters, strict=True):
                    if kind.every is self._armed_every:
                        counter.arm(0)
            self._armed_pages = 0

    def drain(self) -> None:
        """Clear the readiness."""
        self._epoll.poll(0)
        self._fired = True

    def close(self) -> None:
        """Close all descriptors."""
        self._drop_counters([], keep=False)
        self._close_dead(math.inf)
        self._epoll.close()
        os.close(self._online)

    def _fail(self, error: OSError) -> None:
        """Count nothing until counters can be opened again; for ever if root was given up since."""
        failed_before = self._retry_s > -math.inf
        self._armed_pages = 0
        self._drop_counters([], keep=False)
        # Else the same CPUs would be no reason to open any.
        self._cpus = b""
        if isinstance(error, PermissionError):
            log.warning(
                "CPUs have come or gone (a suspend does that), and pages cannot be counted any more: %s",
                error,
            )
            self._kinds = []
            self.refused, self._retry_s = True, math.inf
            return
        if not failed_before:
            log.warning("pages cannot be counted, trying again every %d s: %s", _RETRY_S, error)
        self._retry_s = time.monotonic() + _RETRY_S

    def _too_few(self, pages: float) -> bool:
        return self._lag_pages + self._rounded(pages) < self.least_pages

    def _arm(self, pages: float, moved_pages: float, *, every: bool = False) -> int:
        if not any(self._counters.values()):
            self.disarm()
            return 0
        if not self._goes_on(pages, every=every):
            rounded = self._rounded(pages - moved_pages)
            # The figures include what was counted until now.
            self.disarm()
            if self._too_few(pages - moved_pages):
                return 0
            self._epoll.poll(0)
            # At least 1: one event of a larger order may stand for more than the share.
            events = [
                max(1, int(rounded * kind.share) // len(self._counters) // kind.weight_pages)
                for kind in self._kinds
            ]
            for counters in self._counters.values():
                for kind, counter, number in zip(self._kinds, counters, events, strict=True):
                    if kind.every is every:
                        counter.arm(number)
            self._armed_pages, self._armed_every = rounded, every
            self._low = False
            self.begun += 1
        return self._armed_pages + self._lag_pages

    def _goes_on(self, pages: float, *, every: bool) -> bool:
        """Return whether it stays armed as it is, since it fires no later than after so many pages."""
        rounded, fired = self._rounded(pages), self._fired
        kept = 0 < self._armed_pages <= rounded and self._armed_every is every
        self._low = kept and rounded >= 4 * self._armed_pages
        self._fired = False
        return kept and not (self._low and fired)

    def _rounded(self, pages: float) -> int:
        """Return the number for which it can be armed so that it fires within ``pages``, or 0."""
        countable = int(pages) - self._lag_pages
        return 1 << countable.bit_length() - 1 if countable > 0 else 0

    def _kinds_of(self, points: Iterable[Tracepoint], *, every: bool = False) -> list[_Kind]:
        """Return what to count of tracepoints.

        99 % of the pages that a page fault, MAP_POPULATE or a tmpfs file takes are of order 0, so these are
        counted exactly, and get half of the pages that may be hidden. Slabs and buffers of up to order 3
        come and go on an idle machine too, so each counts as eight pages, and they get a quarter. A larger
        event counts as the largest order.
        """
        by_order = ("order==0", 1), ("order>0&&order<4", 8), ("order>3", self._largest_pages)
        kinds = [
            (point.number, condition, weight_pages)
            for point in points
            for condition, weight_pages in (by_order if point.has_order else (("", self._largest_pages),))
        ]
        shares = [0.5, 0.25, *(0.25 / (len(kinds) - 2) for _ in kinds[2:])]
        return [_Kind(*kind, share, every) for kind, share in zip(kinds, shares, strict=True)]

    def _follow_cpus(self, opening_s: float) -> bool:
        """Count on the CPUs that are online. A CPU that goes offline, as in a suspend, ends its counters.

        Open counters for so long, those of one CPU at least, and return whether all are open.

        Open the new counters before closing the dead ones: closing the last counter of a tracepoint takes
        36 ms, any other one 0.02 ms (Linux 6.18, two CPUs; kernel/trace/trace_event_perf.c:
        perf_trace_event_unreg waits for all CPUs). Close the dead ones a few at a time, by later calls.
        """
        if not self._to_open:
            self._close_dead(_CLOSING_S)
        online = os.pread(self._online, 4096, 0)
        if not online.strip():
            raise OSError(errno.ENODATA, "is masked: it lists no CPU", ONLINE_FILE)
        suspended_s = time.clock_gettime(time.CLOCK_BOOTTIME) - time.monotonic()
        resumed = abs(suspended_s - self._suspended_s) >= _SUSPEND_S
        memory_changed, self._memory_changed = self._memory_changed, False
        if online != self._cpus or resumed or memory_changed:
            self._cpus, self._suspended_s = online, suspended_s
            # Each counter leaves its share of the pages uncounted, and the number of counters changes.
            self.disarm()
            self._drop_counters(_numbers(online.decode("ascii")), keep=not resumed)
        elif not self._to_open:
            return True
        end_s = time.monotonic() + opening_s
        while self._to_open:
            self._counters[self._to_open[-1]] = self._open_counters(self._to_open[-1])
            self._to_open.pop()
            if self._to_open and time.monotonic() >= end_s:
                return False
        self._lag_pages = _read_lag_pages(len(self._counters))
        if self._retry_s > -math.inf:
            self._retry_s = -math.inf
            log.info("pages are counted again")
        share_pages = math.ceil(_LEAST_SHARE_PAGES * len(self._counters) / self._kinds[0].share)
        self._least_pages = self._lag_pages + (1 << (share_pages - 1).bit_length())
        return True

    def _drop_counters(self, cpus: list[int], *, keep: bool) -> None:
        """Set aside other CPUs' counters, or all, to be closed, and what these CPUs lack, to be opened."""
        online = set(cpus)
        before, self._counters = self._counters, {}
        for cpu, counters in before.items():
            if keep and cpu in online:
                self._counters[cpu] = counters
            else:
                self._epoll.unregister(counters[0])
                self._dead += counters
        self._to_open = [cpu for cpu in reversed(cpus) if cpu not in self._counters]

    def _open_counters(self, cpu: int) -> list[TracepointCounter]:
        counters: list[TracepointCounter] = []
        try:
            for kind in self._kinds:
                polled = counters[0] if counters else None
                counters.append(TracepointCounter(kind.number, kind.condition, cpu, polled))
            for counter in counters[:1]:
                self._epoll.register(counter, select.EPOLLIN)
        except BaseException:
            self._close(counters)
            raise
        return counters

    def _close_dead(self, longest_s: float) -> None:
        end_s = time.monotonic() + longest_s
        while self._dead and time.monotonic() < end_s:
            # The counter that is polled is closed last.
            self._dead.pop().close()

    @staticmethod
    def _close(counters: list[TracepointCounter]) -> None:
        # The counter that is polled is closed last.
        for counter in reversed(counters):
            counter.close()


def open_page_counters(*, pcp_is_free: bool = True) -> tuple[PageCounter, PageCounter] | None:
    """Return a counter of allocated pages and one of freed pages; the per-CPU lists may count as free.

    Return None, with one line in the log, if the kernel lacks or refuses them.
    """
    try:
        allocated = PageCounter(ALLOCATED, EVERY_ALLOCATION if pcp_is_free else ())
        try:
            return allocated, PageCounter(FREED if pcp_is_free else DRAINED)
        except OSError:
            allocated.close()
            raise
    except OSError as error:
        log.info("pages are not counted (%s): the timer alone watches the nearest threshold", error)
        return None


def _read_largest_pages() -> int:
    """Return the pages of the largest order.

    Raises OSError, also if another file is mounted over the list (containers mask it with /dev/null).
    """
    with open(BUDDY_FILE, "rb") as buddy:
        zone = buddy.readline()
    # "Node 0, zone Normal" and a column for each order.
    columns = len(zone.split())
    if columns < _BUDDY_FIRST_ORDER + 1:
        raise OSError(errno.ENODATA, "is masked: it lists no zone", BUDDY_FILE)
    return 1 << columns - _BUDDY_FIRST_ORDER - 1


def _read_lag_pages(cpus: int) -> int:
    """Return how many pages /proc/meminfo may lag on so many CPUs. Raises OSError."""
    with open(ZONES_FILE, "rb") as file:
        zones = _ZONE.findall(file.read())
    if not zones:
        raise OSError(errno.ENODATA, "is masked: it lists no zone", ZONES_FILE)
    lag_pages = 0
    of_nodes: dict[bytes, int] = {}
    for node, managed in zones:
        if int(managed):
            units = int(managed) * PAGE_SIZE // _LAG_UNIT
            zone_pages = min(_LAG_MAX_PAGES, 2 * cpus.bit_length() * (1 + units.bit_length()))
            lag_pages += zone_pages
            of_nodes[node] = max(of_nodes.get(node, 0), zone_pages)
    return cpus * (lag_pages + _NODE_COUNTERS * sum(of_nodes.values()))


def _numbers(ranges: str) -> list[int]:
    """Return the numbers in the kernel's list of ranges, such as ``0-3,7``."""
    numbers: list[int] = []
    for part in ranges.split(","):
        first, _, last = part.partition("-")
        numbers.extend(range(int(first), int(last or first) + 1))
    return numbers
