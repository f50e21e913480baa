# SPDX-License-Identifier: MIT
"""When to sample next: back-off, distance, rate. Pure: times and figures in, seconds out."""

import math
from collections.abc import Sequence
from typing import NamedTuple

from memnotify.abi.figures import PAGE_SIZE

# Share of the time in which the nearest level could be reached. A page counter that fires says that memory
# moves, perhaps faster than seen; half of the time finds a faster rate in steps that halve as well.
_COUNTER_SHARE = 0.5
# A burst is over within seconds; its rate must not keep the interval short for longer.
_HALF_LIFE_S = 1.0
# After a quiet time so many samples may be early: a step of huge pages is over 1 ms after a page counter has
# fired, and with a whole min_update_period it was noticed after 24 ms.
_EARLY_SAMPLES = 4
_EARLY_SHARE = 0.25


class SamplingParameters(NamedTuple):
    """When the sampler samples, as configured."""

    update_period_s: float
    """Base interval, and the greatest age of the figures that a read returns."""
    max_update_period_s: float
    min_update_period_s: float
    """The shortest interval, at most ``update_period_s``; after a quiet time four may be a quarter of it."""
    fill_rate_pages_s: float
    """How fast memory is expected to fill."""
    update_space_kib: int
    """Twice the granularity; 0 is automatic."""

    def granularity_pages(self, total_pages: int) -> int:
        """Return g, the number of pages by which a figure must move to count as moved.

        Half of ``update_space``; if that is 0, 1/128 of total (0.78 %), or 512 KiB if total is too small.
        """
        if self.update_space_kib:
            return self.update_space_kib * 1024 // (2 * PAGE_SIZE)
        return total_pages // 128 or 512 * 1024 // PAGE_SIZE


class Interval(NamedTuple):
    """When the next sample is due, in seconds after the last one, and why; formatted for the log."""

    timer_s: float
    """After this time the timer causes a sample, for levels that no page counter announces."""
    counter_s: float
    """The earliest moment at which a page counter causes a sample."""
    reason: str = "start"
    back_off_s: float = math.inf
    reach_s: float = math.inf
    """The nearest level that no page counter announces is in reach after this time."""
    rate_pages_s: float = 0.0
    """The highest rate seen lately."""
    soonest_s: float = math.inf
    """No sample follows sooner, unless memory stalls or thresholds change."""
    expected_s: float = 0.0
    """A page counter that fires sooner fires early: memory moves faster than was seen, or comes and goes."""

    def __str__(self) -> str:
        """Return the interval and why it is as long as it is."""
        return (
            f"{self.timer_s * 1000:.0f} ms ({self.reason}): back-off {self.back_off_s * 1000:.0f} ms,"
            f" nearest unannounced threshold in reach after {self.reach_s * 1000:.0f} ms,"
            f" a page counter causes a sample after {self.counter_s * 1000:.0f} ms,"
            f" memory moves at {self.rate_pages_s:.0f} pages/s"
        )


class Firing(NamedTuple):
    """How a page counter caused a sample."""

    early: bool = False
    """It fired before ``Interval.expected_s``, for the first time."""
    gapless: bool = False
    """Page counters that have counted since before the reading announce every level."""


class _Reading(NamedTuple):
    """The figures of one sample, with and without the pages on the per-CPU lists."""

    taken_s: float
    plain: Sequence[int]
    exact: Sequence[int] | None

    def moved_pages(self, earlier: "_Reading") -> int:
        """Return how far the figure moved that moved most. The per-CPU lists count only if they must."""
        if self.exact is None or earlier.exact is None:
            now, then = self.plain, earlier.plain
        else:
            now, then = self.exact, earlier.exact
        return max(map(abs, map(int.__sub__, now, then)))


