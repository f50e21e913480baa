# SPDX-License-Identifier: MIT
"""The sampler thread: reads the figures when it is time, asks the table who crossed, wakes them."""

import logging
import math
import os
import select
import threading
import time
from array import array
from collections import deque
from collections.abc import Callable
from typing import NamedTuple, Protocol

from memnotify.abi.figures import NAMES
from memnotify.engine.schedule import SamplingSchedule, granularity_pages
from memnotify.engine.table import Distances, ObserverTable, Sample
from memnotify.kernel.meminfo import MemInfoReader
from memnotify.kernel.syscalls import set_timer_slack
from memnotify.logs import LIMITED
from memnotify.worker import start_thread

log = logging.getLogger(__name__)

# A sleep of a second or more may end so much of it early, with another wake-up of the CPU: 0.9 s of the
# default max_update_period, as each second more is a wake-up more in four minutes; and 4 s, which 32 bits of
# nanoseconds hold, at the most. What is near has no time to give.
_SLACK_SHARE = 1 / 16
_SLACK_FROM_S = 1.0
_SLACK_MAX_S = 4.0
# What the per-CPU lists can hold grows with memory, CPUs and a sysctl; an exact reading tells. After a long
# sleep one costs half as much as the whole wake-up, so this is not done with every few of them.
_LIMIT_AGE_S = 600.0
# What could not be taken over is tried again after so long.
_AGAIN_S = 1.0


class PageCounter(Protocol):
    """What announces that pages were allocated, or freed; memnotify.counter has it."""

    def fileno(self) -> int:
        """Return the descriptor to poll for POLLIN."""

    def arm(self, pages: float, /) -> int:
        """Be ready no later than when ``pages`` more have passed; return for how many, 0 if it cannot."""

    def rest(self) -> None:
        """Announce nothing until some samples later: it was too early."""

    def disarm(self) -> None:
        """Announce nothing."""

    def drain(self) -> None:
        """Be ready no more, for what has passed until now."""

    def close(self) -> None:
        """Close the descriptors."""


class Tuning(NamedTuple):
    """What can be changed of a sampler that runs: the schedule's parameters and what follows them."""

    update_period_s: float
    max_update_period_s: float
    min_update_period_s: float
    fill_rate_pages_s: float
    update_space_kib: int
    pcp_is_free: bool
    """What ``used`` means."""
    open_page_counters: Callable[[], tuple[PageCounter, PageCounter] | None] | None
    """What returns the page_counters to take instead of those that there are; None keeps them."""


