# SPDX-License-Identifier: MIT
"""The table of observers, where the figures and the requests meet.

Threads: the serving threads (the session's, and the socket server's for its own observers) open, write,
read, poll and close; the sampler advances. One lock guards the table. Under it no file is read, and no reply
or notification is sent.

So no wake-up is lost or doubled: a poll stores its handle, then reads ``pending``; a crossing sets
``pending``, then takes the handle. Both hold the lock, so the second sees what the first did. A poll that
does not wait stores nothing, and takes no lock.

What has fired is armed for the other direction some at a time, and the lock is free in between. A threshold
that has fired and is not armed yet fires at nothing and is bound by no read. So no wake-up is lost or
invented, as long as no newer figures are counted until all are armed: that is the rule of ``advance``.
"""

import errno
import math
from array import array
from collections.abc import Callable, Mapping, Sequence
from itertools import chain
from operator import attrgetter
from threading import Lock
from typing import NamedTuple

from memnotify.abi.figures import NAMES, USED, Figures
from memnotify.abi.thresholds import Level
from memnotify.engine.observer import (
    NO_EVENT,
    NO_HANDLE,
    NOT_ARMED,
    Group,
    HandleBatch,
    LateObserver,
    Observer,
    PercentageThreshold,
    Threshold,
    ThresholdIndex,
    UnsavedObserver,
    index_pair,
)
from memnotify.engine.saved_state import (
    ARMED,
    EACH,
    KH,
    NO_PLACE,
    OPENER,
    Armed,
    Record,
    SavedState,
    armed_word,
)

# Above every fh of an observer that is saved.
_NOT_SAVED = 1 << 59

STALE, NO_NEWS, EVENT = range(3)
"""What ``ObserverTable.acknowledge_read`` has acknowledged; STALE is false, the others are true."""


# A smaller table is not worth a second look: 1,000 observers with three thresholds take about 1 MB.
_SPARSE_FROM = 1000
# The observers of a user beyond so many are notified last: 4,096 of one user take 6 ms.
_FIRST_PER_USER = 64
# Thresholds that are armed while the lock is held: 4,096 at once took 5 to 12 ms, in which polls and reads
# waited. So many take 0.1 ms.
_REARMED_AT_ONCE = 32
_NO_GROUPS: Mapping[int, "Group"] = {}
# The user in an observer's opener.
_UID = (1 << 32) - 1


class Sample(NamedTuple):
    """Figures and the moment at which their reading began, in seconds of the monotonic clock.

    If the pages on the per-CPU free lists were not counted, ``exact`` is false, ``used`` is an upper bound
    and ``pcp_pages`` is 0; otherwise ``pcp_pages`` is how many there were.
    """

    taken_s: float
    figures: Figures
    exact: bool
    pcp_pages: int = 0


class Distances(NamedTuple):
    """The fewest pages by which a figure must move for a threshold to fire; infinite if no threshold can."""

    rising: float
    """Of ``used``, upwards."""
    allocated: float
    """The same, in pages that leave the buddy allocator; 0 or less if the per-CPU lists hold enough pages."""
    falling: float
    """Of ``used``, downwards; if the sample is not exact, from the lowest possible ``used``."""
    other: float
    """Of the other figures, in either direction."""

    @property
    def nearest(self) -> float:
        """Of any figure, in any direction."""
        return min(self.rising, self.falling, self.other)


ThresholdState = tuple[int, int, bool, int]
"""A threshold as the status shows it: figure, pages, and the level that fires next, upwards if the third is
True. Not a named tuple, which takes five times as long to make; so is the next one."""
ObserverState = tuple[int, int, bool, int, float, list[ThresholdState]]
"""An observer as the status shows it: its fh, its process and user as in ``ObserverTable.open``, whether an
event is pending, how many events there were since this process serves it, the pending one included, when the
last one was, or -inf, and its thresholds."""

Fingerprint = tuple[list[object], ...]
"""Values of which one at least changes when the state of an observer does."""

_thresholds_of = attrgetter("thresholds")
_OBSERVER_VALUES = tuple(map(attrgetter, ("acknowledged", "pending", "event_s")))
# A key tells the direction as well: it is at least 1 upwards, and at most 0 downwards, or 1 for 0 pages.
_THRESHOLD_VALUES = tuple(map(attrgetter, ("key", "pages")))


