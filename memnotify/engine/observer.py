# SPDX-License-Identifier: MIT
"""An observer, its thresholds, a cgroup, and the index of the levels at which thresholds fire. Pure."""

import heapq
import math
from array import array
from collections.abc import Callable, Sequence
from typing import Protocol

from memnotify.abi.thresholds import Level

NO_HANDLE = 0
"""No poll handle is stored: no client is waiting, or it was notified and has not polled again."""
NOT_ARMED = 1 << 64
"""The key of a threshold that is armed nowhere; no level is as high."""
NEVER_S = -math.inf
"""The time of the last event where there was none."""
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
        # A place for every observer's handle, allocated when it opens and not when memory is short.
        self.space = array("Q")
        self.handles = self.space


class Observer:
    """One open file: its thresholds, whether an event is pending, and the handle to notify it by.

    ``event_s`` is when the sample of its last event was taken. ``acknowledged`` is how many events its client
    has got: counted there, since the way to a notification allocates nothing, not even an int. ``news`` is
    False if a read needs nothing but the figures: no event is pending, no threshold may be damped, since none
    has had an event, and none is on a cgroup.
    """

    __slots__ = ("acknowledged", "event_s", "handle", "news", "pending", "place", "thresholds")

    batch: HandleBatch | None = None
    """The batch of the serving thread, if that is not the table's own."""
    opener: int | None = None
    """The process that opened the file, unless it is saved."""

    def __init__(self, place: int) -> None:
        """``place`` is where its state is saved."""
        self.place = place
        self.handle = NO_HANDLE
        self.pending = self.news = False
        self.acknowledged = 0
        self.event_s = NEVER_S
        self.thresholds: tuple[Threshold, ...] = ()


class LateObserver(Observer):
    """An observer of a user that has many: it is notified after those of others. Its slot costs nothing."""

    __slots__ = ("batch",)

    def __init__(self, place: int, batch: HandleBatch) -> None:
        super().__init__(place)
        self.batch = batch


class UnsavedObserver(Observer):
    """An observer of another batch than the table's own. Apart: its slots cost the others 16 bytes."""

    __slots__ = ("batch", "opener")

    def __init__(self, place: int, batch: HandleBatch, opener: int) -> None:
        super().__init__(place)
        self.batch = batch
        self.opener = opener


class Threshold:
    """One threshold of one observer, armed in one direction at the one level that fires next.

    ``pages`` is its value, ``percentage`` its part of total if it was written as one. ``value`` is the figure
    at its last event, which damps it, or NO_EVENT. ``index`` is the one in which it is armed at ``key``, or,
    if the key is NOT_ARMED, from which it has fired. ``previous`` and ``following`` are its neighbours at
    that level; a set would take 216 bytes more for each level. The thresholds that have fired are a list by
    ``following`` alone.
    """

    __slots__ = ("following", "index", "key", "observer", "pages", "previous", "value")

    index: "ThresholdIndex"
    percentage: Level | None = None

    def __init__(self, observer: Observer, level: Level, total_pages: int) -> None:
        numerator, denominator, of_total = level
        self.observer = observer
        self.pages = numerator if denominator == 1 and not of_total else level.pages(total_pages)
        self.value = NO_EVENT
        self.key = NOT_ARMED
        self.previous: Threshold | None = None
        self.following: Threshold | None = None

    def key_in(self, sign: int, granularity_pages: int) -> int:
        """Return the key of the level that fires next, upwards for a ``sign`` of 1, downwards for -1.

        Damped by d = min(g, T / 8) from the last event, so that a small threshold fires in both directions;
        not damped if the threshold has moved to the other side of that event, with total.
        """
        pages, value = self.pages, self.value
        if value == NO_EVENT or (value >= pages) == (sign > 0):
            return pages if sign > 0 else 1 - pages
        damping_pages = pages // 8
        if granularity_pages < damping_pages:  # noqa: PLR1730 - min() takes 0.1 us for each that fires
            damping_pages = granularity_pages
        if sign > 0:
            level = value + damping_pages
            return level if level > pages else pages  # noqa: FURB136 - as above
        level = value + 1 - damping_pages
        return 1 - level if level < pages else 1 - pages


# Most clients write one of few percentages. Belongs to the table's lock, as all observers do.
_shared_levels: dict[Level, Level] = {}
_SHARED_LEVELS_MAX = 256


class PercentageThreshold(Threshold):
    """A threshold that follows total, or its cgroup's limit."""

    __slots__ = ("percentage",)

    def __init__(self, observer: Observer, level: Level, total_pages: int) -> None:
        Threshold.__init__(self, observer, level, total_pages)  # super() takes 0.1 us
        if len(_shared_levels) == _SHARED_LEVELS_MAX:
            _shared_levels.clear()
        self.percentage = _shared_levels.setdefault(level, level)