class SamplingSchedule:
    """When the next sample is due after the last one. Threads: the sampler's only.

    ``Interval.timer_s`` is the shorter one of back-off and reach, and at least the floor. The back-off of
    the 2012 module doubles from ``update_period_s`` to ``max_update_period_s`` while no figure has moved by
    the granularity, and is the shortest again as soon as one has. What has moved is measured from the figures
    at which the back-off was last the shortest, so a slow drift counts as well. The reach is the distance of
    the nearest level / rate; the rate is the fill rate or, if that is higher, the rate seen lately. The floor
    is ``update_period_s``, or ``Interval.soonest_s`` while the seen rate alone would reach the level within
    ``update_period_s``. That is ``min_update_period_s``, or a quarter of it for four samples, after as many
    periods without one.

    ``Interval.counter_s`` is for a page counter, which announces that memory may have come as far as the
    nearest level. Half of the way takes at least this long at the rate, and it is never below the floor. The
    first sample after a quiet time cannot know how fast memory moves. If a page counter caused that sample,
    the next one follows after ``Interval.soonest_s``, to measure the rate; if counters that have not paused
    announce every level, it follows only once one of them fires again. A counter that fires before
    ``Interval.expected_s`` for the first time causes a sample after ``Interval.soonest_s`` as well, which is
    followed by a second one in the same way; one that does so again rests (``PageCounter.rest``).

    So a crossing is noticed at most one floor after it happened, if figures move no faster than the rate: a
    sample at distance d is followed by another before the level can be reached, or, if d / rate is less than
    the floor, by another one floor later. The same holds for what a page counter announces.
    """

    def __init__(self, parameters: SamplingParameters) -> None:
        self._seen_rate_pages_s = 0.0
        self._last_s = self._paced_s = -math.inf
        self.reset(parameters)

    def reset(self, parameters: SamplingParameters) -> Interval:
        """Begin again with these parameters and return the first interval. Keep the seen rate."""
        self.parameters = parameters
        self._last: _Reading | None = None
        return self.restart(Interval(math.inf, parameters.update_period_s))

    @property
    def rate_pages_s(self) -> float:
        """How fast memory is expected to move."""
        return max(self.parameters.fill_rate_pages_s, self._seen_rate_pages_s)

    def restart(self, interval: Interval) -> Interval:
        """Begin the back-off again, with the next figures as origin; return what ``interval`` becomes.

        Never lengthen the interval: a new subscription must not delay a sample that another observer needs.
        """
        self._back_off_s = self.parameters.update_period_s
        self._origin: _Reading | None = None
        self._still_since_s = math.inf
        return interval._replace(timer_s=min(interval.timer_s, self._back_off_s))

    def update(
        self,
        taken_s: float,
        figures: Sequence[int],
        granularity_pages: int,
        nearest_pages: float = math.inf,
        *,
        unannounced_pages: float | None = None,
        pcp_pages: int | None = 0,
        firing: Firing | None = None,
        moved_pages_s: float = 0.0,
    ) -> Interval:
        """Return the interval that follows a sample.

        ``taken_s`` is the clock's. ``nearest_pages`` is the distance of the nearest level, infinite if there
        is none; ``unannounced_pages`` that of the nearest level that no page counter announces, by default
        the same. ``pcp_pages`` were on the per-CPU lists and are taken out of ``figures``; None if they were
        not counted. ``firing`` is that of the page counter that caused the sample, if one did.
        ``moved_pages_s`` is how fast anything moved that is not among the figures.
        """
        parameters = self.parameters
        quiet_s, self._last_s = taken_s - self._last_s, taken_s
        reading = _reading(taken_s, figures, pcp_pages)
        faster = self._update_rate(reading, quiet_s, moved_pages_s)
        self._update_back_off(reading, granularity_pages)
        near = self._seen_rate_pages_s * parameters.update_period_s >= nearest_pages
        soonest_s = self._pace(taken_s)
        floor_s = soonest_s if near else parameters.update_period_s
        reach_s = (nearest_pages if unannounced_pages is None else unannounced_pages) / self.rate_pages_s
        counter_s = max(floor_s, _COUNTER_SHARE * nearest_pages / self.rate_pages_s)
        timer_s = max(floor_s, min(self._back_off_s, reach_s))
        reason = "in reach of a threshold" if reach_s < self._back_off_s else "backing off"
        if timer_s == floor_s > min(self._back_off_s, reach_s):
            reason = "near a threshold" if near else "update_period"
        seen_pages_s = self._seen_rate_pages_s
        interval = Interval(
            timer_s, counter_s, reason, self._back_off_s, reach_s, seen_pages_s, soonest_s, counter_s
        )
        # A burst that began since the last sample is faster than it looks.
        if firing is None or not (faster or firing.early or quiet_s >= parameters.update_period_s):
            return interval
        return _measuring(interval, firing, faster=faster)

    def _pace(self, taken_s: float) -> float:
        """Count a sample; return after how long the next one may follow.

        ``_paced_s`` is when the next sample would follow if none were early: the generic cell rate algorithm
        (ITU-T I.371).
        """
        period_s = self.parameters.min_update_period_s
        self._paced_s = max(self._paced_s, taken_s) + period_s
        soonest_s = self._paced_s - (1 - _EARLY_SHARE) * _EARLY_SAMPLES * period_s - taken_s
        return min(period_s, max(_EARLY_SHARE * period_s, soonest_s))

    def _update_rate(self, reading: _Reading, quiet_s: float, seen: float) -> bool:
        """Note how fast memory moved; return whether that is more than twice as fast as before."""
        before = self._seen_rate_pages_s
        if self._last is not None:
            # At least a millisecond: two samples in a row differ by noise, not by a rate.
            elapsed_s = max(reading.taken_s - self._last.taken_s, 0.001)
            seen = max(seen, reading.moved_pages(self._last) / elapsed_s)
        self._seen_rate_pages_s = max(seen, before * 0.5 ** (quiet_s / _HALF_LIFE_S))
        self._last = reading
        return self._seen_rate_pages_s > 2 * before

    def _update_back_off(self, reading: _Reading, granularity_pages: int) -> None:
        if self._origin is None:
            self._origin = reading
            self._still_since_s = reading.taken_s
            return
        # At least a page: with a granularity of 0 every figure would count as moved.
        if reading.moved_pages(self._origin) >= max(1, granularity_pages):
            self._origin = reading
            self._back_off_s = self.parameters.update_period_s
            self._still_since_s = reading.taken_s
        # A sample taken earlier for another reason is no interval; timer slack may shorten one a little.
        elif reading.taken_s - self._still_since_s >= 0.75 * self._back_off_s:
            self._back_off_s = min(2 * self._back_off_s, self.parameters.max_update_period_s)
            self._still_since_s = reading.taken_s


def _measuring(interval: Interval, firing: Firing, *, faster: bool) -> Interval:
    """Return the interval after which a second sample measures how fast memory moves."""
    if not firing.gapless:
        return interval._replace(timer_s=interval.soonest_s, reason="measuring how fast memory moves")
    # No level is reached before a counter fires again: 6 of an idle machine's 10 samples less. If a
    # counter fires early twice while no figure moves, pages come and go, and it rests.
    expected_s = interval.counter_s if firing.early and not faster else interval.soonest_s
    return interval._replace(counter_s=interval.soonest_s, expected_s=expected_s)


def _reading(taken_s: float, figures: Sequence[int], pcp_pages: int | None) -> _Reading:
    if pcp_pages is None:
        return _Reading(taken_s, figures, None)
    total, used, *others = figures
    return _Reading(taken_s, (total, used + pcp_pages, *others), figures)