class Sampler:
    """Samples while any observer has a threshold, and sleeps without a timeout while none has.

    Threads: ``current``, ``thresholds_changed`` and ``tune`` may be called from any; ``look``, the schedule
    and the
    page_counters belong to the sampler thread once it is started. ``notify`` is called with the handles of
    those who
    crossed and their number, without any lock, from the sampler thread; it must send and free them.

    A sample is taken when the schedule's interval is over, at once when memory stalls, and when one of
    ``page_counters``, for what is allocated and what is freed, says that the nearest threshold on ``used``
    may
    have been reached that way, so that it need not bound the interval. Between finding out who crossed
    and waking them nothing is allocated for each of them, logged or waited for.

    No new subscription is slept over. The thread first makes known that it may sleep for ever, then
    asks the table; who serves first subscribes in the table, then looks how long the sleep is.
    Whichever comes second sees the other.

    What it is tuned to is taken over in its own thread, between two samples, in the order of the calls,
    and the next sample follows at once. No crossing is lost by that, as no observer, threshold, level
    or handle is touched, and none is invented: where the meaning of ``used`` changes, one reading is
    taken in both; by the old one who crosses is told, and the table goes over to the new one, where
    nobody crosses by the difference.
    """

    name = "sampler"

    def __init__(
        self,
        table: ObserverTable,
        reader: MemInfoReader,
        schedule: SamplingSchedule,
        notify: Callable[["array[int]", int], object],
        *,
        update_space_kib: int = 0,
        pressure_fd: int | None = None,
        page_counters: tuple[PageCounter, PageCounter] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._table = table
        self._reader = reader
        self._schedule = schedule
        self._notify = notify
        self._update_space_kib = update_space_kib
        self._clock = clock
        self._wake_fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._pressure_fd = pressure_fd
        self._page_counters = page_counters or ()
        self._tunings: deque[Tuning] = deque()
        self._sampled_s = -math.inf
        self._exact_s = -math.inf
        self._exact_total_pages = 0
        self._slack_s = 0.0
        self._due_s = math.inf
        self._fresh = False
        self._stopping = False
        self._answered = False
        self._thread: threading.Thread | None = None

    def current(self) -> Sample:
        """Return exact figures, at most ``update_period`` old and not older than any event's.

        Raises MemInfoError.
        """
        latest = self._table.latest
        now_s = self._clock()
        if latest.exact and now_s - latest.taken_s <= self._schedule.update_period_s:
            return latest
        sample = self._exact(pcp_is_free=self._table.pcp_is_free)
        self._table.record(sample, self._clock())
        return sample

    def thresholds_changed(self) -> None:
        """Take note that thresholds have changed: sample at the shortest interval, or not at all."""
        if self._table.watching:
            self._fresh = True
            wake = self._due_s - self._clock() > self._schedule.update_period_s
        else:
            wake = self._due_s < math.inf
        if wake:
            os.eventfd_write(self._wake_fd, 1)

    def check_alive(self) -> bool:
        """Whether the thread has come round since the last call; ask it to do so again."""
        answered, self._answered = self._answered, False
        os.eventfd_write(self._wake_fd, 1)
        return answered

    def tune(self, tuning: Tuning) -> None:
        """Let the thread go over to other parameters; it is not waited for."""
        self._tunings.append(tuning)
        os.eventfd_write(self._wake_fd, 1)

    def look(self, *, counter_fired: bool = False) -> None:
        """Sample once and wake whoever crossed; ``counter_fired`` if by a counter. Raises MemInfoError."""
        pcp_is_free = self._table.pcp_is_free
        while True:
            taken_s = self._clock()
            sample = Sample(
                taken_s, self._reader.read_plain(), exact=not pcp_is_free, pcp_is_free=pcp_is_free
            )
            if not sample.exact and (
                sample.taken_s - self._exact_s > _LIMIT_AGE_S
                or sample.figures.total != self._exact_total_pages
                or self._table.needs_exact_figures(sample.figures, self._reader.pcp_limit_pages)
            ):
                sample = self._exact(pcp_is_free=True)
            if self._advance(sample):
                break
        granularity = granularity_pages(sample.figures.total, self._update_space_kib)
        distances = self._table.distances(sample, self._reader.pcp_limit_pages)
        self._schedule.see(
            sample.taken_s,
            # Further ones bound the interval by their distance alone: what moves all the time, like the page
            # cache, or is no memory, like what is only promised, would keep it short whoever watches what.
            sample.figures[: len(NAMES)],
            granularity,
            distances.nearest,
            unannounced_pages=self._unannounced(distances, sample.taken_s),
            exact=sample.exact,
            counter_fired=counter_fired,
        )
        self._sampled_s = sample.taken_s
        log.debug("next sample in %s", self._schedule)

    def _unannounced(self, distances: Distances, taken_s: float) -> float:
        """Arm the page_counters; return the distance of the nearest level that neither announces."""
        if not self._page_counters:
            return distances.nearest
        allocated, freed = self._page_counters

        def announces(counter: PageCounter, pages: float) -> bool:
            def left() -> float:
                # What may have moved since the figures were read was not counted; to arm takes time as well.
                return pages - self._schedule.rate_pages_s * (self._clock() - taken_s)

            return 0 < counter.arm(left()) <= left()

        return min(
            math.inf if announces(allocated, distances.allocated) else distances.rising,
            math.inf if announces(freed, distances.falling) else distances.falling,
            distances.other,
        )

    def _advance(self, sample: Sample) -> bool:
        """Wake whoever crosses with a sample; False if it is too old to tell."""
        crossed = self._table.advance(sample)
        if crossed is None:
            return False
        handles, count = crossed
        if count:
            self._notify(handles, count)
        self._table.rearm(sample.figures, granularity_pages(sample.figures.total, self._update_space_kib))
        return True

    def _exact(self, *, pcp_is_free: bool) -> Sample:
        taken_s = self._clock()
        if not pcp_is_free:
            return Sample(taken_s, self._reader.read_plain(), exact=True, pcp_is_free=False)
        figures, pcp_pages = self._reader.read_exact()
        self._exact_s, self._exact_total_pages = taken_s, figures.total
        return Sample(taken_s, figures, exact=True, pcp_pages=pcp_pages)

    def _redefine(self, *, pcp_is_free: bool) -> None:
        """Let ``used`` mean something else. Raises MemInfoError or OSError, and then it does not."""
        while self._table.pcp_is_free != pcp_is_free:
            free = self._exact(pcp_is_free=True)
            figures = free.figures._replace(used=free.figures.used + free.pcp_pages)
            taken = Sample(free.taken_s, figures, exact=True, pcp_is_free=False)
            before, after = (taken, free) if pcp_is_free else (free, taken)
            if self._advance(before):
                self._table.redefine(before, after)

    def _take_over(self, poller: select.poll) -> bool:
        """Go over to what it was tuned to; False if memory cannot be read just now."""
        # As one, however many have come meanwhile: to open page_counters takes a while, and nobody samples
        # during it.
        tunings = [self._tunings[number] for number in range(len(self._tunings))]
        tuning = tunings[-1]
        try:
            self._redefine(pcp_is_free=tuning.pcp_is_free)
        except OSError as error:
            log.warning(
                "memory cannot be read, the configuration is taken over later: %s", error, extra=LIMITED
            )
            self._schedule.restart()
            return False
        self._schedule.set(
            tuning.update_period_s,
            tuning.max_update_period_s,
            min_update_period_s=tuning.min_update_period_s,
            fill_rate_pages_s=tuning.fill_rate_pages_s,
        )
        self._update_space_kib = tuning.update_space_kib
        others = [one.open_page_counters for one in tunings if one.open_page_counters is not None]
        if others:
            for counter in self._page_counters:
                poller.unregister(counter)
                counter.close()
            self._page_counters = others[-1]() or ()
            for counter in self._page_counters:
                poller.register(counter, select.POLLIN)
        for _ in tunings:
            self._tunings.popleft()
        return True

    def start(self, on_failure: Callable[[], None]) -> None:
        """Start the thread; ``on_failure`` is called from it if it ends by an exception."""
        self._thread = start_thread(self.name, self._loop, on_failure)

    def stop(self) -> None:
        """End the thread. When this returns, ``notify`` is not running and is not called again."""
        self._stopping = True
        os.eventfd_write(self._wake_fd, 1)
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        os.close(self._wake_fd)
        if self._pressure_fd is not None:
            os.close(self._pressure_fd)
        for counter in self._page_counters:
            counter.close()

    def _loop(self) -> None:
        parked, sampling = select.poll(), select.poll()
        parked.register(self._wake_fd, select.POLLIN)
        sampling.register(self._wake_fd, select.POLLIN)
        if self._pressure_fd is not None:
            sampling.register(self._pressure_fd, select.POLLPRI)
        for counter in self._page_counters:
            sampling.register(counter, select.POLLIN)
        due_s, counter_fired = math.inf, False
        while not self._stopping:
            self._answered = True
            self._due_s = math.inf
            if self._tunings and self._take_over(sampling):
                due_s = self._clock()
            if self._table.watching:
                due_s, counter_fired = self._sample_when_due(sampling, due_s, counter_fired=counter_fired)
                continue
            due_s, counter_fired = math.inf, False
            for counter in self._page_counters:
                counter.disarm()
            self._sleep(parked, _AGAIN_S if self._tunings else None)

    def _sample_when_due(
        self, poller: select.poll, due_s: float, *, counter_fired: bool
    ) -> tuple[float, bool]:
        """Sleep once, and sample if it is time; return when it is then, and whether a counter has come."""
        if self._fresh:
            self._fresh = False
            self._schedule.restart()
        # Only ever earlier: however often it is woken, a sample that is due is taken.
        due_s = self._due_s = min(due_s, self._clock() + self._schedule.interval_s)
        ready = self._sleep(poller, due_s - self._clock())
        early_s = due_s - self._slack_s
        for counter in self._page_counters:
            if counter.fileno() in ready:
                counter.drain()
                counter_fired = True
                early_s = due_s = min(early_s, self._sampled_s + self._schedule.counter_interval_s)
                if self._clock() < due_s:
                    counter.rest()
        stalled = self._pressure_fd in ready
        if stalled:
            self._schedule.restart()
        if stalled or self._clock() >= early_s:
            try:
                self.look(counter_fired=counter_fired)
            except OSError as error:
                # Where memory is short the kernel may have none for the text of its own files.
                log.warning("memory cannot be read, trying again: %s", error, extra=LIMITED)
                self._schedule.restart()
            return math.inf, False
        return due_s, counter_fired

    def _sleep(self, poller: select.poll, timeout_s: float | None) -> set[int | None]:
        """Sleep until a wake, pressure, a counter or the timeout; return the descriptors that are ready."""
        ready: set[int | None] = set()
        slack_s = 0.0
        if timeout_s is not None and timeout_s >= _SLACK_FROM_S:
            slack_s = min(timeout_s * _SLACK_SHARE, _SLACK_MAX_S)
        if slack_s != self._slack_s:
            set_timer_slack(slack_s)
            self._slack_s = slack_s
        # Rounded up: a poll that ends early would find nothing due and sleep again for 0 ms.
        timeout_ms = None if timeout_s is None else max(0, math.ceil((timeout_s - slack_s) * 1000))
        for fd, events in poller.poll(timeout_ms):
            if fd == self._wake_fd:
                os.eventfd_read(fd)
            if events & (select.POLLIN | select.POLLPRI):
                ready.add(fd)
            if fd == self._pressure_fd and events & (select.POLLERR | select.POLLNVAL):
                # It would do so at once and for ever (kernel/sched/psi.c:psi_trigger_poll without a trigger).
                log.warning("the memory pressure trigger is gone: the timer alone decides when to sample")
                poller.unregister(fd)
        return ready
