# SPDX-License-Identifier: MIT
"""The cgroups on which there are thresholds, and when each is read.

A page counter counts for the whole machine. A cgroup grows by at most the pages that were allocated and those
from the per-CPU lists, apart from charges without an allocation: batches (64 pages for each CPU), objects in
existing slabs, and file pages that mlock(2) makes undroppable. Because of these, samples that are due for
other reasons read the stalest cgroups as well.
"""

import logging
import math
from collections.abc import Callable, Hashable, Iterable, Sequence
from operator import attrgetter

from memnotify.engine.observer import Group, GroupSource, HandleBatch
from memnotify.engine.schedule import SamplingParameters
from memnotify.engine.table import ObserverTable, Sample
from memnotify.kernel.cgroups import CgroupGoneError
from memnotify.kernel.syscalls import FileWatches
from memnotify.logs import LIMITED

log = logging.getLogger(__name__)

# How many of the stalest cgroups a sample reads as well: with 1,000, each is read every four minutes.
_STALEST = 64
_STALE_SHARE = 0.75
# A burst is over within seconds; its rate must not cause readings for longer.
_HALF_LIFE_S = 1.0


class GroupSampler:
    """Reads cgroups and decides when. Threads: every call holds the sampler's lock.

    ``notify`` is called with the batches that the table returns for a cgroup. A cgroup is read if both are
    possible: at the expected rate its nearest level was reached since its last reading, and the page counters
    have passed its margin. The margin is the distance to that level minus the pages on the per-CPU lists.
    memory.current, an upper bound, is read first. memory.stat, which the kernel sums up over CPUs and
    descendants, is read only if memory.current does not decide.
    """

    def __init__(self, table: ObserverTable, notify: Callable[[tuple[HandleBatch, ...]], bool]) -> None:
        self._table = table
        self._notify = notify
        # How much the counters may have counted in this epoch before they were armed last, and for how much
        # they are armed. An epoch ends when a counter fires or cannot be armed.
        self._spent_pages = 0.0
        self._armed_pages: Sequence[int] = ()
        self._margin_pages = math.inf
        self._epoch = 0
        self._rate_pages_s = 0.0
        self._watches: FileWatches | None = None
        # The watches of each cgroup, and the cgroup of each watch, by key.
        self._watched: dict[Hashable, list[int]] = {}
        self._key_of: dict[int, Hashable] = {}
        try:
            self._watches = FileWatches()
        except OSError as error:
            log.info("changes of a cgroup's limit are noticed late: inotify: %s", error.strerror)

    def read(self, group: Group, sample: Sample, now_s: float, parameters: SamplingParameters) -> None:
        """Read a cgroup exactly, and notify the observers that cross."""
        source = group.source
        if source is None:
            return
        total_pages = sample.figures.total
        if group.key not in self._watched:
            self._watch(group.key, source)
        try:
            group.own_limit_pages = source.read_limit()
            value_pages = source.read_exact()
            group.droppable_pages = max(0, source.read_current() - value_pages)
        except CgroupGoneError:
            self._end(group, parameters, now_s)
            return
        except OSError as error:
            log.warning("a cgroup cannot be read, trying again: %s", error.strerror, extra=LIMITED)
            # It is due again at once. If many fired, the distance is not known: -inf, or 0, would be a level
            # in reach at any rate, and cause a sample each min_update_period.
            if group.distance_pages < 0:
                group.distance_pages = math.inf
            group.fresh = True
            return
        limit_pages = (
            total_pages if group.own_limit_pages is None else min(total_pages, group.own_limit_pages)
        )
        distance_pages = self._count(group, value_pages, limit_pages, parameters, now_s)
        group.exact_s = now_s
        group.limit_written = False
        self._note(group, value_pages, distance_pages, now_s, sample)

    def _end(self, group: Group, parameters: SamplingParameters, now_s: float) -> None:
        """Let a removed cgroup have the value 0 from now on."""
        self._count(group, 0, group.limit_pages, parameters, now_s)
        # Never due, never stale, and covered for ever.
        group.read_s = group.exact_s = group.distance_pages = math.inf
        group.margin_pages = math.inf
        group.epoch = self._epoch
        group.limit_written = False

    def _watch(self, key: Hashable, source: GroupSource) -> None:
        """Notice writes to the files with a cgroup's limits, if possible."""
        self._forget_watches(self._table.watched_groups())
        watches = self._watched[key] = []
        if self._watches is None:
            return
        try:
            for path in source.limit_files():
                watches.append(self._watches.add(path))
                self._key_of[watches[-1]] = key
        except OSError as error:
            # fs.inotify.max_user_watches, or the cgroup is gone.
            log.info("changes of a cgroup's limit are noticed late: %s", error.strerror, extra=LIMITED)

    def _forget_watches(self, groups: Sequence[Group]) -> None:
        """End the watches of cgroups on which there is no threshold any more."""
        if len(self._watched) <= len(groups):
            return
        for key in self._watched.keys() - {group.key for group in groups}:
            for watch in self._watched.pop(key):
                if self._watches is not None and self._key_of.pop(watch, None) is not None:
                    self._watches.remove(watch)

    def _follow_writes(self, groups: Sequence[Group]) -> None:
        self._forget_watches(groups)
        if self._watches is None:
            return
        written = self._watches.read()
        if written:
            keys = {self._key_of.get(watch) for watch in written}
            for group in groups:
                group.limit_written |= -1 in written or group.key in keys

    def fileno(self) -> int | None:
        """Return a descriptor that polls POLLIN once a limit was written; None if it cannot be had."""
        return None if self._watches is None else self._watches.fileno()

    def close(self) -> None:
        """Close the descriptor."""
        if self._watches is not None:
            self._watches.close()

    def _count(
        self, group: Group, value_pages: int, limit_pages: int, parameters: SamplingParameters, now_s: float
    ) -> float:
        """Notify the observers that cross; return the distance of the nearest level then, or -inf."""
        granularity_pages = parameters.granularity_pages(limit_pages)
        batches = self._table.advance_group(group, value_pages, limit_pages, granularity_pages, now_s)
        if self._notify(batches):
            # It must be read again, since the sampler thread arms what fired.
            group.fresh = True
            return -math.inf
        return self._table.rearm_group(group)

    def due(self, now_s: float, parameters: SamplingParameters, rate_pages_s: float) -> Sequence[Group]:
        """Return the cgroups to read now.

        These are those that may have come near a level, those with another limit, and the stalest.
        """
        groups = self._table.watched_groups()
        self._follow_writes(groups)
        due = [group for group in self._uncovered(groups) if now_s >= group.due_s(rate_pages_s)]
        stale_s = now_s - _STALE_SHARE * parameters.max_update_period_s
        stale = [group for group in groups if group.read_s <= stale_s]
        if len(stale) > _STALEST:
            # Mostly in this order already, so sorting is faster than a heap.
            stale = sorted(stale, key=attrgetter("read_s"))[:_STALEST]
        written = [group for group in groups if group.limit_written]
        return list({id(group): group for group in due + stale + written}.values())

    def read_due(
        self, groups: Iterable[Group], sample: Sample, now_s: float, parameters: SamplingParameters
    ) -> None:
        """Read these cgroups, memory.current alone if it decides. ``sample`` is exact."""
        stale_s = now_s - _STALE_SHARE * parameters.max_update_period_s
        for group in groups:
            source = group.source
            if source is None:
                continue
            try:
                bound_pages = source.read_current()
                changed = group.limit_written or (
                    group.read_s <= stale_s and source.read_limit() != group.own_limit_pages
                )
            except OSError:
                changed, bound_pages = True, 0
            rising_pages, falling_pages = self._table.group_distances(group, bound_pages)
            # A level downwards, or one that may be much farther away than it seems, needs memory.stat.
            if changed or rising_pages <= group.droppable_pages or falling_pages < math.inf:
                self.read(group, sample, now_s, parameters)
            else:
                self._note(group, bound_pages, rising_pages, now_s, sample)

    def nearest(self) -> tuple[float, float]:
        """Return the distance of the nearest level, and the highest rate read since the last call."""
        rate_pages_s, self._rate_pages_s = self._rate_pages_s, 0.0
        return min(
            (group.distance_pages for group in self._table.watched_groups()), default=math.inf
        ), rate_pages_s

    def margin_pages(self, least_pages: int) -> float:
        """Return how many pages each of two page counters, of this at least, may count without a reading.

        If every cgroup must be read, that is what the last readings allowed.
        """
        groups = self._table.watched_groups()
        margins = [group.margin_pages for group in groups if group.epoch == self._epoch]
        if margins:
            least_margin_pages = self._spent_pages + 2 * least_pages
            enough = [pages for pages in margins if pages >= least_margin_pages]
            self._margin_pages = (min(enough, default=math.inf) - self._spent_pages) / 2
        return self._margin_pages if groups else math.inf

    def counted(self, armed_pages: Sequence[int]) -> None:
        """Note for how much each page counter is armed, 0 if it cannot count."""
        if not all(armed_pages):
            self.uncover()
        elif armed_pages != self._armed_pages:
            # They began again.
            self._spent_pages += sum(self._armed_pages)
            self._armed_pages = armed_pages

    def due_s(self, rate_pages_s: float) -> float:
        """Return when the first cgroup that the page counters do not cover must be read."""
        uncovered = self._uncovered(self._table.watched_groups())
        return min((group.due_s(rate_pages_s) for group in uncovered), default=math.inf)

    def uncover(self) -> None:
        """Note that a counter fired or cannot count: each cgroup must be read once it may be near a level."""
        self._epoch += 1
        self._spent_pages = 0.0
        self._armed_pages = ()

    def _uncovered(self, groups: Iterable[Group]) -> list[Group]:
        passed_pages = self._spent_pages + sum(self._armed_pages) if self._armed_pages else math.inf
        return [
            group
            for group in groups
            if group.fresh or group.epoch != self._epoch or group.margin_pages < passed_pages
        ]

    def _note(
        self, group: Group, bound_pages: int, distance_pages: float, now_s: float, sample: Sample
    ) -> None:
        """Note a reading: an upper bound of the value, and its distance from the nearest level."""
        elapsed_s = max(now_s - group.read_s, 0.001)
        rate_pages_s = abs(bound_pages - group.bound_pages) / elapsed_s
        group.rate_pages_s = max(rate_pages_s, group.rate_pages_s * 0.5 ** (elapsed_s / _HALF_LIFE_S))
        self._rate_pages_s = max(self._rate_pages_s, group.rate_pages_s)
        group.read_s, group.bound_pages, group.distance_pages = now_s, bound_pages, distance_pages
        group.margin_pages = distance_pages - sample.pcp_pages + self._spent_pages
        group.epoch = self._epoch