class ThresholdCount(NamedTuple):
    """The thresholds of one figure that are on one side, and how many have come to that side."""

    figure: int
    above: bool
    armed: int
    crossings: int


class Limits(NamedTuple):
    """How many observers there may be in all, and how many of each user. Root has the first limit only."""

    observers: int = 100_000
    observers_per_user: int = 4096


class ObserverTable:
    """All observers by fh, their thresholds by level, the newest sample, and which observers crossed with it.

    ``figures`` is how many there are in a sample. Threads: ``advance`` and ``rearm`` are called by
    one thread at a time, the other methods from any thread.
    """

    # Whether the sampler arms what fired. Always to take a turn would cost a poll or read 180 ns.
    _arming = False
    fired = 0
    """How many thresholds fired at the last figures. For the thread that calls ``advance``."""

    def __init__(self, figures: int = len(NAMES), saved: SavedState | None = None) -> None:
        """Save the observers of the table's own batch in ``saved``."""
        self.on_thresholds_changed: Callable[[], object] = _ignore
        """Called when thresholds were set, the last one went, or the table became sparse; by the serving
        thread, without the lock."""
        self._lock = Lock()
        # Held by a thread that waits for the lock, so that the sampler does not take the lock again before.
        self._next = Lock()
        self._observers: dict[int, Observer] = {}
        self.limits = Limits()
        # How many observers each user has, except root.
        self._owned: dict[int, int] = {}
        self._opener = 0
        self.refused = 0
        """How many writes were not understood. Two threads may count one of two at the same moment."""
        self._opened = _NOT_SAVED
        self._saved = SavedState(figures) if saved is None else saved
        # The most observers that there were since compact().
        self._most = 0
        self._up = tuple(index_pair(figure)[0] for figure in range(figures))
        self._down = tuple(up.opposite for up in self._up)
        self.cgroup = figures
        """The index of a threshold on the writer's cgroup, after those of the figures."""
        self.groups: dict[int, Group] = {}
        """The cgroups that are watched, by key. It may change at any time, except under the lock."""
        self.group_of: dict[int, Group | None] = {}
        """The cgroup of each observer with a threshold on one, by fh; None is the root. Any thread."""
        self.latest = Sample(-math.inf, Figures(0, 0, 0), exact=False)
        """The newest sample. Any thread may read it."""
        self.latest_exact = self.latest
        """The newest exact one. Any thread may read it."""
        self.event_s = -math.inf
        """When the last sample at which a threshold fired was taken. Any thread may read it."""
        # The total of all percentages; 0 while they may have been computed from different totals.
        self._total_pages = 0
        self._granularity_pages = 0
        self._thresholds = 0
        self._fired: Threshold | None = None
        # The table's own batch, those of other threads, and the table's observers that are notified last.
        self._late = HandleBatch()
        self._batches: tuple[HandleBatch, ...] = (HandleBatch(), self._late)
        # How many thresholds of each figure have fired, downwards and upwards.
        self._crossings = array("Q", bytes(8 * 2 * (figures + 1)))
        self.events = 0
        """How many events observers had. Any thread may read it."""

    def __len__(self) -> int:
        """Return the number of observers."""
        return len(self._observers)

    @property
    def watching(self) -> bool:
        """Whether any observer has a threshold. Any thread, without the lock: it is one number."""
        return self._thresholds > 0

    @property
    def sparse(self) -> bool:
        """Whether most of the observers that memory is kept for are gone. Any thread, without the lock."""
        few = len(self._observers) * 4 < self._most
        # The last ones before a compaction may have been those with the highest slots, which then all stay.
        return few and max(self._most, self._saved.slots) > _SPARSE_FROM

    def compact(self) -> None:
        """Let go of the memory of observers that are gone, which a release does not."""
        with self._lock:
            # A dict and a set keep their size when entries go.
            self._observers = dict(self._observers)
            groups = [index for group in self.groups.values() for index in (group.up, group.down)]
            for index in (*self._up, *self._down, *groups):
                index.sweep()
            for batch in self._batches:
                # Another array: see open().
                batch.space = array("Q", bytes(8 * (batch.observers * 5 // 4 + 8)))
            self._most = len(self._observers)
            self._saved.shrink()

    def add_batch(self, notify: Callable[["array[int]", int], object]) -> HandleBatch:
        """Return the batch of another serving thread, to be notified after the earlier batches."""
        batch = HandleBatch(notify)
        with self._lock:
            self._batches = (*self._batches[:-1], batch, self._late)
        return batch

    def open(self, batch: HandleBatch | None = None, opener: int = 0) -> int:
        """Add an observer without thresholds and return its fh, which no later observer gets.

        ``batch`` is the serving thread's; the default is the table's own. ``opener`` is the process: its pid,
        0 if it is not known, in the bits above 32, its user below. Raises OSError: ENOSPC if there are as
        many observers as there may be, EMFILE if the user has as many.
        """
        with self._lock:
            uid = opener & _UID
            if len(self._observers) >= self.limits.observers:
                raise OSError(errno.ENOSPC, "there are as many open files as there may be (max_observers)")
            if uid and self._owned.get(uid, 0) >= self.limits.observers_per_user:
                raise OSError(
                    errno.EMFILE, "a user has as many open files as may be (max_observers_per_user)"
                )
            if batch is None:
                fh, place = self._saved.open(opener)
            else:
                self._opened += 1
                fh, place = self._opened, NO_PLACE
            self._add(fh, batch, place, opener)
        return fh

    def _add(self, fh: int, batch: HandleBatch | None, place: int, opener: int) -> Observer:
        uid = opener & _UID
        owned = self._owned.get(uid, 0) if uid else 0
        if batch is not None:
            # One object for the many observers of one process: 320 KB less for 10,000.
            if opener != self._opener:
                self._opener = opener
            observer: Observer = UnsavedObserver(place, batch, self._opener)
        elif owned >= _FIRST_PER_USER:
            batch = self._late
            observer = LateObserver(place, batch)
        else:
            batch = self._batches[0]
            observer = Observer(place)
        observers = self._observers
        observers[fh] = observer
        if uid:
            self._owned[uid] = owned + 1
        batch.observers += 1
        if len(observers) > self._most:  # noqa: PLR1730 - max() takes 0.1 us
            self._most = len(observers)
        if batch.observers > len(batch.space):
            # A new array: the sampler may be using the old one.
            batch.space = array("Q", bytes(8 * (batch.observers * 5 // 4 + 8)))
        return observer

    def restore(self, sample: Sample, groups: Mapping[int, Group] = _NO_GROUPS) -> "array[int]":
        """Add the saved observers of an earlier process; return the handles of those with a pending event.

        ``sample`` must be counted next: what has been crossed since the state was saved then fires. No client
        is served yet. ``groups`` has the cgroups of the observers by number, held and read; they must be read
        again.
        """
        notified = array("Q")
        with self._lock:
            for record in self._saved.records():
                observer = self._add(record.fh, None, record.place, record.opener)
                if not record.pending:
                    # Whether a client waits is not known. Where none does, a notification has no effect.
                    observer.handle = record.kh
                elif record.kh != NO_HANDLE:
                    notified.append(record.kh)
                self._restore(record.fh, observer, record, sample.figures.total, groups)
        self.on_thresholds_changed()
        return notified

    def restore_other(
        self, record: Record, batch: HandleBatch, sample: Sample, groups: Mapping[int, Group]
    ) -> int:
        """Do the same for an observer of another batch, and return its new fh."""
        with self._lock:
            self._opened += 1
            observer = self._add(self._opened, batch, NO_PLACE, record.opener)
            self._restore(self._opened, observer, record, sample.figures.total, groups)
            return self._opened

    def _restore(
        self, fh: int, observer: Observer, record: Record, total_pages: int, groups: Mapping[int, Group]
    ) -> None:
        observer.pending = record.pending
        # Its thresholds may be damped.
        observer.news = True
        thresholds = []
        for armed in record.thresholds:
            group, both = None, (self._up, self._down)
            figure = armed.figure
            if figure == self.cgroup:
                group = self.group_of[fh] = groups[record.group] if record.group else None
                figure = USED
            if group is None:
                threshold = _threshold(observer, armed.level, total_pages)
                index = both[armed.sign < 0][figure]
            else:
                threshold = _threshold(observer, armed.level, group.limit_pages)
                index = group.up if armed.sign > 0 else group.down
                group.uses += 1
            threshold.value = armed.value
            self._arm(threshold, index)
            thresholds.append(threshold)
        observer.thresholds = tuple(thresholds)
        self._thresholds += len(thresholds)

    def record(self, fh: int) -> Record:
        """Return what another process needs to restore an observer. No sample is taken any more."""
        with self._lock:
            observer = self._observers[fh]
            group = self.group_of.get(fh)
            # A threshold on the root's cgroup is one on `used`. With two of those, either may be it.
            root = fh in self.group_of and group is None
            saved = []
            for threshold in observer.thresholds:
                index = threshold.index
                figure = index.figure
                if root and figure == USED:
                    root, figure = False, self.cgroup
                level = threshold.percentage or Level(threshold.pages, 1, of_total=False)
                saved.append(Armed(figure, level, index.sign, threshold.value))
            number = 0 if group is None else group.key
            return Record(fh, NO_PLACE, NO_HANDLE, observer.pending, self._opener_of(observer), number, saved)

    def fhs(self) -> list[int]:
        """Return the fhs of all observers now. Any thread."""
        return list(self._observers)

    def describe(self, fhs: Sequence[int], uid: int = 0) -> list[ObserverState]:
        """Return the states of the observers that are not closed and that a user may see. Any thread.

        Root sees all. A threshold that has just fired is left out: it is armed at the end of the sample.
        """
        states = []
        with self._lock:
            words = self._saved.words
            for fh in fhs:
                observer = self._observers.get(fh)
                if observer is None:
                    continue
                opener = words[observer.place + OPENER] if observer.opener is None else observer.opener
                if uid and opener & _UID != uid:
                    continue
                thresholds = []
                for threshold in observer.thresholds:
                    key, index = threshold.key, threshold.index
                    if key != NOT_ARMED:
                        rising = index.sign > 0
                        thresholds.append((index.figure, threshold.pages, rising, key if rising else 1 - key))
                events = observer.acknowledged + observer.pending
                states.append((fh, opener, observer.pending, events, observer.event_s, thresholds))
        return states

    def fingerprint(self, fhs: Sequence[int]) -> Fingerprint:
        """Return another value than before if ``describe`` of these has another result. Any thread.

        Without the lock, so that no notification waits: a state that is described after this is as new, or
        newer, and then has another fingerprint. No bytecode runs for each observer.
        """
        observers = list(filter(None, map(self._observers.get, fhs)))
        sets = list(map(_thresholds_of, observers))
        thresholds = list(chain.from_iterable(sets))
        return (
            list(fhs),
            sets,
            *(list(map(value, observers)) for value in _OBSERVER_VALUES),
            *(list(map(value, thresholds)) for value in _THRESHOLD_VALUES),
        )

    def threshold_counts(self) -> list[ThresholdCount]:
        """Return how many thresholds there are by figure and side. Any thread."""
        with self._lock:
            pairs = [*zip(self._up, self._down, strict=True)]
            armed = [(up.armed, down.armed) for up, down in pairs]
            groups = self.groups.values()
            armed.append((sum(group.up.armed for group in groups), sum(group.down.armed for group in groups)))
            return [
                ThresholdCount(figure, above, counts[above], self._crossings[2 * figure + above])
                for figure, counts in enumerate(armed)
                for above in (False, True)
            ]

    def close(self, fh: int) -> None:
        """Remove an observer. Raises KeyError for an unknown fh."""
        with self._lock:
            observer = self._observers.pop(fh)
            (observer.batch or self._batches[0]).observers -= 1
            uid = self._opener_of(observer) & _UID
            self._saved.close(observer.place)
            if uid:
                self._owned[uid] -= 1
                if not self._owned[uid]:
                    del self._owned[uid]
            parks = False
            if observer.thresholds:
                self.group_of.pop(fh, None)
                self._disarm(observer)
                parks = not self._thresholds
        if parks or self.sparse:
            self.on_thresholds_changed()

    def acknowledge(self, fh: int) -> None:
        """Clear an observer's pending event. Raises KeyError for an unknown fh."""
        with self._lock:
            self._clear(self._observers[fh])

    def has_news(self, fh: int) -> bool:
        """Return whether a read must do more than to return figures: acknowledge, bind, or add a cgroup's.

        A crossing after this stays pending, as if the read had come first. Raises KeyError for an unknown fh.
        """
        return self._observers[fh].news

    def acknowledge_read(self, fh: int, sample: Sample) -> int:
        """Clear an observer's pending event, because a read returns the figures of ``sample``.

        If the figures lie between a threshold and its damped level, the client sees the other side without an
        event, so the threshold is armed for the way back. Return EVENT if one was pending, otherwise NO_NEWS.
        If an event is newer than the figures, do nothing and return STALE: the read needs a newer sample.
        Raises KeyError for an unknown fh.
        """
        observer = self._observers[fh]
        if self._arming:
            self._take_turn()
        self._lock.acquire()  # as in poll()
        try:
            if sample.taken_s < self.event_s:
                return STALE
            acknowledged = NO_NEWS
            if observer.pending:
                acknowledged = EVENT
                observer.acknowledged += 1
                observer.pending = False
                self._saved.words[observer.place] = 0
            bound = self._bind_all(observer, sample)
        finally:
            self._lock.release()
        if bound:
            self.on_thresholds_changed()
        return acknowledged

    def give_back(self, fh: int) -> int:
        """Make an event pending again, because the client did not get it; its handle belongs to the caller.

        Raises KeyError for an unknown fh.
        """
        with self._lock:
            observer = self._observers[fh]
            observer.acknowledged -= not observer.pending
            observer.pending = True
            self._saved.words[observer.place] = 1
            handle, observer.handle = observer.handle, NO_HANDLE
            return handle

    def acknowledge_group_read(self, fh: int, sample: Sample) -> tuple[int, tuple[int, int]]:
        """Do the same for an observer with a threshold on its cgroup; return its value and limit as well.

        Raises KeyError for an unknown fh.
        """
        if self._arming:
            self._take_turn()
        with self._lock:
            observer = self._observers[fh]
            group = self.group_of.get(fh)
            if group is None:
                told = sample.figures.used, sample.figures.total
            else:
                told = group.value_pages, group.limit_pages
            if sample.taken_s < self.event_s:
                return STALE, told
            acknowledged = EVENT if observer.pending else NO_NEWS
            self._clear(observer)
            bound = self._bind_all(observer, sample)
        if bound:
            self.on_thresholds_changed()
        return acknowledged, told

    def subscribe(
        self, fh: int, levels: Mapping[int, Level], sample: Sample, group: Group | None = None
    ) -> None:
        """Replace an observer's thresholds by ``levels``, by the figure's index; clear its pending event.

        ``sample`` decides which thresholds are exceeded already. It must be exact, and ``advance`` must have
        had it. ``group`` is the cgroup of a level with the index ``cgroup``, held and read as recently; None
        is the root. Raises KeyError for an unknown fh.
        """
        figures = sample.figures
        with self._lock:
            observer = self._observers[fh]
            # Only pending: the process before was killed in the middle of a write.
            if observer.thresholds or observer.pending:
                self._disarm(observer)
                self.group_of.pop(fh, None)
                observer.acknowledged += observer.pending
                observer.pending = observer.news = False
                self._saved.forget_thresholds(observer.place)
            if figures.total != self._total_pages:
                self._total_pages = 0
            thresholds, saved = [], []
            for figure, level in levels.items():
                if figure == self.cgroup:
                    up, value, whole_pages = self._watch(fh, group, figures)
                    observer.news = True
                else:
                    up, value, whole_pages = self._up[figure], figures[figure], figures.total
                threshold = (PercentageThreshold if level.of_total else Threshold)(
                    observer, level, whole_pages
                )
                pages = threshold.pages
                # Armed for the side on which the figure is not.
                if value >= pages:
                    up.opposite.arm(threshold, 1 - pages)
                    saved.append((figure, level, -1, NO_EVENT))
                else:
                    up.arm(threshold, pages)
                    saved.append((figure, level, 1, NO_EVENT))
                thresholds.append(threshold)
            observer.thresholds = tuple(thresholds)
            self._thresholds += len(thresholds)
            self._saved.set_thresholds(observer.place, saved, 0 if group is None else group.key)
        self.on_thresholds_changed()

    def hold(self, group: Group) -> Group:
        """Return the cgroup that is watched under this one's key, or this one; ``release`` must follow."""
        with self._lock:
            group = self.groups.setdefault(group.key, group)
            group.uses += 1
            return group

    def release(self, group: Group) -> None:
        """Forget a held cgroup, unless a threshold is on it."""
        with self._lock:
            self._release(group)

    def watched_groups(self) -> list[Group]:
        """Return the cgroups that are watched."""
        with self._lock:
            return list(self.groups.values())

    def poll(self, fh: int, handle: int) -> bool:
        """Store ``handle``, unless it is NO_HANDLE, and return whether an event is pending.

        All handles of one open file are the same. Raises KeyError for an unknown fh.
        """
        if not handle:
            # It waits for nothing, so it stores nothing that a crossing could miss.
            return self._observers[fh].pending
        if self._arming:
            self._take_turn()
        # `with` takes 0.06 to 0.1 us more, in Python 3.11.
        self._lock.acquire()
        try:
            observer = self._observers[fh]
            if not observer.handle:
                observer.handle = self._saved.words[observer.place + KH] = handle
            return observer.pending
        finally:
            self._lock.release()

    def needs_exact_figures(self, plain: Figures, pcp_limit_pages: int) -> bool:
        """Return True if the per-CPU free lists, with at most ``pcp_limit_pages``, can change what crosses.

        The exact ``used`` is the plain one minus those pages. At a lower ``used``, a threshold that is
        reached upwards may not be, and one that is not reached downwards may be.
        """
        with self._lock:
            return self._up[USED].has_reached(plain.used) or self._down[USED].has_reached(
                plain.used - pcp_limit_pages
            )

    def follow(self, total_pages: int, granularity_pages: int) -> None:
        """Move the thresholds in percent with total, before a read returns figures that do not count yet.

        No threshold fires: ``advance`` with the same figures must follow. ``rearm`` must have been called.
        """
        with self._lock:
            self._follow(total_pages, granularity_pages)

    def advance(self, sample: Sample, granularity_pages: int) -> tuple[HandleBatch, ...]:
        """Set the event of each observer that crosses, and return the batches with the handles to notify.

        A sample that is not exact may be used only if ``needs_exact_figures`` was False for it.
        The granularity damps events from now on. The sample must be newer than the one before, and ``rearm``
        must follow: until then no threshold fires again. An observer with a pending event was notified
        before, so its handle is not returned. No memory is allocated for a threshold or observer, because
        clients must be woken even if no memory is left.
        """
        with self._lock:
            self._keep(sample)
            self._follow(sample.figures.total, granularity_pages)
            self._empty_batches()
            for value, *both in zip(sample.figures, self._up, self._down, strict=True):
                for index in both:
                    # Not exact: `used` can reach only what was written since the sampler asked.
                    counts = index.armed and (sample.exact or index.figure != USED)
                    if counts and self._fire(index, value, sample.taken_s):
                        self.event_s = sample.taken_s
            return self._batches

    def advance_group(
        self, group: Group, value_pages: int, limit_pages: int, granularity_pages: int, taken_s: float
    ) -> tuple[HandleBatch, ...]:
        """Do the same for a cgroup's value and limit, read then; ``rearm_group`` must follow."""
        with self._lock:
            group.value_pages = value_pages
            self._follow_limit(group, limit_pages, granularity_pages)
            self._empty_batches()
            for index in (group.up, group.down):
                group.events += self._fire(index, value_pages, taken_s)
            return self._batches

    def rearm_group(self, group: Group) -> float:
        """Arm each threshold that fired at the cgroup's value; return the distance of its nearest level."""
        self._rearm_in_turns(self.latest)
        with self._lock:
            group.fresh = False
            return min(group.up.distance(group.value_pages), group.down.distance(group.value_pages))

    def group_distances(self, group: Group, pages: int) -> tuple[float, float]:
        """Return how far these pages are from the nearest level upwards, and from the nearest downwards."""
        with self._lock:
            group.fresh = False
            return group.up.distance(pages), group.down.distance(pages)

    def _empty_batches(self) -> None:
        for batch in self._batches:
            batch.handles, batch.count = batch.space, 0
        self.fired = 0

    def _fire(self, index: ThresholdIndex, value: int, taken_s: float) -> bool:
        """Set the events of what fires at ``value``, and batch the handles; return True if any fires."""
        fired = events = 0
        words, own = self._saved.words, self._batches[0]
        handles, count = own.handles, own.count
        while (first := index.pop_reached(value)) is not None:
            following: Threshold | None = first
            while following is not None:
                threshold = following
                following = threshold.following
                fired += 1
                threshold.key = NOT_ARMED
                observer = threshold.observer
                if observer.pending:
                    continue
                events += 1
                observer.pending = observer.news = True
                observer.event_s = taken_s
                words[observer.place] = 1
                handle = observer.handle
                if handle:
                    observer.handle = NO_HANDLE
                    batch = observer.batch
                    if batch is None:
                        handles[count] = handle
                        count += 1
                    else:
                        batch.handles[batch.count] = handle
                        batch.count += 1
            # All at one level, in front of those of the levels before.
            threshold.following, self._fired = self._fired, first
        own.count = count
        if fired:
            index.armed -= fired
            self.fired += fired
            self._crossings[2 * index.figure + (index.sign > 0)] += fired
            self.events += events
        return fired > 0

    def rearm(self, sample: Sample, pcp_limit_pages: int) -> Distances:
        """Arm each threshold that fired at ``sample`` for the other direction; return the distances then.

        Skip thresholds that were replaced or closed in the meantime. The per-CPU lists hold at most
        ``pcp_limit_pages``.
        """
        if self._fired is not None:
            self._rearm_in_turns(sample)
        with self._lock:
            return self._distances(sample, pcp_limit_pages)

    def _rearm_in_turns(self, sample: Sample) -> None:
        """Arm what fired, and let polls and reads that wait have the lock in between."""
        self._arming = left = True
        while left:
            with self._next:
                pass
            with self._lock:
                left = self._rearm_fired(sample)
        self._arming = False

    def _take_turn(self) -> None:
        """Wait until the sampler has let go of the lock, and keep it from taking the lock again before."""
        with self._next, self._lock:
            pass

    def _rearm_fired(self, sample: Sample) -> bool:
        """Arm some of the thresholds that fired; return whether any are left."""
        threshold, figures, left = self._fired, sample.figures, _REARMED_AT_ONCE
        words = self._saved.words
        last, index, last_pages = None, self._up[USED], -1
        value = granularity_pages = key = word = 0
        while threshold is not None and left:
            left -= 1
            following = threshold.following
            # Otherwise each threshold would keep its neighbours in memory.
            threshold.previous = threshold.following = None
            observer = threshold.observer
            thresholds = observer.thresholds
            if threshold in thresholds:
                # It cannot fire again at once: the level down is at most the value, the level up is above it.
                # Computed once for all that fired in one direction, and for all that are at one level.
                if threshold.index is not last:
                    last, last_pages = threshold.index, -1
                    index, group = last.opposite, last.group
                    value = figures[last.figure] if group is None else group.value_pages
                    granularity_pages = self._granularity_pages if group is None else group.granularity_pages
                    word = armed_word(index.sign, value)
                threshold.value = value
                if threshold.pages != last_pages:
                    last_pages = threshold.pages
                    key = threshold.key_in(index.sign, granularity_pages)
                index.arm(threshold, key)
                words[observer.place + ARMED + EACH * thresholds.index(threshold)] = word
            threshold = following
        self._fired = threshold
        return threshold is not None

    def _keep(self, sample: Sample) -> None:
        self.latest = sample
        if sample.exact:
            self.latest_exact = sample

    def _arm(self, threshold: Threshold, index: ThresholdIndex) -> None:
        """Arm a threshold that is armed nowhere at its level in this direction."""
        group = index.group
        granularity_pages = self._granularity_pages if group is None else group.granularity_pages
        index.arm(threshold, threshold.key_in(index.sign, granularity_pages))

    def _bind_all(self, observer: Observer, sample: Sample) -> bool:
        """Bind each threshold by the line that a read returns; return True if any armed level changes."""
        bound = False
        figures = sample.figures
        for threshold in observer.thresholds:
            index = threshold.index
            value = figures[index.figure] if index.group is None else index.group.value_pages
            if (value >= threshold.pages) is (index.sign > 0):
                bound = self._bind(threshold, value) or bound
        return bound

    def _bind(self, threshold: Threshold, value: int) -> bool:
        """Arm a threshold for the way back if a read returned a value between it and its damped level."""
        index = threshold.index
        # If it is not armed, it has just fired at these figures.
        if threshold.key == NOT_ARMED or index.sign * value >= threshold.key:
            return False
        index.disarm(threshold)
        threshold.value = value
        self._arm(threshold, index.opposite)
        self._save(threshold)
        if index.group is not None:
            index.group.fresh = True
        return True

    def _watch(self, fh: int, group: Group | None, figures: Figures) -> tuple[ThresholdIndex, int, int]:
        """Note an observer's cgroup; return its index upwards, its value and its limit."""
        self.group_of[fh] = group
        if group is None:
            return self._up[USED], figures.used, figures.total
        group.uses += 1
        group.fresh = True
        return group.up, group.value_pages, group.limit_pages

    def _save(self, threshold: Threshold) -> None:
        observer = threshold.observer
        place = observer.place + ARMED + EACH * observer.thresholds.index(threshold)
        self._saved.words[place] = armed_word(threshold.index.sign, threshold.value)

    def _opener_of(self, observer: Observer) -> int:
        return self._saved.opener(observer.place) if observer.opener is None else observer.opener

    def _clear(self, observer: Observer) -> None:
        observer.acknowledged += observer.pending
        observer.pending = False
        self._saved.words[observer.place] = 0

    def _follow(self, total_pages: int, granularity_pages: int) -> None:
        """Move the thresholds in percent with total, each in the direction for which it is armed.

        This alone allocates on the way to a notification; total changes by hot-plug and swapon.
        """
        self._granularity_pages = granularity_pages
        if total_pages == self._total_pages:
            return
        self._total_pages = total_pages
        for observer in self._observers.values():
            for threshold in observer.thresholds:
                if threshold.index.group is None:
                    self._move(threshold, total_pages)

    def _follow_limit(self, group: Group, limit_pages: int, granularity_pages: int) -> None:
        """Move the thresholds in percent of a cgroup's limit with the limit."""
        group.granularity_pages = granularity_pages
        if limit_pages != group.limit_pages:
            group.limit_pages = limit_pages
            for threshold in group.up.members() + group.down.members():
                self._move(threshold, limit_pages)

    def _move(self, threshold: Threshold, whole_pages: int) -> None:
        """Move a threshold that is a percentage of this, in the direction for which it is armed."""
        percentage = threshold.percentage
        if percentage is not None and percentage.pages(whole_pages) != threshold.pages:
            threshold.index.disarm(threshold)
            threshold.pages = percentage.pages(whole_pages)
            self._arm(threshold, threshold.index)

    def _distances(self, sample: Sample, pcp_limit_pages: int) -> Distances:
        """Return how far the nearest levels are from a sample's figures. The caller holds the lock."""
        used = sample.figures.used
        rising = self._up[USED].distance(used)
        falling = self._down[USED].distance(used if sample.exact else used - pcp_limit_pages)
        other = math.inf
        for figure, value in enumerate(sample.figures):
            if figure != USED:
                for index in (self._up[figure], self._down[figure]):
                    if index.armed:
                        other = min(other, index.distance(value))
        return Distances(rising, rising - sample.pcp_pages, falling, other)

    def _release(self, group: Group) -> None:
        group.uses -= 1
        if not group.uses:
            del self.groups[group.key]
            # Its descriptors are closed once no reading uses them.
            group.source = None

    def _disarm(self, observer: Observer) -> None:
        for threshold in observer.thresholds:
            if threshold.key != NOT_ARMED:
                threshold.index.disarm(threshold)
            group = threshold.index.group
            if group is not None:
                self._release(group)
        self._thresholds -= len(observer.thresholds)
        # A threshold refers to its observer; without this only the cycle collector would free the pair.
        observer.thresholds = ()


def _threshold(observer: Observer, level: Level, whole_pages: int) -> Threshold:
    return (PercentageThreshold if level.of_total else Threshold)(observer, level, whole_pages)


def _ignore() -> None:
    """Do nothing: no sampler uses the table."""
