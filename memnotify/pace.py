# SPDX-License-Identifier: MIT
"""When to sample next: back-off, distance, rate. Pure: times and figures in, seconds out."""

import math

from memnotify.figures import PAGE_SIZE, Figures

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


class Pace:
    """The interval from one sample to the next, in seconds. One thread, the sampler's.

    Three bounds, the shortest wins. The 2012 module's back-off: doubling from ``update_period_s`` to
    ``max_update_period_s`` while no figure has moved by the granularity, and the shortest again as
    soon as one has; what moved is measured from the figures at which it was last the shortest, so a
    slow drift counts as well. The reach: distance of the nearest level / rate, the rate being the
    fill rate or, if that is higher, the one seen lately. And a floor: ``update_period_s``, or, while
    the seen rate alone would reach the level within that, ``min_update_period_s``.

    So, for figures that move no faster than the rate: a crossing is noticed at most the floor after
    it happened. A sample at distance d is followed by one before the level can be reached, or, if
    d / rate is less than the floor, by one the floor later.
    """

    def __init__(
        self,
        update_period_s: float,
        max_update_period_s: float,
        *,
        min_update_period_s: float = 0.02,
        fill_rate_pages_s: float = 6 * 2**30 / PAGE_SIZE,
    ) -> None:
        self.update_period_s = update_period_s
        self.max_update_period_s = max_update_period_s
        self.min_update_period_s = min(min_update_period_s, update_period_s)
        self.fill_rate_pages_s = fill_rate_pages_s
        self._seen_rate_pages_s = 0.0
        self._last: tuple[float, Figures] | None = None
        self._reach_s = math.inf
        self._floor_s = update_period_s
        self.interval_s = update_period_s
        self.restart()

    def restart(self) -> None:
        """Begin again at the shortest interval, with the next figures as those to move from."""
        self._back_off_s = self.update_period_s
        # Never longer than it was: others' subscriptions must not slow down what is being watched closely.
        self.interval_s = min(self.interval_s, self.update_period_s)
        self._origin: Figures | None = None

    def see(
        self, taken_s: float, figures: Figures, granularity_pages: int, distance_pages: float = math.inf
    ) -> None:
        """Take a sample into account, taken at ``taken_s`` of the clock, and set ``interval_s`` after it.

        ``distance_pages`` is how far the nearest level is, infinite if there is none.
        """
        self._see_rate(taken_s, figures)
        self._back_off(figures, granularity_pages)
        self._floor_s = self.update_period_s
        if self._seen_rate_pages_s * self.update_period_s >= distance_pages:
            self._floor_s = self.min_update_period_s
        self._reach_s = distance_pages / max(self.fill_rate_pages_s, self._seen_rate_pages_s)
        self.interval_s = max(self._floor_s, min(self._back_off_s, self._reach_s))

    def __str__(self) -> str:
        """Return the interval and why it is as long as it is, for the log."""
        return (
            f"{self.interval_s * 1000:.0f} ms: back-off {self._back_off_s * 1000:.0f} ms,"
            f" nearest threshold in reach after {self._reach_s * 1000:.0f} ms,"
            f" at least {self._floor_s * 1000:.0f} ms, seen lately {self._seen_rate_pages_s:.0f} pages/s"
        )

    def _see_rate(self, taken_s: float, figures: Figures) -> None:
        if self._last is not None:
            last_s, last = self._last
            # A millisecond at the least: two samples in a row differ by noise, not by a rate.
            elapsed_s = max(taken_s - last_s, 0.001)
            seen = max(abs(now - then) for now, then in zip(figures, last, strict=True)) / elapsed_s
            self._seen_rate_pages_s = max(seen, self._seen_rate_pages_s * 0.5 ** (elapsed_s / _HALF_LIFE_S))
        self._last = taken_s, figures

    def _back_off(self, figures: Figures, granularity_pages: int) -> None:
        if self._origin is None:
            self._origin = figures
            return
        # At least a page: with a granularity of 0 no figure could ever be said to stand still.
        moved = max(1, granularity_pages)
        if any(abs(now - then) >= moved for now, then in zip(figures, self._origin, strict=True)):
            self._origin = figures
            self._back_off_s = self.update_period_s
        else:
            self._back_off_s = min(2 * self._back_off_s, self.max_update_period_s)