class ThresholdIndex:
    """The thresholds of one figure that are armed in one direction, in the order of their levels.

    A threshold has a key. Up, the key is the level, ``sign`` is 1 and it fires when value >= level;
    down, the key is 1 - level, ``sign`` is -1 and it fires when value < level. Both are
    ``key <= sign * value``, the smallest key first. If nothing fires, that costs a look at one key. A
    crossing costs O(log n) for each different level and O(1) for each threshold at it; arming and
    disarming cost O(log n), amortized.
    """

    opposite: "ThresholdIndex"
    """That of the same figure in the other direction."""

    def __init__(self, figure: int, sign: int, group: "Group | None" = None) -> None:
        """``figure`` is its index in the line; ``group`` is its cgroup, if it is not the machine's."""
        self.figure = figure
        self.sign = sign
        self.group = group
        # The first threshold at each key. A vacant key has lost its last one, and has None: to disarm
        # allocates nothing, and so does a release. _keys is a heap of all keys, each once.
        self._at: dict[int, Threshold | None] = {}
        self._keys: list[int] = []
        self._vacant = 0
        self.armed = 0
        """How many thresholds are armed here. Any thread may read it."""

    def members(self) -> list[Threshold]:
        """Return the thresholds that are armed here."""
        members = []
        for first in self._at.values():
            threshold = first
            while threshold is not None:
                members.append(threshold)
                threshold = threshold.following
        return members

    def arm(self, threshold: Threshold, key: int) -> None:
        """Arm a threshold that is armed nowhere."""
        threshold.index = self
        self.armed += 1
        first = self._at.get(key)
        if first is not None:
            # The same ints: 32 bytes each for all thresholds at one level.
            threshold.key = first.key
            if threshold.pages == first.pages:
                threshold.pages = first.pages
            first.previous = threshold
            threshold.following = first
            self._at[key] = threshold
            return
        threshold.key = key
        if key in self._at:
            self._vacant -= 1
            self._at[key] = threshold
            return
        # Each key that was vacated pays O(1) of the sweep.
        if self._vacant > len(self._at) // 2 + 8:
            self.sweep()
        self._at[key] = threshold
        heapq.heappush(self._keys, key)

    def disarm(self, threshold: Threshold) -> None:
        """Disarm a threshold that is armed here. Allocates nothing."""
        key, threshold.key = threshold.key, NOT_ARMED
        previous, following = threshold.previous, threshold.following
        if previous is None:
            self._at[key] = following
            self._vacant += following is None
        else:
            previous.following = following
            threshold.previous = None
        if following is not None:
            following.previous = previous
            threshold.following = None
        self.armed -= 1

    def sweep(self) -> None:
        """Remove the vacant keys."""
        self._at = {key: first for key, first in self._at.items() if first is not None}
        self._keys = list(self._at)
        heapq.heapify(self._keys)
        self._vacant = 0

    def distance(self, value: int) -> float:
        """Return how many pages ``value`` is from the first level to fire; 0 or less if one fires there."""
        keys = self._keys
        while keys and self._at[keys[0]] is None:
            del self._at[heapq.heappop(keys)]
            self._vacant -= 1
        return keys[0] - self.sign * value if keys else math.inf

    def has_reached(self, value: int) -> bool:
        """Whether any threshold fires at ``value`` pages."""
        return self.distance(value) <= 0

    def pop_reached(self, value: int) -> Threshold | None:
        """Take out the lowest level at which a threshold fires at ``value`` pages, and return its first one.

        The others follow it. The caller sets their keys, and removes them from ``armed``.
        """
        return self._at.pop(heapq.heappop(self._keys)) if self.has_reached(value) else None


def index_pair(figure: int, group: "Group | None" = None) -> tuple[ThresholdIndex, ThresholdIndex]:
    """Return the indexes of one figure, upwards and downwards."""
    up, down = ThresholdIndex(figure, 1, group), ThresholdIndex(figure, -1, group)
    up.opposite, down.opposite = down, up
    return up, down


class GroupSource(Protocol):
    """Reads one cgroup; kernel.cgroups.Cgroup is one. Values are pages. Raises CgroupGoneError or OSError."""

    @property
    def key(self) -> int:
        """Its number, above 0: every other cgroup, even of the same name, has another one."""

    def read_current(self) -> int:
        """Return an upper bound of what ``read_exact`` returns, by one read."""

    def read_exact(self) -> int:
        """Return its pages without those that the kernel can drop."""

    def read_limit(self) -> int | None:
        """Return its limit."""

    def limit_files(self) -> Sequence[str]:
        """Return the files to which a change of its limit is written."""


class Group:
    """A watched cgroup: the indexes of its levels, its last figures, and how far it may have moved since.

    ``source`` is None once nothing is watched any more. ``value_pages``, ``limit_pages``, ``events``,
    ``fresh``, ``uses`` and the indexes belong to the table's lock, the other attributes to the sampler's.
    """

    __slots__ = (
        "bound_pages",
        "distance_pages",
        "down",
        "droppable_pages",
        "epoch",
        "events",
        "exact_s",
        "fresh",
        "granularity_pages",
        "key",
        "limit_pages",
        "limit_written",
        "margin_pages",
        "own_limit_pages",
        "rate_pages_s",
        "read_s",
        "source",
        "up",
        "uses",
        "value_pages",
    )

    def __init__(self, source: GroupSource, figure: int) -> None:
        """``figure`` is the table's index of thresholds on a cgroup."""
        self.source: GroupSource | None = source
        self.key = source.key
        self.up, self.down = index_pair(figure, self)
        self.uses = 0
        self.events = 0
        self.value_pages = self.limit_pages = self.granularity_pages = 0
        # Whether a threshold was armed since the nearest level was computed.
        self.fresh = True
        # Of the last reading: its time, an upper bound of the value (the value itself if it was exact), and
        # how far the nearest level was from that.
        self.read_s = self.exact_s = -math.inf
        self.bound_pages = self.droppable_pages = 0
        self.distance_pages = math.inf
        self.own_limit_pages: int | None = None
        # Whether its limit may have changed since it was read.
        self.limit_written = False
        self.rate_pages_s = 0.0
        # How much the counters may count in all before the cgroup can reach its level; in which epoch.
        self.margin_pages = -math.inf
        self.epoch = -1

    def due_s(self, rate_pages_s: float) -> float:
        """Return when its nearest level may be reached at this rate, or at its own if that is higher."""
        if self.fresh:
            return -math.inf
        return self.read_s + self.distance_pages / max(rate_pages_s, self.rate_pages_s)
