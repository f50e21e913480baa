# SPDX-License-Identifier: MIT
"""The sampler thread: reads the figures when a sample is due, and notifies the observers that crossed."""

import gc
import logging
import math
import os
import select
import time
from array import array
from collections.abc import Callable, Sequence
from operator import attrgetter
from threading import Lock
from typing import TYPE_CHECKING, NamedTuple, Protocol

from memnotify.abi.figures import NAMES, Figures
from memnotify.engine.latencies import Latencies
from memnotify.engine.observer import Group, HandleBatch
from memnotify.engine.schedule import Firing, Interval, SamplingParameters, SamplingSchedule
from memnotify.engine.table import Distances, ObserverTable, Sample
from memnotify.kernel.meminfo import MemInfoError
from memnotify.kernel.page_counters import PageCounter
from memnotify.kernel.psi import PressureTrigger
from memnotify.kernel.syscalls import set_timer_slack, trim_memory
from memnotify.logs import LIMITED
from memnotify.worker import Worker

if TYPE_CHECKING:
    from memnotify.engine.groups import GroupSampler

log = logging.getLogger(__name__)
_root = logging.getLogger()
_OPENING = attrgetter("opening")
_FIRED_EARLY = attrgetter("fired_early")

# A sleep of a second or more may end early by this share, together with another wake-up of the CPU: 0.9 s of
# the default max_update_period, as each further second costs one more wake-up in four minutes; at most 4 s,
# which 32 bits of nanoseconds hold. A shorter sleep, towards a near threshold, has no slack.
_SLACK_SHARE = 1 / 16
_SLACK_FROM_S = 1.0
_SLACK_MAX_S = 4.0
# The per-CPU lists can hold more after a change of memory, CPUs or a sysctl; an exact reading measures it.
# After a long sleep an exact reading costs half of the whole wake-up, so it is taken rarely.
_LIMIT_AGE_S = 600.0
# On a slow machine a good reading may take longer than an update_period: with 20 ms, reads failed with EIO in
# a guest.
_HANGS_S = 1.0
# More thresholds that fire are left to the sampler thread: 4,096 of one user took a serving thread 20 ms, in
# which it served no client.
_SERVED_AT_ONCE = 128


class FigureReader(Protocol):
    """Where figures come from; kernel.meminfo.MemInfoReader is one. Its methods raise MemInfoError."""

    @property
    def names(self) -> Sequence[str]:
        """The names of the figures, in the order of the line."""

    @property
    def pcp_is_free(self) -> bool:
        """Whether pages on the per-CPU free lists count as free; if not, plain figures are exact."""

    @property
    def pcp_limit_pages(self) -> int:
        """How many pages those lists can hold."""

    def read_plain(self) -> Figures:
        """Return the figures with an upper bound of ``used``."""

    def read_exact(self, plain: Figures | None = None) -> tuple[Figures, int]:
        """Return the figures, and the number of pages on those lists; ``plain`` were read just before."""


class WakeSources(NamedTuple):
    """The sources that cause a sample, beside the timer. The sampler closes them."""

    pressure: PressureTrigger | None = None
    page_counters: tuple[PageCounter, PageCounter] | None = None
    """The first counts allocated pages, the second freed pages."""


def poll(poller: select.poll, timeout_s: float | None) -> list[tuple[int, int]]:
    """Wait for ``poller``; round the time-out up, because nothing is due before."""
    return poller.poll(None if timeout_s is None else max(0, math.ceil(timeout_s * 1000)))


class Timing(NamedTuple):
    """The passage of time: a clock in seconds, and what waits for descriptors or a time-out."""

    clock: Callable[[], float] = time.monotonic
    wait: Callable[[select.poll, float | None], list[tuple[int, int]]] = poll


