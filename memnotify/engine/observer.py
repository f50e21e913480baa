# SPDX-License-Identifier: MIT
"""An observer, its thresholds, and the index of the levels at which thresholds fire. Pure."""

import heapq
import math
from array import array
from collections.abc import Callable, Iterator

from memnotify.abi.thresholds import Level

NO_HANDLE = 0
"""No poll handle is stored: no client is waiting, or it was notified and has not polled again."""
NOT_ARMED = 1 << 64
"""The key of a threshold that is armed nowhere; no level is as high."""
NO_EVENT = -1
"""The value of a threshold that is not damped: no event has been, or its level is the threshold's own."""


class HandleBatch:
    """The handles of the observers that one thread serves, which are notified together.

    The table fills ``handles`` with ``count`` of them when it advances. ``notify`` is called with both; if it
    is None, the sampler's own is.
    """

    __slots__ = ("count", "handles", "notify", "observers", "space")

    def __init__(self, notify: Callable[["array[int]", int], object] | None = None) -> None:
        self.notify = notify
        self.observers = 0
        self.count = 0
        # A place for every observer's handle, made when it opens and not when memory is short.
        self.space = array("Q")
        self.handles = self.space


class Observer:
    """One open file: its thresholds, whether an event is pending, and the handle to notify it by."""

    __slots__ = ("batch", "handle", "pending", "thresholds")

    def __init__(self, batch: HandleBatch) -> None:
        self.batch = batch
        self.handle = NO_HANDLE
        self.pending = False
        self.thresholds: tuple[Threshold, ...] = ()

    @property
    def may_bind(self) -> bool:
        """Whether a read may bind: a threshold may be armed at a level other than its own."""
        for threshold in self.thresholds:  # noqa: SIM110 - a read allocates no generator
            if threshold.value != NO_EVENT:
                return True
        return False


class Threshold:
    """One threshold of one observer, armed in one direction at the one level that fires next.

    ``pages`` is where it is, ``percentage`` what it is of total if it was given so. ``value`` is the figure
    at its last event, by which it is damped, or NO_EVENT. ``index`` is the one in which it is armed at
    ``key``, or, if the key is NOT_ARMED, from which it has fired.
    """

    __slots__ = ("fired_before", "index", "key", "observer", "pages", "value")

    index: "ThresholdIndex"
    percentage: Level | None = None

    def __init__(self, observer: Observer, level: Level, total_pages: int) -> None:
        self.observer = observer
        self.pages = level.pages(total_pages)
        self.value = NO_EVENT
        self.key = NOT_ARMED
        self.fired_before: Threshold | None = None

    def level(self, sign: int, granularity_pages: int) -> int:
        """Return the level that fires next, upwards for a ``sign`` of 1, downwards for -1.

        Damped by d = min(g, T / 8) from the last event, so that a small threshold fires in both directions;
        not damped if the threshold has moved to the other side of that event, with total.
        """
        if self.value == NO_EVENT or (self.value >= self.pages) == (sign > 0):
            return self.pages
        damping_pages = min(granularity_pages, self.pages // 8)
        if sign > 0:
            return max(self.pages, self.value + damping_pages)
        return min(self.pages, self.value + 1 - damping_pages)


class PercentageThreshold(Threshold):
    """A threshold that follows total. Apart, since its slot costs the others 16 bytes."""

    __slots__ = ("percentage",)

    def __init__(self, observer: Observer, level: Level, total_pages: int) -> None:
        super().__init__(observer, level, total_pages)
        self.percentage = level


class ThresholdIndex:
    """The thresholds of one figure that are armed in one direction, in the order of their levels.

    A threshold has a key. Up, the key is the level, ``sign`` is 1 and it fires when value >= level;
    down, the key is 1 - level, ``sign`` is -1 and it fires when value < level. Both are
    ``key <= sign * value``, the smallest key first. To see that nothing fires costs a look at one
    key; a crossing costs O(log n) for each different level and O(1) for each threshold at it;
    arming and disarming cost O(log n), amortized.
    """

    def __init__(self, figure: int, sign: int) -> None:
        """``figure`` is its index in the line."""
        self.figure = figure
        self.sign = sign
        self._at: dict[int, set[Threshold]] = {}
        # A heap of every key of _at and of the stale ones, which have no threshold any more; each once.
        self._keys: list[int] = []
        self._stale: set[int] = set()

    def key_of(self, level: int) -> int:
        """Return the key of a level."""
        return level if self.sign > 0 else 1 - level

    def arm(self, threshold: Threshold, key: int) -> None:
        """Arm a threshold that is armed nowhere."""
        threshold.key = key
        threshold.index = self
        members = self._at.get(key)
        if members is not None:
            members.add(threshold)
            return
        self._at[key] = {threshold}
        if key in self._stale:
            self._stale.remove(key)
        else:
            heapq.heappush(self._keys, key)

    def disarm(self, threshold: Threshold) -> None:
        """Disarm a threshold that is armed here."""
        key, threshold.key = threshold.key, NOT_ARMED
        members = self._at[key]
        members.remove(threshold)
        if members:
            return
        del self._at[key]
        self._stale.add(key)
        # Swept when most keys are stale, so each that left pays O(1) of the sweep.
        if len(self._stale) > len(self._at) + 8:
            self._keys = list(self._at)
            heapq.heapify(self._keys)
            self._stale.clear()

    def distance(self, value: int) -> float:
        """Return how many pages ``value`` is from the first level to fire; 0 or less if one fires there."""
        keys = self._keys
        while keys and keys[0] in self._stale:
            self._stale.remove(heapq.heappop(keys))
        return keys[0] - self.sign * value if keys else math.inf

    def has_reached(self, value: int) -> bool:
        """Whether any threshold fires at ``value`` pages."""
        return self.distance(value) <= 0

    def pop_reached(self, value: int) -> Iterator[Threshold]:
        """Take out every threshold that fires at ``value`` pages; it is armed nowhere then."""
        while self.has_reached(value):
            yield from self._at.pop(heapq.heappop(self._keys))
