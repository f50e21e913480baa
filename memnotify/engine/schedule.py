# SPDX-License-Identifier: MIT
"""When to sample next: back-off, distance, rate. Pure: times and figures in, seconds out."""

import math
from collections.abc import Sequence

from memnotify.abi.figures import PAGE_SIZE

# Of the time in which the nearest level could be reached: a counter says that memory does move, perhaps
# faster
# than it was seen to. Half of it finds a faster one in steps that halve as well.
_KICKED_SHARE = 0.5
# A burst is over within seconds; what it made quick must not stay so for long.
_HALF_LIFE_S = 1.0


def granularity_pages(total_pages: int, update_space_kib: int) -> int:
    """Return g, in pages: what a figure must move by to count as moved.

    Half of ``update_space``; where that is 0, 1/128 of total (0.78 %), and 512 KiB of a total too
    small for that.
    """
    if update_space_kib:
        return update_space_kib * 1024 // (2 * PAGE_SIZE)
    return total_pages // 128 or 512 * 1024 // PAGE_SIZE


class SamplingSchedule:
    """When the next sample is due after one, in seconds. One thread, the sampler's.

    ``interval_s`` is for what nothing announces. Three bounds, the shortest wins. The 2012 module's
    back-off: doubling from ``update_period_s`` to ``max_update_period_s`` while no figure has moved by
    the granularity, and the shortest again as soon as one has; what moved is measured from the figures
    at which it was last the shortest, so a slow drift counts as well. The reach: distance of the
    nearest level / rate, the rate being the fill rate or, if that is higher, the one seen lately. And a
    floor: ``update_period_s``, or, while the seen rate alone would reach the level within that,
    ``min_update_period_s``.

    ``counter_interval_s`` is for a counter, which announces that memory may have come as far as the nearest
    level:
    no sooner could it be half-way there at the rate, and it is never below the floor. The first sample
    after a quiet time does not know how fast memory moves; where a counter brought it the next one comes
    after ``min_update_period_s``, to learn that.

    So a crossing is noticed at most the floor after it happened, in figures that move no faster than
    the rate: a sample at distance d is followed by one before the level can be reached, or, if d / rate
    is less than the floor, by one the floor later. Of what a counter announces the same is true.
    """

    def __init__(
        self,
        update_period_s: float,
        max_update_period_s: float,
        *,
        min_update_period_s: float = 0.02,
        fill_rate_pages_s: float = 6 * 2**30 / PAGE_SIZE,
    ) -> None:
        self._seen_rate_pages_s = 0.0
        self._last_s = -math.inf
        self._why = ""
        self._reach_s = math.inf
        self.set(
            update_period_s,
            max_update_period_s,
            min_update_period_s=min_update_period_s,
            fill_rate_pages_s=fill_rate_pages_s,
        )

    def set(
        self,
        update_period_s: float,
        max_update_period_s: float,
        *,
        min_update_period_s: float,
        fill_rate_pages_s: float,
    ) -> None:
        """Change the parameters and begin again; only how fast memory was seen to move is not forgotten.

        ``used`` may mean something else from now on.
        """
        self.update_period_s = update_period_s
        self.max_update_period_s = max_update_period_s
        self.min_update_period_s = min(min_update_period_s, update_period_s)
        self.fill_rate_pages_s = fill_rate_pages_s
        # The last one of each kind, exact and not: between them `used` jumps by the per-CPU lists.
        self._last: dict[bool, tuple[float, Sequence[int]]] = {}
        self.interval_s = self.counter_interval_s = update_period_s
        self.restart()

    @property
    def rate_pages_s(self) -> float:
        """How fast memory is expected to move at the most."""
        return max(self.fill_rate_pages_s, self._seen_rate_pages_s)

    def restart(self) -> None:
        """Begin again at the shortest interval, with the next figures as those to move from."""
        self._back_off_s = self.update_period_s
        # Never longer than it was: others' subscriptions must not slow down what is being watched closely.
        self.interval_s = min(self.interval_s, self.update_period_s)
        self._origin: dict[bool, Sequence[int]] = {}
        self._still_since_s = math.inf

    def see(
        self,
        taken_s: float,
        figures: Sequence[int],
        granularity_pages: int,
        nearest_pages: float = math.inf,
        *,
        unannounced_pages: float | None = None,
        exact: bool = True,
        counter_fired: bool = False,
    ) -> None:
        """Take a sample into account, taken at ``taken_s`` of the clock, and set when the next one is due.

        ``nearest_pages`` is how far the nearest level is, infinite if there is none, and
        ``unannounced_pages`` the nearest of those that a counter does not announce, all of them if it is
        None. ``exact`` is the sample's; ``counter_fired`` says that a counter brought it.
        """
        quiet_s = taken_s - self._last_s
        learning = counter_fired and quiet_s >= self.update_period_s
        self._last_s = taken_s
        self._see_rate(taken_s, figures, quiet_s, exact=exact)
        self._back_off(taken_s, figures, granularity_pages, exact=exact)
        rate_pages_s = self.rate_pages_s
        near = self._seen_rate_pages_s * self.update_period_s >= nearest_pages
        floor_s = self.min_update_period_s if near else self.update_period_s
        reach_s = (nearest_pages if unannounced_pages is None else unannounced_pages) / rate_pages_s
        self.counter_interval_s = max(floor_s, _KICKED_SHARE * nearest_pages / rate_pages_s)
        self.interval_s = max(floor_s, min(self._back_off_s, reach_s))
        self._why = "in reach of a threshold" if reach_s < self._back_off_s else "backing off"
        if self.interval_s == floor_s > min(self._back_off_s, reach_s):
            self._why = "near a threshold" if near else "update_period"
        if learning:
            self.interval_s = self.min_update_period_s
            self._why = "how fast does memory move"
        self._reach_s = reach_s

    def __str__(self) -> str:
        """Return the interval and why it is as long as it is, for the log."""
        return (
            f"{self.interval_s * 1000:.0f} ms ({self._why}): back-off {self._back_off_s * 1000:.0f} ms,"
            f" nearest unannounced threshold in reach after {self._reach_s * 1000:.0f} ms,"
            f" a counter counts after {self.counter_interval_s * 1000:.0f} ms,"
            f" memory moves at {self._seen_rate_pages_s:.0f} pages/s"
        )

    def _see_rate(self, taken_s: float, figures: Sequence[int], quiet_s: float, *, exact: bool) -> None:
        seen = 0.0
        if exact in self._last:
            last_s, last = self._last[exact]
            # A millisecond at the least: two samples in a row differ by noise, not by a rate.
            elapsed_s = max(taken_s - last_s, 0.001)
            seen = max(abs(now - then) for now, then in zip(figures, last, strict=True)) / elapsed_s
        self._seen_rate_pages_s = max(seen, self._seen_rate_pages_s * 0.5 ** (quiet_s / _HALF_LIFE_S))
        self._last[exact] = taken_s, figures

    def _back_off(
        self, taken_s: float, figures: Sequence[int], granularity_pages: int, *, exact: bool
    ) -> None:
        if exact not in self._origin:
            self._origin[exact] = figures
            self._still_since_s = taken_s
            return
        # At least a page: with a granularity of 0 no figure could ever be said to stand still.
        moved = max(1, granularity_pages)
        if any(abs(now - then) >= moved for now, then in zip(figures, self._origin[exact], strict=True)):
            self._origin = {exact: figures}
            self._back_off_s = self.update_period_s
            self._still_since_s = taken_s
        # A sample that something else brought earlier is no interval; slack may have made one a bit shorter.
        elif taken_s - self._still_since_s >= 0.75 * self._back_off_s:
            self._back_off_s = min(2 * self._back_off_s, self.max_update_period_s)
            self._still_since_s = taken_s