class Sampler:
    """Samples while any observer has a threshold; otherwise sleeps without a time-out.

    Threads: ``cached``, ``refresh``, ``thresholds_changed`` and ``set_parameters`` may be called from any
    thread; ``sample``, the schedule and the page counters belong to the sampler thread once it is started. A
    reading for a client counts as a sample too. One lock is held from before each reading until its crossings
    are notified, so samples count in the order in which they were taken. ``notify`` is called with the
    handles of the observers that crossed and their number; it must send and free the handles.

    If many thresholds fire at a reading for a client, the sampler thread does what takes long, because other
    clients wait for the serving thread: it notifies the last batch, and arms what fired. Whichever thread
    samples next does so first: otherwise what had fired could not fire again, and a crossing would be lost.

    A sample is taken when the interval is over, when tasks stall for memory, and when a page counter
    announces that the nearest threshold on ``used`` may have been reached; this threshold then does not bound
    the interval. Between a crossing and its notification the sampler logs nothing, waits for nothing and
    allocates nothing for an observer or threshold.

    The sampler misses no new subscription: the sampler thread publishes that it may sleep for ever, then asks
    the table; a serving thread subscribes in the table, then reads the published sleep. The second of the two
    sees what the first did.

    New parameters take effect in the sampler thread, between two samples, and the next sample follows at
    once. They change no observer, threshold or level, so no crossing is lost or invented.
    """

    failures = 0
    """How many readings of the machine's figures failed. Any thread may read it."""
    _begun_s = -math.inf
    # Whether a serving thread samples, and the batch that it has left to the sampler thread.
    _serving = False
    _left: HandleBatch | None = None

    def __init__(
        self,
        table: ObserverTable,
        reader: FigureReader,
        notify: Callable[["array[int]", int], object],
        parameters: SamplingParameters,
        *,
        sources: WakeSources = WakeSources(),  # noqa: B008 - immutable
        timing: Timing = Timing(),  # noqa: B008 - the same
    ) -> None:
        self.worker = Worker("sampler", self.turn)
        self._table = table
        self._reader = reader
        self._notify = notify
        self._parameters = parameters
        self._schedule = SamplingSchedule(parameters)
        self._sampling_lock = Lock()
        self._clock, self._wait = timing
        self._pressure_fd = sources.pressure.fd if sources.pressure else None
        self.pressure_window_s = sources.pressure.window_s if sources.pressure else None
        """The window of the trigger by which memory stalls cause samples, if there is one."""
        self._page_counters = sources.page_counters or ()
        self._parked_poller, self._sampling_poller = self._pollers()
        self._interval = self._schedule.reset(parameters)
        self._sampled_s = self._exact_s = -math.inf
        self._exact_total_pages = 0
        # When a reading failed last, and why; when the first one failed since the last good one.
        self._failed_s, self._failing_s, self._failure = -math.inf, math.inf, ""
        self._slack_s = 0.0
        # When the next sample is due, and what serving threads see of it: infinite while parked.
        self._due_s = self._published_due_s = math.inf
        self._counter_fired = False
        self._fresh = False
        # Made with the first threshold on a cgroup: most daemons have none.
        self._groups: GroupSampler | None = None
        # Polled for writes to the limits of cgroups, until one is seen: the next sample reads them.
        self._limits_fd: int | None = None
        self._limit_written = False
        self.samples = 0
        """How many samples were taken. Any thread may read it, as those below."""
        self.wakeups = 0
        """How often the sampler thread woke."""
        self.latencies = Latencies()
        """From the beginning of the reading at which an observer crossed until all were notified."""
        table.on_thresholds_changed = self.thresholds_changed

    @property
    def names(self) -> Sequence[str]:
        """The names of the figures, in the order of the line."""
        return self._reader.names

    @property
    def reader(self) -> FigureReader:
        """Where the figures come from."""
        return self._reader

    def set_reader(self, reader: FigureReader) -> None:
        """Read from another reader, of the same names, from the next sample on, which follows at once.

        The jump from one reader's figures to the other's counts as no rate.
        """
        self._reader = reader
        # Equal, but new: the sampler thread begins again.
        self.set_parameters(self._parameters._replace())

    @property
    def interval(self) -> Interval:
        """The interval to the next sample, and why it is so long."""
        return self._interval

    @property
    def has_page_counters(self) -> bool:
        """Whether page counters cause samples."""
        return bool(self._page_counters)

    @property
    def tracepoints(self) -> set[int]:
        """The numbers of the tracepoints that the page counters count."""
        return {number for counter in self._page_counters for number in counter.tracepoints}

    @property
    def _armed_anew(self) -> int:
        """How often page counters began to count anew."""
        return sum(counter.begun for counter in self._page_counters)

    @property
    def counters_refused(self) -> bool:
        """Whether only a process of root can have page counters again."""
        return any(counter.refused for counter in self._page_counters)

    def cached(self) -> Sample | None:
        """Return the newest sample if it is exact and at most ``update_period`` old, else None."""
        latest = self._table.latest
        exact = latest is self._table.latest_exact  # an attribute of a named tuple takes 25 ns more
        if exact and self._clock() - latest.taken_s <= self._parameters.update_period_s:
            return latest
        return None

    def refresh(self, use: Callable[[Sample], object] | None = None) -> Sample:
        """Take an exact sample in the calling thread and return it; pass it to ``use`` before it counts.

        While the figures cannot be read, return the last good ones for ``max_update_period`` after the first
        failure. After that raise MemInfoError without a call of ``use``. Crossings are notified after
        ``use``.
        """
        # A reading that hangs counts as failed: a request must not wait for it.
        if not self._sampling_lock.acquire(timeout=max(_HANGS_S, self._parameters.update_period_s)):
            return self._reuse(use)
        try:
            self._finish(serving=True)
            try:
                sample = self._read_exact()
            except MemInfoError:
                return self._reuse(use)
            crossings = self._table.event_s
            try:
                if use is not None:
                    self._table.follow(sample.figures.total, self._granularity_pages(sample))
                    use(sample)
            finally:
                # The reading counts, even if the observer was closed meanwhile.
                if not self._count(sample):
                    self._rearm(sample)
            crossed = self._table.event_s != crossings
        finally:
            self._sampling_lock.release()
        if crossed:
            self.thresholds_changed()
        return sample

    def refresh_group(self, group: Group) -> None:
        """Read a cgroup in the calling thread, unless it was read exactly within ``update_period``.

        Its crossings are notified. While it cannot be read, its last figures stay.
        """
        if self._clock() - group.exact_s <= self._parameters.update_period_s:
            return
        if not self._sampling_lock.acquire(timeout=max(_HANGS_S, self._parameters.update_period_s)):
            return
        try:
            self._finish(serving=True)
            if self._groups is None:
                # Imported here, because a daemon without a threshold on a cgroup saves 100 KB.
                from memnotify.engine.groups import GroupSampler  # noqa: PLC0415

                self._groups = GroupSampler(self._table, self._notify_fired)
            events = group.events
            self._begun_s = self._clock()
            self._groups.read(group, self._table.latest_exact, self._begun_s, self._parameters)
            # The pages on the per-CPU lists may have changed since. So the page counters do not cover the
            # cgroup until the next sample.
            group.epoch = -1
        finally:
            self._sampling_lock.release()
        if group.events != events:
            self.thresholds_changed()

    def _reuse(self, use: Callable[[Sample], object] | None) -> Sample:
        """Return the last good figures, after calling ``use`` with them. Raises MemInfoError."""
        now_s = self._clock()
        # From the first failure, not from the last good reading, which is as old as the interval: with that,
        # one failed reading was EIO (seen in a guest under load).
        self._failing_s = min(self._failing_s, now_s)
        if now_s - self._failing_s > self._parameters.max_update_period_s:
            raise MemInfoError(self._failure or "the memory figures cannot be read: a reading hangs")
        sample = self._last_good(now_s)
        if use is not None:
            use(sample)
        return sample

    def thresholds_changed(self) -> None:
        """Sample at ``update_period`` again, or stop sampling, because thresholds have changed."""
        if self._table.watching:
            self._fresh = True
            wake = self._published_due_s - self._clock() > self._parameters.update_period_s
        else:
            wake = self._published_due_s < math.inf or self._table.sparse
        if wake:
            self.worker.wake()

    def set_parameters(self, parameters: SamplingParameters) -> None:
        """Give new parameters to the sampler thread, without waiting for it. The last ones count."""
        self._parameters = parameters
        self.worker.wake()

    def sample(self, *, counter_fired: bool = False) -> None:
        """Take one sample and notify the observers that crossed. Raises MemInfoError."""
        with self._sampling_lock:
            self._finish(serving=False)
            armed_anew = self._armed_anew if counter_fired else -1
            early = counter_fired and any(map(_FIRED_EARLY, self._page_counters))
            sample = self._read_plain()
            groups = self._due_groups(sample.taken_s, counter_fired=counter_fired)
            if self._needs_exact(sample, groups):
                sample = self._read_exact(sample)
            self._count(sample)
            distances = self._rearm(sample)
            nearest_pages, rate_pages_s = distances.nearest, 0.0
            if self._groups is not None:
                if groups and not any(counter.resting for counter in self._page_counters):
                    # Before the readings, which take long if there are many: what passes meanwhile counts.
                    self._arm_page_counters(distances, sample.taken_s)
                self._groups.read_due(groups, sample, sample.taken_s, self._parameters)
                group_pages, rate_pages_s = self._groups.nearest()
                nearest_pages = min(nearest_pages, group_pages)
            unannounced_pages = self._arm_page_counters(distances, sample.taken_s)
        self._interval = self._schedule.update(
            sample.taken_s,
            # Extra figures bound the interval by their distance only: one that moves all the time (page
            # cache) or is no memory (Committed_AS) would keep the back-off short.
            sample.figures[: len(NAMES)],
            self._granularity_pages(sample),
            nearest_pages,
            unannounced_pages=unannounced_pages,
            pcp_pages=sample.pcp_pages if sample.exact else None,
            firing=Firing(early, unannounced_pages == math.inf and armed_anew == self._armed_anew)
            if counter_fired
            else None,
            moved_pages_s=rate_pages_s,
        )
        if self._page_counters and any(map(_OPENING, self._page_counters)):
            # Nothing is announced until they are open.
            soon_s = min(self._interval.timer_s, self._parameters.min_update_period_s)
            self._interval = self._interval._replace(timer_s=soon_s, reason="opening page counters")
        self._sampled_s = sample.taken_s
        # After a long sleep the logging module's own look costs 10 us.
        if _root.level <= logging.DEBUG:
            log.debug("next sample in %s", self._interval)

    def _needs_exact(self, sample: Sample, groups: Sequence[Group]) -> bool:
        """Return whether a plain sample is not enough, if these cgroups are to be read with it."""
        return not sample.exact and (
            bool(groups and self._page_counters)
            or sample.taken_s - self._exact_s > _LIMIT_AGE_S
            or sample.figures.total != self._exact_total_pages
            or self._table.needs_exact_figures(sample.figures, self._reader.pcp_limit_pages)
        )

    def _due_groups(self, now_s: float, *, counter_fired: bool) -> Sequence[Group]:
        """Return the cgroups that this sample must read."""
        if self._groups is None:
            return ()
        self._limit_written = False
        if counter_fired:
            self._groups.uncover()
        return self._groups.due(now_s, self._parameters, self._schedule.rate_pages_s)

    def _count(self, sample: Sample) -> bool:
        """Notify the observers that cross with a sample; return as ``_notify_fired``."""
        self.samples += 1
        return self._notify_fired(self._table.advance(sample, self._granularity_pages(sample)))

    def _rearm(self, sample: Sample) -> Distances:
        return self._table.rearm(sample, self._reader.pcp_limit_pages)

    def _notify_fired(self, batches: Sequence[HandleBatch]) -> bool:
        """Notify the observers that crossed; return whether the last batch and the arming are left.

        A serving thread leaves both to the sampler thread if many thresholds fired.
        """
        if not self._table.fired:
            return False
        last = batches[-1]
        leaves = self._serving and self._table.fired > _SERVED_AT_ONCE
        notified = False
        for batch in batches:
            if batch.count and not (leaves and batch is last):
                (batch.notify or self._notify)(batch.handles, batch.count)
                notified = True
        if notified and not (leaves and last.count):
            self.latencies.add(self._clock() - self._begun_s)
        if leaves:
            self._left = last
            self.worker.wake()
        return leaves

    def finish(self) -> None:
        """Do what a serving thread has left to the sampler thread. Any thread."""
        if self._left is not None:
            with self._sampling_lock:
                self._finish(serving=False)

    def settle(self) -> None:
        """Do the same once the threads have stopped, so that the saved state has what was told."""
        # A reading that hangs has the lock, and has left nothing.
        if self._sampling_lock.acquire(blocking=False):
            self._finish(serving=False)
            self._sampling_lock.release()

    def _finish(self, *, serving: bool) -> None:
        """Do the same with the lock held; ``serving`` is whether what follows may leave something."""
        self._serving = serving
        last, self._left = self._left, None
        if last is None:
            return
        if last.count:
            (last.notify or self._notify)(last.handles, last.count)
            self.latencies.add(self._clock() - self._begun_s)
        self._rearm(self._table.latest)

    def _granularity_pages(self, sample: Sample) -> int:
        return self._parameters.granularity_pages(sample.figures.total)

    def _last_good(self, now_s: float) -> Sample:
        """Return the last good figures that are not older than any event's; exact ones if they are recent.

        Raises MemInfoError if they may be of any age, because the sampler is parked. An observer with a
        threshold has had a sample.
        """
        good = self._table.latest_exact
        recent_s = now_s - self._parameters.max_update_period_s
        if good.taken_s < max(self._table.event_s, recent_s):
            good = self._table.latest
        if good.taken_s < recent_s and not self._table.watching:
            raise MemInfoError(self._failure or "the memory figures cannot be read: a reading hangs")
        return good

    def _arm_page_counters(self, distances: Distances, taken_s: float) -> float:
        """Arm the page counters; return the distance of the nearest level that neither announces."""
        rate_pages_s = self._schedule.rate_pages_s
        groups = self._groups
        if not self._page_counters:
            due_s = math.inf if groups is None else groups.due_s(rate_pages_s)
            return min(distances.nearest, (due_s - taken_s) * rate_pages_s)
        margin_pages = math.inf
        if groups is not None:
            margin_pages = groups.margin_pages(max(counter.least_pages for counter in self._page_counters))
        armed = [0, 0]

        def announces(place: int, pages: float) -> bool:
            counter = self._page_counters[place]
            # Pages that moved since the reading were not counted; arming takes time as well.
            moved_pages = rate_pages_s * (self._clock() - taken_s)
            # A threshold on `used` that is too near to count for leaves the counters to the cgroups.
            near = pages - moved_pages < counter.least_pages and margin_pages < math.inf
            # Every allocation costs four times as much a page (docs/performance.md), so it is counted only
            # while what lies on the per-CPU lists could reach the threshold.
            every_pages = distances.rising if place == 0 and not near else 0.0
            wanted_pages = margin_pages if near else min(pages, margin_pages)
            armed[place] = counter.arm(wanted_pages, moved_pages, every_pages)
            return armed[place] > 0 and not near

        unannounced_pages = min(
            math.inf if announces(0, distances.allocated) else distances.rising,
            math.inf if announces(1, distances.falling) else distances.falling,
            distances.other,
        )
        if groups is not None:
            groups.counted(armed)
            unannounced_pages = min(unannounced_pages, (groups.due_s(rate_pages_s) - taken_s) * rate_pages_s)
        return unannounced_pages

    def _read_plain(self) -> Sample:
        taken_s = self._begin_reading()
        try:
            figures = self._reader.read_plain()
        except MemInfoError as error:
            self._note_failure(error)
            raise
        self._failing_s = math.inf
        return Sample(taken_s, figures, exact=not self._reader.pcp_is_free)

    def _read_exact(self, plain: Sample | None = None) -> Sample:
        """Take an exact sample; ``plain`` is one that was taken just before. Raises MemInfoError."""
        taken_s = self._begin_reading() if plain is None else plain.taken_s
        try:
            figures, pcp_pages = self._reader.read_exact(None if plain is None else plain.figures)
        except MemInfoError as error:
            self._note_failure(error)
            raise
        self._failing_s = math.inf
        if figures.total != self._exact_total_pages:
            for counter in self._page_counters:
                counter.memory_changed()
        self._exact_s, self._exact_total_pages = taken_s, figures.total
        return Sample(taken_s, figures, exact=True, pcp_pages=pcp_pages)

    def _begin_reading(self) -> float:
        """Return the time. Raises MemInfoError if reading failed less than ``min_update_period`` ago."""
        now_s = self._clock()
        if now_s - self._failed_s < self._parameters.min_update_period_s:
            raise MemInfoError(self._failure)
        self._begun_s = now_s
        return now_s

    def _note_failure(self, error: MemInfoError) -> None:
        self._failed_s, self._failure = self._clock(), str(error)
        self.failures += 1
        self._failing_s = min(self._failing_s, self._failed_s)
        log.warning("the memory figures cannot be read, trying again: %s", error, extra=LIMITED)

    def stop(self) -> None:
        """End the thread. When this returns, ``notify`` is not running and is not called again."""
        self.worker.stop()
        self.settle()
        # Observers may be closed later, when the number of wake_fd may be another file's.
        self._table.on_thresholds_changed = lambda: None
        self.worker.close()
        if self._pressure_fd is not None:
            os.close(self._pressure_fd)
        for counter in self._page_counters:
            counter.close()
        if self._groups is not None:
            self._groups.close()

    def _pollers(self) -> tuple[select.poll, select.poll]:
        """Return what is polled while the sampler is parked, and while it samples."""
        parked, sampling = select.poll(), select.poll()
        for poller in (parked, sampling):
            poller.register(self.worker.wake_fd, select.POLLIN)
        if self._pressure_fd is not None:
            sampling.register(self._pressure_fd, select.POLLPRI)
        for counter in self._page_counters:
            sampling.register(counter, select.POLLIN)
        return parked, sampling

    def turn(self) -> None:
        """Sleep once, and sample if a sample is due; the body of the sampler thread."""
        self._published_due_s = math.inf
        self.finish()
        if self._table.sparse:
            # Between two samples, and never when a client releases.
            self._table.compact()
            # It empties CPython's lists of free tuples, each of which keeps 1 MB from the kernel. 0.5 ms.
            gc.collect()
            trim_memory()
        if self._parameters is not self._schedule.parameters:
            self._interval = self._schedule.reset(self._parameters)
            self._due_s = self._clock()
        if self._table.watching:
            self._sample_when_due()
            return
        self._due_s, self._counter_fired = math.inf, False
        for counter in self._page_counters:
            counter.disarm()
        self._sleep(self._parked_poller, None)

    def _sample_when_due(self) -> None:
        if self._fresh:
            self._fresh = False
            self._restart()
        self._poll_limits()
        # Never later than before: wake-ups, however frequent, must not delay a sample.
        due_s = self._due_s = self._published_due_s = min(self._due_s, self._clock() + self._interval.timer_s)
        ready = self._sleep(self._sampling_poller, due_s - self._clock())
        early_s = due_s - self._slack_s
        for counter in self._page_counters if ready else ():
            if counter.fileno() in ready:
                counter.drain()
                self._counter_fired = True
                expected_s = min(early_s, self._sampled_s + self._interval.expected_s)
                early_s = min(early_s, self._sampled_s + self._interval.counter_s)
                if self._clock() < expected_s and not counter.rest():
                    early_s = min(early_s, self._sampled_s + self._interval.soonest_s)
                self._due_s = early_s
        if self._limits_fd is not None and self._limits_fd in ready:
            # Often as well: a user may own a cgroup. So it is not polled until it is read.
            self._sampling_poller.unregister(self._limits_fd)
            self._limits_fd, self._limit_written = None, True
            early_s = self._due_s = min(early_s, self._sampled_s + self._parameters.update_period_s)
        stalled = self._pressure_fd in ready
        if stalled:
            self._restart()
        if not stalled and self._clock() < early_s:
            return
        counter_fired, self._counter_fired, self._due_s = self._counter_fired, False, math.inf
        try:
            self.sample(counter_fired=counter_fired)
        except MemInfoError:
            # No threshold is crossed; the next reading may succeed.
            self._due_s = self._failed_s + self._parameters.min_update_period_s

    def _poll_limits(self) -> None:
        if self._groups is not None and self._limits_fd is None and not self._limit_written:
            self._limits_fd = self._groups.fileno()
            if self._limits_fd is not None:
                self._sampling_poller.register(self._limits_fd, select.POLLIN)

    def _restart(self) -> None:
        self._interval = self._schedule.restart(self._interval)

    def _sleep(self, poller: select.poll, timeout_s: float | None) -> set[int | None]:
        """Sleep until a descriptor is ready or the time is over; return the descriptors that are ready."""
        ready: set[int | None] = set()
        slack_s = 0.0
        if timeout_s is not None and timeout_s >= _SLACK_FROM_S:
            slack_s = min(timeout_s * _SLACK_SHARE, _SLACK_MAX_S)
        if slack_s != self._slack_s:
            set_timer_slack(slack_s)
            self._slack_s = slack_s
        for fd, events in self._wait(poller, None if timeout_s is None else timeout_s - slack_s):
            if fd == self.worker.wake_fd:
                os.eventfd_read(fd)
            if events & (select.POLLIN | select.POLLPRI):
                ready.add(fd)
            if fd == self._pressure_fd and events & (select.POLLERR | select.POLLNVAL):
                # Without a trigger it polls ready at once and for ever (kernel/sched/psi.c:psi_trigger_poll).
                log.warning("the memory pressure trigger is gone: the timer alone decides when to sample")
                poller.unregister(fd)
                self.pressure_window_s = None
        self.wakeups += 1
        return ready
