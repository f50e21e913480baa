# SPDX-License-Identifier: MIT
"""Kicks: descriptors that poll ready when memory may have moved far enough to look at it."""

import logging
import math
import os
import select

from memnotify.system import Counter, tracepoint_id

log = logging.getLogger(__name__)

ONLINE_FILE = "/sys/devices/system/cpu/online"
BUDDY_FILE = "/proc/buddyinfo"
# Every page that leaves the buddy allocator's lists passes one of these, whatever it is for: a page fault,
# MAP_POPULATE, tmpfs, huge pages, the kernel itself (mm/page_alloc.c:__rmqueue_smallest; a page stolen from
# another migrate type may pass the second one alone, __rmqueue_steal). What does not: pages taken from the
# per-CPU lists, which are thus no part of this, and whole ranges (gigantic pages, CMA).
# 99 % of those that a page fault, MAP_POPULATE or a tmpfs file takes are of order 0, so these are counted
# apart, and exactly; each of the others counts as the largest there is.
_ORDER_0 = "order==0"
ALLOCATED = (
    ("kmem/mm_page_alloc_zone_locked", _ORDER_0),
    ("kmem/mm_page_alloc_zone_locked", "order>0"),
    ("kmem/mm_page_alloc_extfrag", ""),
)
# Every page that is freed, wherever it goes (mm/page_alloc.c:free_pages_prepare). What is not counted:
# munlock and the swap slots of pages that are swapped out, by which `used` falls and no page is freed.
FREED = (
    ("kmem/mm_page_free", _ORDER_0),
    ("kmem/mm_page_free", "order>0"),
)
# Of order 0, for each counter: what interrupts a CPU more often costs its pages more than 30 ns each.
_LEAST_SHARE_PAGES = 64
# Samples without it, at the most, if a kick comes too early again and again: 16 s at 4 samples a second.
_LONGEST_REST = 64


Counted = tuple[tuple[str, str], ...]
"""Tracepoints and conditions; each of their events stands for one page where the condition says so."""


class Kick:
    """Ready for POLLIN once as many pages as it is armed for may have passed what is counted.

    Each CPU counts for itself, and apart for each thing that is counted, so each of these counters may
    hide its share of the pages. What is ready stays so until ``drain``. One thread, the sampler's.
    Raises OSError where the kernel has no such counters or this process may not have them.
    """

    def __init__(self, counted: Counted) -> None:
        """Open the counters, none armed."""
        with open(BUDDY_FILE, "rb") as buddy:
            # "Node 0, zone Normal" and a column for each order
            self._largest_pages = 1 << len(buddy.readline().split()) - 5
        self._online = os.open(ONLINE_FILE, os.O_RDONLY | os.O_CLOEXEC)
        self._epoll = select.epoll()
        self._cpus = b""
        self._counters: list[tuple[Counter, int]] = []
        self._armed_pages = 0
        self._rest = self._to_rest = 0
        try:
            self._events = [(tracepoint_id(name), condition) for name, condition in counted]
            self._follow_cpus()
        except BaseException:
            self.close()
            raise

    def fileno(self) -> int:
        """Return the descriptor to poll for POLLIN."""
        return self._epoll.fileno()

    @property
    def least_pages(self) -> int:
        """The fewest pages it can be armed for, a power of two."""
        return 1 << (_LEAST_SHARE_PAGES * len(self._counters) - 1).bit_length()

    def arm(self, pages: float) -> bool:
        """Be ready no later than when ``pages`` more have passed; False, and not armed, if it cannot.

        It cannot for less than ``least_pages`` or while it rests, and need not for infinity. It is
        armed for a power of two, and goes on as it is, which is early if anything, while that stays the
        same: to arm it each CPU has to be interrupted.
        """
        if self._armed_pages:
            self._rest = 0
        elif self._to_rest:
            self._to_rest -= 1
            return False
        try:
            self._follow_cpus()
        except OSError as error:
            log.warning("CPUs have come or gone, and pages cannot be counted any more: %s", error)
            self._close_counters()
        rounded = 0 if pages == math.inf or pages < 1 else 1 << int(pages).bit_length() - 1
        if not self._counters or rounded < self.least_pages:
            self.disarm()
            return False
        if rounded != self._armed_pages:
            share_pages = rounded // len(self._counters)
            for counter, weight_pages in self._counters:
                # The first event of a larger order is reason enough, where one may be more than the share.
                counter.arm(max(1, share_pages // weight_pages))
            self._armed_pages = rounded
        return True

    def rest(self) -> None:
        """Count nothing, as it came too early to be of use, until some samples later; more each time."""
        self._rest = self._to_rest = min(2 * self._rest or 1, _LONGEST_REST)
        self.disarm()

    def disarm(self) -> None:
        """Count nothing."""
        if self._armed_pages:
            for counter, _ in self._counters:
                counter.arm(0)
            self._armed_pages = 0

    def drain(self) -> None:
        """Be ready no more, for what was taken until now."""
        self._epoll.poll(0)

    def close(self) -> None:
        """Close all descriptors."""
        self._close_counters()
        self._epoll.close()
        os.close(self._online)

    def _follow_cpus(self) -> None:
        """Count on the CPUs that are online: a counter dies with its CPU and does not come back with it."""
        cpus = os.pread(self._online, 4096, 0)
        if cpus == self._cpus:
            return
        self._cpus = cpus
        self._close_counters()
        for cpu in _numbers(cpus.decode("ascii")):
            for tracepoint, condition in self._events:
                counter = Counter(tracepoint, condition, cpu)
                self._counters.append((counter, 1 if condition == _ORDER_0 else self._largest_pages))
                self._epoll.register(counter, select.EPOLLIN)

    def _close_counters(self) -> None:
        for counter, _ in self._counters:
            counter.close()
        self._counters = []
        self._armed_pages = 0


def open_kicks() -> tuple[Kick, Kick] | None:
    """Return kicks for what is allocated and for what is freed.

    None, and one line in the log, where this kernel or this process cannot have them.
    """
    try:
        allocated = Kick(ALLOCATED)
        try:
            return allocated, Kick(FREED)
        except OSError:
            allocated.close()
            raise
    except OSError as error:
        log.info("pages are not counted (%s): the timer alone watches the nearest threshold", error)
        return None


def _numbers(ranges: str) -> list[int]:
    """Return the numbers in a list of ranges as the kernel writes it: ``0-3,7``."""
    numbers: list[int] = []
    for part in ranges.split(","):
        first, _, last = part.partition("-")
        numbers.extend(range(int(first), int(last or first) + 1))
    return numbers
