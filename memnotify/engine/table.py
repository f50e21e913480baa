# SPDX-License-Identifier: MIT
"""The table of observers, where the figures and the requests meet.

Threads: whoever serves requests opens, writes, reads, polls and closes (the request loop, and the
sockets' thread for its own observers); the sampler advances. One lock guards everything here and is
held for bookkeeping alone: no file is read, no reply or notification sent under it. A wake-up can
then be neither lost nor doubled:

- a poll stores its handle, then looks at ``pending``; a crossing sets ``pending``, then takes the
  handle; both under the lock, so whichever comes second sees the first;
- a handle that was taken out belongs to whoever took it, and to nobody else.
"""

import math
from array import array
from collections.abc import Callable
from threading import Lock
from typing import NamedTuple

from memnotify.abi.figures import NAMES, USED, Figures
from memnotify.abi.thresholds import Thresholds
from memnotify.engine.observer import NO_HANDLE, NOT_ARMED, HandleBatch, Observer, Threshold, ThresholdIndex


class Sample(NamedTuple):
    """Figures and the moment their reading began, in seconds of the monotonic clock.

    ``exact`` is false if the pages on the per-CPU free lists were left out, so that ``used`` is an upper
    bound. ``pcp_pages`` is how many there were, 0 if they were left out.
    """

    taken_s: float
    figures: Figures
    exact: bool
    pcp_pages: int = 0


class Distances(NamedTuple):
    """How many pages a figure must move by, at the least, for a threshold to fire; infinite if none can."""

    rising: float
    """Of ``used``, upwards."""
    allocated: float
    """The same by pages that leave the buddy allocator; 0 or less where those that lie on the per-CPU
    lists may be enough."""
    falling: float
    """Of ``used``, downwards; if the sample is not exact, from the least that it may be."""
    other: float
    """Of the other figures, in either direction."""

    @property
    def nearest(self) -> float:
        """Of any figure, in any direction."""
        return min(self.rising, self.falling, self.other)


