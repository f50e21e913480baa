# SPDX-License-Identifier: MIT
"""When to sample next: the back-off of the 2012 module. Pure: figures in, seconds out."""

from memnotify.figures import PAGE_SIZE, Figures


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

    It doubles from ``update_period_s`` to ``max_update_period_s`` while no figure has moved by the
    granularity, and is ``update_period_s`` again as soon as one has. What moved is measured from the
    figures at which the interval was last the shortest, so a slow drift counts as well.
    """

    def __init__(self, update_period_s: float, max_update_period_s: float) -> None:
        self.update_period_s = update_period_s
        self.max_update_period_s = max_update_period_s
        self.restart()

    def restart(self) -> None:
        """Begin again at the shortest interval, with the next figures as those to move from."""
        self.interval_s = self.update_period_s
        self._origin: Figures | None = None

    def see(self, figures: Figures, granularity_pages: int) -> None:
        """Take the newest figures into account for the next interval."""
        if self._origin is None:
            self._origin = figures
            return
        # At least a page: with a granularity of 0 no figure could ever be said to stand still.
        moved = max(1, granularity_pages)
        if any(abs(now - then) >= moved for now, then in zip(figures, self._origin, strict=True)):
            self._origin = figures
            self.interval_s = self.update_period_s
        else:
            self.interval_s = min(2 * self.interval_s, self.max_update_period_s)