class ObserverTable:
    """All observers by fh, their thresholds by level, the newest sample, and which observers crossed with it.

    ``figures`` is how many there are in a sample. Threads: ``advance`` and ``rearm`` belong to the sampler
    thread; everything else may be called from any thread.
    """

    def __init__(self, figures: int = len(NAMES)) -> None:
        self.on_thresholds_changed: Callable[[], object] = _ignore
        """Called when thresholds were set or the last one went, by the serving thread, without the lock."""
        self._lock = Lock()
        self._observers: dict[int, Observer] = {}
        self._opened = 0
        self._up = tuple(ThresholdIndex(figure, 1) for figure in range(figures))
        self._down = tuple(ThresholdIndex(figure, -1) for figure in range(figures))
        self.latest = Sample(-math.inf, Figures(0, 0, 0), exact=False)
        """The newest sample that was recorded or advanced to. Any thread may read it."""
        self._not_before_s = -math.inf
        self._thresholds = 0
        self._fired: Threshold | None = None
        self._batches: tuple[HandleBatch, ...] = (HandleBatch(),)

    def __len__(self) -> int:
        """Return the number of observers."""
        return len(self._observers)

    @property
    def watching(self) -> bool:
        """Whether any observer has a threshold. Any thread, without the lock: it is one number."""
        return self._thresholds > 0

    def add_batch(self, notify: Callable[["array[int]", int], object]) -> HandleBatch:
        """Return the batch of another thread that serves, to be notified after those before it."""
        batch = HandleBatch(notify)
        with self._lock:
            self._batches = (*self._batches, batch)
        return batch

    def open(self, batch: HandleBatch | None = None) -> int:
        """Add an observer without thresholds and return its fh, which is never used again.

        ``batch`` is that of the thread that serves it; without one it is the table's own.
        """
        batch = batch or self._batches[0]
        with self._lock:
            self._opened += 1
            self._observers[self._opened] = Observer(batch)
            batch.observers += 1
            if batch.observers > len(batch.space):
                # Another array: the sampler may be notifying by the old one.
                batch.space = array("Q", bytes(8 * (batch.observers * 5 // 4 + 8)))
            return self._opened

    def close(self, fh: int) -> int:
        """Forget an observer; its handle goes to the caller. Raises KeyError for an unknown fh."""
        with self._lock:
            observer = self._observers.pop(fh)
            observer.batch.observers -= 1
            watching = self._thresholds > 0
            self._disarm(observer)
            parks = watching and not self._thresholds
        if parks:
            self.on_thresholds_changed()
        return observer.handle

    def close_all(self) -> "array[int]":
        """Forget every observer; their handles go to the caller."""
        return array("Q", filter(None, map(self.close, list(self._observers))))

    def acknowledge(self, fh: int) -> None:
        """Clear an observer's pending event. Raises KeyError for an unknown fh.

        Without the lock: it is one store, and a crossing comes before it or after it all the same.
        """
        self._observers[fh].pending = False

    def subscribe(self, fh: int, thresholds: Thresholds, sample: Sample) -> None:
        """Replace an observer's thresholds and clear its pending event.

        ``sample`` says which thresholds are exceeded already: it must be exact and recorded here. Raises
        KeyError for an unknown fh.
        """
        with self._lock:
            observer = self._observers[fh]
            self._disarm(observer)
            observer.pending = False
            observer.thresholds = tuple(Threshold(observer, pages) for pages in thresholds.values())
            for threshold, figure in zip(observer.thresholds, thresholds, strict=True):
                if sample.figures[figure] >= threshold.pages:
                    self._down[figure].arm(threshold, 1 - threshold.pages)
                else:
                    self._up[figure].arm(threshold, threshold.pages)
            self._thresholds += len(observer.thresholds)
        self.on_thresholds_changed()

    def poll(self, fh: int, handle: int) -> tuple[bool, bool]:
        """Store ``handle`` and return whether an event is pending and whether the handle was kept.

        It is not kept if it is NO_HANDLE or if one is stored already: all handles of one open file
        wake the same waiters (fs/fuse/file.c: they carry the file's kh and nothing else). Raises
        KeyError for an unknown fh.
        """
        with self._lock:
            observer = self._observers[fh]
            keep = observer.handle == NO_HANDLE and handle != NO_HANDLE
            if keep:
                observer.handle = handle
            return observer.pending, keep

    def record(self, sample: Sample, ended_s: float) -> None:
        """Keep a sample, whose reading ended at ``ended_s``, as the newest, unless a newer one is known.

        No threshold is crossed by it.
        """
        with self._lock:
            self._not_before_s = max(self._not_before_s, ended_s)
            if sample.taken_s > self.latest.taken_s:
                self.latest = sample

    def needs_exact_figures(self, plain: Figures, pcp_limit_pages: int) -> bool:
        """Whether the pages on the per-CPU free lists, ``pcp_limit_pages`` or fewer, can change who crosses.

        The exact ``used`` is the plain one less those pages. What fires up at the plain one may not at
        a lower one, and what is armed down may fire at a lower one.
        """
        with self._lock:
            return self._up[USED].has_reached(plain.used) or self._down[USED].has_reached(
                plain.used - pcp_limit_pages
            )

    def advance(self, sample: Sample) -> tuple[HandleBatch, ...] | None:
        """Set the event of each observer that crosses, and return the batches with the handles to notify.

        No threshold fires a second time before ``rearm``, which must follow. An observer whose event is
        pending already is not among the handles, as it was woken before. Nothing is allocated for each
        threshold or observer, so that they are woken even where there is no memory left.

        Returns None, and does nothing, if the sample is older than the last one, or if its reading
        began before that of a recorded one had ended: a threshold may have been set from that one,
        which of the two is the later moment is not known, and going back in time would invent a
        crossing.
        """
        with self._lock:
            if sample.taken_s < self._not_before_s:
                return None
            self._not_before_s = sample.taken_s
            self.latest = sample
            for batch in self._batches:
                batch.handles, batch.count = batch.space, 0
            for value, *both in zip(sample.figures, self._up, self._down, strict=True):
                for index in both:
                    for threshold in index.pop_reached(value):
                        threshold.key = NOT_ARMED
                        threshold.fired_before, self._fired = self._fired, threshold
                        observer = threshold.observer
                        if not observer.pending:
                            observer.pending = True
                            if observer.handle != NO_HANDLE:
                                batch = observer.batch
                                batch.handles[batch.count] = observer.handle
                                batch.count += 1
                                observer.handle = NO_HANDLE
            return self._batches

    def rearm(self, sample: Sample, granularity_pages: int, pcp_limit_pages: int) -> Distances:
        """Arm each threshold that fired at ``sample`` for the other direction, damped by the granularity.

        Thresholds that were replaced or closed in the meantime are left out. Return how far the nearest
        levels are; the per-CPU lists hold at most ``pcp_limit_pages``.
        """
        with self._lock:
            threshold, self._fired = self._fired, None
            while threshold is not None:
                if threshold in threshold.observer.thresholds:
                    fired, pages = threshold.index, threshold.pages
                    value = sample.figures[fired.figure]
                    # Neither can fire at once again: the level down is at most value, the level up above it.
                    if fired.sign > 0:
                        level = min(pages, value + 1 - granularity_pages)
                        self._down[fired.figure].arm(threshold, 1 - level)
                    else:
                        level = max(pages, value + granularity_pages)
                        self._up[fired.figure].arm(threshold, level)
                # Otherwise each threshold would keep all that fired before it alive.
                threshold.fired_before, threshold = None, threshold.fired_before
            return self._distances(sample, pcp_limit_pages)

    def _distances(self, sample: Sample, pcp_limit_pages: int) -> Distances:
        """Return how far the nearest levels are from a sample's figures. The caller holds the lock."""
        used = sample.figures.used
        rising = self._up[USED].distance(used)
        falling = self._down[USED].distance(used if sample.exact else used - pcp_limit_pages)
        other = min(
            index.distance(value)
            for figure, value in enumerate(sample.figures)
            if figure != USED
            for index in (self._up[figure], self._down[figure])
        )
        return Distances(rising, rising - sample.pcp_pages, falling, other)

    def _disarm(self, observer: Observer) -> None:
        for threshold in observer.thresholds:
            if threshold.key != NOT_ARMED:
                threshold.index.disarm(threshold)
        self._thresholds -= len(observer.thresholds)
        # A threshold refers to its observer: without this the pair would wait for the cycle collector.
        observer.thresholds = ()


def _ignore() -> None:
    """Do nothing: no sampler uses the table."""
